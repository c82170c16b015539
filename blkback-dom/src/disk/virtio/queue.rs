//! A queue and the requests in it.

use alloc::vec::Vec;

use virtio_pci::{MAX_SIZE, Queue, QueueError};
use xen_pv_rt::hyp::{Dma, Instant, Maddr};

use super::chunk;
use crate::disk::lists::{ListId, Lists, PAGE_WORDS};
use crate::disk::{Failure, Op};

/// Requests in flight in a queue: a page of memory for each.
pub(super) const SLOTS: u16 = 128;

impl From<QueueError> for Failure {
    fn from(error: QueueError) -> Self {
        match error {
            QueueError::NoMemory => Self::NoMemory,
            QueueError::TooSmall => Self::Unsupported("queues of at least two descriptors"),
            QueueError::Confused(what) => Self::Confused(what),
        }
    }
}

/// A device request.
pub(super) struct Slot {
    chunk: ListId,
    /// The caller's command that it is a part of; `None` if the slot is free.
    pub(super) request: Option<u16>,
    /// Descriptors in its chunk.
    count: u16,
    /// When it was last given to the device.
    pub(super) since: Instant,
}

pub(super) struct BlkQueue {
    pub(super) number: u16,
    pub(super) queue: Queue,
    lists: Lists,
    slots: Vec<Slot>,
    free: Vec<u16>,
    /// By head of a chain, the slot that it belongs to.
    owner: Vec<u16>,
    indirect: bool,
}

impl BlkQueue {
    pub(super) fn new(dma: &impl Dma, number: u16) -> Result<Self, Failure> {
        let mut lists = Lists::new(dma, SLOTS, PAGE_WORDS)?;
        let slot = |chunk| Slot { chunk, request: None, count: 0, since: Instant::default() };
        let slots: Vec<_> = core::iter::from_fn(|| lists.take()).map(slot).collect();
        let free = (0..u16::try_from(slots.len()).unwrap_or(0)).rev().collect();
        let (queue, owner) = (Queue::new(dma)?, alloc::vec![u16::MAX; usize::from(MAX_SIZE)]);
        Ok(Self { number, queue, lists, slots, free, owner, indirect: false })
    }

    /// Empties the queue, for a device that was reset. The slots stay as they are.
    pub(super) fn start(&mut self, size: u32, indirect: bool, event_idx: bool) -> Result<(), Failure> {
        self.queue.start(size, event_idx)?;
        self.indirect = indirect;
        self.owner.fill(u16::MAX);
        Ok(())
    }

    /// Whether `slots` requests of at most `descriptors` descriptors in all can be pushed to an empty queue.
    pub(super) fn could_hold(&self, slots: usize, descriptors: usize) -> bool {
        slots <= self.slots.len() && (self.indirect || descriptors <= usize::from(self.queue.size()))
    }

    /// Whether `slots` requests of at most `descriptors` descriptors in all can be pushed.
    pub(super) fn has_room(&self, slots: usize, descriptors: usize) -> bool {
        let needed = if self.indirect { slots } else { descriptors };
        self.free.len() >= slots && self.queue.free() >= needed
    }

    /// Queues a request, not shown to the device yet. `None`, with nothing queued, if there is no room.
    pub(super) fn push(
        &mut self,
        request: u16,
        op: Op,
        sector: u64,
        data: impl Iterator<Item = (Maddr, u32)>,
        now: Instant,
    ) -> Option<()> {
        let index = *self.free.last()?;
        let slot = self.slots.get_mut(usize::from(index))?;
        slot.count = chunk::fill(&self.lists, slot.chunk, op, sector, data)?;
        slot.request = Some(request);
        self.issue(index, now)?;
        self.free.pop();
        Some(())
    }

    /// Gives a slot's request to the device.
    pub(super) fn issue(&mut self, index: u16, now: Instant) -> Option<()> {
        let slot = self.slots.get_mut(usize::from(index))?;
        slot.since = now;
        chunk::rearm(&self.lists, slot.chunk);
        let head = if self.indirect {
            self.queue.push_indirect(chunk::table(&self.lists, slot.chunk), slot.count)?
        } else {
            self.queue.push(chunk::descriptors(&self.lists, slot.chunk, slot.count).into_iter())?
        };
        *self.owner.get_mut(usize::from(head))? = index;
        Some(())
    }

    /// Takes a finished request: its slot, and the status that the device wrote.
    pub(super) fn pop(&mut self) -> Result<Option<(u16, u64)>, Failure> {
        let Some(used) = self.queue.pop()? else { return Ok(None) };
        let owner = self.owner.get_mut(usize::from(used.head)).map(|owner| core::mem::replace(owner, u16::MAX));
        let slot = owner.and_then(|index| Some((index, self.slots.get(usize::from(index))?)));
        match slot {
            Some((index, slot)) if slot.request.is_some() => Ok(Some((index, chunk::status(&self.lists, slot.chunk)))),
            _ => Err(Failure::Confused("descriptor id")),
        }
    }

    /// Frees a slot; the caller's command that it was a part of.
    pub(super) fn release(&mut self, index: u16) -> Option<u16> {
        let request = self.slots.get_mut(usize::from(index))?.request.take()?;
        self.free.push(index);
        Some(request)
    }

    /// The slot, if it is in use.
    pub(super) fn get(&self, index: u16) -> Option<&Slot> {
        self.slots.get(usize::from(index)).filter(|slot| slot.request.is_some())
    }

    /// Slots in use.
    pub(super) fn busy(&self) -> impl Iterator<Item = (u16, &Slot)> {
        (0..).zip(&self.slots).filter(|(_, slot)| slot.request.is_some())
    }

    /// Keeps the memory allocated for ever: the device may still use it.
    pub(super) fn leak(&self) {
        self.queue.leak();
        self.lists.leak();
    }
}
