//! The data pointer of a command: PRP entries or SGL descriptors.
//!
//! NVM Express Base 1.4, sections 4.3 and 4.4.

use xen_pv_rt::hyp::Maddr;

use crate::disk::layout::{Form, Piece};
use crate::disk::lists::PAGE_WORDS;

/// Most bytes of a command with a list of PRP entries, whatever the offset of its first page.
pub(super) const MAX_BYTES: u32 = 128 * 4096;
/// 64-bit words of a list: 256 page entries, or 128 segments or ranges.
pub(super) const LIST_WORDS: usize = PAGE_WORDS / 2;
const _: () = assert!(LIST_WORDS >= 128);
/// Most segments of an SGL in a list.
pub(super) const MAX_SEGMENTS: usize = LIST_WORDS / 2;

/// What goes into the data pointer of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataPointer {
    /// PRP entry 1, or the first half of an SGL descriptor.
    pub first: u64,
    /// PRP entry 2, or the second half.
    pub second: u64,
    /// Whether it is an SGL descriptor.
    pub sgl: bool,
}

/// An SGL descriptor's second half: length and type in the topmost byte.
const fn descriptor(len: u32, kind: u8) -> u64 {
    let [a, b, c, d] = len.to_le_bytes();
    u64::from_le_bytes([a, b, c, d, 0, 0, 0, kind])
}
/// SGL data block descriptor.
const DATA_BLOCK: u8 = 0x00;
/// SGL last segment descriptor.
const LAST_SEGMENT: u8 = 0x30;
/// Bytes of an SGL descriptor.
const DESCRIPTOR: u32 = 16;

/// Whether a command for it takes a list.
pub fn needs_list(piece: &Piece<'_>) -> bool {
    match piece.form {
        Form::Pages => piece.parts > 2,
        Form::Segments => piece.parts > 1,
    }
}

/// The data pointer; `list` is where the list will be, if it needs one.
pub fn pointer(piece: &Piece<'_>, list: Maddr) -> DataPointer {
    let mut parts = piece.fragments();
    let (first, len) = parts.next().unwrap_or((Maddr::from_raw(0), 0));
    let second = parts.next().map_or(0, |(maddr, _)| maddr.into_raw());
    let (first, list) = (first.into_raw(), list.into_raw());
    match (piece.form, needs_list(piece)) {
        (Form::Pages, false) => DataPointer { first, second, sgl: false },
        (Form::Pages, true) => DataPointer { first, second: list, sgl: false },
        (Form::Segments, false) => DataPointer { first, second: descriptor(len, DATA_BLOCK), sgl: true },
        (Form::Segments, true) => {
            let len = u32::try_from(piece.parts).unwrap_or(0).saturating_mul(DESCRIPTOR);
            DataPointer { first: list, second: descriptor(len, LAST_SEGMENT), sgl: true }
        }
    }
}

/// The words of its list.
pub fn list(piece: &Piece<'_>) -> impl Iterator<Item = u64> {
    let sgl = piece.form == Form::Segments;
    // The first page is in the command itself.
    piece.fragments().skip(usize::from(!sgl)).flat_map(move |(maddr, len)| {
        core::iter::once(maddr.into_raw()).chain(sgl.then(|| descriptor(len, DATA_BLOCK)))
    })
}
