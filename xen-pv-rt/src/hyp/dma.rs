//! Memory that a device reads and writes.
//!
//! Two kinds, which never mix: a [`DmaRing`] holds descriptors that the device changes at any time, so it
//! is seen as atomic words only; a [`DmaBuf`] holds data and is seen as plain bytes by whoever owns it.
//! While a device may write a buffer, its driver keeps the `DmaBuf` and nobody looks inside.
//!
//! In a PV domain the device can reach every frame of the domain, with or without this module; the IOMMU
//! confines it to the domain. Programming a device with nothing but addresses from here is what keeps it
//! off the runtime's own memory.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::fmt;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, AtomicU64};

use super::{Maddr, PAGE_SIZE};

/// Why DMA memory could not be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DmaError {
    /// The domain has no pages left for it.
    OutOfMemory,
    /// Xen could not provide machine-contiguous memory of that size.
    NotContiguous,
}

impl fmt::Display for DmaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OutOfMemory => "out of memory for DMA (give the domain more with memory=)",
            Self::NotContiguous => "no machine-contiguous memory of that size",
        })
    }
}

/// Takes memory back when it is dropped.
pub trait PageOwner {
    /// `pages` pages from `ptr` are no longer used by anyone, device included.
    fn release(&self, ptr: NonNull<u8>, maddr: Maddr, pages: usize);
}

/// Machine-contiguous, page-aligned memory; goes back to its owner on drop.
pub struct RawDma {
    ptr: NonNull<u8>,
    maddr: Maddr,
    pages: usize,
    owner: Rc<dyn PageOwner>,
}

impl RawDma {
    /// Takes charge of `pages` pages at `ptr`.
    ///
    /// # Safety
    /// The memory is page aligned, valid for reads and writes, zeroed, used by nobody else until
    /// `owner.release` is called with it, and starts at machine address `maddr`.
    pub unsafe fn from_raw(ptr: NonNull<u8>, maddr: Maddr, pages: usize, owner: Rc<dyn PageOwner>) -> Self {
        Self { ptr, maddr, pages, owner }
    }

    fn len(&self) -> usize {
        self.pages.saturating_mul(PAGE_SIZE)
    }
}

impl Drop for RawDma {
    fn drop(&mut self) {
        self.owner.release(self.ptr, self.maddr, self.pages);
    }
}

/// Descriptors shared with a device: zeroed at first, machine contiguous, atomic words only.
pub struct DmaRing(RawDma);

impl DmaRing {
    /// Makes descriptor memory of raw memory.
    pub fn new(raw: RawDma) -> Self {
        Self(raw)
    }
    /// Where the device finds it.
    pub fn maddr(&self) -> Maddr {
        self.0.maddr
    }
    /// Length in bytes.
    #[expect(clippy::len_without_is_empty, reason = "never empty")]
    pub fn len(&self) -> usize {
        self.0.len()
    }
    /// The memory as 32-bit words.
    pub fn words(&self) -> &[AtomicU32] {
        // SAFETY: 1. `RawDma` owns `len` bytes, page aligned and valid for reads and writes, for as long as
        // `self` lives. 2. Only this view and `dwords` exist of it, both atomic. 3. The device's accesses are
        // outside the memory model; aligned word accesses are single-copy atomic on x86.
        unsafe { core::slice::from_raw_parts(self.0.ptr.as_ptr().cast::<AtomicU32>(), self.0.len() / 4) }
    }
    /// The memory as 64-bit words.
    pub fn dwords(&self) -> &[AtomicU64] {
        // SAFETY: as in `words`; a page-aligned address is aligned for 64-bit words.
        unsafe { core::slice::from_raw_parts(self.0.ptr.as_ptr().cast::<AtomicU64>(), self.0.len() / 8) }
    }
}

struct Pool {
    /// What the buffers are made of; kept so that the memory goes back when the last buffer is gone.
    memory: Vec<RawDma>,
    /// Each free buffer; never holds more entries than it was made with.
    free: RefCell<Vec<Free>>,
}

/// A buffer that nobody has.
struct Free {
    /// Which part of the pool's memory it is.
    index: usize,
    /// [`DmaBuf::written`] when it came back.
    written: usize,
}

/// A pool of page-sized buffers, allocated once. Cloning gives another handle to the same pool.
#[derive(Clone)]
pub struct DmaPool(Rc<Pool>);

impl DmaPool {
    /// Makes a pool of single pages.
    pub fn new(memory: Vec<RawDma>) -> Self {
        let free = RefCell::new((0..memory.len()).map(|index| Free { index, written: 0 }).collect());
        Self(Rc::new(Pool { memory, free }))
    }
    /// Takes a buffer, or `None` if all are in use. Its contents are whatever its last user left.
    pub fn take(&self) -> Option<DmaBuf> {
        let Free { index, written } = self.0.free.borrow_mut().pop()?;
        let raw = self.0.memory.get(index)?;
        Some(DmaBuf { ptr: raw.ptr, maddr: raw.maddr, index, written, pool: self.clone() })
    }
    /// Buffers that are free now.
    pub fn available(&self) -> usize {
        self.0.free.borrow().len()
    }
    /// Buffers in all.
    pub fn capacity(&self) -> usize {
        self.0.memory.len()
    }
}

/// A buffer of [`PAGE_SIZE`] bytes in one machine page; goes back to its pool on drop.
pub struct DmaBuf {
    ptr: NonNull<u8>,
    maddr: Maddr,
    index: usize,
    /// Bytes at the start that hold something, as far as that was noted.
    written: usize,
    pool: DmaPool,
}

impl DmaBuf {
    /// Where a device finds it.
    pub fn maddr(&self) -> Maddr {
        self.maddr
    }
    /// The bytes.
    pub fn bytes(&self) -> &[u8; PAGE_SIZE] {
        // SAFETY: 1. `ptr` starts a page of the pool's memory, valid for reads, which the pool keeps for as
        // long as `self` lives. 2. The index was taken off the free list, so nobody else has the page; a
        // device writes it only while its driver keeps `self` unread.
        unsafe { &*self.ptr.as_ptr().cast::<[u8; PAGE_SIZE]>() }
    }
    /// The bytes, for writing.
    pub fn bytes_mut(&mut self) -> &mut [u8; PAGE_SIZE] {
        // SAFETY: as in `bytes`, and `&mut self` excludes every other view.
        unsafe { &mut *self.ptr.as_ptr().cast::<[u8; PAGE_SIZE]>() }
    }
    /// Notes that a device has written, or may have written, the first `len` bytes. The note stays with the buffer when
    /// it goes back to its pool.
    pub fn note_written(&mut self, len: usize) {
        self.written = self.written.max(len);
    }
    /// Zeroes what was noted to be written. A buffer of a pool in which everything written is noted is zeros after it.
    pub fn clear_written(&mut self) {
        let written = core::mem::take(&mut self.written).min(PAGE_SIZE);
        if let Some(bytes) = self.bytes_mut().get_mut(..written) {
            bytes.fill(0);
        }
    }
}

impl Drop for DmaBuf {
    fn drop(&mut self) {
        self.pool.0.free.borrow_mut().push(Free { index: self.index, written: self.written });
    }
}

impl fmt::Debug for DmaBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DmaBuf({:#x})", self.maddr.into_raw())
    }
}

/// Allocates DMA memory, at start-up only.
pub trait Dma {
    /// Zeroed descriptor memory of `pages` pages, machine contiguous.
    fn dma_ring(&self, pages: usize) -> Result<DmaRing, DmaError>;
    /// A pool of `buffers` buffers.
    fn dma_pool(&self, buffers: usize) -> Result<DmaPool, DmaError>;
}
