//! Memory for what does not fit into a command: PRP lists, SGL segments, ranges to deallocate, command tables.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use xen_pv_rt::hyp::{Dma, DmaRing, Maddr, PAGE_SIZE};

use super::Failure;

/// 64-bit words of a page.
pub(crate) const PAGE_WORDS: usize = PAGE_SIZE / size_of::<u64>();

/// Lists of `words` words in a page.
fn per_page(words: usize) -> usize {
    PAGE_WORDS.checked_div(words).unwrap_or(1).max(1)
}

/// A list in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ListId(u16);

/// A fixed number of lists, none of which crosses a page.
pub(crate) struct Lists {
    pages: Rc<Vec<DmaRing>>,
    /// 64-bit words of each.
    words: usize,
    free: Vec<ListId>,
}

impl Lists {
    /// `count` lists of `words` 64-bit words each, at most [`PAGE_WORDS`].
    pub(crate) fn new(dma: &impl Dma, count: u16, words: usize) -> Result<Self, Failure> {
        let pages = usize::from(count).div_ceil(per_page(words));
        let made: Result<Vec<_>, _> = (0..pages).map(|_| dma.dma_ring(1)).collect();
        let free = (0..count).map(ListId).collect();
        Ok(Self { pages: Rc::new(made.map_err(|_| Failure::NoMemory)?), words, free })
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

    /// Its page, and its first word there.
    fn place(&self, list: ListId) -> Option<(&DmaRing, usize)> {
        let (index, per_page) = (usize::from(list.0), per_page(self.words));
        let first = index.checked_rem(per_page)?.saturating_mul(self.words);
        Some((self.pages.get(index.checked_div(per_page)?)?, first))
    }

    /// Where the controller finds it.
    pub(crate) fn maddr(&self, list: ListId) -> Maddr {
        self.place(list).map_or(Maddr::from_raw(0), |(page, first)| {
            let offset = u64::try_from(first.saturating_mul(size_of::<u64>())).unwrap_or(0);
            page.maddr().wrapping_add(offset)
        })
    }

    fn words(&self, list: ListId) -> &[AtomicU64] {
        let Some((page, first)) = self.place(list) else { return &[] };
        page.dwords().get(first..first.saturating_add(self.words)).unwrap_or(&[])
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
