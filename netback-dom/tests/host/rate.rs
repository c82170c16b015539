//! `rate=` of a vif, and what guests get of a domain that cannot serve them all.

use std::time::Duration;

use crate::packets::{BROADCAST, REMOTE, frame};
use crate::rig::{Guest, Rig};

/// 100 kB/s, in steps of 10 kB.
const RATE: &str = "10000,100000";

fn introduce_remote(rig: &mut Rig) {
    rig.wire.inject(&frame(BROADCAST, REMOTE, 60, 0));
    rig.run(Duration::from_millis(5));
    rig.fronts.iter_mut().for_each(|front| drop(front.receive_all()));
}

fn fill(rig: &mut Rig, guest: Guest, len: usize) {
    let packet = frame(REMOTE, Rig::mac(guest), len, 1);
    let slots = u32::try_from(len.div_ceil(4096)).unwrap();
    while rig.fronts[guest].tx_free() >= slots {
        rig.fronts[guest].send(&packet);
    }
}

/// Bytes that a guest gets onto the wire in a time, if it always has packets of `len` bytes to send.
fn bytes_in(rig: &mut Rig, guest: Guest, len: usize, time: Duration) -> usize {
    rig.wire.sent.clear();
    let end = rig.xen.now().saturating_add(time);
    while rig.xen.now() < end {
        fill(rig, guest, len);
        rig.run(Duration::from_millis(1));
        assert!(rig.fronts[guest].take_answers().iter().all(|answer| answer.status == 0));
    }
    sent_by(rig, guest)
}

fn sent_by(rig: &Rig, guest: Guest) -> usize {
    rig.wire.sent.iter().filter(|sent| sent.bytes[6..12] == Rig::mac(guest)).map(|sent| sent.bytes.len()).sum()
}

fn set_rate(rig: &Rig, guest: Guest, rate: &str) {
    let path = format!("{}/rate", rig.toolstack.backend_path(&rig.device(guest)));
    rig.xen.write_store(&path, rate);
}

#[test]
fn a_guest_sends_at_its_rate_and_loses_nothing() {
    for len in [60, 1514] {
        let mut rig = Rig::new();
        let guest = rig.guest_keyed(&[("rate", RATE)]);
        introduce_remote(&mut rig);
        let sent = bytes_in(&mut rig, guest, len, Duration::from_secs(3));
        // Three seconds' worth, the first step at once, and one packet of debt.
        assert!((295_000..=311_600).contains(&sent), "{sent} bytes in packets of {len}");
        let waiting = rig.fronts[guest].tx_unanswered();
        assert!(waiting > 100, "what may not be sent yet waits in the ring: {waiting}");
        rig.until("it is all sent in the end", |rig| rig.fronts[guest].tx_unanswered() == 0);
    }
}

#[test]
fn a_rate_is_that_guests_and_for_sending_only() {
    let mut rig = Rig::new();
    let slow = rig.guest_keyed(&[("rate", "1,1000000")]);
    let quick = rig.guest();
    introduce_remote(&mut rig);
    fill(&mut rig, slow, 1000);
    rig.run(Duration::from_millis(100));
    assert_eq!(sent_by(&rig, slow), 1000);
    for _ in 0..20 {
        rig.wire.inject(&frame(Rig::mac(slow), REMOTE, 1000, 2));
    }
    rig.run(Duration::from_millis(20));
    assert_eq!(rig.fronts[slow].receive_all().len(), 20);
    rig.assert_works(quick);
}

#[test]
fn a_rate_that_changes_counts_from_then_on() {
    let mut rig = Rig::new();
    let guest = rig.guest_keyed(&[("rate", RATE)]);
    introduce_remote(&mut rig);
    for (rate, least, most) in [("30000,100000", 290_000, 345_000), ("5000,100000", 45_000, 60_000)] {
        set_rate(&rig, guest, rate);
        rig.run(Duration::from_millis(500));
        let sent = bytes_in(&mut rig, guest, 1000, Duration::from_secs(1));
        assert!((least..=most).contains(&sent), "{sent} at {rate}");
    }
    // A guest can be limited that was not before, and the other way round.
    rig.xen.remove_store(&format!("{}/rate", rig.toolstack.backend_path(&rig.device(guest))));
    rig.run(Duration::from_millis(100));
    assert!(bytes_in(&mut rig, guest, 1000, Duration::from_millis(100)) > 100_000);
    assert!(rig.is_connected(guest));
}

#[test]
fn a_rate_that_makes_no_sense_refuses_its_vif() {
    let mut rig = Rig::new();
    for rate in ["0,0", "x", "1,99999999999"] {
        let guest = rig.add_with_keys(&[("rate", rate)]);
        rig.assert_refused(guest, "RATE", rate);
    }
    let guest = rig.guest();
    rig.assert_works(guest);
}

#[test]
fn a_rate_that_stops_making_sense_stops_the_sender_until_it_does_again() {
    let mut rig = Rig::new();
    let (guest, other) = (rig.guest(), rig.guest());
    rig.assert_works(guest);
    set_rate(&rig, guest, "fast");
    rig.run(Duration::from_millis(200));
    rig.wire.sent.clear();
    fill(&mut rig, guest, 1000);
    rig.run(Duration::from_secs(20));
    assert_eq!(sent_by(&rig, guest), 0);
    assert_eq!(rig.lines(guest, "RATE").len(), 1, "{}", rig.state());
    assert!(rig.is_connected(guest));
    rig.assert_works(other);
    set_rate(&rig, guest, "1000000,1000");
    rig.until("it sends again", |rig| rig.fronts[guest].tx_unanswered() == 0);
    rig.fronts[guest].take_answers();
    rig.assert_works(guest);
}

#[test]
fn a_rate_that_is_written_all_the_time_is_looked_at_now_and_then() {
    let mut rig = Rig::new();
    let (guest, other) = (rig.guest(), rig.guest());
    introduce_remote(&mut rig);
    for round in 0..2000_u32 {
        set_rate(&rig, guest, &format!("{},100000", 1000 + round));
        if round % 10 == 0 {
            rig.step();
        }
    }
    set_rate(&rig, guest, RATE);
    rig.run(Duration::from_millis(300));
    let sent = bytes_in(&mut rig, guest, 1000, Duration::from_secs(1));
    assert!((95_000..=112_000).contains(&sent), "{sent}");
    rig.assert_works(other);
}

#[test]
fn guests_with_large_and_small_packets_get_the_same_bytes() {
    let mut rig = Rig::new();
    rig.wire.capabilities.max_frame = 65535;
    let guests = [rig.guest(), rig.guest()];
    introduce_remote(&mut rig);
    for _ in 0..300 {
        fill(&mut rig, guests[0], 30_000);
        fill(&mut rig, guests[1], 1514);
        rig.wire.room = 16;
        rig.step();
        guests.iter().for_each(|guest| drop(rig.fronts[*guest].take_answers()));
    }
    let [large, small] = guests.map(|guest| sent_by(&rig, guest));
    assert!(large * 10 >= small * 7 && small * 10 >= large * 7, "{large} and {small}");
}

#[test]
fn a_guest_alone_with_the_largest_packets_is_not_held_up() {
    let mut rig = Rig::new();
    rig.wire.capabilities.max_frame = 65535;
    let guest = rig.guest();
    introduce_remote(&mut rig);
    let packet = frame(REMOTE, Rig::mac(guest), 65535, 1);
    for _ in 0..10 {
        rig.fronts[guest].send(&packet);
    }
    rig.step();
    rig.step();
    assert_eq!(sent_by(&rig, guest), 10 * 65535);
}
