//! The transmit ring.
//!
//! Descriptors are written as frames come and shown to the card with one write of the tail per batch. The
//! card is asked to report the last descriptor of each batch only, and what it reports is read from the
//! descriptor, so that nothing here reads a register.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use xen_pv_rt::hyp::{Dma, DmaRing, Mmio};

use super::model::{Model, TxFormat};
use super::regs::Registers;
use super::tx_desc::{Context, DD, EOP, Offload, RING, RS, words};
use crate::frame::Frame;
use crate::nic::NicError;

/// Bytes that the second descriptor gets where a frame is split to avoid an erratum.
const SPLIT: u16 = 4;

pub(super) struct TxRing {
    ring: Rc<DmaRing>,
    model: Model,
    /// A frame stays here, at its last descriptor, until the card has sent it.
    slots: Vec<Option<Frame>>,
    /// The next descriptor to write.
    next: u8,
    /// The oldest descriptor that is not known to be done.
    clean: u8,
    /// What the card was shown.
    shown: u8,
    /// The last descriptors of batches, oldest first: where reports are due.
    reports: heapless::Deque<u8, RING>,
    /// The context that the card has.
    context: Option<Context>,
    /// The last frame was cut up.
    after_segmentation: bool,
}

impl TxRing {
    pub(super) fn new(dma: &impl Dma, model: Model) -> Result<Self, NicError> {
        let ring = Rc::new(dma.dma_ring(1).map_err(|_| NicError::NoMemory)?);
        let slots = (0..RING).map(|_| None).collect();
        Ok(Self {
            ring,
            model,
            slots,
            next: 0,
            clean: 0,
            shown: 0,
            reports: heapless::Deque::new(),
            context: None,
            after_segmentation: false,
        })
    }

    /// Drops what is queued and programs the card, which has been reset. How many frames were dropped.
    pub(super) fn start<R: Mmio>(&mut self, regs: &Registers<R>) -> u64 {
        let lost = self.slots.iter_mut().filter_map(Option::take).count();
        (self.next, self.clean, self.shown, self.context, self.after_segmentation) = (0, 0, 0, None, false);
        self.reports.clear();
        regs.set_ring(self.model.tx_queue(), &self.ring, RING);
        u64::try_from(lost).unwrap_or(u64::MAX)
    }

    /// Descriptors that may be written: one stays unused, so that full and empty differ.
    fn free(&self) -> usize {
        usize::from(u8::MAX.wrapping_sub(self.used()))
    }

    /// Descriptors that are not known to be done.
    pub(super) fn used(&self) -> u8 {
        self.next.wrapping_sub(self.clean)
    }

    /// Whether a report is due.
    pub(super) fn is_waiting(&self) -> bool {
        !self.reports.is_empty()
    }

    fn put(&mut self, low: u64, high: u64) -> u8 {
        let index = self.next;
        let (first, second) = words(index.into());
        let ring = self.ring.dwords();
        if let (Some(first), Some(second)) = (ring.get(first), ring.get(second)) {
            first.store(low, Ordering::Relaxed);
            second.store(high, Ordering::Relaxed);
        }
        self.next = index.wrapping_add(1);
        index
    }

    /// Whether a frame can be queued, whatever it needs besides its segments.
    pub(super) fn has_room(&self, frame: &Frame) -> bool {
        // A context, and a descriptor more for a frame that is split.
        frame.segment_count().saturating_add(2) <= self.free()
    }

    /// Queues a frame.
    ///
    /// # Errors
    /// Gives it back unless the ring [has room](Self::has_room).
    pub(super) fn push(&mut self, frame: Frame, offload: Offload) -> Result<(), Frame> {
        if !self.has_room(&frame) {
            return Err(frame);
        }
        // The card keeps a context, but uses one up that says how long the packet is that it cuts.
        let used_up = offload.is_segmentation() && self.model.tx_format() == TxFormat::Offsets;
        let context = offload.context.filter(|context| used_up || self.context != Some(*context));
        // Erratum: after a frame that was cut up, the only descriptor of the next one is reported before its
        // buffer was read. With a second descriptor it is not.
        let erratum = self.model.splits_after_segmentation() && self.after_segmentation;
        let split = erratum && !offload.is_segmentation() && frame.segment_count() == 1;
        if let Some(context) = context {
            self.put(context.low, context.high);
            self.context = Some(context);
        }
        self.after_segmentation = offload.is_segmentation();
        let count = frame.segment_count();
        let mut last = self.next;
        for (number, segment) in (1..).zip(frame.segments()) {
            let (mut len, mut address) = (segment.len, segment.buf.maddr().wrapping_add(segment.offset.into()));
            if split {
                let front = len.saturating_sub(SPLIT);
                self.put(address.into_raw(), offload.data(front));
                (len, address) = (len.saturating_sub(front), address.wrapping_add(front.into()));
            }
            let end = if number == count { EOP } else { 0 };
            last = self.put(address.into_raw(), offload.data(len) | end);
        }
        if let Some(slot) = self.slots.get_mut(usize::from(last)) {
            *slot = Some(frame);
        }
        Ok(())
    }

    /// Shows the card what was queued since the last time. Whether there was anything.
    pub(super) fn flush<R: Mmio>(&mut self, regs: &Registers<R>) -> bool {
        if self.shown == self.next {
            return false;
        }
        let last = self.next.wrapping_sub(1);
        if let Some(word) = self.ring.dwords().get(words(last.into()).1) {
            word.store(word.load(Ordering::Relaxed) | RS, Ordering::Relaxed);
        }
        // There is room: no descriptor is in it twice.
        let _ = self.reports.push_back(last);
        self.shown = self.next;
        regs.write(self.model.tx_queue().tail(), self.next.into());
        true
    }

    /// Lets go of frames that the card has sent: how many frames and bytes.
    pub(super) fn reclaim(&mut self) -> (u64, u64) {
        let (mut frames, mut bytes) = (0_u64, 0_u64);
        while let Some(&report) = self.reports.front() {
            let word = self.ring.dwords().get(words(report.into()).1);
            // Acquire: the buffers are reused after the card said that it has read them.
            if word.is_none_or(|word| word.load(Ordering::Acquire) & DD == 0) {
                break;
            }
            self.reports.pop_front();
            let end = report.wrapping_add(1);
            while self.clean != end {
                if let Some(frame) = self.slots.get_mut(usize::from(self.clean)).and_then(Option::take) {
                    frames = frames.wrapping_add(1);
                    bytes = bytes.wrapping_add(u64::try_from(frame.len()).unwrap_or(0));
                }
                self.clean = self.clean.wrapping_add(1);
            }
        }
        (frames, bytes)
    }

    /// Keeps the memory allocated for ever: the card may still read it.
    pub(super) fn leak(&mut self) {
        core::mem::forget(self.ring.clone());
        core::mem::forget(core::mem::take(&mut self.slots));
    }
}
