//! What the card tests share: virtual time, frames, and models of cards that can misbehave.

pub mod intel;
pub mod virtio;

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use netback_dom::frame::{Frame, Segment, TailPool};
use xen_pv_rt::hyp::{Clock, Dma, DmaPool, HostMemory, Instant};

/// Time that passes by looking at the clock, so that a wait ends, and by [`advance`](Self::advance).
#[derive(Clone, Default)]
pub struct TestClock(Rc<Cell<u64>>);

impl TestClock {
    pub fn advance(&self, time: Duration) {
        self.0.set(self.0.get() + u64::try_from(time.as_nanos()).unwrap());
    }
}

impl Clock for TestClock {
    fn now(&self) -> Instant {
        self.0.set(self.0.get() + 1_000);
        Instant::from_nanos(self.0.get())
    }
    fn wake_at(&self, _at: Instant) {}
    fn take_wake_at(&self) -> Option<Instant> {
        None
    }
}

/// Makes frames to send.
pub struct Frames {
    pub pool: DmaPool,
    pub tails: TailPool,
}

impl Frames {
    pub fn new(memory: &HostMemory) -> Self {
        Self { pool: memory.dma_pool(600).unwrap(), tails: TailPool::new(64) }
    }

    fn segment(&self, offset: u16, bytes: &[u8]) -> Segment {
        let mut buf = self.pool.take().expect("a buffer leaked");
        buf.bytes_mut().fill(0xee);
        buf.bytes_mut()[usize::from(offset)..usize::from(offset) + bytes.len()].copy_from_slice(bytes);
        Segment { buf, offset, len: u16::try_from(bytes.len()).unwrap() }
    }

    /// A frame of one segment.
    pub fn whole(&self, bytes: &[u8]) -> Frame {
        Frame::new(self.segment(0, bytes))
    }

    /// A frame with a segment per element, each somewhere in its buffer.
    pub fn scattered(&self, parts: &[&[u8]]) -> Frame {
        let mut frame = Frame::new(self.segment(2, parts[0]));
        for (number, part) in parts[1..].iter().enumerate() {
            let offset = u16::try_from(7 * number + 1).unwrap();
            frame.push(self.segment(offset, part), &self.tails).map_err(drop).unwrap();
        }
        frame
    }

    /// Buffers that somebody still holds.
    pub fn outstanding(&self) -> usize {
        self.pool.capacity() - self.pool.available()
    }
}

/// An Ethernet frame of `len` bytes that differs from every other `number`.
pub fn payload(number: u32, len: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> =
        (0..len).map(|at| (at as u32).wrapping_mul(number | 1).wrapping_add(number) as u8).collect();
    bytes[..4].copy_from_slice(&number.to_be_bytes());
    bytes
}

/// The bytes of a frame.
pub fn bytes_of(frame: &Frame) -> Vec<u8> {
    frame.segments().flat_map(|segment| segment.bytes().to_vec()).collect()
}

/// The internet checksum of some bytes, as it goes into a header.
pub fn checksum(bytes: &[u8]) -> u16 {
    !sum(bytes)
}

/// The one's complement sum of some bytes.
pub fn sum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)])));
    let mut total: u32 = words.sum();
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    total as u16
}

/// A TCP packet with complete headers and the pseudo-header sum in its checksum field.
pub fn tcp(ipv6: bool, len: usize) -> (Vec<u8>, usize) {
    let start = if ipv6 { 54 } else { 34 };
    let mut bytes = payload(9, start + 20 + len);
    bytes[12..14].copy_from_slice(if ipv6 { &[0x86, 0xdd] } else { &[8, 0] });
    let tcp_len = u16::try_from(20 + len).unwrap();
    let addresses = if ipv6 { 22..54 } else { 26..34 };
    if ipv6 {
        (bytes[14], bytes[20]) = (0x60, 6);
        bytes[18..20].copy_from_slice(&tcp_len.to_be_bytes());
    } else {
        bytes[14] = 0x45;
        bytes[16..18].copy_from_slice(&(tcp_len + 20).to_be_bytes());
        bytes[18..20].copy_from_slice(&[0, 1]);
        bytes[20..22].copy_from_slice(&[0x40, 0]);
        bytes[23] = 6;
        bytes[24..26].copy_from_slice(&[0, 0]);
        let value = checksum(&bytes[14..34]);
        bytes[24..26].copy_from_slice(&value.to_be_bytes());
    }
    bytes[start + 4..start + 8].copy_from_slice(&1000_u32.to_be_bytes());
    bytes[start + 12] = 0x50;
    let pseudo = sum(&[&bytes[addresses], &[0, 6], &tcp_len.to_be_bytes()].concat());
    bytes[start + 16..start + 18].copy_from_slice(&pseudo.to_be_bytes());
    (bytes, start)
}
