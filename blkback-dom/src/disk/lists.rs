//! Memory for what does not fit into a command: PRP lists, SGL segments, ranges to deallocate.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use xen_pv_rt::hyp::{Dma, DmaRing, Maddr, PAGE_SIZE};

use super::Failure;

/// 64-bit words of a list: 256 page entries, or 128 segments or ranges.
pub(crate) const LIST_WORDS: usize = 256;
/// Bytes of a list. A list never crosses a page.
const LIST_BYTES: usize = LIST_WORDS * size_of::<u64>();
const PER_PAGE: usize = PAGE_SIZE / LIST_BYTES;

/// A list in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ListId(u16);

/// A fixed number of lists.
pub(crate) struct Lists {
    pages: Rc<Vec<DmaRing>>,
    free: Vec<ListId>,
}

impl Lists {
    pub(crate) fn new(dma: &impl Dma, count: u16) -> Result<Self, Failure> {
        let pages = usize::from(count).div_ceil(PER_PAGE);
        let made: Result<Vec<_>, _> = (0..pages).map(|_| dma.dma_ring(1)).collect();
        let free = (0..count).map(ListId).collect();
        Ok(Self { pages: Rc::new(made.map_err(|_| Failure::NoMemory)?), free })
    }

    pub(crate) fn free(&self) -> usize {
        self.free.len()
    }
    pub(crate) fn take(&mut self) -> Option<ListId> {
        self.free.pop()
    }
    /// `list` was taken, and the controller is done with it.
    pub(crate) fn give_back(&mut self, list: ListId) {
        self.free.push(list);
    }

    fn place(&self, list: ListId) -> Option<(&DmaRing, usize)> {
        let index = usize::from(list.0);
        Some((self.pages.get(index / PER_PAGE)?, index % PER_PAGE))
    }

    /// Where the controller finds it.
    pub(crate) fn maddr(&self, list: ListId) -> Maddr {
        self.place(list).map_or(Maddr::from_raw(0), |(page, index)| {
            let offset = u64::try_from(index.saturating_mul(LIST_BYTES)).unwrap_or(0);
            page.maddr().wrapping_add(offset)
        })
    }

    fn words(&self, list: ListId) -> &[AtomicU64] {
        let Some((page, index)) = self.place(list) else { return &[] };
        let start = index.saturating_mul(LIST_WORDS);
        page.dwords().get(start..start.saturating_add(LIST_WORDS)).unwrap_or(&[])
    }

    /// Writes its first words; those beyond its end are lost.
    pub(crate) fn fill(&self, list: ListId, values: impl Iterator<Item = u64>) {
        for (word, value) in self.words(list).iter().zip(values) {
            word.store(value, Ordering::Relaxed);
        }
    }

    /// Writes one word.
    pub(crate) fn store(&self, list: ListId, index: usize, value: u64) {
        if let Some(word) = self.words(list).get(index) {
            word.store(value, Ordering::Relaxed);
        }
    }
    /// Reads one word, which a device may have written before it reported so.
    pub(crate) fn load(&self, list: ListId, index: usize) -> u64 {
        self.words(list).get(index).map_or(0, |word| word.load(Ordering::Acquire))
    }

    /// Keeps the memory allocated for ever: the controller may still use it.
    pub(crate) fn leak(&self) {
        core::mem::forget(self.pages.clone());
    }
}
