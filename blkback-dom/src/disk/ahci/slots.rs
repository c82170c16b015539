//! The commands of a port: its 32 slots, which of them the device has, and in which order the others follow.
//!
//! Queued commands run side by side; a command by itself (flush, trim, packets, and what is repeated after an
//! error) runs when nothing else does. Commands start in the order of submission, so that neither kind starves.

use xen_pv_rt::hyp::Instant;

use crate::disk::Op;

/// Slots of a port.
pub(super) const SLOTS: usize = 32;

/// A device command.
#[derive(Clone, Copy)]
pub(super) struct Slot {
    /// The caller's command that it is a part of; `None` if the slot is free.
    pub(super) request: Option<u16>,
    pub(super) op: Op,
    pub(super) lba: u64,
    pub(super) blocks: u32,
    /// Regions of memory in its table.
    pub(super) regions: u16,
    /// It is to run by itself.
    pub(super) alone: bool,
    /// How often it was tried by itself.
    pub(super) tries: u8,
    /// When it was given to the device.
    pub(super) since: Instant,
}

const FREE: Slot = Slot {
    request: None,
    op: Op::Flush,
    lba: 0,
    blocks: 0,
    regions: 0,
    alone: false,
    tries: 0,
    since: Instant::from_nanos(0),
};

pub(super) struct Slots {
    slots: [Slot; SLOTS],
    /// Slots that may be used at a time.
    depth: usize,
    /// Slots that wait, in order.
    waiting: heapless::Deque<u8, SLOTS>,
    /// The slots that the device has, one bit each.
    pub(super) active: u32,
    /// They are queued commands.
    pub(super) queued: bool,
}

pub(super) const fn bit(slot: u8) -> u32 {
    1_u32.wrapping_shl(u32::from_le_bytes([slot, 0, 0, 0]))
}

/// The slots of a mask.
pub(super) fn of_mask(mask: u32) -> impl Iterator<Item = u8> {
    (0..32_u8).filter(move |slot| mask & bit(*slot) != 0)
}

impl Slots {
    pub(super) fn new() -> Self {
        Self { slots: [FREE; SLOTS], depth: 1, waiting: heapless::Deque::new(), active: 0, queued: false }
    }

    /// So many slots may be used from now on; 1 to 32.
    pub(super) fn set_depth(&mut self, depth: usize) {
        self.depth = depth.clamp(1, SLOTS);
    }
    pub(super) fn free(&self) -> usize {
        self.slots.iter().take(self.depth).filter(|slot| slot.request.is_none()).count()
    }
    /// Slots that may be used at all.
    pub(super) const fn depth(&self) -> usize {
        self.depth
    }
    pub(super) fn get_mut(&mut self, slot: u8) -> Option<&mut Slot> {
        self.slots.get_mut(usize::from(slot))
    }
    pub(super) fn get(&self, slot: u8) -> Option<&Slot> {
        self.slots.get(usize::from(slot))
    }

    /// The slot that [`insert`](Self::insert) would use.
    pub(super) fn next_free(&self) -> Option<u8> {
        (0..).zip(&self.slots).take(self.depth).find(|(_, slot)| slot.request.is_none()).map(|(index, _)| index)
    }

    /// Puts a command into the slot, behind all others.
    pub(super) fn insert(&mut self, index: u8, slot: Slot) {
        if let Some(place) = self.get_mut(index) {
            *place = slot;
            let _ = self.waiting.push_back(index);
        }
    }

    /// Takes what may start now: a mask of queued commands, or a single other one. `queues`: the device has a
    /// queue.
    pub(super) fn start(&mut self, queues: bool, now: Instant) -> u32 {
        let mut mask = 0;
        while let Some(index) = self.waiting.front().copied() {
            let queued = queues && self.get(index).is_some_and(|slot| slot.op.has_data() && !slot.alone);
            let runs = self.active | mask;
            if runs != 0 && !(queued && self.queued) {
                break;
            }
            self.waiting.pop_front();
            self.queued = queued;
            mask |= bit(index);
            if let Some(slot) = self.get_mut(index) {
                slot.since = now;
            }
            if !queued {
                break;
            }
        }
        self.active |= mask;
        mask
    }

    /// Frees a slot; the caller's command that it was a part of.
    pub(super) fn release(&mut self, index: u8) -> Option<u16> {
        let request = self.get_mut(index)?.request.take();
        self.active &= !bit(index);
        if self.waiting.iter().any(|waiting| *waiting == index) {
            // Rare: a command that never got to the device is given up.
            let rest: heapless::Vec<u8, SLOTS> = self.waiting.iter().copied().filter(|other| *other != index).collect();
            self.waiting.clear();
            self.waiting.extend(rest);
        }
        request
    }

    /// What the device had is to be tried again, before everything else; `alone`: one by one.
    pub(super) fn requeue(&mut self, alone: bool) {
        let active = core::mem::take(&mut self.active);
        let mut back: heapless::Vec<u8, SLOTS> = of_mask(active).collect();
        back.reverse();
        for index in back {
            if let Some(slot) = self.get_mut(index) {
                slot.alone |= alone;
            }
            let _ = self.waiting.push_front(index);
        }
    }
}
