//! A ring of bytes in shared words, as the console and xenstore have them on their pages.
//!
//! Only the bytes: where the indices are, and what they may be, is the page's business.

use core::sync::atomic::Ordering;

use crate::mem::SharedMem;

/// Where a ring of bytes lies.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ByteRing {
    /// Its first byte.
    pub(crate) start: u32,
    /// Its length in bytes, a power of two.
    pub(crate) len: u32,
}

impl ByteRing {
    /// Puts `bytes` at stream position `at`. The caller knows that there is room, and publishes them.
    pub(crate) fn put(self, words: &impl SharedMem, mut at: u32, bytes: &[u8]) {
        for byte in bytes {
            let (word, shift) = self.place(at);
            // Nobody else writes this ring, so load and store need not be one operation.
            let keep = words.load(word, Ordering::Relaxed) & !(0xff << shift);
            words.store(word, keep | (u32::from(*byte) << shift), Ordering::Relaxed);
            at = at.wrapping_add(1);
        }
    }

    /// The byte at stream position `at`.
    pub(crate) fn byte(self, words: &impl SharedMem, at: u32) -> u8 {
        let (word, shift) = self.place(at);
        let [byte, ..] = (words.load(word, Ordering::Relaxed) >> shift).to_le_bytes();
        byte
    }

    /// Word and bit shift of the byte at stream position `at`.
    fn place(self, at: u32) -> (usize, u32) {
        let byte = self.start.saturating_add(at & self.len.saturating_sub(1));
        // A word of one page, which fits any usize.
        (usize::try_from(byte >> 2).unwrap_or(0), (byte & 3) << 3)
    }
}
