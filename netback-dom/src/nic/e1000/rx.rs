//! The receive ring.
//!
//! Every slot holds a buffer at all times. The slot just before the next one to look at is not the card's, so
//! that a full ring and an empty one differ.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use xen_pv_rt::hyp::{Dma, DmaBuf, DmaPool, DmaRing, Mmio};

use super::desc::{RING, RxStatus, words};
use super::regs::{Reg, Registers};
use crate::frame::{Frame, Segment};
use crate::nic::{MIN_HEADER, NicCounters, NicError};

/// What the card may write into one buffer.
const BUFFER: u16 = 2048;
/// Slots that are handed back with one write of the tail. The ring keeps most of its slots meanwhile.
const DOORBELL_BATCH: u8 = 32;

pub(super) struct RxRing {
    ring: Rc<DmaRing>,
    pool: DmaPool,
    slots: Vec<DmaBuf>,
    /// The next slot that the card fills.
    next: u8,
    /// Slots handed back that the card has not been told of.
    untold: u8,
    /// The start of a frame was dropped; its end is to be dropped as well.
    discarding: bool,
    /// Nothing was ever received: the buffers are zeros.
    fresh: bool,
}

impl RxRing {
    /// A ring, and `spare` buffers beyond those in it for frames on their way.
    pub(super) fn new(dma: &impl Dma, spare: usize) -> Result<Self, NicError> {
        let ring = Rc::new(dma.dma_ring(1).map_err(|_| NicError::NoMemory)?);
        let pool = dma.dma_pool(RING.saturating_add(spare)).map_err(|_| NicError::NoMemory)?;
        let slots: Vec<_> = (0..RING).filter_map(|_| pool.take()).collect();
        if slots.len() != RING {
            return Err(NicError::NoMemory);
        }
        Ok(Self { ring, pool, slots, next: 0, untold: 0, discarding: false, fresh: true })
    }

    /// Fills the ring anew and programs the card, which has been reset.
    pub(super) fn start<R: Mmio>(&mut self, regs: &Registers<R>) {
        (self.next, self.untold, self.discarding) = (0, 0, false);
        let fresh = core::mem::replace(&mut self.fresh, false);
        for index in 0..=u8::MAX {
            if !fresh {
                self.clear(index);
            }
            self.arm(index);
        }
        let base = self.ring.maddr().into_raw().to_le_bytes();
        let [a, b, c, d, e, f, g, h] = base;
        regs.write(Reg::RDBAL, u32::from_le_bytes([a, b, c, d]));
        regs.write(Reg::RDBAH, u32::from_le_bytes([e, f, g, h]));
        regs.write(Reg::RDLEN, u32::try_from(self.ring.len()).unwrap_or(0));
        regs.write(Reg::RDH, 0);
        regs.write(Reg::RDT, u8::MAX.into());
    }

    /// Clears a slot's buffer: what an earlier frame left must not reach anyone if the card reports more than
    /// it writes.
    fn clear(&mut self, index: u8) {
        let buf = self.slots.get_mut(usize::from(index)).map(DmaBuf::bytes_mut);
        if let Some(dirty) = buf.and_then(|bytes| bytes.get_mut(..usize::from(BUFFER))) {
            dirty.fill(0);
        }
    }

    /// Gives a slot's buffer to the card.
    fn arm(&self, index: u8) {
        let Some(buf) = self.slots.get(usize::from(index)) else { return };
        let (address, status) = words(index);
        let ring = self.ring.dwords();
        if let (Some(address), Some(status)) = (ring.get(address), ring.get(status)) {
            address.store(buf.maddr().into_raw(), Ordering::Relaxed);
            status.store(0, Ordering::Relaxed);
        }
    }

    fn status(&self) -> RxStatus {
        let word = self.ring.dwords().get(words(self.next).1);
        // Acquire: the buffer is read after the card said that it is done with it.
        RxStatus::new(word.map_or(0, |word| word.load(Ordering::Acquire)))
    }

    /// Whether a frame waits.
    pub(super) fn is_ready(&self) -> bool {
        self.status().done()
    }

    /// Takes the next good frame.
    pub(super) fn receive<R: Mmio>(&mut self, regs: &Registers<R>, counters: &mut NicCounters) -> Option<Frame> {
        // At most one lap: a card that completes as fast as we look must not hold us here.
        for _ in 0..RING {
            let status = self.status();
            if !status.done() {
                return None;
            }
            let taken = self.take(status);
            self.clear(self.next);
            self.arm(self.next);
            self.next = self.next.wrapping_add(1);
            self.untold = self.untold.saturating_add(1);
            if self.untold >= DOORBELL_BATCH {
                self.untold = 0;
                regs.write(Reg::RDT, self.next.wrapping_sub(1).into());
            }
            match taken {
                Some(frame) => {
                    counters.rx_frames = counters.rx_frames.wrapping_add(1);
                    counters.rx_bytes = counters.rx_bytes.wrapping_add(status.len().into());
                    return Some(frame);
                }
                None => counters.rx_dropped = counters.rx_dropped.wrapping_add(1),
            }
        }
        None
    }

    /// The frame in the next slot, if it is one that we want; a fresh buffer takes its place.
    fn take(&mut self, status: RxStatus) -> Option<Frame> {
        let continued = core::mem::replace(&mut self.discarding, !status.end());
        let len = status.len();
        // Our buffers hold the longest frame that the card accepts, so a frame in several is nonsense.
        if continued || !status.end() || status.damaged() || !(MIN_HEADER..=BUFFER).contains(&len) {
            return None;
        }
        let slot = self.slots.get_mut(usize::from(self.next))?;
        let buf = core::mem::replace(slot, self.pool.take()?);
        let mut frame = Frame::new(Segment { buf, offset: 0, len });
        frame.checksum = status.checksum();
        Some(frame)
    }

    /// Keeps the memory allocated for ever: the card may still write to it.
    pub(super) fn leak(&mut self) {
        core::mem::forget(self.ring.clone());
        core::mem::forget(self.pool.clone());
        core::mem::forget(core::mem::take(&mut self.slots));
    }
}
