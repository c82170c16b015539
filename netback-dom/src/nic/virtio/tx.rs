//! A transmit queue: a header of ours and the frame's segments make a chain.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use virtio_drivers::transport::Transport;
use virtio_pci::{Buffer, Queue};
use xen_pv_rt::hyp::{Dma, DmaRing, Instant};

use super::header::{HEADER, SentHeader};
use super::queues::{Place, set_up};
use crate::frame::{Frame, MAX_SEGMENTS};
use crate::nic::watchdog::Watchdog;
use crate::nic::{NicCounters, NicError};

pub(super) struct Transmitter {
    queue: Queue,
    number: u16,
    /// A header per chain, by the number of its first descriptor.
    headers: Rc<DmaRing>,
    /// The frame of each chain in the device's hands.
    frames: Vec<Option<Frame>>,
    /// Of this queue alone: others that go on sending say nothing about it.
    watchdog: Watchdog,
}

impl Transmitter {
    pub(super) fn new(dma: &impl Dma) -> Result<Self, NicError> {
        let headers = dma.dma_ring(1).map(Rc::new).map_err(|_| NicError::NoMemory)?;
        Ok(Self { queue: Queue::new(dma)?, number: 0, headers, frames: Vec::new(), watchdog: Watchdog::default() })
    }

    /// Drops what a device that has been reset has not sent; how many frames.
    pub(super) fn take_back(&mut self) -> u64 {
        u64::try_from(self.frames.iter_mut().filter_map(Option::take).count()).unwrap_or(u64::MAX)
    }

    /// Programs a device that has been reset.
    pub(super) fn start<T: Transport>(&mut self, transport: &mut T, place: Place) -> Result<(), NicError> {
        self.number = place.number;
        self.frames.resize_with(place.size.into(), || None);
        set_up(&mut self.queue, transport, place)?;
        if usize::from(self.queue.size()) <= MAX_SEGMENTS {
            return Err(NicError::Unsupported("a transmit queue that holds a whole frame"));
        }
        self.watchdog.note_progress();
        Ok(())
    }

    /// Whether nothing has been sent for long, though there are frames that the device is free to send: `link`.
    pub(super) fn is_stuck(&mut self, link: bool, now: Instant) -> bool {
        self.watchdog.is_due(link && self.queue.is_busy(), now)
    }
    /// Whether the device has reported a frame.
    pub(super) fn is_ready(&self) -> bool {
        self.queue.is_ready()
    }

    /// Queues a frame.
    ///
    /// # Errors
    /// Gives it back if there are too few free descriptors.
    pub(super) fn push(&mut self, frame: Frame, header: SentHeader) -> Result<(), Frame> {
        let Some(head) = self.queue.next_head() else { return Err(frame) };
        let first = usize::from(head).wrapping_mul(header.len());
        let offset = u64::from(head).wrapping_mul(HEADER.into());
        let mut buffers = heapless::Vec::<Buffer, { MAX_SEGMENTS + 1 }>::new();
        let header_at = Buffer::to_device(self.headers.maddr().wrapping_add(offset), HEADER.into());
        let segments = frame.segments().map(|segment| {
            Buffer::to_device(segment.buf.maddr().wrapping_add(segment.offset.into()), segment.len.into())
        });
        buffers.extend(core::iter::once(header_at).chain(segments).take(MAX_SEGMENTS.saturating_add(1)));
        if self.queue.push(buffers.into_iter()).is_none() {
            return Err(frame);
        }
        for (word, value) in self.headers.words().iter().skip(first).zip(header) {
            word.store(value, Ordering::Relaxed);
        }
        if let Some(slot) = self.frames.get_mut(usize::from(head)) {
            *slot = Some(frame);
        }
        Ok(())
    }

    /// Shows the device what was queued, and notifies it if it wants that.
    pub(super) fn flush<T: Transport>(&mut self, transport: &mut T) {
        if self.queue.show() {
            transport.notify(self.number);
        }
    }

    /// Lets go of frames that the device has sent; how many.
    pub(super) fn reclaim(&mut self, counters: &mut NicCounters) -> Result<u32, NicError> {
        let mut count = 0_u32;
        while let Some(used) = self.queue.pop()? {
            if let Some(frame) = self.frames.get_mut(usize::from(used.head)).and_then(Option::take) {
                counters.tx_frames = counters.tx_frames.wrapping_add(1);
                counters.tx_bytes = counters.tx_bytes.wrapping_add(u64::try_from(frame.len()).unwrap_or(0));
            }
            count = count.wrapping_add(1);
        }
        if count > 0 {
            self.watchdog.note_progress();
        }
        Ok(count)
    }

    /// Asks for an interrupt for sent frames if the queue is filling up; nobody waits for them otherwise.
    /// Whether it did.
    pub(super) fn enable_interrupts_if_crowded(&self) -> bool {
        let crowded = self.queue.free() < usize::from(self.queue.size() >> 1);
        if crowded {
            self.queue.enable_interrupts();
        } else {
            self.queue.disable_interrupts();
        }
        crowded
    }

    /// Keeps the memory allocated for ever: the device may still read it.
    pub(super) fn leak(&mut self) {
        self.queue.leak();
        core::mem::forget(self.headers.clone());
        core::mem::forget(core::mem::take(&mut self.frames));
    }
}
