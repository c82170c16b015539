//! Packets between guests and the wire.

use std::time::Duration;

use crate::packets::{BROADCAST, REMOTE, frame};
use crate::rig::Rig;

#[test]
fn a_packet_reaches_the_wire_unchanged() {
    let mut rig = Rig::new();
    let guest = rig.guest();
    let packet = frame(REMOTE, Rig::mac(guest), 1514, 1);
    let id = rig.fronts[guest].send(&packet);
    rig.run(Duration::from_millis(10));
    assert_eq!(rig.wire.sent.len(), 1);
    assert_eq!(rig.wire.sent[0].bytes, packet);
    let answers = rig.fronts[guest].take_answers();
    assert_eq!(answers.iter().map(|answer| (answer.id, answer.status)).collect::<Vec<_>>(), [(id, 0)]);
}

#[test]
fn a_frame_from_the_wire_reaches_the_guest_it_is_for() {
    let mut rig = Rig::new();
    let (first, second) = (rig.guest(), rig.guest());
    let packet = frame(Rig::mac(second), REMOTE, 1514, 2);
    rig.wire.inject(&packet);
    rig.run(Duration::from_millis(10));
    assert_eq!(rig.fronts[second].receive().map(|packet| packet.bytes), Some(packet));
    assert_eq!(rig.fronts[first].receive(), None);
}

#[test]
fn guests_reach_each_other_with_packets_of_any_size() {
    let mut rig = Rig::new();
    let (first, second) = (rig.guest(), rig.guest());
    for len in [14, 60, 1514, 4096, 4097, 9014, 65535] {
        let packet = frame(Rig::mac(second), Rig::mac(first), len, len as u8);
        rig.fronts[first].send(&packet);
        rig.run(Duration::from_millis(10));
        let received = rig.fronts[second].receive().map(|received| received.bytes);
        assert!(received.as_ref() == Some(&packet), "{len} bytes");
        assert_eq!(rig.fronts[first].take_answer().map(|answer| answer.status), Some(0), "{len} bytes");
    }
    assert!(rig.wire.sent.is_empty());
}

#[test]
fn a_broadcast_reaches_everyone_else() {
    let mut rig = Rig::new();
    let guests = [rig.guest(), rig.guest(), rig.guest()];
    let packet = frame(BROADCAST, Rig::mac(guests[0]), 60, 3);
    rig.fronts[guests[0]].send(&packet);
    rig.run(Duration::from_millis(10));
    for guest in &guests[1..] {
        assert_eq!(rig.fronts[*guest].receive().map(|packet| packet.bytes), Some(packet.clone()));
    }
    assert_eq!(rig.fronts[guests[0]].receive(), None);
    assert_eq!(rig.wire.sent.len(), 1);
}
