use alloc::vec;
use alloc::vec::Vec;

use proptest::prelude::*;

use super::*;

fn ethernet(ethertype: u16) -> Vec<u8> {
    let mut frame = vec![0x02, 0, 0, 0, 0, 1, 0x02, 0, 0, 0, 0, 2];
    frame.extend(ethertype.to_be_bytes());
    frame
}

/// Ethernet, IPv4 with `options` bytes of options, `protocol` and 20 bytes of transport header.
fn ipv4(options: usize, protocol: u8, fragment: u16) -> Vec<u8> {
    let mut frame = ethernet(0x0800);
    let total = 20 + options + 20;
    frame.extend([0x45 + (options / 4) as u8, 0]);
    frame.extend((total as u16).to_be_bytes());
    frame.extend([0, 0]);
    frame.extend(fragment.to_be_bytes());
    frame.extend([64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    frame.extend(vec![0; options + 20]);
    frame
}

/// Ethernet, IPv6, extension headers of the given types and lengths in units, and 20 bytes of TCP.
fn ipv6(extensions: &[(u8, u8)]) -> Vec<u8> {
    let mut frame = ethernet(0x86dd);
    let mut rest = Vec::new();
    for (at, (_, units)) in extensions.iter().enumerate() {
        rest.push(extensions.get(at + 1).map_or(6, |next| next.0));
        rest.push(*units);
        rest.extend(vec![0; (usize::from(*units) + 1) * 8 - 2]);
    }
    rest.extend([0; 20]);
    frame.extend([0x60, 0, 0, 0]);
    frame.extend((rest.len() as u16).to_be_bytes());
    frame.extend([extensions.first().map_or(6, |first| first.0), 64]);
    frame.extend([0; 32]);
    frame.extend(rest);
    frame
}

fn find(frame: &[u8]) -> Option<Transport> {
    Transport::find(frame, frame.len())
}

#[test]
fn tags_are_skipped_up_to_two() {
    let mut frame = ipv4(0, 6, 0);
    for tags in 0..4 {
        let parsed = Ethernet::parse(&frame).unwrap();
        assert_eq!(parsed.vlan, (tags > 0).then_some(7));
        assert_eq!(parsed.ethertype == 0x0800, tags <= 2);
        assert_eq!(find(&frame).is_some(), tags <= 2);
        frame.splice(12..12, [0x81, 0, 0, 7]);
    }
}

#[test]
fn ipv4_options_move_the_transport_header() {
    for options in [0, 4, 40] {
        let frame = ipv4(options, 17, 0x4000);
        let found = find(&frame).unwrap();
        assert_eq!((found.start, found.end), (34 + options, 54 + options));
        assert_eq!(found.protocol, Protocol::Udp);
    }
}

#[test]
fn fragments_other_protocols_and_lies_are_opaque() {
    assert_eq!(find(&ipv4(0, 6, 0x2000)), None);
    assert_eq!(find(&ipv4(0, 6, 1)), None);
    assert_eq!(find(&ipv4(0, 1, 0)), None);
    for ihl in 0..5 {
        let mut frame = ipv4(0, 6, 0);
        frame[14] = 0x40 | ihl;
        assert_eq!(find(&frame), None, "ihl {ihl}");
    }
    for total in [0_u16, 39, 41, 0xffff] {
        let mut frame = ipv4(0, 6, 0);
        frame[16..18].copy_from_slice(&total.to_be_bytes());
        assert_eq!(find(&frame), None, "total length {total}");
    }
}

#[test]
fn padding_behind_the_packet_is_not_part_of_it() {
    let mut frame = ipv4(0, 6, 0);
    frame.extend([0xff; 6]);
    assert_eq!(find(&frame).unwrap().end, 54);
}

#[test]
fn ipv6_extension_headers_are_walked_to_a_limit() {
    assert_eq!(find(&ipv6(&[])).unwrap().start, 54);
    assert_eq!(find(&ipv6(&[(0, 0), (60, 2)])).unwrap().start, 54 + 8 + 24);
    assert!(find(&ipv6(&[(60, 0); 8])).is_some());
    assert_eq!(find(&ipv6(&[(60, 0); 9])), None);
    assert_eq!(find(&ipv6(&[(44, 0)])), None, "fragment header");
}

#[test]
fn every_truncation_is_opaque() {
    for frame in [ipv4(8, 6, 0), ipv6(&[(0, 0)])] {
        for len in 0..frame.len() {
            assert_eq!(find(&frame[..len]), None, "{len} of {}", frame.len());
        }
    }
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_panic_and_in_bounds(head in proptest::collection::vec(any::<u8>(), 0..200), more in 0_usize..70000) {
        if let Some(found) = Transport::find(&head, head.len() + more) {
            prop_assert!(found.start + found.protocol.checksum_field() + 2 <= head.len());
            prop_assert!(found.end <= head.len() + more);
        }
    }

    #[test]
    fn nearly_valid_packets_are_read_without_panic(at in 0_usize..100, value: u8, extensions in proptest::collection::vec((prop_oneof![Just(0_u8), Just(43), Just(60)], 0_u8..4), 0..4)) {
        let mut frame = ipv6(&extensions);
        let at = at % frame.len();
        frame[at] = value;
        if let Some(found) = find(&frame) {
            prop_assert!(found.end <= frame.len());
        }
    }
}
