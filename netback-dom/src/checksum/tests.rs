use alloc::vec;
use alloc::vec::Vec;

use proptest::prelude::*;
use xen_pv_rt::hyp::{Dma, DmaPool, HostMemory};

use super::*;
use crate::frame::{Segment, TailPool};

/// The definition: 16-bit big-endian words, carries added back, odd byte padded with zero.
fn reference(bytes: &[u8]) -> u16 {
    let mut sum = 0_u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

fn frame(pool: &DmaPool, tails: &TailPool, bytes: &[u8], head: usize) -> Frame {
    let (first, rest) = bytes.split_at(head.min(bytes.len()));
    let segment = |bytes: &[u8]| {
        let mut buf = pool.take().unwrap();
        buf.bytes_mut()[..bytes.len()].copy_from_slice(bytes);
        Segment { buf, offset: 0, len: bytes.len() as u16 }
    };
    let mut frame = Frame::new(segment(first));
    for piece in rest.chunks(333) {
        frame.push(segment(piece), tails).unwrap();
    }
    frame
}

/// An IPv4 packet with a blank checksum, and its pseudo-header.
fn blank(protocol: u8, payload: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let header = if protocol == 6 { 20 } else { 8 };
    let mut bytes = vec![0x02, 0, 0, 0, 0, 1, 0x02, 0, 0, 0, 0, 2, 8, 0];
    let total = (20 + header + payload.len()) as u16;
    bytes.extend([0x45, 0]);
    bytes.extend(total.to_be_bytes());
    bytes.extend([0, 0, 0x40, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 192, 168, 7, 9]);
    let mut pseudo = vec![10, 0, 0, 1, 192, 168, 7, 9, 0, protocol];
    pseudo.extend((total - 20).to_be_bytes());
    let mut transport = vec![0x11; header];
    let field = if protocol == 6 { 16 } else { 6 };
    transport[field..field + 2].copy_from_slice(&reference(&pseudo).to_be_bytes());
    bytes.extend(transport);
    bytes.extend(payload);
    (bytes, pseudo)
}

fn flat(frame: &Frame) -> Vec<u8> {
    frame.segments().flat_map(|segment| segment.bytes().to_vec()).collect()
}

proptest! {
    #[test]
    fn a_sum_over_pieces_is_the_sum_over_the_whole(pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..50), 0..8)) {
        let mut sum = Sum::default();
        for piece in &pieces {
            sum.add(piece);
        }
        prop_assert_eq!(sum.fold().to_ne_bytes(), reference(&pieces.concat()).to_be_bytes());
    }

    #[test]
    fn a_completed_checksum_verifies(tcp: bool, payload in proptest::collection::vec(any::<u8>(), 0..1400), head in 54_usize..200, padding in 0_usize..7) {
        let pool = HostMemory::new().dma_pool(8).unwrap();
        let tails = TailPool::new(1);
        let (mut bytes, pseudo) = blank(if tcp { 6 } else { 17 }, &payload);
        let end = bytes.len();
        bytes.extend(vec![0xab; padding]);
        let mut frame = frame(&pool, &tails, &bytes, head);
        prop_assert!(complete(&mut frame));
        prop_assert_eq!(frame.checksum, Checksum::Good);
        let done = flat(&frame);
        prop_assert_eq!(&done[end..], &bytes[end..]);
        prop_assert_eq!(reference(&[&pseudo, &done[34..end]].concat()), 0xffff);
    }
}

#[test]
fn a_udp_checksum_of_zero_is_sent_as_ones() {
    let pool = HostMemory::new().dma_pool(1).unwrap();
    let (mut bytes, pseudo) = blank(17, &[0, 0]);
    // The two payload bytes are chosen so that everything adds up to all ones.
    let sum = reference(&[&pseudo[..], &bytes[34..40], &bytes[42..]].concat());
    let end = bytes.len();
    bytes[end - 2..].copy_from_slice(&(!sum).to_be_bytes());
    let mut frame = frame(&pool, &TailPool::new(0), &bytes, 200);
    assert!(complete(&mut frame));
    assert_eq!(&flat(&frame)[40..42], &[0xff, 0xff]);
}

#[test]
fn a_location_is_found_only_if_a_card_can_use_it() {
    let (bytes, _) = blank(6, &[1, 2, 3]);
    assert_eq!(locate(&bytes, bytes.len()), Some(Checksum::Blank { start: 34, field: 16 }));
    let padded = [&bytes[..], &[0; 3]].concat();
    assert_eq!(locate(&padded, padded.len()), None);
    let mut arp = bytes.clone();
    arp[13] = 6;
    assert_eq!(locate(&arp, arp.len()), None);
}

#[test]
fn what_has_no_checksum_is_left_untouched() {
    let pool = HostMemory::new().dma_pool(4).unwrap();
    let tails = TailPool::new(0);
    let (mut bytes, _) = blank(6, &[1, 2, 3]);
    bytes[23] = 1;
    let mut icmp = frame(&pool, &tails, &bytes, 200);
    assert!(!complete(&mut icmp));
    assert_eq!(flat(&icmp), bytes);
}
