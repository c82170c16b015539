//! Buffers for frames that frontends send.

use xen_pv_rt::hyp::{DmaPool, PAGE_SIZE};

use crate::frame::{Frame, MAX_SEGMENTS, Segment, TailPool};

/// Bytes left free in front of a frame, so that a tag can be inserted without moving it.
const HEADROOM: usize = 64;
/// Most bytes of a frame in its first buffer.
const HEAD_BYTES: usize = PAGE_SIZE - HEADROOM;

/// Bytes of a frame that are in its first buffer in any case: enough for the headers up to TCP.
pub(super) const HEADER_BYTES: usize = 256;
/// Buffers of the largest packet.
const LARGEST: usize = MAX_SEGMENTS;

/// Where the data plane's buffers come from.
#[derive(Clone)]
pub struct Memory {
    /// Buffers for packets from frontends.
    pub buffers: DmaPool,
    /// For packets of more than one buffer.
    pub tails: TailPool,
    /// Most pages that wait for slow frontends, over all vifs. They may be buffers of a card's as well as of
    /// `buffers`, so each card needs as many spare ones.
    pub held_pages: usize,
}

impl Memory {
    /// Whether there are too few buffers for a packet of any size.
    pub(super) fn is_low(&self) -> bool {
        self.buffers.available() < LARGEST || self.tails.available() == 0
    }

    /// A frame of `len` bytes, at least 1, whatever they hold; `None` if there are not enough buffers.
    pub(crate) fn frame(&self, len: usize) -> Option<Frame> {
        let mut frame = Frame::new(self.head()?);
        self.grow(&mut frame, len)?;
        Some(frame)
    }

    fn head(&self) -> Option<Segment> {
        Some(Segment { buf: self.buffers.take()?, offset: u16::try_from(HEADROOM).ok()?, len: 0 })
    }

    /// A frame for the first `len` bytes, at least 1, of a packet that lies in `parts`, each of at most a page.
    ///
    /// A part that does not fit into what is left of a buffer begins another one, so that it is copied in one operation
    /// and not in two. `None` if there are not enough buffers.
    pub(super) fn frame_in_parts(&self, parts: impl Iterator<Item = usize>, len: usize) -> Option<Frame> {
        if len <= HEAD_BYTES {
            return self.frame(len);
        }
        let mut frame = Frame::new(self.head()?);
        let mut left = len;
        for part in parts {
            let part = part.min(left);
            left = left.saturating_sub(part);
            if self.lay_part(&mut frame, part).is_none() {
                // So many parts that only a dense frame holds them.
                drop(frame);
                return self.frame(len);
            }
        }
        Some(frame)
    }

    /// Makes a frame longer by one part of a packet.
    fn lay_part(&self, frame: &mut Frame, part: usize) -> Option<()> {
        let mut part = part;
        if frame.segment_count() == 1 {
            let filled = usize::from(frame.head().len);
            let room = HEAD_BYTES.saturating_sub(filled);
            // The headers are in the first buffer, however the packet lies in its parts.
            let taken = if part <= room { part } else { HEADER_BYTES.saturating_sub(filled).min(part) };
            frame.head_mut().len = u16::try_from(filled.saturating_add(taken)).ok()?;
            part = part.saturating_sub(taken);
        } else if let Some(last) = frame.segments_mut().last() {
            let filled = usize::from(last.len);
            if filled.saturating_add(part) <= PAGE_SIZE {
                last.len = u16::try_from(filled.saturating_add(part)).ok()?;
                return Some(());
            }
        }
        if part > 0 {
            let segment = Segment { buf: self.buffers.take()?, offset: 0, len: u16::try_from(part).ok()? };
            frame.push(segment, &self.tails).ok()?;
        }
        Some(())
    }

    /// Makes a frame longer, without touching what it holds. Only frames of [`Self::frame`] that have one
    /// segment can grow.
    pub(super) fn grow(&self, frame: &mut Frame, len: usize) -> Option<()> {
        frame.head_mut().len = u16::try_from(len.min(HEAD_BYTES)).ok()?;
        let mut left = len.saturating_sub(HEAD_BYTES);
        while left > 0 {
            let part = left.min(PAGE_SIZE);
            let segment = Segment { buf: self.buffers.take()?, offset: 0, len: u16::try_from(part).ok()? };
            frame.push(segment, &self.tails).ok()?;
            left = left.saturating_sub(part);
        }
        Some(())
    }

    /// A copy of a frame in buffers of its own.
    pub(super) fn duplicate(&self, frame: &Frame) -> Option<Frame> {
        let mut copy = self.frame(frame.len())?;
        copy.checksum = frame.checksum;
        copy.gso = frame.gso;
        let mut to = copy.segments_mut().flat_map(|segment| segment.bytes_mut().iter_mut());
        for from in frame.segments().flat_map(Segment::bytes) {
            *to.next()? = *from;
        }
        drop(to);
        Some(copy)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, clippy::arithmetic_side_effects, reason = "tests")]
mod tests {
    use alloc::vec;
    use alloc::vec::Vec;

    use proptest::prelude::*;
    use xen_pv_rt::hyp::{Dma, HostMemory};

    use super::*;

    fn memory() -> Memory {
        Memory { buffers: HostMemory::new().dma_pool(40).unwrap(), tails: TailPool::new(2), held_pages: 0 }
    }

    fn lengths(parts: &[usize]) -> Vec<usize> {
        let frame = memory().frame_in_parts(parts.iter().copied(), parts.iter().sum()).unwrap();
        frame.segments().map(|segment| segment.len.into()).collect()
    }

    #[test]
    fn a_large_packet_of_linux_is_a_copy_for_each_of_its_pages_and_one_for_the_headers() {
        let mut parts = vec![66];
        parts.extend([4096; 15]);
        let mut wanted = vec![256, 4096 - 190];
        wanted.extend([4096; 14]);
        assert_eq!(lengths(&parts), wanted);
    }

    #[test]
    fn small_parts_share_a_buffer_and_short_packets_are_in_one() {
        assert_eq!(lengths(&[100, 200, 300]), [600]);
        assert_eq!(lengths(&[3000, 1000, 1000, 1000, 4000]), [4000, 2000, 4000]);
    }

    proptest! {
        #[test]
        fn every_packet_has_a_frame_with_its_headers_in_front(parts in prop::collection::vec(1_usize..=4096, 1..=18)) {
            let total: usize = parts.iter().sum();
            prop_assume!(total <= 0xffff);
            let memory = memory();
            let frame = memory.frame_in_parts(parts.iter().copied(), total).unwrap();
            prop_assert_eq!(frame.len(), total);
            prop_assert!(usize::from(frame.head().len) >= total.min(HEADER_BYTES));
            prop_assert!(frame.segment_count() <= MAX_SEGMENTS);
            prop_assert!(frame.segments().all(|segment| segment.len > 0 && usize::from(segment.offset + segment.len) <= PAGE_SIZE));
        }
    }
}
