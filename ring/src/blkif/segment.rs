//! Segments: runs of sectors in granted pages.

use super::{BlkReject, SECTORS_PER_PAGE};
use crate::GrantRef;

/// One to eight sectors in a granted page. Xen: `struct blkif_request_segment`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    gref: GrantRef,
    first_sect: u8,
    last_sect: u8,
}

impl Default for Segment {
    fn default() -> Self {
        Self { gref: GrantRef::from_raw(0), first_sect: 0, last_sect: 0 }
    }
}

impl Segment {
    /// Bytes of a segment on the wire.
    pub const WIRE_BYTES: usize = 8;

    /// Reads the two words of a segment.
    ///
    /// # Errors
    /// [`BlkReject::Sect`] unless `first_sect <= last_sect <= 7`.
    pub const fn parse(words: [u32; 2]) -> Result<Self, BlkReject> {
        let [gref, second] = words;
        let [first_sect, last_sect, _, _] = second.to_le_bytes();
        if last_sect >= SECTORS_PER_PAGE || first_sect > last_sect {
            return Err(BlkReject::Sect);
        }
        Ok(Self { gref: GrantRef::from_raw(gref), first_sect, last_sect })
    }

    /// The granted page.
    pub const fn gref(&self) -> GrantRef {
        self.gref
    }

    /// First byte in the page: a multiple of 512, at most 3584.
    pub fn offset(&self) -> u16 {
        u16::from(self.first_sect).saturating_mul(512)
    }

    /// Number of sectors, 1 to 8.
    pub fn sectors(&self) -> u32 {
        u32::from(self.last_sect.saturating_sub(self.first_sect)).saturating_add(1)
    }

    /// Number of bytes; with [`Self::offset`] at most 4096.
    pub fn len_bytes(&self) -> u16 {
        u16::from(self.last_sect.saturating_sub(self.first_sect)).saturating_add(1).saturating_mul(512)
    }
}
