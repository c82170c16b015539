#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::panic,
    reason = "tests"
)]

use core::sync::atomic::{AtomicU32, Ordering};
use std::cell::RefCell;
use std::rc::Rc;
use std::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::back::{BackRing, Protocol};
use crate::mem::{Pages, SharedMem};

const DISK: u64 = 1000;

const LIMITS: Limits = Limits {
    sectors: DISK,
    granularity: 1,
    read_only: false,
    flush: true,
    barrier: true,
    discard: true,
    secure_discard: false,
    indirect_segments: 256,
};

/// A request in the 64-bit layout.
fn request(operation: u8, second: u8, sector: u64, rest: &[u32]) -> [u32; 28] {
    let mut words = [0; 28];
    words[0] = u32::from(operation) | u32::from(second) << 8 | 0xbeef << 16;
    (words[2], words[3]) = (0x1111_2222, 0x3333_4444);
    (words[4], words[5]) = (sector as u32, (sector >> 32) as u32);
    words[6..6 + rest.len()].copy_from_slice(rest);
    words
}

/// Words of a segment.
fn seg(gref: u32, first: u8, last: u8) -> [u32; 2] {
    [gref, u32::from(first) | u32::from(last) << 8 | 0xaaaa << 16]
}

fn segs(count: u32, first: u8, last: u8) -> Vec<u32> {
    (0..count).flat_map(|at| seg(at + 100, first, last)).collect()
}

fn validate(words: [u32; 28], limits: &Limits) -> Result<Command, BlkReject> {
    Request::from_words(words).validate(limits)
}

fn transfer(words: [u32; 28], limits: &Limits) -> (Transfer, Direct) {
    match validate(words, limits).unwrap() {
        Command::Transfer(transfer, direct) => (transfer, direct),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_read_names_its_pages_and_its_range() {
    let rest: Vec<u32> = [seg(7, 0, 7), seg(9, 3, 4)].concat();
    let (transfer, direct) = transfer(request(0, 2, 20, &rest), &LIMITS);
    assert_eq!(transfer, Transfer { direction: Direction::Read, barrier: false, sector: 20, sectors: 10 });
    let [a, b] = direct.as_slice() else { panic!() };
    assert_eq!((a.gref().into_raw(), a.offset(), a.len_bytes(), a.sectors()), (7, 0, 4096, 8));
    assert_eq!((b.gref().into_raw(), b.offset(), b.len_bytes(), b.sectors()), (9, 1536, 1024, 2));
}

#[test]
fn a_direct_request_has_1_to_11_segments() {
    for nr in 0..=255_u8 {
        let words = request(1, nr, 0, &segs(u32::from(nr.min(11)), 0, 0));
        let expected = if (1..=11).contains(&nr) { Ok(()) } else { Err(BlkReject::Segs) };
        assert_eq!(validate(words, &LIMITS).map(drop), expected, "{nr}");
    }
}

#[test]
fn a_segment_stays_within_its_page() {
    for first in 0..=255_u8 {
        for last in 0..=255_u8 {
            let fits = first <= last && last <= 7;
            let expected = if fits { Ok(()) } else { Err(BlkReject::Sect) };
            assert_eq!(validate(request(0, 1, 0, &seg(1, first, last)), &LIMITS).map(drop), expected, "{first} {last}");
        }
    }
}

#[test]
fn the_range_stays_within_the_disk() {
    for (sector, expected) in [
        (0, Ok(())),
        (DISK - 8, Ok(())),
        (DISK - 7, Err(BlkReject::Range)),
        (DISK, Err(BlkReject::Range)),
        (u64::MAX - 8, Err(BlkReject::Range)),
        (u64::MAX - 7, Err(BlkReject::Range)),
        (u64::MAX, Err(BlkReject::Range)),
    ] {
        for operation in [0, 1, 2] {
            let got = validate(request(operation, 1, sector, &seg(1, 0, 7)), &LIMITS).map(drop);
            assert_eq!(got, expected, "operation {operation} at {sector}");
        }
    }
}

#[test]
fn a_disk_of_4096_byte_sectors_takes_whole_ones() {
    let limits = Limits { granularity: 8, ..LIMITS };
    for (sector, segment, expected) in
        [(8, seg(1, 0, 7), Ok(())), (4, seg(1, 0, 7), Err(BlkReject::Align)), (8, seg(1, 0, 3), Err(BlkReject::Align))]
    {
        assert_eq!(validate(request(0, 1, sector, &segment), &limits).map(drop), expected);
    }
    let halves: Vec<u32> = [seg(1, 0, 3), seg(2, 4, 7)].concat();
    assert!(validate(request(0, 2, 8, &halves), &limits).is_ok());
    let discard = |sector, sectors| validate(request(5, 0, sector, &[sectors, 0]), &limits).map(drop);
    assert_eq!(discard(8, 16), Ok(()));
    assert_eq!(discard(8, 4), Err(BlkReject::Align));
    assert_eq!(discard(4, 8), Err(BlkReject::Align));
}

#[test]
fn a_read_only_disk_is_not_changed() {
    let limits = Limits { read_only: true, ..LIMITS };
    for operation in [1, 2] {
        assert_eq!(validate(request(operation, 1, 0, &seg(1, 0, 7)), &limits), Err(BlkReject::ReadOnly));
    }
    assert_eq!(validate(request(5, 0, 0, &[8, 0]), &limits), Err(BlkReject::ReadOnly));
    assert_eq!(validate(request(6, 1, 0, &[]), &limits).map(drop), Err(BlkReject::Segs));
    let mut indirect_write = request(6, 1, 0, &[0, 55]);
    indirect_write[0] = 6 | 1 << 8 | 4 << 16;
    assert_eq!(validate(indirect_write, &limits), Err(BlkReject::ReadOnly));
    assert!(validate(request(0, 1, 0, &seg(1, 0, 7)), &limits).is_ok());
    assert_eq!(validate(request(3, 0, 0, &[]), &limits), Ok(Command::Flush));
}

#[test]
fn what_was_not_offered_is_not_supported() {
    let none = Limits { flush: false, barrier: false, discard: false, indirect_segments: 0, ..LIMITS };
    for operation in 2..=255_u8 {
        let got = validate(request(operation, 1, 0, &seg(1, 0, 7)), &none);
        assert_eq!(got, Err(BlkReject::Op), "{operation}");
    }
    assert_eq!(BlkReject::Op.status(), Status::NotSupported);
    for operation in [4, 7, 8, 255] {
        assert_eq!(validate(request(operation, 1, 0, &seg(1, 0, 7)), &LIMITS), Err(BlkReject::Op), "{operation}");
    }
}

#[test]
fn a_flush_with_data_is_a_barrier() {
    assert_eq!(validate(request(3, 0, u64::MAX, &[]), &LIMITS), Ok(Command::Flush));
    let (with_data, _) = transfer(request(3, 1, 8, &seg(1, 0, 7)), &LIMITS);
    assert!(with_data.barrier);
    let (bare, _) = transfer(request(2, 0, u64::MAX, &[]), &LIMITS);
    assert!(bare.barrier && bare.sectors == 0);
}

#[test]
fn a_discard_lies_within_the_disk() {
    let discard = |sector, low, high| validate(request(5, 0, sector, &[low, high]), &LIMITS);
    assert_eq!(discard(8, 0, 0), Err(BlkReject::Range));
    assert_eq!(discard(8, 993, 0), Err(BlkReject::Range));
    assert_eq!(discard(8, 8, 1), Err(BlkReject::Range));
    assert_eq!(discard(u64::MAX, 1, 0), Err(BlkReject::Range));
    assert_eq!(discard(1, u32::MAX, u32::MAX), Err(BlkReject::Range));
    let whole = Discard { sector: 0, sectors: DISK, secure: false };
    assert_eq!(discard(0, DISK as u32, 0), Ok(Command::Discard(whole)));
}

#[test]
fn a_secure_discard_must_have_been_offered() {
    let words = request(5, 1, 0, &[8, 0]);
    assert_eq!(validate(words, &LIMITS), Err(BlkReject::Op));
    let secure = Limits { secure_discard: true, ..LIMITS };
    assert!(matches!(validate(words, &secure), Ok(Command::Discard(Discard { secure: true, .. }))));
}

/// An indirect request of `nr` segments listed in page 55.
fn indirect(operation: u8, nr: u16) -> [u32; 28] {
    let mut words = request(6, operation, 16, &[0xbeef, 55]);
    words[0] = 6 | u32::from(operation) << 8 | u32::from(nr) << 16;
    words
}

fn list(segments: &[u32]) -> Vec<u8> {
    segments.iter().flat_map(|word| word.to_le_bytes()).collect()
}

#[test]
fn an_indirect_request_has_as_many_segments_as_were_offered() {
    let limits = Limits { indirect_segments: 32, ..LIMITS };
    for (nr, expected) in [
        (0, Err(BlkReject::Segs)),
        (1, Ok(())),
        (32, Ok(())),
        (33, Err(BlkReject::Segs)),
        (257, Err(BlkReject::Segs)),
        (65535, Err(BlkReject::Segs)),
    ] {
        assert_eq!(validate(indirect(0, nr), &limits).map(drop), expected, "{nr}");
    }
    for operation in [2, 3, 4, 5, 6, 255] {
        assert_eq!(validate(indirect(operation, 1), &limits), Err(BlkReject::Op), "{operation}");
    }
}

#[test]
fn an_indirect_request_is_answered_as_what_is_inside() {
    for (operation, expected) in [(0, Operation::Read), (1, Operation::Write), (9, Operation::Unknown(9))] {
        assert_eq!(Request::from_words(indirect(operation, 1)).answered_operation(), expected);
    }
    assert_eq!(Request::from_words(request(3, 0, 0, &[])).answered_operation(), Operation::FlushDiskcache);
}

#[test]
fn an_indirect_list_is_validated_as_a_whole() {
    let Command::Indirect(request) = validate(indirect(1, 4), &LIMITS).unwrap() else { panic!() };
    assert_eq!((request.gref().into_raw(), request.nr_segments(), request.list_bytes()), (55, 4, 32));
    let good = list(&segs(4, 0, 7));
    let transfer = request.validate(&good, &LIMITS).unwrap();
    assert_eq!(transfer, Transfer { direction: Direction::Write, barrier: false, sector: 16, sectors: 32 });
    assert_eq!(segment_at(&good, 3).unwrap().gref().into_raw(), 103);
    assert_eq!(segment_at(&good, 4), None);
    for bad in 0..4 {
        let mut segments = segs(4, 0, 7);
        segments[bad * 2 + 1] = 8 << 8;
        assert_eq!(request.validate(&list(&segments), &LIMITS), Err(BlkReject::Sect), "segment {bad}");
    }
    assert_eq!(request.validate(&good[..31], &LIMITS), Err(BlkReject::Segs));
    let small = Limits { sectors: 47, ..LIMITS };
    assert_eq!(request.validate(&good, &small), Err(BlkReject::Range));
    let read_only = Limits { read_only: true, ..LIMITS };
    assert_eq!(request.validate(&good, &read_only), Err(BlkReject::ReadOnly));
}

#[test]
fn the_32_bit_layout_lacks_the_padding_before_the_id() {
    let words = request(1, 1, 0x1_2345_6789, &seg(77, 1, 2));
    let mut packed = [0; 27];
    packed[0] = words[0];
    packed[1..].copy_from_slice(&words[2..]);
    assert_eq!(X86_32::decode(&packed), X86_64::decode(&words));
    assert_eq!(X86_32::decode(&packed).id(), 0x3333_4444_1111_2222);
    assert_eq!(core::mem::size_of_val(&packed), 108);
    assert_eq!(core::mem::size_of_val(&words), 112);
}

#[test]
fn a_missing_protocol_key_means_32_bits() {
    assert_eq!(Abi::from_key(None), Some(Abi::X86_32));
    assert_eq!(Abi::from_key(Some("x86_32-abi")), Some(Abi::X86_32));
    assert_eq!(Abi::from_key(Some("x86_64-abi")), Some(Abi::X86_64));
    for other in ["", "arm-abi", "x86_64-abi ", "native", "\0"] {
        assert_eq!(Abi::from_key(Some(other)), None);
    }
}

type Page = Rc<[AtomicU32]>;

fn pages(count: usize) -> Vec<Page> {
    (0..count).map(|_| (0..1024).map(|_| AtomicU32::new(0xdead_beef)).collect::<Vec<_>>().into()).collect()
}

fn clear_header(pages: &[Page]) {
    pages[0][..16].iter().for_each(|word| word.store(0, Ordering::Relaxed));
}

#[test]
fn a_ring_has_32_slots_per_page() {
    for (count, nr_ents) in [(1, 32), (2, 64), (4, 128), (8, 256), (16, 512)] {
        for abi in [Abi::X86_64, Abi::X86_32] {
            let pages = pages(count);
            clear_header(&pages);
            assert_eq!(Ring::attach(abi, Pages::new(pages)).unwrap().nr_ents(), nr_ents, "{count} {abi:?}");
        }
    }
}

#[test]
fn a_response_has_zeros_where_it_has_no_fields() {
    for (abi, words) in [(Abi::X86_64, 4), (Abi::X86_32, 3)] {
        let pages = pages(1);
        clear_header(&pages);
        pages[0][0].store(1, Ordering::Relaxed);
        let mut ring = Ring::attach(abi, Pages::new(pages.clone())).unwrap();
        let (_, ticket) = ring.take_request().unwrap().unwrap();
        let response = Response { id: 0x0102_0304_0506_0708, operation: Operation::Write, status: Status::Error };
        ring.respond(ticket, &response);
        let slot: Vec<u32> = pages[0][16..21].iter().map(|word| word.load(Ordering::Relaxed)).collect();
        assert_eq!(slot[..3], [0x0506_0708, 0x0102_0304, 0xffff_0001]);
        if words == 4 {
            assert_eq!(slot[3], 0);
        }
        // Nothing beyond the response is touched.
        assert_eq!(slot[words], 0xdead_beef);
    }
}

#[test]
fn requests_of_a_large_ring_are_found_across_pages() {
    let pages = pages(4);
    clear_header(&pages);
    pages[0][0].store(128, Ordering::Relaxed);
    for slot in 0..128_usize {
        let word = 16 + slot * 28 + 2;
        pages[word / 1024][word % 1024].store(slot as u32, Ordering::Relaxed);
        let high = word + 1;
        pages[high / 1024][high % 1024].store(0, Ordering::Relaxed);
    }
    let mut ring = Ring::attach(Abi::X86_64, Pages::new(pages)).unwrap();
    for slot in 0..128 {
        let (request, _ticket) = ring.take_request().unwrap().unwrap();
        assert_eq!(request.id(), slot);
    }
    assert!(ring.take_request().unwrap().is_none());
    assert_eq!(ring.outstanding(), 128);
}

/// Memory that changes on every load, and counts them.
struct Flipping(RefCell<Vec<u32>>);

impl SharedMem for Flipping {
    fn load(&self, word: usize, _: Ordering) -> u32 {
        let mut loads = self.0.borrow_mut();
        loads[word] += 1;
        // One request is published, whatever else changes.
        match word {
            0 => 1,
            1..16 => 0,
            _ => 0x0b0b_0101_u32.wrapping_mul(loads[word]),
        }
    }
    fn store(&self, _: usize, _: u32, _: Ordering) {}
    fn words(&self) -> usize {
        self.0.borrow().len()
    }
    fn full_fence(&self) {}
}

#[test]
fn every_word_of_a_slot_is_loaded_once() {
    let mut ring: BackRing<X86_64, _> = BackRing::attach(Flipping(RefCell::new(std::vec![0; 1024]))).unwrap();
    let (request, _ticket) = ring.take_request().unwrap().unwrap();
    // Looking at it again and again shows the same.
    assert_eq!(request.validate(&LIMITS), request.validate(&LIMITS));
    assert_eq!((request.id(), request.operation()), (request.id(), request.operation()));
    let loads = ring.into_mem().0.into_inner();
    assert!(loads[16..44].iter().all(|count| *count == 1), "{loads:?}");
    assert!(loads[44..].iter().all(|count| *count == 0));
}

#[test]
fn every_word_of_a_32_bit_slot_is_loaded_once() {
    let mut ring: BackRing<X86_32, _> = BackRing::attach(Flipping(RefCell::new(std::vec![0; 1024]))).unwrap();
    let (request, _ticket) = ring.take_request().unwrap().unwrap();
    assert_eq!(request.validate(&LIMITS), request.validate(&LIMITS));
    let loads = ring.into_mem().0.into_inner();
    assert!(loads[16..43].iter().all(|count| *count == 1), "{loads:?}");
    assert!(loads[43..].iter().all(|count| *count == 0));
}

proptest! {
    #[test]
    fn whatever_passes_is_within_the_disk(
        words in any::<[u32; 28]>(), op in 0..8_u8, nr in 0..14_u8, sector in prop_oneof![0..DISK + 9, any::<u64>()],
        sects in any::<[(u8, u8); 11]>(), granularity in prop_oneof![Just(1_u32), Just(8), Just(0)], read_only: bool,
    ) {
        let mut words = words;
        words[0] = words[0] & 0xffff_0000 | u32::from(op) | u32::from(nr) << 8;
        (words[4], words[5]) = (sector as u32, (sector >> 32) as u32);
        for (at, (first, last)) in sects.iter().enumerate() {
            words[7 + at * 2] = u32::from(first % 9) | u32::from(last % 9) << 8;
        }
        let limits = Limits { granularity, read_only, ..LIMITS };
        match validate(words, &limits) {
            Ok(Command::Transfer(transfer, direct)) => {
                prop_assert!(transfer.sectors == 0 && transfer.barrier || transfer.sector + u64::from(transfer.sectors) <= DISK);
                let sum: u32 = direct.as_slice().iter().map(Segment::sectors).sum();
                prop_assert_eq!(sum, transfer.sectors);
                for segment in direct.as_slice() {
                    prop_assert!(segment.offset() + segment.len_bytes() <= 4096);
                }
                prop_assert!(transfer.direction == Direction::Read || !read_only);
            }
            Ok(Command::Discard(discard)) => {
                prop_assert!(discard.sector + discard.sectors <= DISK && discard.sectors > 0 && !read_only);
            }
            Ok(Command::Indirect(indirect)) => prop_assert!((1..=256).contains(&indirect.nr_segments())),
            Ok(Command::Flush) | Err(_) => {}
        }
    }

    #[test]
    fn no_indirect_list_gets_beyond_the_disk(bytes in proptest::collection::vec(any::<u8>(), 0..2100), nr in 1..300_u16, op in 0..2_u8) {
        if let Ok(Command::Indirect(indirect)) = validate(indirect(op, nr), &LIMITS)
            && let Ok(transfer) = indirect.validate(&bytes, &LIMITS)
        {
            prop_assert!(transfer.sector + u64::from(transfer.sectors) <= DISK);
            let sum: u32 = (0..nr).map(|at| segment_at(&bytes, at).unwrap().sectors()).sum();
            prop_assert_eq!(sum, transfer.sectors);
        }
    }
}
