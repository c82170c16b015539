//! A page of guest memory.

use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};

/// A page that several domains may see. Cloning gives another handle to the same page.
#[derive(Clone, Debug)]
pub struct Page(Rc<[AtomicU32]>);

impl Default for Page {
    fn default() -> Self {
        Self::new()
    }
}

impl Page {
    /// A page of zeros.
    pub fn new() -> Self {
        Self((0..1024).map(|_| AtomicU32::new(0)).collect())
    }

    /// The page as words.
    pub fn words(&self) -> &[AtomicU32] {
        &self.0
    }

    /// The memory itself.
    pub(crate) fn memory(&self) -> Rc<[AtomicU32]> {
        self.0.clone()
    }

    /// Loads the word at index `word`.
    pub fn word(&self, word: usize) -> u32 {
        self.0[word].load(Ordering::SeqCst)
    }

    /// Stores the word at index `word`.
    pub fn set_word(&self, word: usize, value: u32) {
        self.0[word].store(value, Ordering::SeqCst);
    }

    /// Reads bytes.
    pub fn read(&self, offset: usize, to: &mut [u8]) {
        for (at, byte) in (offset..).zip(to) {
            *byte = self.word(at / 4).to_le_bytes()[at % 4];
        }
    }

    /// Writes bytes.
    pub fn write(&self, offset: usize, from: &[u8]) {
        for (at, byte) in (offset..).zip(from) {
            let mut word = self.word(at / 4).to_le_bytes();
            word[at % 4] = *byte;
            self.set_word(at / 4, u32::from_le_bytes(word));
        }
    }
}
