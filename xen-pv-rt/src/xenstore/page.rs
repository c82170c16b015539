//! The shared page: two byte rings and the connection's state, as words.
//!
//! The page is written by xenstored too, so every byte is loaded once, and indices are bounded before use.
//!
//! Xen: `struct xenstore_domain_interface` in `public/io/xs_wire.h`, `docs/misc/xenstore-ring.txt`.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering};

/// `XENSTORE_RING_SIZE`, in bytes.
pub(super) const RING_BYTES: u32 = 1024;

const REQ: u32 = 0;
const RSP: u32 = RING_BYTES;
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
pub(super) struct BadIndex;

/// The interface page.
#[derive(Clone, Copy)]
pub(super) struct Page<'p>(pub(super) &'p [AtomicU32]);

impl Page<'_> {
    fn load(self, word: usize, order: Ordering) -> u32 {
        self.0.get(word).map_or(0, |word| word.load(order))
    }

    fn store(self, word: usize, value: u32, order: Ordering) {
        if let Some(word) = self.0.get(word) {
            word.store(value, order);
        }
    }

    /// Where our indices stand: `(req_prod, rsp_cons)`. Only at the start of a connection; later our own
    /// copies count.
    pub(super) fn own_indices(self) -> (u32, u32) {
        (self.load(REQ_PROD, Ordering::Relaxed), self.load(RSP_CONS, Ordering::Relaxed))
    }

    /// How many bytes the request ring takes when we have produced up to `req_prod`.
    pub(super) fn room(self, req_prod: u32) -> Result<u32, BadIndex> {
        // Acquire: xenstored has read the bytes before it says so (its xen_mb before `req_cons`).
        let used = req_prod.wrapping_sub(self.load(REQ_CONS, Ordering::Acquire));
        RING_BYTES.checked_sub(used).ok_or(BadIndex)
    }

    /// How many bytes wait in the response ring beyond `rsp_cons`.
    pub(super) fn waiting(self, rsp_cons: u32) -> Result<u32, BadIndex> {
        // Acquire: the bytes are there when the index is (xen_rmb).
        let waiting = self.load(RSP_PROD, Ordering::Acquire).wrapping_sub(rsp_cons);
        if waiting <= RING_BYTES { Ok(waiting) } else { Err(BadIndex) }
    }

    /// xenstored's producer index, whatever it is.
    pub(super) fn rsp_prod(self) -> u32 {
        self.load(RSP_PROD, Ordering::Acquire)
    }

    /// Publishes requests.
    pub(super) fn set_req_prod(self, req_prod: u32) {
        // Release: bytes before index (xen_wmb).
        self.store(REQ_PROD, req_prod, Ordering::Release);
    }

    /// Gives response bytes back.
    pub(super) fn set_rsp_cons(self, rsp_cons: u32) {
        // Release: our loads come before xenstored overwrites (xen_mb).
        self.store(RSP_CONS, rsp_cons, Ordering::Release);
    }

    /// Puts `bytes` at `at` in the request ring. The caller knows that there is room.
    pub(super) fn put(self, mut at: u32, bytes: &[u8]) {
        for byte in bytes {
            let (word, shift) = place(REQ, at);
            // Nobody else writes this half of the page, so load and store need not be one operation.
            let keep = self.load(word, Ordering::Relaxed) & !(0xff << shift);
            self.store(word, keep | (u32::from(*byte) << shift), Ordering::Relaxed);
            at = at.wrapping_add(1);
        }
    }

    /// Appends `count` bytes at `at` in the response ring to `to`.
    pub(super) fn take(self, at: u32, count: u32, to: &mut Vec<u8>) {
        for offset in 0..count {
            let (word, shift) = place(RSP, at.wrapping_add(offset));
            let [byte, ..] = (self.load(word, Ordering::Relaxed) >> shift).to_le_bytes();
            to.push(byte);
        }
    }

    /// Whether xenstored can reset the connection when asked.
    pub(super) fn can_reconnect(self) -> bool {
        self.load(SERVER_FEATURES, Ordering::Relaxed) & FEATURE_RECONNECTION != 0
    }

    /// Why xenstored gave up on this connection, if it did and says so.
    pub(super) fn server_error(self) -> Option<u32> {
        let says_so = self.load(SERVER_FEATURES, Ordering::Relaxed) & FEATURE_ERROR != 0;
        let error = self.load(ERROR, Ordering::Relaxed);
        (says_so && error != 0).then_some(error)
    }

    /// Whether a reset is under way; everything else on the page is void while it is.
    pub(super) fn reconnecting(self) -> bool {
        self.load(CONNECTION, Ordering::Acquire) == RECONNECT
    }

    /// Asks for a reset.
    pub(super) fn reconnect(self) {
        self.store(CONNECTION, RECONNECT, Ordering::SeqCst);
    }
}

/// Word and bit shift of the byte at stream position `at` in the ring that starts at byte `ring`.
fn place(ring: u32, at: u32) -> (usize, u32) {
    let byte = ring | (at & (RING_BYTES - 1));
    // At most 511, which fits any usize.
    (usize::try_from(byte >> 2).unwrap_or(0), (byte & 3) << 3)
}
