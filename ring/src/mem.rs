//! Shared memory, as far as a ring is concerned: words that go in and out by value.
//!
//! No reference into the shared page exists outside of an atomic access, so nothing can be fetched twice by
//! accident.

use core::ops::Deref;
use core::sync::atomic::{AtomicU32, Ordering};

/// Words that another domain reads and writes at any time.
///
/// Out-of-range words read as zero and swallow writes: indices are computed from ring sizes that were checked
/// when the ring was attached, so that cannot happen, and must not panic if it does.
pub trait SharedMem {
    /// Loads a word.
    fn load(&self, word: usize, order: Ordering) -> u32;
    /// Stores a word.
    fn store(&self, word: usize, value: u32, order: Ordering);
    /// Number of words.
    fn words(&self) -> usize;
    /// A full barrier, `xen_mb()`: earlier stores become visible before later loads are done.
    fn full_fence(&self);
}

impl<P: Deref<Target = [AtomicU32]>> SharedMem for P {
    fn load(&self, word: usize, order: Ordering) -> u32 {
        self.get(word).map_or(0, |atomic| atomic.load(order))
    }
    fn store(&self, word: usize, value: u32, order: Ordering) {
        if let Some(atomic) = self.get(word) {
            atomic.store(value, order);
        }
    }
    fn words(&self) -> usize {
        self.len()
    }
    fn full_fence(&self) {
        core::sync::atomic::fence(Ordering::SeqCst);
    }
}

/// Words in a page.
const PAGE_WORDS: usize = 1024;

/// Several pages that form one ring, first to last. `S` is any owner of a slice of pages.
#[derive(Debug)]
pub struct Pages<S>(S);

impl<S> Pages<S> {
    /// Joins pages of 1024 words each.
    pub const fn new(pages: S) -> Self {
        Self(pages)
    }
    /// Gives the pages back.
    pub fn into_inner(self) -> S {
        self.0
    }
}

impl<S, P> SharedMem for Pages<S>
where
    S: Deref<Target = [P]>,
    P: Deref<Target = [AtomicU32]>,
{
    fn load(&self, word: usize, order: Ordering) -> u32 {
        let page = self.0.get(word / PAGE_WORDS);
        page.and_then(|page| page.get(word % PAGE_WORDS)).map_or(0, |atomic| atomic.load(order))
    }
    fn store(&self, word: usize, value: u32, order: Ordering) {
        let page = self.0.get(word / PAGE_WORDS);
        if let Some(atomic) = page.and_then(|page| page.get(word % PAGE_WORDS)) {
            atomic.store(value, order);
        }
    }
    fn words(&self) -> usize {
        self.0.len().saturating_mul(PAGE_WORDS)
    }
    fn full_fence(&self) {
        core::sync::atomic::fence(Ordering::SeqCst);
    }
}
