//! What a device needs: DMA memory and register windows.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::fmt;
use core::ptr::NonNull;
use core::sync::atomic::{Ordering, compiler_fence};

use crate::hyp::{Dma, DmaError, DmaPool, DmaRing, Maddr, Mmio, MmioError, MmioSpace, PageOwner, RawDma};

use super::abi::{PAGE_SHIFT, PAGE_SIZE};
use super::memory::{self, Memory};
use super::{Xen, paging};

struct Owner;

impl PageOwner for Owner {
    fn release(&self, ptr: NonNull<u8>, _: Maddr, pages: usize) {
        let va = ptr.as_ptr().expose_provenance() as u64;
        memory::with(|m| (0..pages as u64).for_each(|page| m.free_page(va + page * PAGE_SIZE)));
    }
}

fn allocate(owner: &Rc<dyn PageOwner>, order: u32) -> Result<RawDma, DmaError> {
    let error = if order == 0 { DmaError::OutOfMemory } else { DmaError::NotContiguous };
    let take = |m: &mut Memory| if order == 0 { m.take_page() } else { m.take_contiguous(order) };
    let (va, mfn) = memory::with(|m| take(m).map(|va| (va, m.mfn_at(va)))).flatten().ok_or(error)?;
    let ptr = NonNull::new(core::ptr::with_exposed_provenance_mut(va as usize)).ok_or(error)?;
    // SAFETY: fresh from the allocator: page aligned, mapped, zeroed, ours alone, contiguous from `mfn` on.
    Ok(unsafe { RawDma::from_raw(ptr, Maddr::from_raw(mfn << PAGE_SHIFT), 1 << order, owner.clone()) })
}

impl Dma for Xen {
    fn dma_ring(&self, pages: usize) -> Result<DmaRing, DmaError> {
        let owner: Rc<dyn PageOwner> = Rc::new(Owner);
        allocate(&owner, pages.max(1).next_power_of_two().ilog2()).map(DmaRing::new)
    }

    fn dma_pool(&self, buffers: usize) -> Result<DmaPool, DmaError> {
        let owner: Rc<dyn PageOwner> = Rc::new(Owner);
        (0..buffers).map(|_| allocate(&owner, 0)).collect::<Result<Vec<_>, _>>().map(DmaPool::new)
    }
}

/// A mapped register window.
pub struct Registers {
    base: u64,
    len: usize,
}

impl fmt::Debug for Registers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Registers({:#x}, {} bytes)", self.base, self.len)
    }
}

impl MmioSpace for Xen {
    type Region = Registers;

    fn map_mmio(&self, base: Maddr, len: usize) -> Result<Registers, MmioError> {
        let (base, pages) = (base.into_raw(), (len as u64).div_ceil(PAGE_SIZE));
        if pages == 0 || base % PAGE_SIZE != 0 || base.checked_add(pages * PAGE_SIZE).is_none() {
            return Err(MmioError::BadRange);
        }
        let va = memory::with(|m| m.take_windows(pages)).and_then(Result::ok).ok_or(MmioError::NoSpace)?;
        for page in 0..pages {
            let entry = paging::entry((base >> PAGE_SHIFT) + page, paging::REGISTERS);
            paging::set(va + page * PAGE_SIZE, entry).map_err(|_| MmioError::Denied)?;
        }
        Ok(Registers { base: va, len: pages as usize * PAGE_SIZE as usize })
    }
}

macro_rules! access {
    ($read:ident $write:ident $ty:ty) => {
        fn $read(&self, offset: usize) -> $ty {
            if offset.checked_add(size_of::<$ty>()).is_none_or(|end| end > self.len) || offset % size_of::<$ty>() != 0 {
                return <$ty>::MAX;
            }
            let va = self.base as usize + offset;
            // SAFETY: within the window, which stays mapped; aligned; volatile because a device answers.
            let value = unsafe { core::ptr::with_exposed_provenance::<$ty>(va).read_volatile() };
            compiler_fence(Ordering::Acquire);
            value
        }
        fn $write(&self, offset: usize, value: $ty) {
            if offset.checked_add(size_of::<$ty>()).is_none_or(|end| end > self.len) || offset % size_of::<$ty>() != 0 {
                return;
            }
            // x86 keeps stores in order, uncached ones too; only the compiler has to be told.
            compiler_fence(Ordering::Release);
            let va = self.base as usize + offset;
            // SAFETY: as for reads. What a device then does with DMA memory is bounded by what it was given.
            unsafe { core::ptr::with_exposed_provenance_mut::<$ty>(va).write_volatile(value) }
        }
    };
}

impl Mmio for Registers {
    fn len(&self) -> usize {
        self.len
    }
    access!(read8 write8 u8);
    access!(read16 write16 u16);
    access!(read32 write32 u32);
    access!(read64 write64 u64);
}
