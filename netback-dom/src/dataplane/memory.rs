//! Buffers for frames that frontends send.

use xen_pv_rt::hyp::{DmaPool, PAGE_SIZE};

use crate::frame::{Frame, Segment, TailPool};

/// Bytes left free in front of a frame, so that a tag can be inserted without moving it.
const HEADROOM: usize = 64;
/// Most bytes of a frame in its first buffer.
const HEAD_BYTES: usize = PAGE_SIZE - HEADROOM;

/// Buffers of the largest packet: 64 KiB behind the headroom.
const LARGEST: usize = 17;

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
        let head = Segment { buf: self.buffers.take()?, offset: u16::try_from(HEADROOM).ok()?, len: 0 };
        let mut frame = Frame::new(head);
        self.grow(&mut frame, len)?;
        Some(frame)
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
