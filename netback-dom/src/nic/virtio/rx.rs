//! A receive queue: one buffer per descriptor, each with room for a header.

use alloc::vec::Vec;

use virtio_drivers::transport::Transport;
use virtio_pci::{Buffer, MAX_SIZE, Queue, Used};
use xen_pv_rt::hyp::{Dma, DmaBuf, DmaPool};

use super::features::Features;
use super::header::{HEADER, ReceivedHeader};
use super::queues::{Place, set_up};
use crate::frame::{Frame, Gso, Segment, TailPool};
use crate::nic::{GROWTH, MIN_HEADER, NicCounters, NicError, STANDARD_FRAME};
use crate::segmentation;

/// What the device may write into one buffer, its header included, and the same where frames may be long.
const BUFFER: u16 = 2048;
const LONG_BUFFER: u16 = 4096;
/// Frames in several buffers that may be on their way at a time.
const TAILS: usize = 32;

/// What the receive queues of a device share.
#[derive(Clone)]
pub(super) struct RxMemory {
    /// Buffers, those in the queues and those on their way.
    pool: DmaPool,
    tails: TailPool,
}

impl RxMemory {
    /// For queues of [`MAX_SIZE`] descriptors in all, and `spare` buffers on their way.
    pub(super) fn new(dma: &impl Dma, spare: usize) -> Result<Self, NicError> {
        let pool = dma.dma_pool(usize::from(MAX_SIZE).saturating_add(spare)).map_err(|_| NicError::NoMemory)?;
        Ok(Self { pool, tails: TailPool::new(TAILS) })
    }
}

/// What frames may be like.
#[derive(Clone, Copy)]
pub(super) struct Terms {
    features: Features,
    /// What the device may write into one buffer.
    buffer: u16,
    /// Longest frame that is not to be cut up.
    pub(super) max_frame: usize,
}

impl Terms {
    /// For frames of up to `wanted` bytes, if that can be.
    pub(super) fn new(features: Features, wanted: usize) -> Self {
        let long = wanted.saturating_add(HEADER.into()) > BUFFER.into();
        let large = features.intersects(Features::GUEST_TSO4 | Features::GUEST_TSO6);
        let buffer = if long || large { LONG_BUFFER } else { BUFFER };
        let one = usize::from(buffer.saturating_sub(HEADER));
        let max_frame = if features.contains(Features::MRG_RXBUF) { wanted } else { wanted.min(one) };
        Self { features, buffer, max_frame }
    }
}

pub(super) struct Receiver {
    queue: Queue,
    number: u16,
    memory: RxMemory,
    /// The buffer of each descriptor in the device's hands.
    buffers: Vec<Option<DmaBuf>>,
    terms: Terms,
    /// A frame whose remaining buffers have not come yet.
    partial: Option<Partial>,
}

struct Partial {
    /// `None` if the frame is being dropped.
    frame: Option<Frame>,
    /// How it is to be cut up, if it is.
    gso: Option<Gso>,
    /// Buffers that are still to come.
    missing: u16,
}

impl Receiver {
    pub(super) fn new(dma: &impl Dma, memory: RxMemory) -> Result<Self, NicError> {
        let terms = Terms::new(Features::empty(), STANDARD_FRAME);
        Ok(Self { queue: Queue::new(dma)?, number: 0, memory, buffers: Vec::new(), terms, partial: None })
    }

    /// Takes all buffers back from a device that has been reset.
    pub(super) fn take_back(&mut self) {
        self.partial = None;
        for buf in &mut self.buffers {
            // A device that was at work may have written to any of them.
            if let Some(mut buf) = buf.take() {
                buf.note_written(LONG_BUFFER.into());
            }
        }
    }

    /// Fills the queue, which has no buffers, and programs a device that has been reset.
    pub(super) fn start<T: Transport>(
        &mut self,
        transport: &mut T,
        place: Place,
        terms: Terms,
    ) -> Result<(), NicError> {
        (self.number, self.terms) = (place.number, terms);
        self.buffers.resize_with(place.size.into(), || None);
        set_up(&mut self.queue, transport, place)?;
        self.refill();
        Ok(())
    }

    /// Gives the device as many buffers as there are.
    fn refill(&mut self) {
        while self.queue.free() > 0 {
            let Some(buf) = self.memory.pool.take() else { break };
            if !self.arm(buf) {
                break;
            }
        }
    }

    /// Gives a buffer to the device.
    fn arm(&mut self, mut buf: DmaBuf) -> bool {
        // What an earlier frame left must not reach anyone if the device reports more than it wrote.
        buf.clear_written();
        let buffer = Buffer::from_device(buf.maddr(), self.terms.buffer.into());
        let Some(head) = self.queue.push(core::iter::once(buffer)) else { return false };
        if let Some(slot) = self.buffers.get_mut(usize::from(head)) {
            *slot = Some(buf);
        }
        true
    }

    /// Shows the device the buffers it was given, and notifies it if it wants that.
    pub(super) fn flush<T: Transport>(&mut self, transport: &mut T) {
        self.refill();
        if self.queue.show() {
            transport.notify(self.number);
        }
    }

    /// Descriptors that are free.
    pub(super) fn free(&self) -> usize {
        self.queue.free()
    }

    /// Whether so many descriptors are free, a quarter, that the device should get them back without waiting for the
    /// end of what it has finished.
    pub(super) fn is_hungry(&self) -> bool {
        self.queue.free() >= usize::from(self.queue.size() >> 2)
    }

    /// Whether a frame waits.
    pub(super) fn is_ready(&self) -> bool {
        self.queue.is_ready()
    }
    /// Asks for an interrupt when a frame comes.
    pub(super) fn enable_interrupts(&self) {
        self.queue.enable_interrupts();
    }

    /// Takes the next good frame. Other queues lack `elsewhere` buffers.
    pub(super) fn receive(&mut self, elsewhere: usize, counters: &mut NicCounters) -> Result<Option<Frame>, NicError> {
        // At most one lap: a device that completes as fast as we look must not hold us here.
        for _ in 0..self.queue.size() {
            let Some(used) = self.queue.pop()? else { return Ok(None) };
            let buf = self.buffers.get_mut(usize::from(used.head)).and_then(Option::take);
            let mut buf = buf.ok_or(NicError::Confused("descriptor id"))?;
            let written = usize::try_from(used.len).unwrap_or(usize::MAX).max(HEADER.into());
            buf.note_written(written.saturating_add(GROWTH));
            // A frame is handed on only if a buffer is there to take the place of its own.
            if self.memory.pool.available() < self.queue.free().saturating_add(elsewhere) {
                self.skip(buf.bytes(), counters);
                continue;
            }
            let frame = self.add(buf, used, counters);
            if let Some(frame) = frame {
                counters.rx_frames = counters.rx_frames.wrapping_add(1);
                counters.rx_bytes = counters.rx_bytes.wrapping_add(u64::try_from(frame.len()).unwrap_or(0));
                return Ok(Some(frame));
            }
        }
        Ok(None)
    }

    /// Drops a buffer, and the frame it is a part of.
    fn skip(&mut self, bytes: &[u8], counters: &mut NicCounters) {
        match &mut self.partial {
            Some(partial) => partial.frame = None,
            None => {
                let buffers = ReceivedHeader::read(bytes).map_or(1, |header| header.num_buffers.max(1));
                self.partial = Some(Partial { frame: None, gso: None, missing: buffers });
            }
        }
        self.finish(counters);
    }

    /// Adds a buffer to the frame it belongs to; the frame, if that completes it.
    fn add(&mut self, buf: DmaBuf, used: Used, counters: &mut NicCounters) -> Option<Frame> {
        let len = u16::try_from(used.len).ok().filter(|len| *len <= self.terms.buffer);
        match &mut self.partial {
            Some(partial) => {
                let segment = len.filter(|len| *len > 0).map(|len| Segment { buf, offset: 0, len });
                partial.frame =
                    partial.frame.take().zip(segment).and_then(|(mut frame, segment)| {
                        frame.push(segment, &self.memory.tails).is_ok().then_some(frame)
                    });
            }
            None => {
                let header = ReceivedHeader::read(buf.bytes())?;
                let missing = if self.terms.features.contains(Features::MRG_RXBUF) { header.num_buffers } else { 1 };
                let len = len.and_then(|len| len.checked_sub(HEADER)).filter(|len| *len >= MIN_HEADER);
                let gso = header.gso(self.terms.features);
                let frame = len.filter(|_| gso.is_ok()).map(|len| {
                    let mut frame = Frame::new(Segment { buf, offset: HEADER, len });
                    frame.checksum = header.checksum(self.terms.features, len.into());
                    frame
                });
                // A frame of no buffers is nonsense: it is dropped with the one that it came in.
                let frame = frame.filter(|_| missing > 0);
                self.partial = Some(Partial { frame, gso: gso.unwrap_or(None), missing: missing.max(1) });
            }
        }
        self.finish(counters)
    }

    /// Counts a buffer of the partial frame; the frame, if it was the last.
    fn finish(&mut self, counters: &mut NicCounters) -> Option<Frame> {
        let partial = self.partial.as_mut()?;
        partial.missing = partial.missing.saturating_sub(1);
        if partial.missing > 0 {
            return None;
        }
        let Partial { frame, gso, .. } = self.partial.take()?;
        let frame = frame.and_then(|frame| self.whole(frame, gso));
        if frame.is_none() {
            counters.rx_dropped = counters.rx_dropped.wrapping_add(1);
        }
        frame
    }

    /// Checks a frame of which all buffers have come.
    fn whole(&self, mut frame: Frame, gso: Option<Gso>) -> Option<Frame> {
        let len = frame.len();
        let good = match gso {
            Some(gso) => segmentation::accept(&mut frame, len, gso),
            None => len <= self.terms.max_frame,
        };
        good.then_some(frame)
    }

    /// Keeps the memory allocated for ever: the device may still write to it.
    pub(super) fn leak(&mut self) {
        self.queue.leak();
        core::mem::forget(self.memory.pool.clone());
        core::mem::forget(core::mem::take(&mut self.buffers));
    }
}
