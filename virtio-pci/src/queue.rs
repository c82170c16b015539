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

/// Most descriptors of a queue: they fill one page.
pub const MAX_SIZE: u16 = 256;

/// `VIRTQ_DESC_F_NEXT`.
const NEXT: u32 = 1;
/// `VIRTQ_DESC_F_WRITE`.
const WRITE: u32 = 2;
/// `VIRTQ_DESC_F_INDIRECT`.
const INDIRECT: u32 = 4;
/// Bytes of a descriptor.
const DESCRIPTOR: u32 = 16;
/// `VIRTQ_AVAIL_F_NO_INTERRUPT`.
const NO_INTERRUPT: u32 = 1;
/// `VIRTQ_USED_F_NO_NOTIFY`.
const NO_NOTIFY: u16 = 1;
/// Where the used ring starts in the second page, in words: after the longest available ring, and such that
/// the longest used ring ends in the page.
const USED: usize = 256;
const _: () = assert!(6 + 2 * 256 <= USED * 4 && USED * 4 + 6 + 8 * 256 <= 4096);

/// Why a queue cannot be used, or not any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueError {
    /// DMA memory could not be had.
    NoMemory,
    /// The device has no queue of at least two descriptors.
    TooSmall,
    /// The device wrote back something impossible: what it was.
    Confused(&'static str),
}

/// Who writes a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writer {
    /// The driver has; the device reads.
    Driver,
    /// The device.
    Device,
}

/// A buffer of a chain. Those that the device writes come last.
#[derive(Clone, Copy, Debug)]
pub struct Buffer {
    /// Where it starts.
    pub maddr: Maddr,
    /// Length in bytes.
    pub len: u32,
    /// Who writes it.
    pub writer: Writer,
}

impl Buffer {
    /// A buffer that the device reads.
    pub const fn to_device(maddr: Maddr, len: u32) -> Self {
        Self { maddr, len, writer: Writer::Driver }
    }
    /// A buffer that the device writes.
    pub const fn from_device(maddr: Maddr, len: u32) -> Self {
        Self { maddr, len, writer: Writer::Device }
    }

    /// The words of its descriptor, in a chain that goes on with descriptor `next`; for an indirect table.
    pub const fn descriptor(&self, next: Option<u16>) -> [u32; 4] {
        let flags = match self.writer {
            Writer::Driver => 0,
            Writer::Device => WRITE,
        };
        let tail = match next {
            Some(next) => {
                let [a, b] = next.to_le_bytes();
                u32::from_le_bytes([0, 0, a, b]) | flags | NEXT
            }
            None => flags,
        };
        words(self.maddr, self.len, tail)
    }
}

const fn words(maddr: Maddr, len: u32, tail: u32) -> [u32; 4] {
    let [a, b, c, d, e, f, g, h] = maddr.into_raw().to_le_bytes();
    [u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]), len, tail]
}

/// A chain that the device has finished with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Used {
    /// What [`Queue::push`] returned.
    pub head: u16,
    /// Bytes that the device says it wrote.
    pub len: u32,
}

/// A split virtqueue.
pub struct Queue {
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
    /// Allocates a queue, to be [`start`](Self::start)ed.
    ///
    /// # Errors
    /// [`QueueError::NoMemory`].
    pub fn new(dma: &impl Dma) -> Result<Self, QueueError> {
        let page = || dma.dma_ring(1).map(Rc::new).map_err(|_| QueueError::NoMemory);
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

    /// Empties the queue, for a device that has just been reset. `size` is what the device offers; it is
    /// rounded down to a power of two.
    ///
    /// # Errors
    /// [`QueueError::TooSmall`].
    pub fn start(&mut self, size: u32, event_idx: bool) -> Result<(), QueueError> {
        let size = u16::try_from(size.min(MAX_SIZE.into())).unwrap_or(MAX_SIZE);
        self.size = size.checked_ilog2().and_then(|log| 1_u16.checked_shl(log)).unwrap_or(0);
        if self.size < 2 {
            return Err(QueueError::TooSmall);
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

    /// Descriptors in all.
    pub fn size(&self) -> u16 {
        self.size
    }
    /// Addresses of descriptor table, available ring and used ring.
    pub fn addresses(&self) -> (Maddr, Maddr, Maddr) {
        let used = u64::try_from(USED.wrapping_mul(4)).unwrap_or(0);
        (self.table.maddr(), self.rings.maddr(), self.rings.maddr().wrapping_add(used))
    }
    /// Descriptors that are free.
    pub fn free(&self) -> usize {
        self.free.len()
    }
    /// Whether the device holds chains.
    pub fn is_busy(&self) -> bool {
        self.free.len() < usize::from(self.size)
    }

    /// The head of the chain that [`push`](Self::push) queues next.
    pub fn next_head(&self) -> Option<u16> {
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
    /// queued, if there are too few free descriptors or no buffers. The chain is known by the index returned.
    pub fn push(&mut self, buffers: impl ExactSizeIterator<Item = Buffer>) -> Option<u16> {
        let count = buffers.len();
        if count == 0 || count > self.free.len() {
            return None;
        }
        let head = *self.free.last()?;
        let mut length = 0_u16;
        for buffer in buffers.take(count) {
            let index = self.free.pop()?;
            length = length.wrapping_add(1);
            let next = (usize::from(length) < count).then(|| self.free.last().copied()).flatten();
            if let Some(shadow) = self.next.get_mut(usize::from(index)) {
                *shadow = next.unwrap_or(index);
            }
            self.describe(index, buffer.descriptor(next));
        }
        self.offer(head, length);
        Some(head)
    }

    /// As [`push`](Self::push), with a table of `count` descriptors ([`Buffer::descriptor`]) at `table`. For
    /// devices that have agreed to `VIRTIO_F_INDIRECT_DESC`.
    pub fn push_indirect(&mut self, table: Maddr, count: u16) -> Option<u16> {
        let head = self.free.pop()?;
        self.describe(head, words(table, u32::from(count).saturating_mul(DESCRIPTOR), INDIRECT));
        if let Some(shadow) = self.next.get_mut(usize::from(head)) {
            *shadow = head;
        }
        self.offer(head, 1);
        Some(head)
    }

    fn describe(&self, index: u16, descriptor: [u32; 4]) {
        let first = usize::from(index).wrapping_mul(4);
        for (word, value) in self.table.words().iter().skip(first).zip(descriptor) {
            word.store(value, Ordering::Relaxed);
        }
    }

    fn offer(&mut self, head: u16, length: u16) {
        if let Some(chain) = self.chain.get_mut(usize::from(head)) {
            *chain = length;
        }
        self.put_available(head);
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
    pub fn show(&mut self) -> bool {
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
    pub fn is_ready(&self) -> bool {
        high(self.load(USED)) != self.taken
    }

    /// Takes the next finished chain; its descriptors are free again.
    ///
    /// # Errors
    /// The device returned something that it was not given.
    pub fn pop(&mut self) -> Result<Option<Used>, QueueError> {
        let index = high(self.load(USED));
        let waiting = index.wrapping_sub(self.taken);
        if waiting == 0 {
            return Ok(None);
        }
        if waiting > self.size {
            return Err(QueueError::Confused("used index"));
        }
        let entry = usize::from(slot(self.taken, self.size)).wrapping_mul(2).wrapping_add(USED.wrapping_add(1));
        let (id, len) = (self.load(entry), self.load(entry.wrapping_add(1)));
        self.taken = self.taken.wrapping_add(1);
        let head = u16::try_from(id).map_err(|_| QueueError::Confused("descriptor id"))?;
        let length = self.chain.get_mut(usize::from(head)).map_or(0, core::mem::take);
        if length == 0 {
            return Err(QueueError::Confused("descriptor id"));
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
    pub fn enable_interrupts(&self) {
        self.set_interrupts(self.taken, 0);
        // The wish is visible before the used index is read again.
        fence(Ordering::SeqCst);
    }

    /// Asks for no interrupts. Advice only: the device may interrupt nevertheless.
    pub fn disable_interrupts(&self) {
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
    pub fn leak(&self) {
        core::mem::forget(self.table.clone());
        core::mem::forget(self.rings.clone());
    }
}
