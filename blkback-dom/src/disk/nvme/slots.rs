//! Commands in flight: what the driver knows of them, and what it believes of completions.
//!
//! A caller's command ([`Request`](crate::disk::requests::Request)) is one or more device commands, each in a
//! [`Slot`] of a queue. A command id
//! is the slot's number and a generation, so that a completion for a command that was answered before is told
//! from one for the slot's present command.

use alloc::vec::Vec;

use xen_pv_rt::hyp::Instant;

use super::queue::Sqe;
use crate::disk::lists::ListId;
use crate::disk::words::{join16, low16};

/// Bits of a command id that number the slot.
const SLOT_BITS: u32 = 7;
/// Most slots of a queue.
pub(super) const MAX_SLOTS: u16 = 1 << SLOT_BITS;
/// The generation is what is left of 16 bits.
const GENERATION_MASK: u16 = 0x1ff;

/// Where a device command is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Nowhere: the slot is free.
    Free,
    /// In the controller's hands.
    Queued,
    /// Waits to be repeated.
    Waiting(Instant),
}

/// A device command.
pub(super) struct Slot {
    pub(super) place: Place,
    generation: u16,
    pub(super) request: u16,
    pub(super) list: Option<ListId>,
    pub(super) sqe: Sqe,
    /// When it was last given to the controller.
    pub(super) since: Instant,
    pub(super) retries: u8,
    /// The controller was asked to give it up.
    pub(super) aborting: bool,
}

/// The slots of a queue.
pub(super) struct Slots {
    slots: Vec<Slot>,
    free: Vec<u16>,
    /// Slots that wait to be repeated.
    pub(super) waiting: u16,
}

impl Slots {
    pub(super) fn new(count: u16) -> Self {
        let count = count.min(MAX_SLOTS);
        let slot = |_| Slot {
            place: Place::Free,
            generation: 0,
            request: 0,
            list: None,
            sqe: [0; 16],
            since: Instant::default(),
            retries: 0,
            aborting: false,
        };
        Self { slots: (0..count).map(slot).collect(), free: (0..count).rev().collect(), waiting: 0 }
    }

    pub(super) fn count(&self) -> u16 {
        u16::try_from(self.slots.len()).unwrap_or(MAX_SLOTS)
    }
    pub(super) fn free(&self) -> usize {
        self.free.len()
    }
    pub(super) fn get_mut(&mut self, index: u16) -> Option<&mut Slot> {
        self.slots.get_mut(usize::from(index))
    }
    pub(super) fn get(&self, index: u16) -> Option<&Slot> {
        self.slots.get(usize::from(index))
    }

    /// Fills a free slot with a command that goes to the controller now, and returns the command with its id.
    pub(super) fn insert(&mut self, request: u16, list: Option<ListId>, sqe: Sqe, now: Instant) -> Option<Sqe> {
        let index = self.free.pop()?;
        let slot = self.get_mut(index)?;
        (slot.request, slot.list, slot.sqe, slot.retries) = (request, list, sqe, 0);
        Some(slot.issue(index, now))
    }

    /// The slot that a completion is for, if that is in the controller's hands.
    pub(super) fn find(&self, cid: u16) -> Option<u16> {
        let index = cid & MAX_SLOTS.wrapping_sub(1);
        let slot = self.get(index)?;
        (slot.place == Place::Queued && slot.cid(index) == cid).then_some(index)
    }

    pub(super) fn release(&mut self, index: u16) {
        let Some(slot) = self.get_mut(index) else { return };
        slot.list = None;
        let waited = matches!(core::mem::replace(&mut slot.place, Place::Free), Place::Waiting(_));
        self.waiting = self.waiting.saturating_sub(u16::from(waited));
        self.free.push(index);
    }

    pub(super) fn wait(&mut self, index: u16, until: Instant) {
        if let Some(slot) = self.get_mut(index) {
            slot.retries = slot.retries.saturating_add(1);
            slot.place = Place::Waiting(until);
            self.waiting = self.waiting.saturating_add(1);
        }
    }

    /// A waiting slot goes to the controller again.
    pub(super) fn reissue(&mut self, index: u16, now: Instant) -> Option<Sqe> {
        let slot = self.get_mut(index)?;
        let waited = matches!(slot.place, Place::Waiting(_));
        let sqe = slot.issue(index, now);
        if waited {
            self.waiting = self.waiting.saturating_sub(1);
        }
        Some(sqe)
    }

    /// Slots that are not free, with their numbers.
    pub(super) fn busy(&self) -> impl Iterator<Item = (u16, &Slot)> {
        (0..).zip(&self.slots).filter(|(_, slot)| slot.place != Place::Free)
    }
}

impl Slot {
    /// A new command id, and the command with it.
    fn issue(&mut self, index: u16, now: Instant) -> Sqe {
        (self.place, self.since, self.aborting) = (Place::Queued, now, false);
        self.generation = self.generation.wrapping_add(1) & GENERATION_MASK;
        let cid = self.cid(index);
        if let Some(first) = self.sqe.first_mut() {
            *first = join16(low16(*first), cid);
        }
        self.sqe
    }

    pub(super) fn cid(&self, index: u16) -> u16 {
        self.generation.wrapping_shl(SLOT_BITS) | index
    }
}
