//! How a packet lies in a frontend's buffers: what is left free in each, and what is told about it in extra
//! segments.
//!
//! Xen: `XEN_NETIF_EXTRA_TYPE_*`, `xdp-headroom`.

use ring::netif::{Extra, GsoKind, MAX_SLOTS};
use xen_pv_rt::hyp::PAGE_SIZE;

use super::hashing::Hashing;
use crate::frame::{Frame, Gso};

/// Most extra segments of a packet: a packet that is to be cut is never given headroom.
const MAX_EXTRAS: usize = 2;
/// Most buffers with data: the frontend takes 18 in all.
const MAX_DATA_SLOTS: usize = MAX_SLOTS - MAX_EXTRAS;

/// Extra segments of one packet.
pub(super) type Extras = heapless::Vec<Extra, MAX_EXTRAS>;

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

    /// Buffers that a packet of `len` bytes with that many extra segments needs.
    pub(super) fn slots(&self, len: usize, extras: usize) -> u32 {
        let data = len.div_ceil(room(self.headroom));
        u32::try_from(data.saturating_add(extras)).unwrap_or(u32::MAX)
    }

    /// Buffers that `frame` needs.
    pub(super) fn slots_for(&self, frame: &Frame) -> u32 {
        let len = frame.len();
        self.slots(len, self.extras(frame, len).len())
    }
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
