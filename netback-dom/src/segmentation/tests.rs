use alloc::vec;
use alloc::vec::Vec;

use proptest::prelude::*;
use xen_pv_rt::hyp::{Dma, HostMemory};

use super::*;
use crate::checksum;
use crate::frame::TailPool;

const SEQUENCE: u32 = 0xffff_f000;
const ID: u16 = 0xfffe;

fn memory(buffers: usize) -> Memory {
    Memory { buffers: HostMemory::new().dma_pool(buffers).unwrap(), tails: TailPool::new(4), held_pages: 0 }
}

/// A TCP packet with FIN, PSH, ACK and CWR set and 12 bytes of options.
fn packet(ipv6: bool, payload: usize) -> Vec<u8> {
    let mut bytes = vec![0x02, 0, 0, 0, 0, 1, 0x02, 0, 0, 0, 0, 2];
    let tcp = 32 + payload;
    if ipv6 {
        bytes.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
        bytes.extend((tcp as u16).to_be_bytes());
        bytes.extend([6, 64]);
        bytes.extend((0..32).map(|byte| byte * 7));
    } else {
        bytes.extend([8, 0, 0x45, 0]);
        bytes.extend(((20 + tcp) as u16).to_be_bytes());
        bytes.extend(ID.to_be_bytes());
        bytes.extend([0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 192, 168, 7, 9]);
    }
    bytes.extend([0x12, 0x34, 0, 80]);
    bytes.extend(SEQUENCE.to_be_bytes());
    bytes.extend([0, 0, 0, 7, 0x80, FIN | PSH | 0x10 | CWR, 1, 2, 0xbb, 0xbb, 0, 0]);
    bytes.extend([1; 12]);
    bytes.extend((0..payload).map(|at| ((at * 13) >> 2) as u8));
    bytes
}

fn frame(memory: &Memory, bytes: &[u8]) -> Frame {
    let mut frame = memory.frame(bytes.len()).unwrap();
    let mut rest = bytes;
    for segment in frame.segments_mut() {
        let (now, later) = rest.split_at(usize::from(segment.len));
        segment.bytes_mut().copy_from_slice(now);
        rest = later;
    }
    frame
}

fn flat(frame: &Frame) -> Vec<u8> {
    frame.segments().flat_map(|segment| segment.bytes().to_vec()).collect()
}

/// The one's complement sum, as the definition has it.
fn sum(bytes: &[u8]) -> u16 {
    let mut sum = 0_u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// Checks a finished segment and returns its payload.
fn check(bytes: &[u8], ipv6: bool, index: usize, size: usize, last: bool) -> Vec<u8> {
    let (ip, tcp) = (14, if ipv6 { 54 } else { 34 });
    let len = (bytes.len() - tcp) as u16;
    let addresses = if ipv6 {
        assert_eq!(bytes[18..20], len.to_be_bytes());
        &bytes[22..54]
    } else {
        assert_eq!(bytes[16..18], (len + 20).to_be_bytes());
        assert_eq!(bytes[18..20], ID.wrapping_add(index as u16).to_be_bytes());
        assert_eq!(sum(&bytes[ip..tcp]), 0xffff, "IPv4 header checksum");
        &bytes[26..34]
    };
    let pseudo = [addresses, &[0, 6], &len.to_be_bytes()].concat();
    assert_eq!(sum(&[&pseudo, &bytes[tcp..]].concat()), 0xffff, "TCP checksum");
    assert_eq!(bytes[tcp + 4..tcp + 8], SEQUENCE.wrapping_add((index * size) as u32).to_be_bytes());
    let expected = 0x10 | if last { FIN | PSH } else { 0 } | if index == 0 { CWR } else { 0 };
    assert_eq!(bytes[tcp + 13], expected, "flags of segment {index}");
    bytes[tcp + 32..].to_vec()
}

proptest! {
    #[test]
    fn the_segments_are_the_packet(ipv6: bool, payload in 2_usize..65000, size in 536_u16..9000) {
        prop_assume!(payload > usize::from(size));
        let memory = memory(40);
        let bytes = packet(ipv6, payload);
        let gso = Gso { ipv6, size };
        let mut whole = frame(&memory, &bytes);
        prop_assert!(accept(&mut whole, bytes.len(), gso));
        prop_assert_eq!(whole.gso, Some(gso));
        let mut cut = Cut::new(&whole).unwrap();
        let (mut rebuilt, mut index) = (Vec::new(), 0);
        while let Some(mut segment) = cut.next(&memory) {
            let expected = payload.min((index + 1) * usize::from(size)) - index * usize::from(size);
            prop_assert!(checksum::complete(&mut segment));
            let part = check(&flat(&segment), ipv6, index, usize::from(size), cut.is_done());
            prop_assert_eq!(part.len(), expected);
            rebuilt.extend(part);
            index += 1;
        }
        prop_assert!(cut.is_done());
        prop_assert_eq!(&rebuilt, &bytes[bytes.len() - payload..]);
    }

    #[test]
    fn any_packet_and_size_is_taken_or_left_without_panic(mut bytes in Just(packet(false, 3000)), at in 12_usize..60, value: u8, size: u16, len in 14_usize..3066) {
        let memory = memory(8);
        bytes[at] = value;
        bytes.truncate(len);
        let mut frame = frame(&memory, &bytes);
        if accept(&mut frame, len, Gso { ipv6: false, size }) && frame.gso.is_some() {
            let mut cut = Cut::new(&frame).unwrap();
            let mut count = 0;
            while cut.next(&memory).is_some() {
                count += 1;
            }
            prop_assert!(cut.is_done());
            prop_assert!(count <= MAX_CUT);
        }
    }
}

fn accepts(bytes: &[u8], gso: Gso) -> bool {
    let memory = memory(20);
    accept(&mut frame(&memory, bytes), bytes.len(), gso)
}

#[test]
fn a_size_that_makes_too_many_segments_is_refused() {
    let bytes = packet(false, 64 * 128 + 1);
    assert!(!accepts(&bytes, Gso { ipv6: false, size: 64 }));
    assert!(accepts(&bytes, Gso { ipv6: false, size: 65 }));
    assert!(!accepts(&bytes, Gso { ipv6: false, size: 0 }));
}

#[test]
fn what_is_not_tcp_of_that_kind_is_refused() {
    let gso = Gso { ipv6: false, size: 1000 };
    assert!(accepts(&packet(false, 5000), gso));
    assert!(!accepts(&packet(true, 5000), gso));
    let mut udp = packet(false, 5000);
    udp[23] = 17;
    assert!(!accepts(&udp, gso));
    let mut padded = packet(false, 5000);
    padded.push(0);
    assert!(!accepts(&padded, gso));
}

#[test]
fn a_packet_of_one_segment_is_made_an_ordinary_one() {
    let memory = memory(4);
    let bytes = packet(false, 1000);
    let mut frame = frame(&memory, &bytes);
    assert!(accept(&mut frame, bytes.len(), Gso { ipv6: false, size: 1000 }));
    assert_eq!((frame.gso, frame.checksum), (None, Checksum::Blank { start: 34, field: 16 }));
    assert!(checksum::complete(&mut frame));
}

#[test]
fn the_headers_alone_are_enough_to_accept() {
    let memory = memory(4);
    let bytes = packet(true, 60000);
    let mut frame = frame(&memory, &bytes[..256]);
    assert!(accept(&mut frame, bytes.len(), Gso { ipv6: true, size: 1428 }));
    assert!(frame.gso.is_some());
}

#[test]
fn without_buffers_the_cut_ends_early_and_says_so() {
    let memory = memory(4);
    let bytes = packet(false, 5000);
    let mut frame = frame(&memory, &bytes);
    assert!(accept(&mut frame, bytes.len(), Gso { ipv6: false, size: 1000 }));
    let mut cut = Cut::new(&frame).unwrap();
    let held: Vec<_> = core::iter::from_fn(|| cut.next(&memory)).collect();
    assert_eq!((held.len(), cut.is_done()), (2, false));
}
