//! Vbds that have nothing to do: others' wake-ups do not concern them.

use std::time::Duration;

use crate::rig::{Guest, Rig};

const READ: u8 = 0;
/// The time between two looks at everybody, and a little more.
const SCAN: Duration = Duration::from_millis(12);

/// Puts a read on a guest's ring without an event, which the backend has asked for.
fn put_silently(rig: &mut Rig, guest: Guest) {
    let (request, _) = rig.transfer(guest, READ, 0, 512);
    assert!(rig.fronts[guest].publish_to(0, &[request]), "an idle vbd is woken at once");
}

/// Has a guest read, and be answered.
fn read(rig: &mut Rig, guest: Guest) {
    let (request, _) = rig.transfer(guest, READ, 0, 512);
    assert_eq!(rig.ask(guest, &[request]), [0]);
}

#[test]
fn a_request_without_an_event_waits_for_the_next_look_at_everybody() {
    let (mut rig, talker, silent) = Rig::attacker_and_victim();
    let mut at_once = 0;
    for _ in 0..8 {
        rig.run(SCAN);
        // A look at everybody was due.
        read(&mut rig, talker);
        put_silently(&mut rig, silent);
        read(&mut rig, talker);
        at_once += rig.fronts[silent].take_answers().len();
        rig.run(SCAN);
        read(&mut rig, talker);
        rig.run(Duration::from_millis(3));
        rig.fronts[silent].take_answers();
        assert_eq!(rig.fronts[silent].unanswered(), 0, "what no event was sent for is never seen");
    }
    // A look at everybody that is due anyway may be the one.
    assert!(at_once <= 4, "a ring was looked at without an event {at_once} times of 8");
}

#[test]
fn an_event_is_for_the_vbd_that_sent_it() {
    let (mut rig, _, silent) = Rig::attacker_and_victim();
    put_silently(&mut rig, silent);
    rig.fronts[silent].notify(0);
    rig.run(Duration::from_millis(3));
    assert_eq!(rig.fronts[silent].take_answers().len(), 1);
}

#[test]
fn a_look_for_completions_sees_the_event_of_an_idle_vbd() {
    let (mut rig, _, silent) = Rig::attacker_and_victim();
    rig.run(SCAN);
    assert!(!rig.blkback.has_requests());
    put_silently(&mut rig, silent);
    assert!(!rig.blkback.has_requests(), "its ring was looked at without an event");
    rig.fronts[silent].notify(0);
    assert!(rig.blkback.has_requests());
    // Who looks does not sleep.
    rig.wake();
    rig.run(Duration::from_millis(3));
    assert_eq!(rig.fronts[silent].take_answers().len(), 1);
}
