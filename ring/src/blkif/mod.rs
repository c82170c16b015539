//! Block devices: what blkfront and blkback say to each other.
//!
//! A [`Request`] is a private copy of a slot, in which nothing was checked. [`Request::validate`] turns it into
//! a [`Command`], which is what a backend may act on; an indirect command names a page of segments that is
//! copied once and validated as a whole ([`Indirect::validate`]) before any of it is used.
//!
//! A sector is always 512 bytes on this wire, whatever the disk's own sectors are.
//!
//! Xen: `public/io/blkif.h`.

mod abi;
mod command;
mod indirect;
mod reject;
mod ring;
mod segment;

pub use abi::{Abi, Operation, Request, Response, Status, X86_32, X86_64};
pub use command::{Command, Direct, Direction, Discard, Limits, Transfer};
pub use indirect::{Indirect, segment_at};
pub use reject::BlkReject;
pub use ring::Ring;
pub use segment::Segment;

/// Bytes in a sector of the wire.
pub const SECTOR_BYTES: u32 = 512;
/// Sectors in a page.
pub const SECTORS_PER_PAGE: u8 = 8;
/// Most segments of a direct request (`BLKIF_MAX_SEGMENTS_PER_REQUEST`).
pub const MAX_DIRECT_SEGMENTS: usize = 11;
/// Most segments of an indirect request that this implementation takes; one page has room for 512.
pub const MAX_INDIRECT_SEGMENTS: u16 = 256;
/// Most pages of a ring (`1 << max-ring-page-order`).
pub const MAX_RING_PAGES: usize = 16;

#[cfg(test)]
mod tests;
