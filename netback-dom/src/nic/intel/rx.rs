//! A receive ring.
//!
//! Every slot holds a buffer at all times. The slot just before the next one to look at is not the card's, so
//! that a full ring and an empty one differ.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use xen_pv_rt::hyp::{Clock, Dma, DmaBuf, DmaPool, DmaRing, Mmio};

use super::model::{Model, QueueRegs, RxFormat};
use super::regs::{Registers, SRRCTL_ADVANCED_DROP};
use super::rx_desc::RxStatus;
use super::setup;
use super::tx_desc::words;
use crate::frame::{Frame, Segment, TailPool};
use crate::nic::{GROWTH, MIN_HEADER, NicCounters, NicError};

/// Slots that are handed back with one write of the tail. The ring keeps most of its slots meanwhile.
///
/// Once a ring has been full, QEMU delivers what it has queued as soon as the tail moves, and drops what finds no slot
/// then (`qemu_net_queue_flush`). It queues at most 68 KiB, 45 full frames, so no smaller a batch will do.
const DOORBELL_BATCH: u8 = 64;

/// What the rings of a card share.
#[derive(Clone)]
pub(super) struct RxMemory {
    /// Buffers, those in the rings and those on their way.
    pub(super) pool: DmaPool,
    /// For frames in several buffers.
    pub(super) tails: TailPool,
    /// What the card may write into one buffer: 2048 or 4096 bytes.
    pub(super) buffer: u16,
    /// Longest frame in bytes.
    pub(super) max_frame: usize,
}

pub(super) struct RxRing {
    ring: Rc<DmaRing>,
    memory: RxMemory,
    regs: QueueRegs,
    format: RxFormat,
    slots: Vec<DmaBuf>,
    /// The next slot that the card fills.
    next: usize,
    /// Slots handed back that the card has not been told of.
    untold: u8,
    /// A frame of which the end has not come yet.
    partial: Option<Frame>,
    /// The start of a frame was dropped; the rest is to be dropped as well.
    discarding: bool,
    /// The card has had the buffers before.
    started: bool,
}

impl RxRing {
    /// The ring of queue `queue`.
    pub(super) fn new(dma: &impl Dma, memory: RxMemory, model: Model, queue: usize) -> Result<Self, NicError> {
        let (entries, regs, format) = (model.rx_ring(), model.rx_queue(queue), model.rx_format());
        let ring = Rc::new(dma.dma_ring(1).map_err(|_| NicError::NoMemory)?);
        let slots: Vec<_> = (0..entries).filter_map(|_| memory.pool.take()).collect();
        if slots.len() != entries {
            return Err(NicError::NoMemory);
        }
        let (next, untold, partial, discarding) = (0, 0, None, false);
        Ok(Self { ring, memory, regs, format, slots, next, untold, partial, discarding, started: false })
    }

    /// Fills the ring anew and programs the card, which has been reset.
    pub(super) fn start<R: Mmio, C: Clock>(&mut self, regs: &Registers<R>, clock: &C) -> Result<(), NicError> {
        (self.next, self.untold, self.partial, self.discarding) = (0, 0, None, false);
        if self.started {
            // A card that was at work may have written to any of them.
            (0..self.slots.len()).for_each(|index| self.note_written(index, self.memory.buffer));
        }
        self.started = true;
        for index in 0..self.slots.len() {
            self.arm(index);
        }
        regs.set_ring(self.regs, &self.ring, self.slots.len());
        if regs.model == Model::I82576 {
            let kib = u32::from(self.memory.buffer) >> 10;
            regs.write(self.regs.split(), SRRCTL_ADVANCED_DROP | kib);
        }
        setup::switch_on(regs, self.regs, clock)?;
        self.tell(regs);
        Ok(())
    }

    /// Shows the card the slots that it has: all but one.
    fn tell<R: Mmio>(&self, regs: &Registers<R>) {
        let tail = self.next.checked_sub(1).unwrap_or(self.slots.len().wrapping_sub(1));
        regs.write(self.regs.tail(), u32::try_from(tail).unwrap_or(0));
    }

    /// Gives a slot's buffer to the card, cleared: what an earlier frame left must not reach anyone if the card reports
    /// more than it writes.
    fn arm(&mut self, index: usize) {
        let Some(buf) = self.slots.get_mut(index) else { return };
        buf.clear_written();
        let (address, status) = words(index);
        let ring = self.ring.dwords();
        if let (Some(address), Some(status)) = (ring.get(address), ring.get(status)) {
            address.store(buf.maddr().into_raw(), Ordering::Relaxed);
            status.store(0, Ordering::Relaxed);
        }
    }

    /// Notes that the card has written `len` bytes to a slot's buffer.
    fn note_written(&mut self, index: usize, len: u16) {
        if let Some(buf) = self.slots.get_mut(index) {
            buf.note_written(usize::from(len.min(self.memory.buffer)).saturating_add(GROWTH));
        }
    }

    fn status(&self) -> RxStatus {
        let word = self.ring.dwords().get(words(self.next).1);
        // Acquire: the buffer is read after the card said that it is done with it.
        RxStatus::new(word.map_or(0, |word| word.load(Ordering::Acquire)), self.format)
    }

    /// Whether something was received.
    pub(super) fn is_ready(&self) -> bool {
        self.status().done()
    }

    /// Takes the next good frame.
    pub(super) fn receive<R: Mmio>(&mut self, regs: &Registers<R>, counters: &mut NicCounters) -> Option<Frame> {
        // At most one lap: a card that completes as fast as we look must not hold us here.
        for _ in 0..self.slots.len() {
            let status = self.status();
            if !status.done() {
                return None;
            }
            self.note_written(self.next, status.len());
            let taken = self.take(status);
            self.arm(self.next);
            self.next = self.next.wrapping_add(1);
            if self.next >= self.slots.len() {
                self.next = 0;
            }
            self.untold = self.untold.saturating_add(1);
            if self.untold >= DOORBELL_BATCH {
                self.untold = 0;
                self.tell(regs);
            }
            match taken {
                Taken::Frame(frame) => {
                    counters.rx_frames = counters.rx_frames.wrapping_add(1);
                    counters.rx_bytes = counters.rx_bytes.wrapping_add(u64::try_from(frame.len()).unwrap_or(0));
                    return Some(frame);
                }
                Taken::Part => {}
                Taken::Nothing => counters.rx_dropped = counters.rx_dropped.wrapping_add(1),
            }
        }
        None
    }

    /// What is in the next slot; a fresh buffer takes its place if it is wanted.
    fn take(&mut self, status: RxStatus) -> Taken {
        let partial = self.partial.take();
        if core::mem::replace(&mut self.discarding, false) {
            // The rest of a frame that was counted as dropped when its start was.
            self.discarding = !status.end();
            return Taken::Part;
        }
        let Some(frame) = self.extend(partial, status) else {
            self.discarding = !status.end();
            return Taken::Nothing;
        };
        if status.end() {
            return Taken::Frame(frame);
        }
        self.partial = Some(frame);
        Taken::Part
    }

    /// A frame with what is in the next slot added to it. `None` if that makes no frame that we want.
    fn extend(&mut self, partial: Option<Frame>, status: RxStatus) -> Option<Frame> {
        let len = status.len();
        let so_far = partial.as_ref().map_or(0, Frame::len);
        let min = if so_far == 0 { MIN_HEADER } else { 1 };
        // Only the last buffer may have room left.
        let whole = status.end() || len == self.memory.buffer;
        let fits = so_far.saturating_add(len.into()) <= self.memory.max_frame;
        if !(min..=self.memory.buffer).contains(&len) || status.damaged() || !whole || !fits {
            return None;
        }
        let slot = self.slots.get_mut(self.next)?;
        let segment = Segment { buf: core::mem::replace(slot, self.memory.pool.take()?), offset: 0, len };
        let mut frame = match partial {
            None => Frame::new(segment),
            Some(mut frame) => {
                frame.push(segment, &self.memory.tails).ok()?;
                frame
            }
        };
        if status.end() {
            frame.checksum = status.checksum();
        }
        Some(frame)
    }

    /// Keeps the memory allocated for ever: the card may still write to it.
    pub(super) fn leak(&mut self) {
        core::mem::forget(self.ring.clone());
        core::mem::forget(self.memory.pool.clone());
        core::mem::forget(core::mem::take(&mut self.slots));
        core::mem::forget(self.partial.take());
    }
}

/// What became of a descriptor.
enum Taken {
    /// It completed a frame.
    Frame(Frame),
    /// More of its frame is to come, or it is the rest of one that was dropped.
    Part,
    /// It was not wanted.
    Nothing,
}
