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
