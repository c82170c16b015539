//! How a packet lies in a frontend's buffers: what is left free in each, and what is told about it in extra
//! segments.
//!
//! Xen: `XEN_NETIF_EXTRA_TYPE_*`, `xdp-headroom`.

use ring::netif::{Extra, GsoKind, MAX_SLOTS};
use xen_pv_rt::hyp::PAGE_SIZE;

use super::hashing::Hashing;
use super::memory::HEADER_BYTES;
use crate::frame::{Frame, Gso};

/// Most extra segments of a packet: a packet that is to be cut is never given headroom.
const MAX_EXTRAS: usize = 2;
/// Most buffers with data: the frontend takes 18 in all.
const MAX_DATA_SLOTS: usize = MAX_SLOTS - MAX_EXTRAS;

/// Extra segments of one packet.
pub(super) type Extras = heapless::Vec<Extra, MAX_EXTRAS>;

/// Bytes of one packet in each of the buffers with data.
pub(super) type Parts = heapless::Vec<u16, MAX_SLOTS>;

/// What a frontend has asked for.
#[derive(Clone, Copy)]
pub(super) struct Layout<'a> {
    /// Bytes left free at the start of each buffer (`xdp-headroom`), at most 256.
    pub(super) headroom: usize,
    /// Whether it is to be told the hash of packets.
    pub(super) hashing: &'a Hashing,
}

impl Layout<'_> {
    /// The extra segments of a packet of `len` bytes that starts with `frame`.
    pub(super) fn extras(&self, frame: &Frame, len: usize) -> Extras {
        let gso = frame.gso.filter(|_| self.headroom == 0).map(extra_of);
        let headroom = u16::try_from(self.headroom).ok().filter(|headroom| *headroom > 0);
        let hash = self.hashing.hash(frame.head().bytes(), len).map(|(kind, value)| Extra::Hash {
            kind: kind.into_raw(),
            // `XEN_NETIF_CTRL_HASH_ALGORITHM_TOEPLITZ`.
            algorithm: 1,
            value: value.to_le_bytes(),
        });
        let xdp = headroom.map(|headroom| Extra::Xdp { headroom });
        // Of a packet to be cut and one with headroom, only one can be, so these are two.
        gso.into_iter().chain(xdp).chain(hash).take(MAX_EXTRAS).collect()
    }

    /// How a packet of `len` bytes lies in buffers, with that many extra segments, if it comes in pieces of these lengths.
    ///
    /// Where one buffer more allows it, no piece is in two: each is one copy then, and not two.
    pub(super) fn parts(&self, pieces: impl Iterator<Item = usize>, len: usize, extras: usize) -> Parts {
        let room = room(self.headroom);
        let dense = len.div_ceil(room);
        let most = dense.saturating_add(1).min(MAX_SLOTS.saturating_sub(extras));
        if dense > 1
            && let Some(parts) = whole_pieces(pieces, room, most)
        {
            return parts;
        }
        let ends = (1..=dense).map(|number| number.saturating_mul(room).min(len));
        let starts = (0..dense).map(|number| number.saturating_mul(room));
        // No frontend is given a packet that takes more.
        starts.zip(ends).map(|(start, end)| to_u16(end.saturating_sub(start))).take(MAX_SLOTS).collect()
    }

    /// Buffers that `frame` needs.
    pub(super) fn slots_for(&self, frame: &Frame) -> u32 {
        let len = frame.len();
        let extras = self.extras(frame, len).len();
        slots(&self.parts_of(frame, len, extras), extras)
    }

    /// As [`parts`](Self::parts), of a frame in our memory.
    pub(super) fn parts_of(&self, frame: &Frame, len: usize, extras: usize) -> Parts {
        self.parts(frame.segments().map(|segment| segment.len.into()), len, extras)
    }
}

/// Buffers that a packet in these parts with that many extra segments needs.
pub(super) fn slots(parts: &Parts, extras: usize) -> u32 {
    u32::try_from(parts.len().saturating_add(extras)).unwrap_or(u32::MAX)
}

/// Pieces as they come, as many in a buffer as fit, if at most `most` buffers are enough and the first holds the headers.
fn whole_pieces(pieces: impl Iterator<Item = usize>, room: usize, most: usize) -> Option<Parts> {
    let (mut parts, mut filled) = (Parts::new(), 0_usize);
    for piece in pieces {
        if piece > room {
            return None;
        }
        if filled.saturating_add(piece) > room {
            if parts.is_empty() && filled < HEADER_BYTES {
                return None;
            }
            parts.push(to_u16(filled)).ok()?;
            filled = 0;
        }
        filled = filled.saturating_add(piece);
    }
    parts.push(to_u16(filled)).ok()?;
    (parts.len() <= most).then_some(parts)
}

fn to_u16(bytes: usize) -> u16 {
    u16::try_from(bytes).unwrap_or(u16::MAX)
}

/// Bytes of data in a buffer that starts with `headroom` free ones.
pub(super) const fn room(headroom: usize) -> usize {
    PAGE_SIZE.saturating_sub(headroom)
}

/// Longest frame, in bytes, for a frontend that takes several buffers for one.
pub(super) const fn longest(headroom: usize) -> usize {
    let bytes = MAX_DATA_SLOTS.saturating_mul(room(headroom));
    if bytes < 65535 { bytes } else { 65535 }
}

fn extra_of(gso: Gso) -> Extra {
    let kind = if gso.ipv6 { GsoKind::TcpV6 } else { GsoKind::TcpV4 };
    Extra::Gso { size: gso.size, kind: Ok(kind) }
}

#[cfg(test)]
#[expect(clippy::indexing_slicing, reason = "tests")]
mod tests {
    use alloc::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    fn parts(pieces: &[usize], headroom: usize, extras: usize) -> Vec<usize> {
        let hashing = Hashing::new(0);
        let layout = Layout { headroom, hashing: &hashing };
        let parts = layout.parts(pieces.iter().copied(), pieces.iter().sum(), extras);
        parts.iter().map(|part| usize::from(*part)).collect()
    }

    #[test]
    fn pages_of_a_sender_stay_whole_if_that_takes_one_buffer_more() {
        assert_eq!(parts(&[256, 3906, 4096, 4096], 0, 1), [256, 3906, 4096, 4096]);
        // The segments of eighteen frames would take two more than the least.
        assert_eq!(parts(&[1448; 18], 0, 1), [4096, 4096, 4096, 4096, 4096, 4096, 1488]);
    }

    #[test]
    fn the_headers_are_never_alone_in_a_short_first_buffer() {
        assert_eq!(parts(&[10, 4096, 100], 0, 0), [4096, 110]);
    }

    proptest! {
        #[test]
        fn every_byte_has_a_place(pieces in prop::collection::vec(1_usize..=4096, 1..=18), headroom in 0_usize..=256) {
            let total: usize = pieces.iter().sum();
            prop_assume!(total <= longest(headroom));
            let parts = parts(&pieces, headroom, 2);
            prop_assert_eq!(parts.iter().sum::<usize>(), total);
            prop_assert!(parts.len() <= MAX_SLOTS - 2);
            prop_assert!(parts.iter().all(|part| *part > 0 && *part <= room(headroom)));
            prop_assert!(parts.len() == 1 || parts[0] >= HEADER_BYTES);
        }
    }
}
