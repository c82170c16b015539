//! From requests to bytes in the request ring.

use alloc::vec::Vec;

use ring::xenstore::{BadIndex, Page, RING_BYTES};

/// The writing side of the connection: at most one request that is partly sent.
///
/// A request that fits the ring is published as a whole, so a successor of this domain that starts with
/// the page as it stands does not cut one in half.
#[derive(Default)]
pub(super) struct Outgoing {
    req_prod: u32,
    bytes: Vec<u8>,
    sent: usize,
}

impl Outgoing {
    /// Starts writing at `req_prod`, a message boundary.
    pub(super) fn at(req_prod: u32) -> Self {
        Self { req_prod, ..Self::default() }
    }

    /// Whether the last request has left completely.
    pub(super) fn is_idle(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Whether xenstored's consumer index is one that it may have.
    pub(super) fn is_sane(&self, page: Page<'_>) -> bool {
        page.room(self.req_prod).is_ok()
    }

    /// Whether the producer index is not the one we wrote, so that somebody has made a new start.
    pub(super) fn was_moved(&self, page: Page<'_>) -> bool {
        let (req_prod, _) = page.own_indices();
        req_prod != self.req_prod && page.room(req_prod).is_ok()
    }

    /// Forgets a request of which nothing was sent. One that xenstored has seen the start of must be finished.
    pub(super) fn drop_unsent(&mut self) {
        if self.sent == 0 {
            self.bytes.clear();
        }
    }

    /// Takes the next request. Only while idle.
    pub(super) fn start(&mut self, request: Vec<u8>) {
        self.bytes = request;
        self.sent = 0;
    }

    /// Moves what fits into the ring and adds the number of bytes to `moved`.
    pub(super) fn flush(&mut self, page: Page<'_>, moved: &mut u32) -> Result<(), BadIndex> {
        let room = page.room(self.req_prod)?;
        let rest = self.bytes.get(self.sent..).unwrap_or_default();
        let left = u32::try_from(rest.len()).unwrap_or(u32::MAX);
        let count = if left <= RING_BYTES && left > room && self.sent == 0 { 0 } else { left.min(room) };
        if count == 0 {
            return Ok(());
        }
        let taken = usize::try_from(count).unwrap_or(usize::MAX);
        page.put(self.req_prod, rest.get(..taken).unwrap_or(rest));
        self.req_prod = self.req_prod.wrapping_add(count);
        page.set_req_prod(self.req_prod);
        *moved = moved.saturating_add(count);
        self.sent = self.sent.saturating_add(taken);
        if self.sent >= self.bytes.len() {
            self.bytes.clear();
            self.sent = 0;
        }
        Ok(())
    }
}
