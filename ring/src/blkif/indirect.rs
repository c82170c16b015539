//! Indirect requests: segments in a page of their own.
//!
//! The page is the frontend's and changes at any time, so it is copied once. The copy is validated as a whole
//! before any of it is acted on, and read again only afterwards.

use super::{BlkReject, Direction, Limits, Segment, Transfer};
use crate::GrantRef;

/// A read or write whose segments were not seen yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Indirect {
    direction: Direction,
    sector: u64,
    nr_segments: u16,
    gref: GrantRef,
}

impl Indirect {
    pub(super) const fn new(direction: Direction, sector: u64, nr_segments: u16, gref: u32) -> Self {
        Self { direction, sector, nr_segments, gref: GrantRef::from_raw(gref) }
    }

    /// The page that holds the segments, from its first byte on.
    pub const fn gref(&self) -> GrantRef {
        self.gref
    }

    /// Number of segments, 1 to 256.
    pub const fn nr_segments(&self) -> u16 {
        self.nr_segments
    }

    /// Bytes of that page to copy: at most 2048.
    pub fn list_bytes(&self) -> u16 {
        self.nr_segments.saturating_mul(8)
    }

    /// Checks a private copy of the list of segments.
    ///
    /// # Errors
    /// As [`Request::validate`](super::Request::validate); [`BlkReject::Segs`] if `list` is too short.
    pub fn validate(&self, list: &[u8], limits: &Limits) -> Result<Transfer, BlkReject> {
        let mut sectors = 0_u32;
        for index in 0..self.nr_segments {
            let segment = parse(list, index)?;
            sectors = sectors.saturating_add(segment.sectors());
        }
        let transfer = Transfer { direction: self.direction, barrier: false, sector: self.sector, sectors };
        transfer.check(limits)?;
        Ok(transfer)
    }
}

/// A segment of a validated list; `None` beyond its end.
pub fn segment_at(list: &[u8], index: u16) -> Option<Segment> {
    parse(list, index).ok()
}

fn parse(list: &[u8], index: u16) -> Result<Segment, BlkReject> {
    let start = usize::from(index).saturating_mul(Segment::WIRE_BYTES);
    let bytes = list.get(start..).and_then(<[u8]>::first_chunk::<8>).ok_or(BlkReject::Segs)?;
    let [a, b, c, d, e, f, g, h] = *bytes;
    Segment::parse([u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h])])
}
