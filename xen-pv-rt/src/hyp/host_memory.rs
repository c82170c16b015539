//! DMA memory on the host, for tests: machine addresses are invented, pages never adjoin by accident.
//!
//! A device model reads and writes by machine address through [`HostMemory`]; an address that is not
//! allocated (any more) is an error, where a real device behind an IOMMU would fault.

use alloc::alloc::{alloc_zeroed, dealloc};
use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::alloc::Layout;
use core::cell::RefCell;
use core::ptr::NonNull;
use core::sync::atomic::AtomicU32;

use super::{Dma, DmaError, DmaPool, DmaRing, Maddr, PAGE_SIZE, PageOwner, RawDma};

/// An access by a device model that no allocated page covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DmaFault(pub Maddr);

#[derive(Default)]
struct Inner {
    /// Start address to (memory, pages).
    regions: RefCell<BTreeMap<u64, (NonNull<u8>, usize)>>,
    /// Start addresses of regions that are lent, not allocated.
    lent: RefCell<Vec<u64>>,
    next: core::cell::Cell<u64>,
}

/// Memory of somebody else's that devices reach until this is dropped.
pub struct Lent {
    memory: HostMemory,
    maddr: Maddr,
    _words: Rc<[AtomicU32]>,
}

impl Lent {
    /// Where a device finds it.
    pub fn maddr(&self) -> Maddr {
        self.maddr
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.memory.0.regions.borrow_mut().remove(&self.maddr.into_raw());
        self.memory.0.lent.borrow_mut().retain(|start| *start != self.maddr.into_raw());
    }
}

/// Allocates DMA memory on the host and lets device models reach it.
#[derive(Clone, Default)]
pub struct HostMemory(Rc<Inner>);

fn layout(pages: usize) -> Option<Layout> {
    Layout::from_size_align(pages.checked_mul(PAGE_SIZE)?, PAGE_SIZE).ok()
}

impl PageOwner for Inner {
    fn release(&self, ptr: NonNull<u8>, maddr: Maddr, pages: usize) {
        self.regions.borrow_mut().remove(&maddr.into_raw());
        if let Some(layout) = layout(pages) {
            // SAFETY: `ptr` came from `alloc_zeroed` with this very layout and is released once.
            unsafe { dealloc(ptr.as_ptr(), layout) }
        }
    }
}

impl HostMemory {
    /// An empty memory.
    pub fn new() -> Self {
        Self::default()
    }

    /// Pages allocated now.
    pub fn pages_in_use(&self) -> usize {
        let lent = self.0.lent.borrow().len();
        self.0.regions.borrow().values().map(|(_, pages)| pages).sum::<usize>().saturating_sub(lent)
    }

    /// Lets devices reach one page of somebody else's.
    pub fn lend(&self, words: Rc<[AtomicU32]>) -> Lent {
        assert_eq!(words.len(), PAGE_SIZE / 4, "a page is lent as a whole");
        let maddr = self.fresh(PAGE_SIZE);
        // Atomic words may be written through a shared reference.
        let start = NonNull::from(&words[..]).cast::<u8>();
        self.0.regions.borrow_mut().insert(maddr, (start, 1));
        self.0.lent.borrow_mut().push(maddr);
        Lent { memory: self.clone(), maddr: Maddr::from_raw(maddr), _words: words }
    }

    /// An unused address: a gap after each region, and beyond 4 GiB, so that truncation and false adjacency show.
    fn fresh(&self, bytes: usize) -> u64 {
        let maddr = 0x1_0000_0000_u64.saturating_add(self.0.next.get());
        let step = u64::try_from(bytes.saturating_add(PAGE_SIZE)).unwrap_or(u64::MAX);
        self.0.next.set(self.0.next.get().saturating_add(step));
        maddr
    }

    fn allocate(&self, pages: usize) -> Result<RawDma, DmaError> {
        let layout = layout(pages.max(1)).ok_or(DmaError::OutOfMemory)?;
        // SAFETY: the layout is not empty.
        let ptr = NonNull::new(unsafe { alloc_zeroed(layout) }).ok_or(DmaError::OutOfMemory)?;
        let maddr = self.fresh(layout.size());
        self.0.regions.borrow_mut().insert(maddr, (ptr, pages.max(1)));
        // SAFETY: fresh, zeroed, page aligned, ours alone until released.
        Ok(unsafe { RawDma::from_raw(ptr, Maddr::from_raw(maddr), pages.max(1), self.0.clone()) })
    }

    fn find(&self, maddr: Maddr, len: usize) -> Result<NonNull<u8>, DmaFault> {
        let regions = self.0.regions.borrow();
        let fault = DmaFault(maddr);
        let (start, (ptr, pages)) = regions.range(..=maddr.into_raw()).next_back().ok_or(fault)?;
        let offset = usize::try_from(maddr.into_raw().saturating_sub(*start)).map_err(|_| fault)?;
        let end = offset.checked_add(len).ok_or(fault)?;
        if end > pages.saturating_mul(PAGE_SIZE) {
            return Err(fault);
        }
        // SAFETY: `offset` is within the region that `ptr` starts.
        Ok(unsafe { ptr.add(offset) })
    }

    /// Reads as a device would.
    pub fn read(&self, maddr: Maddr, to: &mut [u8]) -> Result<(), DmaFault> {
        let ptr = self.find(maddr, to.len())?;
        // SAFETY: `find` checked the range; device models run while no view of the memory is in use.
        unsafe { core::ptr::copy_nonoverlapping(ptr.as_ptr(), to.as_mut_ptr(), to.len()) }
        Ok(())
    }

    /// Writes as a device would.
    pub fn write(&self, maddr: Maddr, from: &[u8]) -> Result<(), DmaFault> {
        let ptr = self.find(maddr, from.len())?;
        // SAFETY: as in `read`.
        unsafe { core::ptr::copy_nonoverlapping(from.as_ptr(), ptr.as_ptr(), from.len()) }
        Ok(())
    }
}

impl Dma for HostMemory {
    fn dma_ring(&self, pages: usize) -> Result<DmaRing, DmaError> {
        self.allocate(pages).map(DmaRing::new)
    }
    fn dma_pool(&self, buffers: usize) -> Result<DmaPool, DmaError> {
        let pages = (0..buffers).map(|_| self.allocate(1)).collect::<Result<Vec<_>, _>>()?;
        Ok(DmaPool::new(pages))
    }
}
