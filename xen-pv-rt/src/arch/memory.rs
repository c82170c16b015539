//! Pages: who has them, where they are mapped.
//!
//! One list of free pages serves everything; large runs are taken from the untouched end of memory. The
//! control plane's heap is one run, claimed at start. Windows are ranges of address space without memory
//! behind them, where foreign pages and device registers get mapped.

use alloc::vec::Vec;

use spin::mutex::SpinMutex;
use talc::{TalcLock, source::Manual};

use super::abi::{DOMID_SELF, PAGE_SHIFT, PAGE_SIZE, StartInfo, memory as memop, nr};
use super::hypercall::{self, Errno};
use super::paging::{self, PageTables};
use crate::hyp::MemoryUse;

/// Where windows start: far above any linear map.
const WINDOWS: u64 = 1 << 38;
/// Bytes that one lowest-level table covers.
const TABLE_SPAN: u64 = 512 * PAGE_SIZE;

unsafe extern "C" {
    static __text_start: u8;
    static __text_end: u8;
    static __rodata_end: u8;
    static __stack_guard: u8;
    static __image_end: u8;
}

fn address(symbol: *const u8) -> u64 {
    symbol.expose_provenance() as u64
}

#[global_allocator]
static HEAP: TalcLock<SpinMutex<()>, Manual> = TalcLock::new(Manual);

static MEMORY: SpinMutex<Option<Memory>> = SpinMutex::new(None);

/// Everything that changes when pages are taken and mapped.
pub(super) struct Memory {
    pub(super) tables: PageTables,
    /// First pfn of the untouched end.
    next: u64,
    /// One past the last pfn that is mapped.
    mapped: u64,
    /// One past the last pfn.
    end: u64,
    /// Virtual address of the first free page; each holds the address of the next, 0 ends the list.
    free: u64,
    free_count: u64,
    /// Next unused window address.
    window: u64,
    /// Windows of one page that were given back.
    free_windows: Vec<u64>,
}

/// Runs `f` on the memory state.
pub(super) fn with<T>(f: impl FnOnce(&mut Memory) -> T) -> Option<T> {
    MEMORY.lock().as_mut().map(f)
}

/// Memory in total and in use.
pub fn memory_use() -> MemoryUse {
    let heap_bytes = HEAP.lock().counters().allocated_bytes as u64;
    with(|m| MemoryUse { total: m.end, used: m.end - m.free_count - (m.end - m.next), heap_bytes }).unwrap_or_default()
}

/// Maps all memory, protects the image, sets up the heap. Called once.
pub(super) fn init(info: &StartInfo) -> Result<(), &'static str> {
    let first = (info.pt_base >> PAGE_SHIFT) + info.nr_pt_frames;
    let tables = PageTables::new(info.pt_base, info.mfn_list, info.nr_pages);
    let mut memory = Memory {
        tables,
        next: first,
        mapped: first,
        end: info.nr_pages,
        free: 0,
        free_count: 0,
        window: WINDOWS,
        free_windows: Vec::new(),
    };
    let mapped = |m: &Memory, pfn: u64| m.tables.lookup(pfn << PAGE_SHIFT) != 0;
    while memory.mapped < memory.end && mapped(&memory, memory.mapped) {
        memory.mapped += 1;
    }
    memory.protect().map_err(|_| "cannot protect the image")?;
    memory.map_all().map_err(|_| "cannot map memory: too little of it?")?;
    // An eighth for the control plane, at least 1 MiB, at most 16 MiB.
    let heap = (memory.end / 8).clamp(256, 4096);
    let base = memory.take_run(heap).ok_or("too little memory for the heap: give the domain more with memory=")?;
    let base = core::ptr::with_exposed_provenance_mut::<u8>(base as usize);
    // SAFETY: the run is mapped, writable and nobody else's from here on.
    unsafe { HEAP.lock().claim(base, (heap * PAGE_SIZE) as usize) }.ok_or("heap too small")?;
    *MEMORY.lock() = Some(memory);
    Ok(())
}

impl Memory {
    /// Write xor execute for everything that is mapped, nothing below the image, a hole below the stack.
    fn protect(&mut self) -> Result<(), Errno> {
        let text = address(&raw const __text_start)..address(&raw const __text_end);
        let read_only = text.start..address(&raw const __rodata_end);
        let guard = address(&raw const __stack_guard);
        const WRITABLE: u64 = 2;
        const NO_EXECUTE: u64 = 1 << 63;
        self.tables.rewrite(0, self.mapped << PAGE_SHIFT, |va, old| {
            if va < text.start || va == guard {
                0
            } else if text.contains(&va) {
                old & !WRITABLE
            } else if read_only.contains(&va) {
                old & !WRITABLE | NO_EXECUTE
            } else {
                old | NO_EXECUTE
            }
        })
    }

    fn map_all(&mut self) -> Result<(), Errno> {
        while self.mapped < self.end {
            let va = self.mapped << PAGE_SHIFT & !(TABLE_SPAN - 1);
            // Taken from below `mapped`, so it is mapped already.
            let next = &mut self.next;
            let limit = self.mapped;
            self.tables.map_linear(va, || {
                let pfn = (*next < limit).then_some(*next)?;
                *next += 1;
                zero(pfn << PAGE_SHIFT);
                Some(pfn << PAGE_SHIFT)
            })?;
            self.mapped = ((va + TABLE_SPAN) >> PAGE_SHIFT).min(self.end);
        }
        Ok(())
    }

    /// Takes `pages` adjoining pages from the end of memory. Contents undefined.
    fn take_run(&mut self, pages: u64) -> Option<u64> {
        let end = self.next.checked_add(pages)?;
        if end > self.end {
            return None;
        }
        let va = self.next << PAGE_SHIFT;
        self.next = end;
        Some(va)
    }

    /// Takes a zeroed page and returns its virtual address.
    pub(super) fn take_page(&mut self) -> Option<u64> {
        let va = if self.free == 0 {
            self.take_run(1)?
        } else {
            let va = self.free;
            // SAFETY: a free page, mapped, holding the address of the next.
            self.free = unsafe { core::ptr::with_exposed_provenance::<u64>(va as usize).read() };
            self.free_count -= 1;
            va
        };
        zero(va);
        Some(va)
    }

    /// Gives a page back. Nothing may refer to it any more.
    pub(super) fn free_page(&mut self, va: u64) {
        // SAFETY: a mapped page that its owner has given up.
        unsafe { core::ptr::with_exposed_provenance_mut::<u64>(va as usize).write(self.free) }
        self.free = va;
        self.free_count += 1;
    }

    /// Takes `1 << order` zeroed pages that adjoin in machine memory, aligned to their size.
    pub(super) fn take_contiguous(&mut self, order: u32) -> Option<u64> {
        let pages = 1_u64 << order;
        let va = self.take_run(pages)?;
        if order > 0 && self.exchange(va, order).is_err() {
            // The exchange is undone by Xen when it fails; the pages themselves are still good.
            for page in (va..va + pages * PAGE_SIZE).step_by(PAGE_SIZE as usize) {
                self.free_page(page);
            }
            return None;
        }
        (0..pages).for_each(|page| zero(va + page * PAGE_SIZE));
        Some(va)
    }

    /// Trades the frames behind a run for contiguous ones. Xen: `XENMEM_exchange`.
    fn exchange(&mut self, va: u64, order: u32) -> Result<(), Errno> {
        let pfn = va >> PAGE_SHIFT;
        let pages = 1_u64 << order;
        let mut frames: Vec<u64> = (0..pages).map(|page| self.tables.mfn(pfn + page)).collect();
        for page in 0..pages {
            paging::set(va + page * PAGE_SIZE, 0)?;
        }
        let mut contiguous = pfn;
        let reservation = |extent_start, nr_extents, extent_order| memop::Reservation {
            extent_start,
            nr_extents,
            extent_order,
            mem_flags: 0,
            domid: DOMID_SELF,
        };
        let mut arg = memop::Exchange {
            input: reservation(frames.as_mut_ptr(), pages, 0),
            output: reservation(&raw mut contiguous, 1, order),
            nr_exchanged: 0,
        };
        // SAFETY: the frames are unmapped and nobody uses them; the arrays are as long as they say.
        let outcome = unsafe { hypercall::op(nr::MEMORY_OP, memop::EXCHANGE, &mut arg) };
        if outcome.is_ok() && arg.nr_exchanged == pages {
            for page in 0..pages {
                self.tables.set_mfn(pfn + page, contiguous + page);
            }
        }
        for page in 0..pages {
            paging::set(va + page * PAGE_SIZE, paging::entry(self.tables.mfn(pfn + page), paging::DATA))?;
        }
        if arg.nr_exchanged == pages { Ok(()) } else { Err(outcome.err().unwrap_or(Errno::NOMEM)) }
    }

    /// Takes a window of one page, with page tables ready for it.
    pub(super) fn take_window(&mut self) -> Result<u64, Errno> {
        if let Some(va) = self.free_windows.pop() {
            return Ok(va);
        }
        self.take_windows(1)
    }

    /// Takes a window of `pages` pages for good, with page tables ready for it.
    pub(super) fn take_windows(&mut self, pages: u64) -> Result<u64, Errno> {
        let va = self.window;
        let end = va + pages * PAGE_SIZE;
        let mut at = va & !(TABLE_SPAN - 1);
        while at < end {
            self.ensure_tables(at)?;
            at += TABLE_SPAN;
        }
        self.window = end;
        Ok(va)
    }

    fn ensure_tables(&mut self, va: u64) -> Result<(), Errno> {
        // At most three tables are missing; take them first, because the tables cannot be borrowed twice.
        let mut pages = [self.take_page(), self.take_page(), self.take_page()];
        let mut stock = pages.iter_mut();
        let outcome = self.tables.ensure_tables(va, || stock.next()?.take());
        pages.into_iter().flatten().for_each(|page| self.free_page(page));
        outcome
    }

    /// Gives a window of one page back. Nothing may be mapped there any more.
    pub(super) fn free_window(&mut self, va: u64) {
        self.free_windows.push(va);
    }

    /// The frame behind an address of the linear map.
    pub(super) fn mfn_at(&self, va: u64) -> u64 {
        self.tables.mfn(va >> PAGE_SHIFT)
    }
}

fn zero(va: u64) {
    // SAFETY: callers pass a page that is mapped writable and in nobody's use.
    unsafe { core::ptr::with_exposed_provenance_mut::<u8>(va as usize).write_bytes(0, PAGE_SIZE as usize) }
}
