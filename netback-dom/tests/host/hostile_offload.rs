//! Frontends that ask for checksums and segmentation where they make no sense: cases NF-25, NF-26 and NF-34 of
//! the catalogue of hostile inputs.

use std::time::Duration;

use fake_xen::{Netfront, Page};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::packets::{BROADCAST, CSUM_BLANK, DATA_VALIDATED, EXTRA_INFO, MORE_DATA, REMOTE, frame, tcp};
use crate::rig::{Rig, cases};

/// Most frames that one packet may become.
const MAX_FRAMES: usize = 128;

/// Sends a packet in slots of `first` bytes and then pages, to be cut into segments of `gso` (size and kind).
fn send(front: &mut Netfront, packet: &[u8], first: usize, flags: u16, gso: Option<(u16, u32)>) {
    let (head, rest) = packet.split_at(first.clamp(1, packet.len().min(4096)));
    let parts: Vec<&[u8]> = std::iter::once(head).chain(rest.chunks(4096)).collect();
    for (index, part) in parts.iter().enumerate() {
        let page = Page::new();
        page.write(0, part);
        let more = if index + 1 < parts.len() { MORE_DATA } else { 0 };
        if index > 0 {
            front.put_request(&page, 0, u16::try_from(part.len()).unwrap(), more);
            continue;
        }
        let extra = if gso.is_some() { EXTRA_INFO } else { 0 };
        front.put_request(&page, 0, u16::try_from(packet.len()).unwrap(), flags | more | extra);
        if let Some((size, kind)) = gso {
            front.put_extra([1 | u32::from(size) << 16, kind]);
        }
    }
    front.push_tx();
}

/// The attacker's packet goes nowhere, for being cut too fine or not at all.
fn drops(packet: impl Fn([u8; 6]) -> Vec<u8>, gso: (u16, u32)) {
    let (mut rig, attacker, victim) = Rig::attacker_and_victim();
    let packet = packet(Rig::mac(attacker));
    let before = rig.wire.sent.len();
    let flags = CSUM_BLANK | DATA_VALIDATED;
    send(&mut rig.fronts[attacker], &packet, 200, flags, Some(gso));
    rig.run(Duration::from_millis(20));
    assert_eq!(rig.wire.sent.len(), before, "something of it reached the wire");
    let slots = 1 + packet.len().saturating_sub(200).div_ceil(4096);
    rig.assert_dropped(attacker, victim, "GSO_MIN", slots);
}

#[test]
fn segments_of_a_few_bytes_are_refused_nf_34() {
    for size in 1..8 {
        drops(|from| tcp(REMOTE, from, false, 60000), (size, 1));
    }
    drops(|from| tcp(REMOTE, from, true, 60000), (468, 2));
}

#[test]
fn segmentation_of_what_is_not_tcp_is_refused_nf_34() {
    drops(|from| frame(REMOTE, from, 3000, 0), (1448, 1));
    // ARP, then UDP, then a fragment, then IPv6 as IPv4 and the other way round.
    let ipv4 = |from, at: usize, value: u8| {
        let mut packet = tcp(REMOTE, from, false, 3000);
        packet[at] = value;
        packet
    };
    drops(|from| ipv4(from, 13, 6), (1448, 1));
    drops(|from| ipv4(from, 23, 17), (1448, 1));
    drops(|from| ipv4(from, 20, 0x20), (1448, 1));
    drops(|from| tcp(REMOTE, from, true, 3000), (1448, 1));
    drops(|from| tcp(REMOTE, from, false, 3000), (1448, 2));
}

#[test]
fn headers_that_lie_about_their_length_are_refused_nf_25() {
    // Header length of IPv4, its total length, length of the TCP header.
    for (at, value) in [(14, 0x40), (14, 0x44), (14, 0x4f), (16, 0), (16, 0xff), (46, 0), (46, 0x40), (46, 0xf0)] {
        let lying = |from| {
            let mut packet = tcp(REMOTE, from, false, 3000);
            packet[at] = value;
            packet
        };
        // A long header may by chance be one; what matters is that a packet which is taken is cut correctly.
        let (mut rig, attacker, victim) = Rig::attacker_and_victim();
        let packet = lying(Rig::mac(attacker));
        send(&mut rig.fronts[attacker], &packet, 200, CSUM_BLANK, Some((1448, 1)));
        rig.until("answered", |rig| rig.fronts[attacker].tx_unanswered() == 0);
        assert!(rig.is_connected(attacker));
        rig.assert_works(victim);
    }
}

#[test]
fn segments_larger_than_the_packet_leave_it_whole_nf_34() {
    let mut rig = Rig::new();
    let guest = rig.guest();
    let packet = tcp(REMOTE, Rig::mac(guest), false, 1000);
    send(&mut rig.fronts[guest], &packet, 200, CSUM_BLANK | DATA_VALIDATED, Some((60000, 1)));
    rig.run(Duration::from_millis(20));
    assert_eq!(rig.wire.sent.len(), 1);
    assert!(crate::packets::is_intact(&rig.wire.sent[0].bytes));
}

proptest! {
    #![proptest_config(cases(60))]

    #[test]
    fn headers_of_any_kind_harm_nobody_nf_25_26(
        packets in vec(
            (
                (any::<bool>(), prop_oneof![0..100_usize, 0..6000_usize, 0..60000_usize]),
                vec((12..90_usize, any::<u8>()), 0..4),
                (14..400_usize, prop_oneof![Just(1_usize), 14..300_usize]),
                (0..4_u16, prop_oneof![Just(None), (1..3000_u16, 1..3_u32).prop_map(Some)]),
                0..3_usize,
            ),
            1..12,
        ),
        offloads in any::<[bool; 3]>(),
    ) {
        let mut rig = Rig::new();
        let victim = rig.guest();
        let attacker = rig.guest();
        [rig.wire.capabilities.tx_checksum, rig.wire.capabilities.tso4, rig.wire.capabilities.tso6] = offloads;
        for ((ipv6, payload), changes, (cut, first), (flags, gso), to) in packets {
            let to = [REMOTE, BROADCAST, Rig::mac(victim)][to];
            let mut packet = tcp(to, Rig::mac(attacker), ipv6, payload);
            for (at, value) in changes {
                if let Some(byte) = packet.get_mut(at) {
                    *byte = value;
                }
            }
            if payload < 100 {
                packet.truncate(cut);
            }
            let before = (rig.wire.sent.len(), rig.buffers.available());
            send(&mut rig.fronts[attacker], &packet, first, flags, gso);
            rig.until("answered", |rig| rig.fronts[attacker].tx_unanswered() == 0);
            rig.run(Duration::from_millis(20));
            prop_assert!(rig.is_connected(attacker), "{}", rig.state());
            prop_assert!(rig.wire.sent.len() - before.0 <= MAX_FRAMES);
            // The card would have read every buffer by now.
            let received = rig.fronts[victim].receive_all();
            prop_assert!(received.len() <= MAX_FRAMES);
            let bytes: usize = received.iter().map(|packet| packet.bytes.len()).sum();
            prop_assert!(bytes <= packet.len() + MAX_FRAMES * 300);
            prop_assert_eq!(rig.buffers.available(), before.1);
        }
        rig.wire.capabilities.tx_checksum = false;
        rig.assert_works(victim);
        rig.assert_works(attacker);
    }
}
