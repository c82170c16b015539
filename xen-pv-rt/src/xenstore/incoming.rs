//! From bytes in the response ring to messages.

use alloc::vec::Vec;

use super::wire::{HEADER_BYTES, Header, Kind};
use ring::xenstore::{BadIndex, Page, RING_BYTES};

/// Bytes skipped per turn; more than the ring holds, see [`super::connection`].
const SKIP_MAX: u32 = 4 * RING_BYTES;

/// What the response ring held next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// A whole message.
    Message(Header, Vec<u8>),
    /// The rest has not arrived yet.
    Nothing,
    /// A header that no server sends: we are not at a message boundary.
    LostFraming,
}

/// The reading side of the connection.
///
/// A message that fits the ring is given back as a whole, so a successor of this domain that starts with
/// the page as it stands finds a message boundary at `rsp_cons`.
#[derive(Default)]
pub(super) struct Incoming {
    /// Published: bytes before this are xenstored's to overwrite.
    rsp_cons: u32,
    /// Bytes from `rsp_cons` that were loaded already.
    loaded: u32,
    header: Option<Header>,
    bytes: Vec<u8>,
    /// While set, bytes are skipped up to the reply to this request.
    hunting: Option<u32>,
}

impl Incoming {
    /// Starts reading at `rsp_cons`, a message boundary.
    pub(super) fn at(rsp_cons: u32) -> Self {
        Self { rsp_cons, ..Self::default() }
    }

    /// Drops everything that is in the ring and skips what comes, up to the reply to request `probe`.
    pub(super) fn hunt(&mut self, page: Page<'_>, probe: u32) {
        *self = Self { hunting: Some(probe), ..Self::at(page.rsp_prod()) };
        page.set_rsp_cons(self.rsp_cons);
    }

    /// Whether the message boundary is still being looked for.
    pub(super) fn is_hunting(&self) -> bool {
        self.hunting.is_some()
    }

    /// Whether xenstored finds no room for another byte.
    pub(super) fn is_full(&self, page: Page<'_>) -> bool {
        page.waiting(self.rsp_cons) == Ok(RING_BYTES)
    }

    /// The next message. Adds the bytes that it gave back to `moved`.
    pub(super) fn next(&mut self, page: Page<'_>, moved: &mut u32) -> Result<Next, BadIndex> {
        if !self.fill_header(page, moved)? {
            return Ok(Next::Nothing);
        }
        let Some(header) = self.header else { return Ok(Next::Nothing) };
        let Some(len) = header.body_bytes() else { return Ok(Next::LostFraming) };
        let total = len.saturating_add(HEADER_BYTES);
        self.fill(page, len)?;
        if self.bytes.len() < len {
            if u32::try_from(total).unwrap_or(u32::MAX) > RING_BYTES {
                self.give_back(page, moved);
            }
            return Ok(Next::Nothing);
        }
        self.give_back(page, moved);
        self.header = None;
        Ok(Next::Message(header, core::mem::take(&mut self.bytes)))
    }

    /// Loads bytes until `want` are there or the ring is empty.
    fn fill(&mut self, page: Page<'_>, want: usize) -> Result<(), BadIndex> {
        let waiting = page.waiting(self.rsp_cons)?;
        // The producer moved backwards, past what we have seen.
        let fresh = waiting.checked_sub(self.loaded).ok_or(BadIndex)?;
        let missing = u32::try_from(want.saturating_sub(self.bytes.len())).unwrap_or(u32::MAX);
        let count = missing.min(fresh);
        page.take(self.rsp_cons.wrapping_add(self.loaded), count, &mut self.bytes);
        self.loaded = self.loaded.saturating_add(count);
        Ok(())
    }

    fn fill_header(&mut self, page: Page<'_>, moved: &mut u32) -> Result<bool, BadIndex> {
        for _ in 0..SKIP_MAX {
            if self.header.is_some() {
                return Ok(true);
            }
            self.fill(page, HEADER_BYTES)?;
            let Ok(bytes) = <[u8; HEADER_BYTES]>::try_from(self.bytes.as_slice()) else { return Ok(false) };
            let header = Header::decode(bytes);
            match self.hunting {
                Some(probe) if !answers(&header, probe) => {
                    self.bytes.remove(0);
                    // A server that sends junk must be able to go on sending it.
                    self.give_back(page, moved);
                }
                _ => {
                    self.hunting = None;
                    self.bytes.clear();
                    self.header = Some(header);
                }
            }
        }
        Ok(self.header.is_some())
    }

    fn give_back(&mut self, page: Page<'_>, moved: &mut u32) {
        self.rsp_cons = self.rsp_cons.wrapping_add(self.loaded);
        *moved = moved.saturating_add(self.loaded);
        self.loaded = 0;
        page.set_rsp_cons(self.rsp_cons);
    }
}

fn answers(header: &Header, probe: u32) -> bool {
    let kind = header.kind == Kind::READ || header.kind == Kind::ERROR;
    kind && header.req_id == probe && header.tx_id == 0 && header.body_bytes().is_some()
}
