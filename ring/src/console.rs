//! The console ring: bytes for xenconsoled, which keeps them or shows them to a person.
//!
//! Only output is used: a driver domain takes no orders from a keyboard, so what is typed stays in the input ring.
//!
//! Xen: `struct xencons_interface` in `public/io/console.h`.

use core::sync::atomic::{AtomicU32, Ordering};

use crate::bytes::ByteRing;
use crate::mem::SharedMem as _;

/// Length of the output ring in bytes (`out`).
pub const OUT_BYTES: u32 = 2048;

/// `out`; `in` with its 1024 bytes comes before it.
const OUT: ByteRing = ByteRing { start: 1024, len: OUT_BYTES };
const OUT_CONS: usize = 770;
const OUT_PROD: usize = 771;

/// The interface page.
#[derive(Clone, Copy, Debug)]
pub struct Page<'p>(&'p [AtomicU32]);

impl<'p> Page<'p> {
    /// The interface in 1024 words of memory.
    pub const fn new(words: &'p [AtomicU32]) -> Self {
        Self(words)
    }
}

impl Page<'_> {
    /// How many bytes the output ring takes. None while the reader's index is where it cannot be.
    pub fn room(self) -> u32 {
        // Acquire: the reader has read the bytes before it says so.
        let cons = self.0.load(OUT_CONS, Ordering::Acquire);
        OUT_BYTES.saturating_sub(self.0.load(OUT_PROD, Ordering::Relaxed).wrapping_sub(cons))
    }

    /// Appends as many of `bytes` as fit, publishes them, and returns how many that were. The caller notifies.
    pub fn push(self, bytes: &[u8]) -> usize {
        let room = usize::try_from(self.room()).unwrap_or(0);
        let fitting = bytes.get(..room).unwrap_or(bytes);
        let prod = self.0.load(OUT_PROD, Ordering::Relaxed);
        OUT.put(&self.0, prod, fitting);
        // At most `room`, which is a u32.
        let prod = prod.wrapping_add(u32::try_from(fitting.len()).unwrap_or(0));
        // Release: bytes before index.
        self.0.store(OUT_PROD, prod, Ordering::Release);
        fitting.len()
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::indexing_slicing, reason = "tests")]

    use super::*;
    use std::vec::Vec;

    /// The page as `console.h` lays it out, by byte offset.
    struct Reader(Vec<AtomicU32>);

    impl Reader {
        fn new(cons: u32, prod: u32) -> Self {
            let words: Vec<_> = (0..1024).map(|_| AtomicU32::new(0)).collect();
            // in_cons 0xc00, in_prod 0xc04, out_cons 0xc08, out_prod 0xc0c.
            words[0xc08 / 4].store(cons, Ordering::Relaxed);
            words[0xc0c / 4].store(prod, Ordering::Relaxed);
            Self(words)
        }

        /// What xenconsoled would read next.
        fn read(&self) -> Vec<u8> {
            let prod = self.0[0xc0c / 4].load(Ordering::Acquire);
            let cons = self.0[0xc08 / 4].swap(prod, Ordering::Release);
            let byte = |at: u32| {
                let offset = usize::try_from((at & 2047).wrapping_add(0x400)).unwrap_or(0);
                self.0[offset / 4].load(Ordering::Relaxed).to_le_bytes()[offset % 4]
            };
            (0..prod.wrapping_sub(cons)).map(|offset| byte(cons.wrapping_add(offset))).collect()
        }
    }

    #[test]
    fn bytes_arrive_in_order_across_the_end_of_the_ring() {
        for start in [0, 2046, 0xffff_fffd] {
            let reader = Reader::new(start, start);
            let page = Page::new(&reader.0);
            assert_eq!(page.push(b"hello, "), 7);
            assert_eq!(page.push(b"world"), 5);
            assert_eq!(reader.read(), b"hello, world");
        }
    }

    #[test]
    fn what_does_not_fit_is_left_to_the_caller() {
        let reader = Reader::new(5, 5);
        let page = Page::new(&reader.0);
        assert_eq!(page.push(&[b'a'; 2000]), 2000);
        assert_eq!(page.room(), 48);
        assert_eq!(page.push(&[b'b'; 100]), 48);
        assert_eq!((page.push(b"c"), page.room()), (0, 0));
        let seen = reader.read();
        assert_eq!((seen.len(), seen[1999], seen[2000], seen[2047]), (2048, b'a', b'b', b'b'));
        assert_eq!(page.push(b"c"), 1);
    }

    #[test]
    fn a_reader_that_is_ahead_of_us_leaves_no_room() {
        for cons in [1, 0x8000_0000, 0xffff_f000] {
            let reader = Reader::new(cons, 0);
            let page = Page::new(&reader.0);
            assert_eq!((page.room(), page.push(b"lost")), (0, 0), "{cons:#x}");
            assert!(reader.0[0x400 / 4..0xc00 / 4].iter().all(|word| word.load(Ordering::Relaxed) == 0));
        }
    }

    #[test]
    fn the_input_ring_is_left_alone() {
        let reader = Reader::new(0, 0);
        let page = Page::new(&reader.0);
        assert_eq!(page.push(&[0xff; 4096]), 2048);
        let untouched =
            reader.0[..0x400 / 4].iter().chain(&reader.0[0xc00 / 4..0xc08 / 4]).chain(&reader.0[0xc10 / 4..]);
        assert!(untouched.into_iter().all(|word| word.load(Ordering::Relaxed) == 0));
    }
}
