//! A pair of a submission and a completion queue, as memory: entries, indices, the phase bit.
//!
//! NVM Express Base 1.4, sections 4.1 to 4.6. Which commands are in flight is [`super::slots`]' business.

use alloc::rc::Rc;
use core::sync::atomic::Ordering;

use xen_pv_rt::hyp::{Dma, DmaRing, Maddr, Mmio};

use super::regs::{Doorbell, Registers};
use crate::disk::Failure;
use crate::disk::words::{high16, low16};

/// Words of a submission queue entry.
pub(super) const SQE_WORDS: usize = 16;
/// A submission queue entry.
pub(super) type Sqe = [u32; SQE_WORDS];
/// Words of a completion queue entry.
const CQE_WORDS: usize = 4;
/// Submission queue entries in a page.
const SQE_PER_PAGE: u16 = 64;
/// Completion queue entries in a page.
const CQE_PER_PAGE: u16 = 256;

/// A completion queue entry, each word loaded once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cqe {
    /// Command specific.
    pub(super) result: u32,
    /// The submission queue that the command was in.
    pub(super) sqid: u16,
    /// The command.
    pub(super) cid: u16,
    /// Status field without the phase bit: 0 is success.
    pub(super) status: u16,
}

pub(super) struct QueuePair {
    id: u16,
    sq: Rc<DmaRing>,
    cq: Rc<DmaRing>,
    sq_entries: u16,
    cq_entries: u16,
    /// Where the next command goes.
    tail: u16,
    /// The tail that the controller was told.
    told_tail: u16,
    /// Where the next completion comes.
    head: u16,
    /// The head that the controller was told.
    told_head: u16,
    /// Phase bit of entries that are new.
    phase: u32,
}

impl QueuePair {
    /// Queues for at most `entries` commands minus one, limited by what the controller can.
    pub(super) fn new(dma: &impl Dma, id: u16, entries: u16, most: u32) -> Result<Self, Failure> {
        let most = u16::try_from(most).unwrap_or(u16::MAX);
        let sq_entries = entries.min(most);
        let pages = usize::from(sq_entries.div_ceil(SQE_PER_PAGE));
        let ring = |pages| dma.dma_ring(pages).map(Rc::new).map_err(|_| Failure::NoMemory);
        Ok(Self {
            id,
            sq: ring(pages)?,
            cq: ring(1)?,
            sq_entries,
            cq_entries: CQE_PER_PAGE.min(most),
            tail: 0,
            told_tail: 0,
            head: 0,
            told_head: 0,
            phase: 1,
        })
    }

    /// Empties both queues, for a controller that has just been reset.
    pub(super) fn clear(&mut self) {
        for word in self.sq.words().iter().chain(self.cq.words()) {
            word.store(0, Ordering::Relaxed);
        }
        (self.tail, self.told_tail, self.head, self.told_head, self.phase) = (0, 0, 0, 0, 1);
    }

    pub(super) fn id(&self) -> u16 {
        self.id
    }
    pub(super) fn sq_entries(&self) -> u16 {
        self.sq_entries
    }
    pub(super) fn cq_entries(&self) -> u16 {
        self.cq_entries
    }
    /// Addresses of submission and completion queue.
    pub(super) fn addresses(&self) -> (Maddr, Maddr) {
        (self.sq.maddr(), self.cq.maddr())
    }

    /// Adds a command. The caller has no more than `sq_entries - 1` in flight.
    pub(super) fn push(&mut self, sqe: &Sqe) {
        let first = usize::from(self.tail).saturating_mul(SQE_WORDS);
        for (word, value) in self.sq.words().iter().skip(first).zip(sqe) {
            word.store(*value, Ordering::Relaxed);
        }
        self.tail = next(self.tail, self.sq_entries);
    }

    /// Tells the controller about new commands, if there are any.
    pub(super) fn kick<R: Mmio>(&mut self, regs: &Registers<R>) {
        if self.tail != self.told_tail {
            // `write32` is ordered after the stores to the queue.
            regs.ring(self.id, Doorbell::Submission, self.tail);
            self.told_tail = self.tail;
        }
    }

    fn entry(&self) -> usize {
        usize::from(self.head).saturating_mul(CQE_WORDS)
    }

    /// Whether a completion waits.
    pub(super) fn is_ready(&self) -> bool {
        let word = self.cq.words().get(self.entry().saturating_add(3));
        word.is_some_and(|word| word.load(Ordering::Acquire) >> 16 & 1 == self.phase)
    }

    /// Takes the next completion.
    pub(super) fn take(&mut self) -> Option<Cqe> {
        let first = self.entry();
        let word = |index: usize| self.cq.words().get(first.saturating_add(index));
        // The word with the phase bit first: what it covers was written before it.
        let last = word(3)?.load(Ordering::Acquire);
        if last >> 16 & 1 != self.phase {
            return None;
        }
        let (result, queue) = (word(0)?.load(Ordering::Relaxed), word(2)?.load(Ordering::Relaxed));
        self.head = next(self.head, self.cq_entries);
        if self.head == 0 {
            self.phase ^= 1;
        }
        Some(Cqe { result, sqid: high16(queue), cid: low16(last), status: high16(last) >> 1 })
    }

    /// Tells the controller which completions were taken, if it has not been told.
    pub(super) fn acknowledge<R: Mmio>(&mut self, regs: &Registers<R>) {
        if self.head != self.told_head {
            regs.ring(self.id, Doorbell::Completion, self.head);
            self.told_head = self.head;
        }
    }

    /// As [`acknowledge`](Self::acknowledge), but only if the controller would run out of entries otherwise:
    /// each telling is a slow register access.
    pub(super) fn acknowledge_if_due<R: Mmio>(&mut self, regs: &Registers<R>) {
        let untold = if self.head >= self.told_head {
            self.head.wrapping_sub(self.told_head)
        } else {
            self.cq_entries.wrapping_sub(self.told_head).wrapping_add(self.head)
        };
        let spare = self.cq_entries.saturating_sub(self.sq_entries);
        if untold > 0 && untold >= spare / 2 {
            self.acknowledge(regs);
        }
    }

    /// Keeps the memory allocated for ever: the controller may still use it.
    pub(super) fn leak(&self) {
        core::mem::forget(self.sq.clone());
        core::mem::forget(self.cq.clone());
    }
}

const fn next(index: u16, entries: u16) -> u16 {
    let next = index.wrapping_add(1);
    if next >= entries { 0 } else { next }
}
