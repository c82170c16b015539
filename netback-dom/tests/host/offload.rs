//! Checksums and segmentation: who does what for whom.

use std::time::Duration;

use fake_xen::{Netfront, NetfrontOptions, Page, RxPacket};
use netback_dom::frame::{Checksum, Gso};

use crate::packets::{BROADCAST, REMOTE, completed, is_intact, tcp, tcp_start};
use crate::rig::{Guest, Rig};

const MSS: u16 = 1448;

/// Sends a packet that is to be cut up, in whole pages behind a first slot of 200 bytes.
pub fn send_gso(front: &mut Netfront, packet: &[u8], ipv6: bool, mss: u16) {
    const FLAGS: u16 = 1 | 2 | 8;
    const MORE: u16 = 4;
    let (first, rest) = packet.split_at(200);
    let page = Page::new();
    page.write(100, first);
    front.put_request(&page, 100, u16::try_from(packet.len()).unwrap(), FLAGS | MORE);
    front.put_extra([1 | u32::from(mss) << 16, if ipv6 { 2 } else { 1 }]);
    let count = rest.chunks(4096).count();
    for (index, part) in rest.chunks(4096).enumerate() {
        let page = Page::new();
        page.write(0, part);
        let more = if index + 1 < count { MORE } else { 0 };
        front.put_request(&page, 0, u16::try_from(part.len()).unwrap(), more);
    }
    front.push_tx();
}

fn without(feature: &str) -> NetfrontOptions {
    let mut options = NetfrontOptions::default();
    options.features.retain(|(key, _)| *key != feature);
    options
}

fn receive(rig: &mut Rig, guest: Guest) -> Vec<RxPacket> {
    rig.run(Duration::from_millis(20));
    rig.fronts[guest].receive_all()
}

/// The payloads of segments that follow each other are the payload of the packet.
fn assert_segments_of(packet: &[u8], segments: &[Vec<u8>], mss: u16) {
    let start = tcp_start(packet);
    let mut payload: Vec<u8> = Vec::new();
    for (index, segment) in segments.iter().enumerate() {
        assert!(is_intact(segment), "segment {index}");
        let sequence = u32::from_be_bytes(segment[start + 4..start + 8].try_into().unwrap());
        assert_eq!(sequence as usize, payload.len());
        let part = &segment[start + 20..];
        assert!(part.len() == usize::from(mss) || index + 1 == segments.len());
        payload.extend(part);
    }
    assert!(payload == packet[start + 20..]);
}

#[test]
fn a_large_packet_is_cut_for_a_card_that_cannot() {
    for ipv6 in [false, true] {
        let mut rig = Rig::new();
        let guest = rig.guest();
        let mss = if ipv6 { MSS - 20 } else { MSS };
        let packet = tcp(REMOTE, Rig::mac(guest), ipv6, 60000);
        send_gso(&mut rig.fronts[guest], &packet, ipv6, mss);
        rig.run(Duration::from_millis(20));
        let segments: Vec<_> = rig.wire.sent.iter().map(|sent| sent.bytes.clone()).collect();
        assert_segments_of(&packet, &segments, mss);
        assert!(rig.fronts[guest].take_answers().iter().all(|answer| answer.status == 0));
    }
}

#[test]
fn a_large_packet_reaches_a_card_that_cuts_in_one_piece() {
    let mut rig = Rig::new();
    rig.wire.capabilities.tx_checksum = true;
    rig.wire.capabilities.tso4 = true;
    let guest = rig.guest();
    let packet = tcp(REMOTE, Rig::mac(guest), false, 60000);
    send_gso(&mut rig.fronts[guest], &packet, false, MSS);
    rig.run(Duration::from_millis(20));
    assert_eq!(rig.wire.sent.len(), 1);
    let sent = &rig.wire.sent[0];
    assert!(sent.bytes == packet);
    assert_eq!(
        (sent.gso, sent.checksum),
        (Some(Gso { ipv6: false, size: MSS }), Checksum::Blank { start: 34, field: 16 })
    );
}

#[test]
fn a_card_that_cuts_ipv4_only_gets_ipv6_cut() {
    let mut rig = Rig::new();
    rig.wire.capabilities.tx_checksum = true;
    rig.wire.capabilities.tso4 = true;
    let guest = rig.guest();
    let packet = tcp(REMOTE, Rig::mac(guest), true, 30000);
    send_gso(&mut rig.fronts[guest], &packet, true, 1428);
    rig.run(Duration::from_millis(20));
    assert!(rig.wire.sent.iter().all(|sent| sent.gso.is_none()));
    let segments: Vec<_> = rig.wire.sent.iter().map(|sent| completed(&sent.bytes)).collect();
    assert_segments_of(&packet, &segments, 1428);
}

#[test]
fn segments_longer_than_the_card_takes_are_never_handed_to_it() {
    let mut rig = Rig::new();
    let guest = rig.guest();
    // The last segment would be short enough, but without the others it is of no use.
    let packet = tcp(REMOTE, Rig::mac(guest), false, 28000);
    send_gso(&mut rig.fronts[guest], &packet, false, 9000);
    rig.run(Duration::from_millis(20));
    assert_eq!(rig.wire.sent.len(), 0);
    assert!(rig.fronts[guest].take_answers().iter().all(|answer| answer.status == -2));
}

#[test]
fn a_large_packet_goes_from_guest_to_guest_in_one_piece() {
    for ipv6 in [false, true] {
        let mut rig = Rig::new();
        let (first, second) = (rig.guest(), rig.guest());
        // The first one is copied whole, the second straight from guest to guest.
        for round in 0..2 {
            let packet = tcp(Rig::mac(second), Rig::mac(first), ipv6, 60000 + round);
            send_gso(&mut rig.fronts[first], &packet, ipv6, MSS);
            let received = receive(&mut rig, second);
            assert_eq!(received.len(), 1);
            assert!(received[0].bytes == packet);
            assert!(received[0].csum_blank());
            let kind = if ipv6 { 2 } else { 1 };
            assert_eq!(received[0].extras, [[1 | u32::from(MSS) << 16, kind]]);
            assert!(rig.fronts[first].take_answers().iter().all(|answer| answer.status == 0));
        }
    }
}

#[test]
fn a_large_packet_is_cut_for_a_guest_that_does_not_take_it() {
    let mut rig = Rig::new();
    let first = rig.guest();
    let second = rig.guest_with(without("feature-gso-tcpv4"));
    for _ in 0..2 {
        let packet = tcp(Rig::mac(second), Rig::mac(first), false, 40000);
        send_gso(&mut rig.fronts[first], &packet, false, MSS);
        let received = receive(&mut rig, second);
        assert!(received.iter().all(|segment| segment.csum_blank() && segment.extras.is_empty()));
        let segments: Vec<_> = received.iter().map(|segment| completed(&segment.bytes)).collect();
        assert_segments_of(&packet, &segments, MSS);
    }
}

#[test]
fn a_large_packet_that_is_flooded_is_cut_for_everyone() {
    let mut rig = Rig::new();
    let (first, second) = (rig.guest(), rig.guest());
    let packet = tcp(BROADCAST, Rig::mac(first), false, 5000);
    send_gso(&mut rig.fronts[first], &packet, false, MSS);
    let received: Vec<_> = receive(&mut rig, second).into_iter().map(|segment| segment.bytes).collect();
    assert_segments_of(&packet, &received, MSS);
    let sent: Vec<_> = rig.wire.sent.iter().map(|sent| sent.bytes.clone()).collect();
    assert_segments_of(&packet, &sent, MSS);
}

#[test]
fn a_blank_checksum_is_completed_for_a_card_that_cannot_and_passed_to_one_that_can() {
    for (ipv6, tx_checksum) in [(false, false), (true, false), (false, true), (true, true)] {
        let mut rig = Rig::new();
        rig.wire.capabilities.tx_checksum = tx_checksum;
        let guest = rig.guest();
        let packet = tcp(REMOTE, Rig::mac(guest), ipv6, 1001);
        rig.fronts[guest].send_blank(&packet);
        rig.run(Duration::from_millis(10));
        let sent = &rig.wire.sent[0];
        assert_eq!(sent.bytes == packet, tx_checksum);
        assert_eq!(is_intact(&sent.bytes), !tx_checksum);
        let start = u16::try_from(tcp_start(&packet)).unwrap();
        assert_eq!(sent.checksum == Checksum::Blank { start, field: 16 }, tx_checksum);
    }
}

#[test]
fn a_blank_checksum_is_passed_to_a_guest_that_takes_it_and_completed_for_others() {
    let no_ipv4 = NetfrontOptions {
        features: [NetfrontOptions::default().features, vec![("feature-no-csum-offload", "1")]].concat(),
        ..NetfrontOptions::default()
    };
    let cases = [
        (NetfrontOptions::default(), false, true),
        (NetfrontOptions::default(), true, true),
        (no_ipv4, false, false),
        (without("feature-ipv6-csum-offload"), true, false),
    ];
    for (options, ipv6, takes) in cases {
        let mut rig = Rig::new();
        let first = rig.guest();
        let second = rig.guest_with(options);
        // The second one is large enough to go straight from guest to guest.
        for payload in [999, 8001] {
            let packet = tcp(Rig::mac(second), Rig::mac(first), ipv6, payload);
            rig.fronts[first].send_blank(&packet);
            let received = receive(&mut rig, second);
            assert_eq!(received.len(), 1);
            assert_eq!(received[0].csum_blank(), takes);
            assert!(received[0].data_validated());
            assert!(received[0].bytes == if takes { packet } else { completed(&packet) });
        }
    }
}

#[test]
fn a_blank_checksum_in_a_broadcast_is_completed_once_for_all() {
    let mut rig = Rig::new();
    let guests = [rig.guest(), rig.guest(), rig.guest()];
    let packet = tcp(BROADCAST, Rig::mac(guests[0]), false, 300);
    rig.fronts[guests[0]].send_blank(&packet);
    for guest in &guests[1..] {
        let received = receive(&mut rig, *guest);
        assert!(is_intact(&received[0].bytes) && !received[0].csum_blank());
    }
    assert!(is_intact(&rig.wire.sent[0].bytes));
}

#[test]
fn padding_behind_a_packet_with_a_blank_checksum_stays_out_of_the_sum() {
    let mut rig = Rig::new();
    let guest = rig.guest();
    let packet = tcp(REMOTE, Rig::mac(guest), false, 0);
    let padded = [&packet[..], &[0xee; 6]].concat();
    rig.fronts[guest].send_blank(&padded);
    rig.run(Duration::from_millis(10));
    assert_eq!(rig.wire.sent[0].bytes, [&completed(&packet)[..], &[0xee; 6]].concat());
}

#[test]
fn a_guest_is_told_what_the_card_knows() {
    let mut rig = Rig::new();
    let guest = rig.guest();
    let packet = completed(&tcp(Rig::mac(guest), REMOTE, false, 500));
    for (checksum, validated) in [(Checksum::Good, true), (Checksum::Unknown, false)] {
        rig.wire.inject_with(&packet, checksum);
        let received = receive(&mut rig, guest);
        assert_eq!((received[0].data_validated(), received[0].csum_blank()), (validated, false));
        assert_eq!(received[0].bytes, packet);
    }
}
