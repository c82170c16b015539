//! A split virtqueue with one page of descriptors.
//!
//! Ours rather than virtio-drivers' `VirtQueue`, which takes slices (we have machine addresses), frees them by
//! the slice, loses a kick now and then when it adds in batches with `VIRTIO_F_EVENT_IDX`, and has no fence
//! between publishing an index and reading the device's.
//!
//! The device is not trusted: what it writes are the used ring and one index, each word is loaded once, and
//! an id is believed only if it is a chain that is in its hands. Which descriptors form a chain is kept here,
//! not read back from the table.
//!
//! Virtio 1.2, section 2.7.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::sync::atomic::{Ordering, fence};

use xen_pv_rt::hyp::{Dma, DmaRing, Maddr};

use crate::nic::NicError;

/// Most descriptors of a queue: they fill one page.
pub(super) const MAX_SIZE: u16 = 256;

/// `VIRTQ_DESC_F_NEXT`.
const NEXT: u32 = 1;
/// `VIRTQ_DESC_F_WRITE`.
const WRITE: u32 = 2;
/// `VIRTQ_AVAIL_F_NO_INTERRUPT`.
const NO_INTERRUPT: u32 = 1;
/// `VIRTQ_USED_F_NO_NOTIFY`.
const NO_NOTIFY: u16 = 1;
/// Where the used ring starts in the second page, in words: after the longest available ring, and such that
/// the longest used ring ends in the page.
const USED: usize = 256;
const _: () = assert!(6 + 2 * 256 <= USED * 4 && USED * 4 + 6 + 8 * 256 <= 4096);

/// A buffer of a chain.
#[derive(Clone, Copy, Debug)]
pub(super) struct Buffer {
    pub(super) maddr: Maddr,
    pub(super) len: u32,
}

/// Who writes the buffers of a chain.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Writer {
    Driver,
    Device,
}

/// A chain that the device has finished with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Used {
    /// What [`Queue::push`] returned.
    pub(super) head: u16,
    /// Bytes that the device says it wrote.
    pub(super) len: u32,
}

pub(super) struct Queue {
    table: Rc<DmaRing>,
    /// Available ring, then used ring.
    rings: Rc<DmaRing>,
    size: u16,
    event_idx: bool,
    /// Shadow of the `next` fields.
    next: Vec<u16>,
    /// Length of the chain that starts here; 0 if none does.
    chain: Vec<u16>,
    free: Vec<u16>,
    /// Entries written to the available ring.
    avail: u16,
    /// Entries that the device was shown.
    shown: u16,
    /// Entries of the used ring that were taken.
    taken: u16,
}

/// Both indices run freely over 16 bits; the ring position is the remainder, the size being a power of two.
const fn slot(index: u16, size: u16) -> u16 {
    index & size.wrapping_sub(1)
}

const fn high(word: u32) -> u16 {
    let [_, _, a, b] = word.to_le_bytes();
    u16::from_le_bytes([a, b])
}

const fn low(word: u32) -> u16 {
    let [a, b, _, _] = word.to_le_bytes();
    u16::from_le_bytes([a, b])
}

/// Whether an index that moved from `old` to `new` has passed `event`. Virtio 1.2, 2.7.7.
const fn passed(event: u16, new: u16, old: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}

impl Queue {
    pub(super) fn new(dma: &impl Dma) -> Result<Self, NicError> {
        let page = || dma.dma_ring(1).map(Rc::new).map_err(|_| NicError::NoMemory);
        let entries = usize::from(MAX_SIZE);
        Ok(Self {
            table: page()?,
            rings: page()?,
            size: 0,
            event_idx: false,
            next: alloc::vec![0; entries],
            chain: alloc::vec![0; entries],
            free: Vec::with_capacity(entries),
            avail: 0,
            shown: 0,
            taken: 0,
        })
    }

    /// Empties the queue, for a device that has just been reset. `size` is rounded down to a power of two.
    pub(super) fn start(&mut self, size: u32, event_idx: bool) -> Result<(), NicError> {
        let size = u16::try_from(size.min(MAX_SIZE.into())).unwrap_or(MAX_SIZE);
        self.size = size.checked_ilog2().and_then(|log| 1_u16.checked_shl(log)).unwrap_or(0);
        if self.size < 2 {
            return Err(NicError::Unsupported("queues of at least two descriptors"));
        }
        self.event_idx = event_idx;
        self.free.clear();
        self.free.extend((0..self.size).rev());
        self.chain.fill(0);
        (self.avail, self.shown, self.taken) = (0, 0, 0);
        for word in self.table.words().iter().chain(self.rings.words()) {
            word.store(0, Ordering::Relaxed);
        }
        Ok(())
    }

    pub(super) fn size(&self) -> u16 {
        self.size
    }
    /// Addresses of descriptor table, available ring and used ring.
    pub(super) fn addresses(&self) -> (Maddr, Maddr, Maddr) {
        let used = u64::try_from(USED.wrapping_mul(4)).unwrap_or(0);
        (self.table.maddr(), self.rings.maddr(), self.rings.maddr().wrapping_add(used))
    }
    /// Descriptors that are free.
    pub(super) fn free(&self) -> usize {
        self.free.len()
    }
    /// Whether the device holds chains.
    pub(super) fn is_busy(&self) -> bool {
        self.free.len() < usize::from(self.size)
    }

    /// The head of the chain that [`push`](Self::push) queues next.
    pub(super) fn next_head(&self) -> Option<u16> {
        self.free.last().copied()
    }

    fn store(&self, word: usize, value: u32) {
        if let Some(word) = self.rings.words().get(word) {
            word.store(value, Ordering::Relaxed);
        }
    }
    fn load(&self, word: usize) -> u32 {
        self.rings.words().get(word).map_or(0, |word| word.load(Ordering::Acquire))
    }

    /// Queues a chain of buffers, not shown to the device until [`show`](Self::show). `None`, with nothing
    /// queued, if there are too few free descriptors or no buffers.
    pub(super) fn push(&mut self, buffers: impl ExactSizeIterator<Item = Buffer>, writer: Writer) -> Option<u16> {
        let count = buffers.len();
        if count == 0 || count > self.free.len() {
            return None;
        }
        let flags = if writer == Writer::Device { WRITE } else { 0 };
        let head = *self.free.last()?;
        let mut length = 0_u16;
        for buffer in buffers.take(count) {
            let index = self.free.pop()?;
            length = length.wrapping_add(1);
            let next = (usize::from(length) < count).then(|| self.free.last().copied()).flatten();
            if let Some(shadow) = self.next.get_mut(usize::from(index)) {
                *shadow = next.unwrap_or(index);
            }
            let tail = next.map_or(flags, |next| flags | NEXT | u32::from(next) << 16);
            let address = buffer.maddr.into_raw();
            let [a, b, c, d, e, f, g, h] = address.to_le_bytes();
            let words = [u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]), buffer.len, tail];
            let first = usize::from(index).wrapping_mul(4);
            for (word, value) in self.table.words().iter().skip(first).zip(words) {
                word.store(value, Ordering::Relaxed);
            }
        }
        if let Some(chain) = self.chain.get_mut(usize::from(head)) {
            *chain = length;
        }
        self.put_available(head);
        Some(head)
    }

    fn put_available(&mut self, head: u16) {
        let position = slot(self.avail, self.size);
        let word = usize::from(position >> 1).wrapping_add(1);
        // Two entries share a word. We are the only writer, so the other one is not disturbed.
        let old = self.rings.words().get(word).map_or(0, |word| word.load(Ordering::Relaxed));
        let head = u32::from(head);
        self.store(word, if position & 1 == 0 { old & 0xffff_0000 | head } else { old & 0xffff | head << 16 });
        self.avail = self.avail.wrapping_add(1);
    }

    /// Shows the device what was queued. Whether it has to be notified.
    #[must_use = "the device sleeps until it is notified"]
    pub(super) fn show(&mut self) -> bool {
        if self.shown == self.avail {
            return false;
        }
        let old = core::mem::replace(&mut self.shown, self.avail);
        // Release: the descriptors and ring entries are visible before the index that covers them.
        if let Some(word) = self.rings.words().first() {
            let flags = word.load(Ordering::Relaxed) & 0xffff;
            word.store(flags | u32::from(self.avail) << 16, Ordering::Release);
        }
        // The index is visible before the device's wish is read, or both sides could go to sleep.
        fence(Ordering::SeqCst);
        if self.event_idx {
            let event = low(self.load(USED.wrapping_add(1).wrapping_add(usize::from(self.size).wrapping_mul(2))));
            passed(event, self.avail, old)
        } else {
            low(self.load(USED)) & NO_NOTIFY == 0
        }
    }

    /// Whether a finished chain waits.
    pub(super) fn is_ready(&self) -> bool {
        high(self.load(USED)) != self.taken
    }

    /// Takes the next finished chain; its descriptors are free again.
    ///
    /// # Errors
    /// The device returned something that it was not given.
    pub(super) fn pop(&mut self) -> Result<Option<Used>, NicError> {
        let index = high(self.load(USED));
        let waiting = index.wrapping_sub(self.taken);
        if waiting == 0 {
            return Ok(None);
        }
        if waiting > self.size {
            return Err(NicError::Confused("used index"));
        }
        let entry = usize::from(slot(self.taken, self.size)).wrapping_mul(2).wrapping_add(USED.wrapping_add(1));
        let (id, len) = (self.load(entry), self.load(entry.wrapping_add(1)));
        self.taken = self.taken.wrapping_add(1);
        let head = u16::try_from(id).map_err(|_| NicError::Confused("descriptor id"))?;
        let length = self.chain.get_mut(usize::from(head)).map_or(0, core::mem::take);
        if length == 0 {
            return Err(NicError::Confused("descriptor id"));
        }
        let mut index = head;
        for _ in 0..length {
            self.free.push(index);
            index = self.next.get(usize::from(index)).copied().unwrap_or(index);
        }
        Ok(Some(Used { head, len }))
    }

    /// Asks for an interrupt when the device finishes the next chain.
    ///
    /// The caller looks at [`is_ready`](Self::is_ready) afterwards: something may have finished before.
    pub(super) fn enable_interrupts(&self) {
        self.set_interrupts(self.taken, 0);
        // The wish is visible before the used index is read again.
        fence(Ordering::SeqCst);
    }

    /// Asks for no interrupts. Advice only: the device may interrupt nevertheless.
    pub(super) fn disable_interrupts(&self) {
        // With event indices: an entry that was passed already, so that 65535 more have to come.
        self.set_interrupts(self.taken.wrapping_sub(1), NO_INTERRUPT);
    }

    fn set_interrupts(&self, event: u16, flags: u32) {
        if self.event_idx {
            self.store(usize::from(self.size >> 1).wrapping_add(1), event.into());
        } else {
            self.store(0, flags | u32::from(self.shown) << 16);
        }
    }

    /// Keeps the memory allocated for ever: the device may still use it.
    pub(super) fn leak(&self) {
        core::mem::forget(self.table.clone());
        core::mem::forget(self.rings.clone());
    }
}
