//! Frames whose headers lie, are split, or are nothing that anybody knows: cases NF-23, NF-25 to NF-27, NF-46 and
//! NF-56.

use std::time::Duration;

use fake_xen::{NetfrontOptions, Page};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::packets::{
    BROADCAST, CSUM_BLANK, DATA_VALIDATED, EXTRA_INFO, MORE_DATA, REMOTE, completed, frame, is_intact, tcp,
};
use crate::rig::{Guest, Rig, cases};

const MOMENT: Duration = Duration::from_millis(10);

/// A frame of this EtherType.
fn typed(from: [u8; 6], ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut packet = frame(REMOTE, from, 12, 0)[..12].to_vec();
    packet.extend(ethertype.to_be_bytes());
    packet.extend(payload);
    packet
}

/// The packet with one byte changed.
fn with(mut packet: Vec<u8>, at: usize, value: u8) -> Vec<u8> {
    packet[at] = value;
    packet
}

/// Frames in which nobody may find a TCP or UDP checksum, by name.
fn opaque(from: [u8; 6]) -> Vec<(String, Vec<u8>)> {
    let ipv4 = || tcp(REMOTE, from, false, 40);
    let ipv6 = |next: u8, rest: &[u8]| {
        let len = u16::try_from(rest.len()).unwrap().to_be_bytes();
        let fixed = [0x60, 0, 0, 0, len[0], len[1], next, 64];
        typed(from, 0x86dd, &[&fixed[..], &[1; 32], rest].concat())
    };
    let mut all = vec![
        ("ARP".to_string(), typed(from, 0x0806, &[0, 1, 8, 0, 6, 4, 0, 1, 0, 0, 0, 0])),
        ("ARP, cut off".to_string(), typed(from, 0x0806, &[0])),
        ("ICMP".to_string(), with(ipv4(), 23, 1)),
        ("first fragment".to_string(), with(ipv4(), 20, 0x20)),
        ("later fragment".to_string(), with(ipv4(), 21, 1)),
        ("IPv4 shorter than its header".to_string(), with(with(ipv4(), 16, 0), 17, 10)),
        ("IPv4 longer than the frame".to_string(), with(ipv4(), 16, 0xff)),
        ("IPv6 as IPv4".to_string(), with(ipv4(), 14, 0x65)),
        ("TCP, cut off".to_string(), ipv4()[..50].to_vec()),
        ("IPv4, cut off".to_string(), ipv4()[..20].to_vec()),
        ("no payload".to_string(), typed(from, 0x0800, &[])),
        ("a hundred extension headers".to_string(), ipv6(0, &[[0; 8]; 100].concat())),
        ("extension header beyond the end".to_string(), ipv6(0, &[6, 255, 0, 0, 0, 0, 0, 0])),
        ("a fragment of IPv6".to_string(), ipv6(44, &[&[6, 0, 0, 9][..], &[0; 40]].concat())),
        ("ten tags".to_string(), [&typed(from, 0x88a8, &[[0, 5, 0x81, 0]; 9].concat())[..], &[0, 5, 8, 0]].concat()),
        ("half a tag".to_string(), typed(from, 0x8100, &[0])),
    ];
    // Header lengths below five words, and those that leave no room for TCP.
    all.extend((0..5).map(|words| (format!("IPv4 header of {words} words"), with(ipv4(), 14, 0x40 | words))));
    all.extend(
        (11..16).map(|words| (format!("IPv4 header of {words} words"), with(ipv4()[..60].to_vec(), 14, 0x40 | words))),
    );
    all
}

#[test]
fn what_nobody_can_read_passes_as_it_is_nf_25() {
    let (mut rig, attacker, victim) = Rig::attacker_and_victim();
    for (name, packet) in opaque(Rig::mac(attacker)) {
        for flags in [0, DATA_VALIDATED] {
            rig.wire.sent.clear();
            let page = Page::new();
            page.write(0, &packet);
            rig.fronts[attacker].put_request(&page, 0, u16::try_from(packet.len()).unwrap(), flags);
            rig.fronts[attacker].push_tx();
            rig.run(MOMENT);
            let sent: Vec<_> = rig.wire.sent.iter().map(|sent| &sent.bytes).collect();
            // Half a tag says no VLAN.
            let passes = name != "half a tag";
            assert!(if passes { sent == [&packet] } else { sent.is_empty() }, "{name}: {sent:?}");
        }
    }
    rig.fronts[victim].receive_all();
    rig.fronts[attacker].take_answers();
    rig.assert_works(attacker);
    rig.assert_works(victim);
}

#[test]
fn a_blank_checksum_in_what_has_none_is_not_filled_in_anywhere_nf_26() {
    for card in [false, true] {
        let (mut rig, attacker, victim) = Rig::attacker_and_victim();
        rig.wire.capabilities.tx_checksum = card;
        for (name, packet) in opaque(Rig::mac(attacker)) {
            rig.wire.sent.clear();
            rig.fronts[attacker].send_blank(&packet);
            rig.run(MOMENT);
            let status = rig.fronts[attacker].take_answer().map(|answer| answer.status);
            assert_eq!(status, Some(-1), "{name}");
            assert!(rig.wire.sent.is_empty() && rig.fronts[victim].receive_all().is_empty(), "{name}");
        }
        rig.run(Duration::from_secs(1));
        assert!(!rig.lines(attacker, "CSUM").is_empty());
        rig.assert_works(attacker);
        rig.assert_works(victim);
    }
}

#[test]
fn a_blank_checksum_is_filled_in_whatever_else_is_said_of_it_nf_27() {
    let mut rig = Rig::new();
    let guest = rig.guest();
    let blank = tcp(REMOTE, Rig::mac(guest), false, 100);
    for (flags, wanted) in [
        (0, blank.clone()),
        (CSUM_BLANK, completed(&blank)),
        (DATA_VALIDATED, blank.clone()),
        (CSUM_BLANK | DATA_VALIDATED, completed(&blank)),
    ] {
        rig.wire.sent.clear();
        let page = Page::new();
        page.write(0, &blank);
        rig.fronts[guest].put_request(&page, 0, u16::try_from(blank.len()).unwrap(), flags);
        rig.fronts[guest].push_tx();
        rig.run(MOMENT);
        assert_eq!(rig.wire.sent.iter().map(|sent| &sent.bytes).collect::<Vec<_>>(), [&wanted], "{flags}");
    }
}

#[test]
fn headers_of_a_packet_to_be_cut_may_be_split_anywhere_nf_23() {
    for ipv6 in [false, true] {
        let mut rig = Rig::new();
        let (guest, other) = (rig.guest(), rig.guest());
        // What reaches the other guest is told what a packet that is not split looks like there.
        for to in [REMOTE, Rig::mac(other)] {
            let packet = tcp(to, Rig::mac(guest), ipv6, 4000);
            let mut expected = None;
            for split in 1..90_usize {
                rig.wire.sent.clear();
                let parts = [&packet[..split], &packet[split..]];
                for (index, part) in parts.iter().enumerate() {
                    let page = Page::new();
                    page.write(0, part);
                    let size = if index == 0 { packet.len() } else { part.len() };
                    let flags = if index == 0 { CSUM_BLANK | DATA_VALIDATED | MORE_DATA | EXTRA_INFO } else { 0 };
                    // The second page has room for what the first one leaves.
                    rig.fronts[guest].put_request(&page, 0, u16::try_from(size).unwrap(), flags);
                    if index == 0 {
                        rig.fronts[guest].put_extra([1 | 1400 << 16, if ipv6 { 2 } else { 1 }]);
                    }
                }
                rig.fronts[guest].push_tx();
                rig.run(MOMENT);
                assert!(rig.fronts[guest].take_answers().iter().all(|answer| answer.status == 0), "split at {split}");
                if to == REMOTE {
                    assert_eq!(rig.wire.sent.len(), 3, "split at {split}");
                    assert!(rig.wire.sent.iter().all(|sent| sent.head >= 74 && is_intact(&sent.bytes)));
                }
                let received = rig.fronts[other].receive_all();
                assert_eq!(expected.get_or_insert_with(|| received.clone()), &received, "split at {split}");
                assert!(to == REMOTE || received.iter().all(|received| received.bytes == packet));
            }
        }
    }
}

#[test]
fn a_card_is_never_given_more_than_it_takes_nf_56() {
    for (max_frame, max_segments) in [(1514, 18), (1514, 1), (9014, 2)] {
        let (mut rig, attacker, victim) = Rig::attacker_and_victim();
        rig.wire.capabilities.max_frame = max_frame;
        rig.wire.capabilities.max_segments = max_segments;
        let before = rig.buffers.available();
        for len in [14, 59, 60, 1514, 1515, 4097, 9014, 9015, 12300, 65535] {
            rig.wire.sent.clear();
            let packet = frame(REMOTE, Rig::mac(attacker), len, 0);
            rig.fronts[attacker].send(&packet);
            // What a card is given is checked against what it takes by the card of the rig.
            rig.run(MOMENT);
            let fits = len <= max_frame && len.div_ceil(4000) <= max_segments;
            assert!(rig.wire.sent.iter().map(|sent| &sent.bytes).eq(fits.then_some(&packet)), "{len} bytes");
            let answers = rig.fronts[attacker].take_answers();
            assert!(answers.iter().all(|answer| answer.status == if fits { 0 } else { -2 }), "{len} bytes");
        }
        rig.fronts[victim].receive_all();
        assert_eq!(rig.buffers.available(), before);
        rig.assert_works(victim);
    }
}

/// A packet on its way to a guest.
#[derive(Clone, Debug)]
struct Parcel {
    /// From a card, or from another guest.
    wire: bool,
    /// TCP over IPv4 or IPv6, or of a kind of nobody's.
    kind: Option<bool>,
    len: usize,
    first: usize,
    /// To be cut into segments of this size.
    mss: Option<u16>,
    to_all: bool,
}

fn parcel() -> impl Strategy<Value = Parcel> {
    let len = prop_oneof![0..200_usize, 1400..1500_usize, 3900..4300_usize, 0..60_000_usize];
    let kind = prop_oneof![Just(None), any::<bool>().prop_map(Some)];
    let mss = prop_oneof![Just(None), (536..1460_u16).prop_map(Some)];
    let first = prop_oneof![Just(1_usize), 14..4096_usize];
    (any::<bool>(), kind, len, first, mss, any::<bool>()).prop_map(|(wire, kind, len, first, mss, to_all)| Parcel {
        wire,
        kind,
        len,
        first,
        mss,
        to_all,
    })
}

fn dispatch(rig: &mut Rig, sender: Guest, to: Guest, parcel: &Parcel) {
    let dest = if parcel.to_all { BROADCAST } else { Rig::mac(to) };
    let packet = |from, len: usize| match parcel.kind {
        Some(ipv6) => tcp(dest, from, ipv6, len),
        None => frame(dest, from, len + 14, 0),
    };
    if parcel.wire {
        let packet = packet(REMOTE, parcel.len.min(1400));
        return rig.wire.inject(&if parcel.kind.is_some() { completed(&packet) } else { packet });
    }
    let packet = packet(Rig::mac(sender), parcel.len);
    let gso = parcel.mss.filter(|_| parcel.kind.is_some());
    let (first, rest) = packet.split_at(parcel.first.min(packet.len()));
    let parts: Vec<&[u8]> = std::iter::once(first).chain(rest.chunks(4096)).collect();
    for (index, part) in parts.iter().enumerate() {
        let page = Page::new();
        page.write(0, part);
        let more = if index + 1 < parts.len() { MORE_DATA } else { 0 };
        let blank = if parcel.kind.is_some() { CSUM_BLANK | DATA_VALIDATED } else { 0 };
        let extra = if gso.is_some() { EXTRA_INFO } else { 0 };
        let (size, flags) = if index == 0 { (packet.len(), more | blank | extra) } else { (part.len(), more) };
        rig.fronts[sender].put_request(&page, 0, u16::try_from(size).unwrap(), flags);
        if let (0, Some(mss)) = (index, gso) {
            rig.fronts[sender].put_extra([1 | u32::from(mss) << 16, if parcel.kind == Some(true) { 2 } else { 1 }]);
        }
    }
    rig.fronts[sender].push_tx();
}

proptest! {
    #![proptest_config(cases(16))]

    /// That buffers are answered in order with their own ids, in at most 18 slots, the first of which has an Ethernet
    /// header, is checked by the frontend for every packet of every test.
    #[test]
    fn a_guest_gets_only_what_it_can_take_nf_46(
        features in any::<[bool; 5]>(),
        split in any::<bool>(),
        parcels in vec(parcel(), 1..20),
    ) {
        let names = ["feature-sg", "feature-gso-tcpv4", "feature-gso-tcpv6", "feature-no-csum-offload", "feature-ipv6-csum-offload"];
        let chosen = names.iter().zip(features).filter(|(_, on)| *on).map(|(name, _)| (*name, "1"));
        let features_of = [("request-rx-copy", "1"), ("feature-rx-notify", "1")].into_iter().chain(chosen).collect();
        let [sg, gso4, gso6, no_csum, csum6] = features;
        let mut rig = Rig::new();
        let sender = rig.guest();
        let guest = rig.guest_with(NetfrontOptions { split, features: features_of, ..NetfrontOptions::default() });
        for parcel in &parcels {
            dispatch(&mut rig, sender, guest, parcel);
            rig.run(Duration::from_millis(3));
            for packet in rig.fronts[guest].receive_all() {
                prop_assert_eq!(packet.error, None);
                // One more than the least if pages can stay whole with it.
                let least = packet.bytes.len().div_ceil(4096);
                prop_assert!(packet.slots == least || least > 1 && packet.slots == least + 1, "{} bytes", packet.bytes.len());
                prop_assert!(sg || packet.slots == 1);
                let ipv6 = packet.bytes[12..14] == [0x86, 0xdd];
                let takes_blank = if ipv6 { csum6 } else { !no_csum };
                prop_assert!(takes_blank || !packet.csum_blank());
                prop_assert!(packet.csum_blank() || packet.bytes[12] == 0x88 || is_intact(&packet.bytes));
                let takes_gso = sg && takes_blank && if ipv6 { gso6 } else { gso4 };
                prop_assert!(takes_gso || packet.extras.is_empty());
            }
        }
    }
}
