//! Page tables: all memory mapped once, write xor execute, and windows for foreign pages and registers.
//!
//! A PV guest's page tables are read-only to itself; every change is a hypercall. Memory is mapped
//! linearly: the virtual address of pfn `n` is `n * 4096`. Windows lie far above it.
//!
//! Xen: `MMU_UPDATE`, `UPDATE_VA_MAPPING` in `public/xen.h`.

use core::arch::asm;

use x86_64::structures::paging::PageTableFlags as Flags;

use super::abi::{DOMID_SELF, MACH2PHYS, MmuUpdate, PAGE_SHIFT, PAGE_SIZE, UVMF_INVLPG, nr};
use super::hypercall::{self, Errno};

/// Bits of an entry that hold the frame's address.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// Plain data: readable, writable, not executable.
pub(super) const DATA: Flags = Flags::PRESENT
    .union(Flags::WRITABLE)
    .union(Flags::USER_ACCESSIBLE)
    .union(Flags::ACCESSED)
    .union(Flags::DIRTY)
    .union(Flags::NO_EXECUTE);
/// A page table as its owner sees it.
const TABLE: Flags = Flags::PRESENT.union(Flags::USER_ACCESSIBLE).union(Flags::ACCESSED).union(Flags::NO_EXECUTE);
/// An entry that points to a lower table.
const LINK: Flags = Flags::PRESENT.union(Flags::WRITABLE).union(Flags::USER_ACCESSIBLE).union(Flags::ACCESSED);
/// Device registers: strongly uncached.
pub(super) const REGISTERS: Flags = DATA.union(Flags::NO_CACHE).union(Flags::WRITE_THROUGH);

/// An entry of `mfn` with `flags`.
pub(super) fn entry(mfn: u64, flags: Flags) -> u64 {
    mfn << PAGE_SHIFT | flags.bits()
}

/// The domain's page tables and frame tables.
pub(super) struct PageTables {
    /// Virtual address of the top-level table.
    root: u64,
    /// Virtual address of the mfn of each pfn.
    p2m: u64,
    /// Number of pfns.
    pages: u64,
}

impl PageTables {
    /// Describes the tables that the domain builder made.
    pub(super) const fn new(root: u64, p2m: u64, pages: u64) -> Self {
        Self { root, p2m, pages }
    }

    /// The frame behind a pfn. Zero, which is never ours, for a pfn we do not have.
    pub(super) fn mfn(&self, pfn: u64) -> u64 {
        if pfn >= self.pages {
            return 0;
        }
        // SAFETY: the table has one entry per pfn and stays mapped.
        unsafe { core::ptr::with_exposed_provenance::<u64>((self.p2m + pfn * 8) as usize).read() }
    }

    /// Records that `pfn` is now backed by `mfn`.
    pub(super) fn set_mfn(&mut self, pfn: u64, mfn: u64) {
        assert!(pfn < self.pages);
        // SAFETY: as in `mfn`; `&mut self` makes this the only access.
        unsafe { core::ptr::with_exposed_provenance_mut::<u64>((self.p2m + pfn * 8) as usize).write(mfn) }
    }

    /// Machine address of the entry for `va` in the table of `level` (4 is the top), if all tables above exist.
    fn entry_maddr(&self, va: u64, level: u32) -> Option<u64> {
        let mut table = self.root;
        for above in (level..=4).rev() {
            let index = va >> (PAGE_SHIFT + 9 * (above - 1)) & 511;
            if above == level {
                return Some((self.mfn(table >> PAGE_SHIFT) << PAGE_SHIFT) + index * 8);
            }
            // SAFETY: `table` is a page table of ours, mapped for reading in the linear map.
            let entry =
                unsafe { core::ptr::with_exposed_provenance::<u64>((table + index * 8) as usize).read_volatile() };
            if entry & 1 == 0 {
                return None;
            }
            table = pfn_of((entry & ADDRESS) >> PAGE_SHIFT) << PAGE_SHIFT;
        }
        None
    }

    /// The lowest-level entry for `va`; zero if there is no table for it.
    pub(super) fn lookup(&self, va: u64) -> u64 {
        let Some(maddr) = self.entry_maddr(va, 1) else { return 0 };
        let table = pfn_of(maddr >> PAGE_SHIFT) << PAGE_SHIFT;
        // SAFETY: a page table of ours, mapped for reading in the linear map.
        unsafe { core::ptr::with_exposed_provenance::<u64>((table + (maddr & 0xfff)) as usize).read_volatile() }
    }

    /// Makes sure that a lowest-level table exists for `va`; `page` provides zeroed pages as virtual addresses.
    pub(super) fn ensure_tables(&mut self, va: u64, mut page: impl FnMut() -> Option<u64>) -> Result<(), Errno> {
        for level in [4, 3, 2] {
            let below = level - 1;
            if self.entry_maddr(va, below).is_none() {
                let new = page().ok_or(Errno::NOMEM)?;
                self.link(va, level, new)?;
            }
        }
        Ok(())
    }

    /// Turns the page at `table` into the table below the entry for `va` in the table of `level`.
    fn link(&mut self, va: u64, level: u32, table: u64) -> Result<(), Errno> {
        let mfn = self.mfn(table >> PAGE_SHIFT);
        // A page table must not be mapped writable anywhere.
        set(table, entry(mfn, TABLE))?;
        let ptr = self.entry_maddr(va, level).ok_or(Errno::INVAL)?;
        update(&mut [MmuUpdate { ptr, val: entry(mfn, LINK) }])
    }

    /// Maps the pfns of the 2 MiB that start at `va` linearly, through a fresh table if there is none.
    pub(super) fn map_linear(&mut self, va: u64, page: impl FnOnce() -> Option<u64>) -> Result<(), Errno> {
        if self.entry_maddr(va, 1).is_none() {
            let table = page().ok_or(Errno::NOMEM)?;
            for index in 0..512 {
                let pfn = (va >> PAGE_SHIFT) + index;
                if pfn < self.pages {
                    // SAFETY: `table` is a fresh page of ours, mapped and writable until it is linked.
                    unsafe {
                        core::ptr::with_exposed_provenance_mut::<u64>((table + index * 8) as usize)
                            .write(entry(self.mfn(pfn), DATA));
                    }
                }
            }
            return self.link(va, 2, table);
        }
        for at in (va..va + 512 * PAGE_SIZE).step_by(PAGE_SIZE as usize) {
            let pfn = at >> PAGE_SHIFT;
            if pfn < self.pages && self.lookup(at) == 0 {
                set(at, entry(self.mfn(pfn), DATA))?;
            }
        }
        Ok(())
    }

    /// Rewrites the flags of every page in `[start, end)`: `change` gets address and entry and returns the new entry.
    pub(super) fn rewrite(&mut self, start: u64, end: u64, change: impl Fn(u64, u64) -> u64) -> Result<(), Errno> {
        let mut batch = [MmuUpdate { ptr: 0, val: 0 }; 64];
        let mut used = 0;
        for va in (start..end).step_by(PAGE_SIZE as usize) {
            let old = self.lookup(va);
            let new = change(va, old);
            if old == 0 || old == new {
                continue;
            }
            batch[used] = MmuUpdate { ptr: self.entry_maddr(va, 1).ok_or(Errno::INVAL)?, val: new };
            used += 1;
            if used == batch.len() {
                update(&mut batch)?;
                used = 0;
            }
        }
        if used > 0 {
            update(&mut batch[..used])?;
        }
        flush();
        Ok(())
    }
}

/// The pfn of one of our frames.
pub(super) fn pfn_of(mfn: u64) -> u64 {
    // SAFETY: Xen maps the table for reading in every PV guest, with an entry for each frame of the machine.
    unsafe { core::ptr::with_exposed_provenance::<u64>((MACH2PHYS + mfn * 8) as usize).read_volatile() }
}

/// Sets the lowest-level entry for `va` and flushes it.
pub(super) fn set(va: u64, entry: u64) -> Result<(), Errno> {
    // SAFETY: callers change pages that no Rust object occupies, or take away write access before handing a
    // page to Xen as a page table.
    unsafe { hypercall::call(nr::UPDATE_VA_MAPPING, va as usize, entry as usize, UVMF_INVLPG, 0) }.map(drop)
}

fn update(batch: &mut [MmuUpdate]) -> Result<(), Errno> {
    let ptr = batch.as_mut_ptr().expose_provenance();
    // SAFETY: as in `set`; `batch` is an array of updates, no count is asked back.
    unsafe { hypercall::call(nr::MMU_UPDATE, ptr, batch.len(), 0, usize::from(DOMID_SELF)) }.map(drop)
}

/// Flushes this CPU's translations by reloading cr3, which Xen emulates.
fn flush() {
    // SAFETY: writes back what was read.
    unsafe { asm!("mov {0}, cr3", "mov cr3, {0}", out(reg) _) }
}
