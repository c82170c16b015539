//! Vifs that have nothing to do: others' wake-ups do not concern them.

use std::time::Duration;

use fake_xen::Page;

use crate::packets::{REMOTE, frame};
use crate::rig::{Guest, Rig};

/// Longer than a packet takes, much shorter than the time between two looks at everybody.
const MOMENT: Duration = Duration::from_millis(2);
/// The time between two looks at everybody, and a little more.
const SCAN: Duration = Duration::from_millis(12);

/// A guest that talks to the wire, and one that does not. The switch knows where everyone is, so nothing is flooded.
fn talker_and_silent(rig: &mut Rig) -> (Guest, Guest) {
    let (talker, silent) = (rig.guest(), rig.guest());
    rig.wire.inject(&frame(Rig::mac(talker), REMOTE, 100, 0));
    rig.run(SCAN);
    assert_eq!(send(rig, talker, silent), 0);
    (talker, silent)
}

/// Has a guest send, and time pass until that was served. Returns what the wire got from `other`.
fn send(rig: &mut Rig, talker: Guest, other: Guest) -> usize {
    rig.fronts[talker].send(&frame(REMOTE, Rig::mac(talker), 100, 1));
    rig.run(MOMENT);
    assert_eq!(rig.fronts[talker].take_answers().len(), 1);
    let source = Rig::mac(other);
    rig.wire.sent.iter().filter(|sent| sent.bytes[6..12] == source).count()
}

/// Puts a packet on a guest's ring without an event.
fn put_silently(rig: &mut Rig, guest: Guest) {
    let packet = frame(REMOTE, Rig::mac(guest), 100, 2);
    let page = Page::new();
    page.write(0, &packet);
    rig.fronts[guest].put_request(&page, 0, 100, 0);
    rig.fronts[guest].publish_tx();
}

#[test]
fn a_packet_without_an_event_waits_for_the_next_look_at_everybody() {
    let mut rig = Rig::new();
    let (talker, silent) = talker_and_silent(&mut rig);
    let mut at_once = 0;
    for attempt in 1..=8 {
        put_silently(&mut rig, silent);
        at_once += send(&mut rig, talker, silent) + 1 - attempt;
        rig.run(SCAN);
        assert_eq!(send(&mut rig, talker, silent), attempt, "what no event was sent for is never seen");
    }
    // A look at everybody that is due anyway may be the one.
    assert!(at_once <= 4, "a ring was looked at without an event {at_once} times of 8");
}

#[test]
fn an_event_is_for_the_vif_that_sent_it() {
    let mut rig = Rig::new();
    let (_, silent) = talker_and_silent(&mut rig);
    put_silently(&mut rig, silent);
    rig.fronts[silent].notify_tx();
    rig.run(MOMENT);
    assert_eq!(rig.fronts[silent].take_answers().len(), 1);
}

#[test]
fn an_idle_vif_receives_at_once_and_answers_its_buffers() {
    let mut rig = Rig::new();
    let (talker, silent) = talker_and_silent(&mut rig);
    for seed in 0..3 {
        let packet = frame(Rig::mac(silent), Rig::mac(talker), 100, seed);
        rig.fronts[talker].send(&packet);
        rig.run(MOMENT);
        assert_eq!(rig.fronts[silent].receive().map(|packet| packet.bytes), Some(packet));
    }
}
