//! TCP segments from the wire: which of them reach a guest as one packet.

use std::time::Duration;

use fake_xen::{NetfrontOptions, RxPacket};
use netback_dom::frame::Checksum;

use crate::packets::{REMOTE, sealed, segment, tcp, tcp_start};
use crate::rig::{Guest, Rig};

/// An offset in the header of a frame, and what to change there.
type Change = (usize, u8);

fn receive(rig: &mut Rig, guest: Guest) -> Vec<RxPacket> {
    rig.run(Duration::from_millis(20));
    rig.fronts[guest].receive_all()
}

fn joined(rig: &Rig) -> u64 {
    rig.netback.reports().iter().map(|vif| vif.counters.rx_joined).sum()
}

/// Whether what the guest got is exactly these frames.
fn assert_as_sent(received: &[RxPacket], sent: &[Vec<u8>], what: &str) {
    assert!(received.iter().all(|packet| packet.extras.is_empty()), "{what}: joined");
    let bytes: Vec<_> = received.iter().map(|packet| packet.bytes.clone()).collect();
    assert!(bytes == sent, "{what}: {} of {} frames, or changed", received.len(), sent.len());
}

#[test]
fn segments_of_a_flow_arrive_as_one_packet() {
    for (ipv6, checksum) in [(false, Checksum::Unknown), (false, Checksum::Good), (true, Checksum::Unknown)] {
        let mut rig = Rig::new();
        let guest = rig.guest();
        let packet = tcp(Rig::mac(guest), REMOTE, ipv6, 10_500);
        for start in (0..10_500).step_by(1000) {
            rig.wire.inject_with(&segment(&packet, start..10_500.min(start + 1000)), checksum);
        }
        let received = receive(&mut rig, guest);
        assert_eq!(received.len(), 1);
        assert!(received[0].bytes == packet);
        assert!(received[0].csum_blank());
        assert_eq!(received[0].extras, [[1 | 1000 << 16, if ipv6 { 2 } else { 1 }]]);
        assert_eq!(joined(&rig), 10);
    }
}

#[test]
fn a_packet_grows_to_what_a_guest_takes_at_once() {
    let mut rig = Rig::new();
    let guest = rig.guest();
    // 45 segments of the usual size are 64 KiB with their headers; the next one does not fit.
    let (most, all) = (45 * 1448, 47 * 1448);
    let packets = [0..most, most..all].map(|range| tcp(Rig::mac(guest), REMOTE, false, range.len()));
    for (packet, from) in packets.iter().zip([0, most]) {
        for start in (0..packet.len() - 54).step_by(1448) {
            let mut frame = segment(packet, start..start + 1448);
            let sequence = u32::from_be_bytes(frame[38..42].try_into().unwrap());
            frame[38..42].copy_from_slice(&(sequence + u32::try_from(from).unwrap()).to_be_bytes());
            // No PSH: what ends the first packet is that it is full.
            frame[47] &= !8;
            rig.wire.inject(&sealed(&frame));
        }
    }
    let received = receive(&mut rig, guest);
    let lengths: Vec<_> = received.iter().map(|packet| packet.bytes.len() - 54).collect();
    assert_eq!(lengths, [most, all - most]);
    assert!(received[0].bytes[54..] == packets[0][54..]);
    assert_eq!(joined(&rig), 44 + 1);
}

#[test]
fn a_packet_stays_smaller_where_pages_are_few() {
    let mut rig = Rig::with_buffers(100);
    let guest = rig.guest();
    let packet = tcp(Rig::mac(guest), REMOTE, false, 40 * 1000);
    for start in (0..40_000).step_by(1000) {
        rig.wire.inject(&segment(&packet, start..start + 1000));
    }
    let lengths: Vec<_> = receive(&mut rig, guest).iter().map(|packet| packet.bytes.len() - 54).collect();
    assert_eq!(lengths, [18_000, 18_000, 4000]);
}

#[test]
fn a_shorter_segment_ends_a_packet_and_a_longer_one_begins_another() {
    let mut rig = Rig::new();
    let guest = rig.guest();
    let packet = tcp(Rig::mac(guest), REMOTE, false, 9000);
    for range in [0..1000, 1000..1500, 1500..2500, 2500..3900, 3900..5300] {
        rig.wire.inject(&segment(&packet, range));
    }
    let lengths: Vec<_> = receive(&mut rig, guest).iter().map(|packet| packet.bytes.len() - 54).collect();
    assert_eq!(lengths, [1500, 1000, 2800]);
}

#[test]
fn flows_that_mingle_are_joined_apart_and_others_do_not_disturb_them() {
    let mut rig = Rig::new();
    let guest = rig.guest();
    let packet = tcp(Rig::mac(guest), REMOTE, false, 6000);
    let other = |mut frame: Vec<u8>| {
        frame[tcp_start(&packet) + 1] ^= 1;
        sealed(&frame)
    };
    for start in (0..6000).step_by(1000) {
        let frame = segment(&packet, start..start + 1000);
        rig.wire.inject(&frame);
        rig.wire.inject(&other(frame));
    }
    let received = receive(&mut rig, guest);
    assert_eq!(received.len(), 2);
    assert!(received.iter().all(|joined| joined.bytes.len() == packet.len()));
}

#[test]
fn what_differs_or_is_damaged_arrives_as_it_was_sent() {
    // Offsets in the IP header, then in the TCP header, and the bits that are turned.
    const IP: [Change; 3] = [(1, 4), (6, 0x80), (8, 1)];
    const TCP: [Change; 9] = [(7, 1), (11, 1), (12, 1), (13, 1), (13, 2), (13, 0x20), (13, 0x40), (13, 0x80), (15, 1)];
    let packet = |guest| tcp(Rig::mac(guest), REMOTE, false, 6000);
    let changes = IP.map(|(at, bits)| (14 + at, bits)).into_iter().chain(TCP.map(|(at, bits)| (34 + at, bits)));
    for ((at, bits), seal) in
        changes.map(|change| (change, true)).chain([((24, 1), false), ((51, 1), false), ((60, 1), false)])
    {
        let mut rig = Rig::new();
        let guest = rig.guest();
        let packet = packet(guest);
        let mut frames: Vec<_> = (0..3).map(|part| segment(&packet, part * 1000..part * 1000 + 1000)).collect();
        frames[1][at] ^= bits;
        if seal {
            frames[1] = sealed(&frames[1]);
        }
        frames.iter().for_each(|frame| rig.wire.inject(frame));
        assert_as_sent(&receive(&mut rig, guest), &frames, &format!("byte {at} bits {bits:#x}"));
        assert_eq!(joined(&rig), 0);
    }
}

#[test]
fn segments_that_may_be_fragmented_are_joined_only_if_they_count_up() {
    for (ids, packets) in [([7_u16, 8, 9], 1), ([7, 7, 7], 3), ([7, 9, 11], 3), ([7, 8, 8], 2)] {
        let mut rig = Rig::new();
        let guest = rig.guest();
        let packet = tcp(Rig::mac(guest), REMOTE, false, 6000);
        for (part, id) in ids.into_iter().enumerate() {
            let mut frame = segment(&packet, part * 1000..part * 1000 + 1000);
            frame[18..20].copy_from_slice(&id.to_be_bytes());
            frame[20] = 0;
            rig.wire.inject(&sealed(&frame));
        }
        assert_eq!(receive(&mut rig, guest).len(), packets, "{ids:?}");
    }
}

#[test]
fn padding_is_never_taken_for_payload() {
    let mut rig = Rig::new();
    let guest = rig.guest();
    let packet = tcp(Rig::mac(guest), REMOTE, false, 3000);
    let frames: Vec<_> = (0..3)
        .map(|part| {
            let mut frame = segment(&packet, part * 2..part * 2 + 2);
            frame.resize(60, 0);
            frame
        })
        .collect();
    frames.iter().for_each(|frame| rig.wire.inject(frame));
    assert_as_sent(&receive(&mut rig, guest), &frames, "padded");
}

#[test]
fn a_guest_that_does_not_take_large_packets_gets_the_segments() {
    let mut rig = Rig::new();
    let mut options = NetfrontOptions::default();
    options.features.retain(|(key, _)| *key != "feature-gso-tcpv4");
    let guest = rig.guest_with(options);
    let packet = tcp(Rig::mac(guest), REMOTE, false, 3000);
    let frames: Vec<_> = (0..3).map(|part| segment(&packet, part * 1000..part * 1000 + 1000)).collect();
    frames.iter().for_each(|frame| rig.wire.inject(frame));
    assert_as_sent(&receive(&mut rig, guest), &frames, "no feature-gso-tcpv4");
}

#[test]
fn what_goes_from_card_to_card_is_left_alone() {
    const NEIGHBOUR: [u8; 6] = [2, 0, 0, 0, 7, 7];
    let mut rig = Rig::with_options("bridge=lan:0,1 transit=yes", 2);
    rig.more_wires[0].inject(&sealed(&tcp(REMOTE, NEIGHBOUR, false, 100)));
    rig.run(Duration::from_millis(20));
    rig.wire.sent.clear();
    let packet = tcp(NEIGHBOUR, REMOTE, false, 3000);
    let frames: Vec<_> = (0..3).map(|part| segment(&packet, part * 1000..part * 1000 + 1000)).collect();
    frames.iter().for_each(|frame| rig.wire.inject(frame));
    rig.run(Duration::from_millis(20));
    let sent: Vec<_> = rig.more_wires[0].sent.iter().map(|sent| sent.bytes.clone()).collect();
    assert!(sent == frames);
}

#[test]
fn the_bytes_of_a_stream_arrive_in_order_however_it_is_cut() {
    let mut rig = Rig::new();
    let guest = rig.guest();
    let packet = tcp(Rig::mac(guest), REMOTE, false, 60_000);
    let (mut at, mut choice, mut stream, mut packets) = (0, 1_usize, Vec::new(), 0);
    while at < 60_000 {
        // Bursts of 40 frames of a few lengths; now and then one with another window.
        for _ in 0..40 {
            choice = choice.wrapping_mul(25_173).wrapping_add(13_849) % 65_536;
            let end = 60_000.min(at + [1000, 1000, 1000, 300][choice / 64 % 4]);
            if at == end {
                break;
            }
            let mut frame = segment(&packet, at..end);
            frame[49] ^= u8::from(choice / 512 % 8 == 0);
            rig.wire.inject(&sealed(&frame));
            (at, packets) = (end, packets + 1);
        }
        for received in receive(&mut rig, guest) {
            stream.extend_from_slice(&received.bytes[54..]);
        }
    }
    assert!(stream == packet[54..]);
    assert!(joined(&rig) > packets / 3, "{} of {packets}", joined(&rig));
}
