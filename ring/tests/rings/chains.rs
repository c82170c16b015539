//! From slots to packets: the table of what a frontend can get wrong, and a slow second opinion on random
//! chains.
//!
//! Names in brackets are cases of the catalogue of hostile inputs.

use std::cell::Cell;

use proptest::collection::vec;
use proptest::prelude::*;
use ring::Debt;
use ring::netif::{Assembled, GsoKind, Negotiated, Packet, SlotKind, TxKill, TxReject, TxSlot, assemble};

use crate::slots::{CSUM_BLANK, EXTRA_INFO, MORE_DATA, extra, gso, request};

const GSO: Negotiated = Negotiated { gso_tcpv4: true, gso_tcpv6: true, multicast_control: false, hash: false };
const MULTICAST: Negotiated = Negotiated { gso_tcpv4: false, gso_tcpv6: false, multicast_control: true, hash: false };

/// Assembles the first packet of `slots`. Also returns how many slots that took.
fn first_packet(negotiated: &Negotiated, slots: &[TxSlot]) -> (Result<Option<Assembled>, TxKill>, usize) {
    let taken = Cell::new(0);
    let mut ring = ring_of(slots);
    let outcome = assemble(negotiated, || {
        let next = ring.take_request().unwrap();
        taken.set(taken.get() + usize::from(next.is_some()));
        next
    });
    (outcome, taken.get())
}

/// A ring with these slots published.
fn ring_of(slots: &[TxSlot]) -> ring::BackRing<ring::netif::Tx, Vec<std::sync::atomic::AtomicU32>> {
    let mut page = vec![0_u32; 1024];
    page[0] = u32::try_from(slots.len()).unwrap();
    for (at, slot) in slots.iter().enumerate() {
        page[16 + 3 * at..][..3].copy_from_slice(&slot.into_words());
    }
    ring::BackRing::attach(page.into_iter().map(Into::into).collect()).unwrap()
}

fn packet(negotiated: &Negotiated, slots: &[TxSlot]) -> Packet {
    match first_packet(negotiated, slots) {
        (Ok(Some(Assembled::Packet(packet))), _) => packet,
        (other, _) => panic!("no packet: {other:?}"),
    }
}

fn fragments(packet: &Packet) -> Vec<(u32, u16, u16)> {
    packet.fragments.as_slice().iter().map(|f| (f.gref.into_raw(), f.offset, f.size)).collect()
}

fn reject(slots: &[TxSlot]) -> TxReject {
    match first_packet(&GSO, slots) {
        (Ok(Some(Assembled::Rejected(reject, packet))), taken) => {
            assert_eq!(packet.slots.as_slice().len(), taken, "every slot of a bad packet is owed an answer");
            assert_eq!(packet.debt.owed() as usize, taken);
            reject
        }
        (other, _) => panic!("not rejected: {other:?}"),
    }
}

fn kill(negotiated: &Negotiated, slots: &[TxSlot]) -> TxKill {
    match first_packet(negotiated, slots) {
        (Err(kill), _) => kill,
        (other, _) => panic!("not fatal: {other:?}"),
    }
}

/// A chain of `count` slots of 100 bytes.
fn chain(count: u16) -> Vec<TxSlot> {
    let more = |index: u16| if index + 1 < count { MORE_DATA } else { 0 };
    let size = |index: u16| if index == 0 { count * 100 } else { 100 };
    (0..count).map(|index| request(index.into(), 0, more(index), index, size(index))).collect()
}

#[test]
fn nothing_published_is_no_packet() {
    assert!(matches!(first_packet(&GSO, &[]), (Ok(None), 0)));
}

#[test]
fn one_slot_is_one_fragment() {
    let packet = packet(&GSO, &[request(9, 4000, CSUM_BLANK, 77, 96)]);
    assert_eq!((fragments(&packet), packet.total), (vec![(9, 4000, 96)], 96));
    assert_eq!(packet.slots.as_slice(), [SlotKind::Request(77)]);
    assert!(packet.flags.csum_blank());
    assert_eq!((packet.gso, packet.multicast.as_slice()), (None, [].as_slice()));
}

#[test]
fn the_first_fragment_has_what_the_others_leave() {
    let slots = [request(1, 0, MORE_DATA, 5, 5000), request(2, 1, MORE_DATA, 6, 4000), request(3, 2, 0, 7, 400)];
    assert_eq!(fragments(&packet(&GSO, &slots)), [(1, 0, 600), (2, 1, 4000), (3, 2, 400)]);
}

#[test]
fn a_packet_ends_where_the_next_begins() {
    let slots = [request(1, 0, 0, 5, 60), request(2, 0, 0, 6, 60)];
    let (outcome, taken) = first_packet(&GSO, &slots);
    assert!(matches!(outcome, Ok(Some(Assembled::Packet(_)))));
    assert_eq!(taken, 1);
}

#[test]
fn a_packet_shorter_than_a_header_is_dropped_nf_11_12() {
    for size in 0..14 {
        assert_eq!(reject(&[request(1, 0, 0, 5, size)]), TxReject::Short, "{size}");
    }
    packet(&GSO, &[request(1, 0, 0, 5, 14)]);
}

#[test]
fn a_slot_that_leaves_its_page_is_fatal_nf_13_14() {
    for (offset, size) in
        [(0, 65535), (0, 4097), (1, 4096), (4095, 2), (4096, 1), (65535, 1), (65535, 65535), (32768, 32768)]
    {
        assert_eq!(kill(&GSO, &[request(1, offset, 0, 5, size)]), TxKill::Page, "{offset}+{size}");
        let later = [request(1, 0, MORE_DATA, 5, 65535), request(2, offset, 0, 6, size)];
        assert_eq!(kill(&GSO, &later), TxKill::Page, "later slot {offset}+{size}");
    }
    for (offset, size) in [(0, 4096), (4082, 14), (1, 4095)] {
        packet(&GSO, &[request(1, offset, 0, 5, size)]);
    }
}

#[test]
fn a_first_fragment_that_leaves_its_page_is_fatal() {
    // 100 bytes of the packet are in the second slot, so the first has 100 from 4000 on.
    assert_eq!(kill(&GSO, &[request(1, 4000, MORE_DATA, 5, 200), request(2, 0, 0, 6, 100)]), TxKill::Page);
    packet(&GSO, &[request(1, 3996, MORE_DATA, 5, 200), request(2, 0, 0, 6, 100)]);
}

#[test]
fn fragments_larger_than_the_packet_drop_it_nf_15() {
    assert_eq!(reject(&[request(1, 0, MORE_DATA, 5, 100), request(2, 0, 0, 6, 101)]), TxReject::Total);
    let wraps = [request(1, 0, MORE_DATA, 5, 4), request(2, 0, MORE_DATA, 6, 4000), request(3, 0, 0, 7, 100)];
    assert_eq!(reject(&wraps), TxReject::Total);
}

#[test]
fn a_chain_that_goes_on_where_nothing_is_published_is_fatal_nf_17() {
    assert_eq!(kill(&GSO, &[request(1, 0, MORE_DATA, 5, 100)]), TxKill::Chain);
    assert_eq!(kill(&GSO, &[request(1, 0, MORE_DATA, 5, 100), request(1, 0, MORE_DATA, 6, 50)]), TxKill::Chain);
}

#[test]
fn a_packet_has_eighteen_slots_at_most_nf_18_19_20() {
    assert_eq!(fragments(&packet(&GSO, &chain(18))).len(), 18);
    for count in [19, 20] {
        assert_eq!(reject(&chain(count)), TxReject::Slots, "{count}");
    }
    for count in [21, 256] {
        assert_eq!(kill(&GSO, &chain(count)), TxKill::Slots, "{count}");
    }
}

#[test]
fn empty_fragments_are_left_out_nf_21() {
    let slots = [
        request(1, 0, MORE_DATA, 5, 100),
        request(2, 0, MORE_DATA, 6, 0),
        request(3, 0, MORE_DATA, 7, 40),
        request(4, 4096, 0, 8, 0),
    ];
    let packet = packet(&GSO, &slots);
    assert_eq!(fragments(&packet), [(1, 0, 60), (3, 0, 40)]);
    assert_eq!(packet.slots.as_slice().len(), 4);
}

#[test]
fn an_empty_first_fragment_is_left_out_too() {
    let slots = [request(1, 0, MORE_DATA, 5, 100), request(2, 0, 0, 6, 100)];
    assert_eq!(fragments(&packet(&GSO, &slots)), [(2, 0, 100)]);
}

#[test]
fn eighteen_slots_may_hold_fewer_bytes_than_headers_nf_22() {
    for total in 20..128_u16 {
        let mut slots = vec![request(0, 0, MORE_DATA, 0, total)];
        slots.extend((1..18).map(|index| request(index.into(), 0, if index < 17 { MORE_DATA } else { 0 }, index, 1)));
        let packet = packet(&GSO, &slots);
        assert_eq!(packet.fragments.as_slice()[0].size, total - 17);
    }
}

#[test]
fn an_announced_extra_must_be_there_nf_28() {
    assert_eq!(kill(&GSO, &[request(1, 0, EXTRA_INFO, 5, 100)]), TxKill::ExtraMissing);
    let more = [request(1, 0, EXTRA_INFO, 5, 100), extra(1, true, [100, 0, 1, 0, 0, 0])];
    assert_eq!(kill(&GSO, &more), TxKill::ExtraMissing);
}

#[test]
fn an_extra_of_an_unknown_type_is_fatal_nf_29_36() {
    for kind in [0, 2, 3, 4, 5, 6, 255] {
        let slots = [request(1, 0, EXTRA_INFO, 5, 100), extra(kind, false, [1; 6])];
        assert_eq!(kill(&GSO, &slots), TxKill::ExtraType, "{kind}");
    }
}

#[test]
fn an_endless_chain_of_extras_is_fatal_nf_30() {
    let mut slots = vec![request(1, 0, EXTRA_INFO, 5, 100)];
    slots.extend((0..255).map(|_| extra(1, true, [100, 0, 1, 0, 0, 0])));
    assert_eq!(kill(&GSO, &slots), TxKill::ExtraChain);
}

#[test]
fn a_packet_has_five_extras_at_most() {
    let with = |count: u8| {
        let mut slots = vec![request(1, 0, EXTRA_INFO, 5, 100)];
        slots.extend((1..=count).map(|number| extra(1, number < count, [100, 0, 1, 0, 0, 0])));
        slots
    };
    assert_eq!(packet(&GSO, &with(5)).slots.as_slice().len(), 6);
    assert_eq!(kill(&GSO, &with(6)), TxKill::ExtraChain);
}

#[test]
fn empty_slots_count_too() {
    let with = |count: u16| -> Vec<TxSlot> {
        (0..count)
            .map(|index| {
                request(1, 0, if index + 1 < count { MORE_DATA } else { 0 }, index, if index == 0 { 100 } else { 0 })
            })
            .collect()
    };
    assert_eq!(fragments(&packet(&GSO, &with(18))), [(1, 0, 100)]);
    assert_eq!(reject(&with(19)), TxReject::Slots);
}

#[test]
fn segmentation_needs_a_size_and_a_negotiated_kind_nf_32_33() {
    let with = |extra| [request(1, 0, EXTRA_INFO, 5, 4000), extra];
    assert_eq!(kill(&GSO, &with(gso(0, 1))), TxKill::GsoSize);
    for kind in [0, 3, 255] {
        assert_eq!(kill(&GSO, &with(gso(1448, kind))), TxKill::GsoType);
    }
    for kind in [1, 2] {
        assert_eq!(kill(&Negotiated::default(), &with(gso(1448, kind))), TxKill::GsoType);
    }
    assert_eq!(packet(&GSO, &with(gso(1448, 1))).gso, Some((1448, GsoKind::TcpV4)));
    assert_eq!(packet(&GSO, &with(gso(1440, 2))).gso, Some((1440, GsoKind::TcpV6)));
}

#[test]
fn an_extra_is_answered_in_its_place() {
    let slots = [request(1, 0, EXTRA_INFO | MORE_DATA, 5, 4000), gso(1448, 1), request(2, 0, 0, 6, 1000)];
    let packet = packet(&GSO, &slots);
    assert_eq!(packet.slots.as_slice(), [SlotKind::Request(5), SlotKind::Extra, SlotKind::Request(6)]);
    assert_eq!(fragments(&packet), [(1, 0, 3000), (2, 0, 1000)]);
}

#[test]
fn a_change_of_the_multicast_filter_needs_no_data() {
    for (kind, add) in [(2, true), (3, false)] {
        let slots = [request(1, 0, EXTRA_INFO, 5, 0), extra(kind, false, [1, 0, 94, 0, 0, 9])];
        assert_eq!(packet(&MULTICAST, &slots).multicast.as_slice(), [(add, [1, 0, 94, 0, 0, 9])]);
    }
}

/// Slots that are often nearly right.
fn slot() -> impl Strategy<Value = TxSlot> {
    let size = prop_oneof![Just(0), 1..20_u16, 20..2000_u16, 4000..4200_u16, any::<u16>()];
    let offset = prop_oneof![4 => Just(0), 1 => 0..4096_u16, 1 => any::<u16>()];
    let flags = prop_oneof![4 => Just(MORE_DATA), 2 => Just(0), 1 => Just(EXTRA_INFO), 1 => any::<u16>()];
    let plain = (any::<u32>(), offset, flags, any::<u16>(), size).prop_map(|(g, o, f, i, s)| request(g, o, f, i, s));
    let extras = (0..8_u8, any::<bool>(), any::<[u8; 6]>()).prop_map(|(kind, more, body)| extra(kind, more, body));
    prop_oneof![6 => plain, 1 => extras, 1 => any::<[u32; 3]>().prop_map(TxSlot::from_words)]
}

/// Fragments, or why there are none.
type Verdict = Result<Result<Vec<(u32, u16, u16)>, TxReject>, TxKill>;

/// The verdict, worked out the slow way: whole chain first, then one rule after the other.
fn second_opinion(slots: &[TxSlot]) -> Verdict {
    let first = slots[0].request();
    let mut next = 1;
    if first.flags.extra_info() {
        loop {
            if next > 5 {
                return Err(TxKill::ExtraChain);
            }
            let Some(slot) = slots.get(next) else { return Err(TxKill::ExtraMissing) };
            next += 1;
            let [w0, w1, _] = slot.into_words();
            let (kind, size, protocol) = (w0 & 0xff, w0 >> 16, w1 & 0xff);
            match (kind, size, protocol) {
                (1, 0, _) => return Err(TxKill::GsoSize),
                (1, _, 1 | 2) => {}
                (1, ..) => return Err(TxKill::GsoType),
                _ => return Err(TxKill::ExtraType),
            }
            if w0 >> 8 & 1 == 0 {
                break;
            }
        }
    }
    let mut rest = Vec::new();
    let mut more = first.flags.more_data();
    while more {
        let Some(slot) = slots.get(next + rest.len()) else { return Err(TxKill::Chain) };
        let request = slot.request();
        if rest.len() + 2 > 20 {
            return Err(TxKill::Slots);
        }
        if u32::from(request.offset) + u32::from(request.size) > 4096 {
            return Err(TxKill::Page);
        }
        more = request.flags.more_data();
        rest.push(request);
    }
    let others: u32 = rest.iter().map(|request| u32::from(request.size)).sum();
    let over = rest
        .iter()
        .scan(0, |sum, request| {
            *sum += u32::from(request.size);
            Some(*sum)
        })
        .position(|sum| sum > u32::from(first.size));
    let (too_big, too_many) = (over.map(|at| at + 1), (rest.len() + 1 > 18).then_some(18));
    match (too_big, too_many) {
        (Some(at), many) if many.is_none_or(|many| at <= many) => return Ok(Err(TxReject::Total)),
        (_, Some(_)) => return Ok(Err(TxReject::Slots)),
        _ => {}
    }
    let len = u32::from(first.size) - others;
    if u32::from(first.offset) + len > 4096 {
        return Err(TxKill::Page);
    }
    if first.size < 14 {
        return Ok(Err(TxReject::Short));
    }
    let head = (first.gref.into_raw(), first.offset, u16::try_from(len).unwrap());
    let tail = rest.iter().map(|request| (request.gref.into_raw(), request.offset, request.size));
    Ok(Ok(std::iter::once(head).chain(tail).filter(|(_, _, size)| *size > 0).collect()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn a_second_opinion_agrees(slots in vec(slot(), 1..40)) {
        let (outcome, _) = first_packet(&GSO, &slots);
        let ours = match outcome {
            Err(kill) => Err(kill),
            Ok(None) => return Err(TestCaseError::fail("nothing taken")),
            Ok(Some(Assembled::Rejected(reject, _))) => Ok(Err(reject)),
            Ok(Some(Assembled::Packet(packet))) => Ok(Ok(fragments(&packet))),
        };
        prop_assert_eq!(ours, second_opinion(&slots));
    }

    #[test]
    fn whatever_is_published_every_slot_taken_is_owed(slots in vec(slot(), 1..60)) {
        let mut ring = ring_of(&slots);
        let mut answered = 0;
        while let Ok(Some(outcome)) = assemble(&GSO, || ring.take_request().unwrap()) {
            let (Assembled::Packet(packet) | Assembled::Rejected(_, packet)) = outcome;
            let Packet { slots, mut debt, .. } = packet;
            prop_assert_eq!(debt.owed(), ring.outstanding());
            prop_assert_eq!(slots.as_slice().len() as u32, debt.owed());
            answered += pay(&mut ring, &mut debt);
        }
        prop_assert!(answered <= slots.len() as u32);
    }

    #[test]
    fn every_byte_of_a_packet_is_within_its_page(slots in vec(slot(), 1..40)) {
        if let (Ok(Some(Assembled::Packet(packet))), _) = first_packet(&GSO, &slots) {
            let sum: u32 = fragments(&packet).iter().map(|(_, _, size)| u32::from(*size)).sum();
            prop_assert_eq!(sum, u32::from(packet.total));
            for (_, offset, size) in fragments(&packet) {
                prop_assert!(size > 0 && u32::from(offset) + u32::from(size) <= 4096);
            }
        }
    }
}

fn pay(ring: &mut ring::BackRing<ring::netif::Tx, Vec<std::sync::atomic::AtomicU32>>, debt: &mut Debt) -> u32 {
    let mut count = 0;
    while let Some(ticket) = debt.pay() {
        ring.respond(ticket, &ring::netif::TxResponse { id: 0, status: ring::netif::Status::Okay });
        count += 1;
    }
    count
}

#[test]
fn changes_of_the_multicast_filter_keep_their_order() {
    let change = |kind, more, last| extra(kind, more, [1, 0, 94, 0, 0, last]);
    let slots = [request(0, 0, EXTRA_INFO, 5, 0), change(2, true, 1), change(3, true, 2), change(2, false, 3)];
    let packet = packet(&MULTICAST, &slots);
    let expected = [(true, 1), (false, 2), (true, 3)].map(|(add, last)| (add, [1, 0, 94, 0, 0, last]));
    assert_eq!(packet.multicast.as_slice(), expected);
    assert_eq!(packet.debt.owed(), 4);
}

#[test]
fn a_hash_is_skipped_if_hashes_were_offered() {
    let slots = [request(0, 0, EXTRA_INFO, 5, 60), extra(4, false, [1; 6])];
    let negotiated = Negotiated { hash: true, ..GSO };
    assert_eq!(packet(&negotiated, &slots).debt.owed(), 2);
    assert_eq!(kill(&GSO, &slots), TxKill::ExtraType);
}
