//! The shared page: two byte rings and the connection's state, as words.
//!
//! The page is written by xenstored too, so every byte is loaded once, and indices are bounded before use.
//!
//! Xen: `struct xenstore_domain_interface` in `public/io/xs_wire.h`, `docs/misc/xenstore-ring.txt`.

use core::sync::atomic::{AtomicU32, Ordering};

use crate::bytes::ByteRing;
use crate::mem::SharedMem as _;

/// `XENSTORE_RING_SIZE`, in bytes.
pub const RING_BYTES: u32 = 1024;

const REQ: ByteRing = ByteRing { start: 0, len: RING_BYTES };
const RSP: ByteRing = ByteRing { start: RING_BYTES, len: RING_BYTES };
const REQ_CONS: usize = 512;
const REQ_PROD: usize = 513;
const RSP_CONS: usize = 514;
const RSP_PROD: usize = 515;
const SERVER_FEATURES: usize = 516;
const CONNECTION: usize = 517;
const ERROR: usize = 518;

/// `XENSTORE_SERVER_FEATURE_RECONNECTION`.
const FEATURE_RECONNECTION: u32 = 1;
/// `XENSTORE_SERVER_FEATURE_ERROR`.
const FEATURE_ERROR: u32 = 2;
/// `XENSTORE_RECONNECT`.
const RECONNECT: u32 = 1;

/// xenstored moved an index to where it cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadIndex;

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
    /// Where our indices stand: `(req_prod, rsp_cons)`. Only at the start of a connection; later our own
    /// copies count.
    pub fn own_indices(self) -> (u32, u32) {
        (self.0.load(REQ_PROD, Ordering::Relaxed), self.0.load(RSP_CONS, Ordering::Relaxed))
    }

    /// How many bytes the request ring takes when we have produced up to `req_prod`.
    ///
    /// # Errors
    /// [`BadIndex`] if xenstored claims to have read more than that.
    pub fn room(self, req_prod: u32) -> Result<u32, BadIndex> {
        // Acquire: xenstored has read the bytes before it says so (its xen_mb before `req_cons`).
        let used = req_prod.wrapping_sub(self.0.load(REQ_CONS, Ordering::Acquire));
        RING_BYTES.checked_sub(used).ok_or(BadIndex)
    }

    /// How many bytes wait in the response ring beyond `rsp_cons`.
    ///
    /// # Errors
    /// [`BadIndex`] if that is more than the ring holds.
    pub fn waiting(self, rsp_cons: u32) -> Result<u32, BadIndex> {
        // Acquire: the bytes are there when the index is (xen_rmb).
        let waiting = self.0.load(RSP_PROD, Ordering::Acquire).wrapping_sub(rsp_cons);
        if waiting <= RING_BYTES { Ok(waiting) } else { Err(BadIndex) }
    }

    /// xenstored's producer index, whatever it is.
    pub fn rsp_prod(self) -> u32 {
        self.0.load(RSP_PROD, Ordering::Acquire)
    }

    /// Publishes requests.
    pub fn set_req_prod(self, req_prod: u32) {
        // Release: bytes before index (xen_wmb).
        self.0.store(REQ_PROD, req_prod, Ordering::Release);
    }

    /// Gives response bytes back.
    pub fn set_rsp_cons(self, rsp_cons: u32) {
        // Release: our loads come before xenstored overwrites (xen_mb).
        self.0.store(RSP_CONS, rsp_cons, Ordering::Release);
    }

    /// Puts `bytes` at `at` in the request ring. The caller knows that there is room.
    pub fn put(self, at: u32, bytes: &[u8]) {
        REQ.put(&self.0, at, bytes);
    }

    /// Appends `count` bytes at `at` in the response ring to `to`.
    pub fn take(self, at: u32, count: u32, to: &mut impl Extend<u8>) {
        to.extend((0..count).map(|offset| RSP.byte(&self.0, at.wrapping_add(offset))));
    }

    /// Whether xenstored can reset the connection when asked.
    pub fn can_reconnect(self) -> bool {
        self.0.load(SERVER_FEATURES, Ordering::Relaxed) & FEATURE_RECONNECTION != 0
    }

    /// Why xenstored gave up on this connection, if it did and says so.
    pub fn server_error(self) -> Option<u32> {
        let says_so = self.0.load(SERVER_FEATURES, Ordering::Relaxed) & FEATURE_ERROR != 0;
        let error = self.0.load(ERROR, Ordering::Relaxed);
        (says_so && error != 0).then_some(error)
    }

    /// Whether a reset is under way; everything else on the page is void while it is.
    pub fn reconnecting(self) -> bool {
        self.0.load(CONNECTION, Ordering::Acquire) == RECONNECT
    }

    /// Asks for a reset.
    pub fn reconnect(self) {
        self.0.store(CONNECTION, RECONNECT, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::indexing_slicing, reason = "tests")]

    use super::*;
    use std::vec::Vec;

    fn page() -> Vec<AtomicU32> {
        (0..1024).map(|_| AtomicU32::new(0)).collect()
    }

    #[test]
    fn bytes_wrap_around_either_ring_and_leave_their_neighbours_alone() {
        let words = page();
        let page = Page::new(&words);
        words[255].store(0x1122_3344, Ordering::Relaxed);
        page.put(1022, b"abc");
        assert_eq!(words[255].load(Ordering::Relaxed).to_le_bytes(), [0x44, 0x33, b'a', b'b']);
        assert_eq!(words[0].load(Ordering::Relaxed).to_le_bytes(), [b'c', 0, 0, 0]);
        words[511].store(u32::from_le_bytes(*b"..xy"), Ordering::Relaxed);
        words[256].store(u32::from_le_bytes(*b"z..."), Ordering::Relaxed);
        let mut bytes = Vec::new();
        page.take(0xffff_fffe, 3, &mut bytes);
        assert_eq!(bytes, b"xyz");
    }

    #[test]
    fn an_index_where_it_cannot_be_is_an_error() {
        let words = page();
        let page = Page::new(&words);
        for (ours, theirs, free) in [(0, 0, Ok(1024)), (1024, 0, Ok(0)), (5, 0xffff_ffff, Ok(1018))] {
            words[REQ_CONS].store(theirs, Ordering::Relaxed);
            assert_eq!(page.room(ours), free);
        }
        for (ours, theirs) in [(0, 1), (1025, 0), (0, 0x8000_0000)] {
            words[REQ_CONS].store(theirs, Ordering::Relaxed);
            assert_eq!(page.room(ours), Err(BadIndex));
        }
        for (ours, theirs, expected) in
            [(0, 1024, Ok(1024)), (0, 1025, Err(BadIndex)), (1, 0, Err(BadIndex)), (0xffff_ffff, 4, Ok(5))]
        {
            words[RSP_PROD].store(theirs, Ordering::Relaxed);
            assert_eq!(page.waiting(ours), expected);
        }
    }
}
