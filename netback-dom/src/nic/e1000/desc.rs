//! Descriptor layouts, as the two 64-bit words of each.
//!
//! Receive: legacy format, 3.2.3. Transmit: data and context formats, 3.3.6 and 3.3.7; every frame is sent
//! with data descriptors, a context precedes it where a checksum is to be filled in or a segment to be cut.

use crate::frame::{Checksum, Gso};

/// Descriptors per ring; they fill one page.
pub(super) const RING: usize = 256;

/// The words of descriptor `index` in the ring.
pub(super) fn words(index: u8) -> (usize, usize) {
    let first = usize::from(index).wrapping_mul(2);
    (first, first.wrapping_add(1))
}

/// What the card wrote into the second word of a receive descriptor.
#[derive(Clone, Copy)]
pub(super) struct RxStatus(u64);

impl RxStatus {
    const DD: u64 = 1 << 32;
    const EOP: u64 = 1 << 33;
    const IXSM: u64 = 1 << 34;
    const TCPCS: u64 = 1 << 37;
    /// CE, SE, SEQ, CXE, RXE.
    const FRAME_ERRORS: u64 = 0x97 << 40;
    /// TCPE, IPE.
    const CHECKSUM_ERRORS: u64 = 0x60 << 40;

    pub(super) const fn new(word: u64) -> Self {
        Self(word)
    }
    /// The descriptor is done.
    pub(super) const fn done(self) -> bool {
        self.0 & Self::DD != 0
    }
    /// It holds the end of a frame.
    pub(super) const fn end(self) -> bool {
        self.0 & Self::EOP != 0
    }
    /// The frame arrived damaged.
    pub(super) const fn damaged(self) -> bool {
        self.0 & Self::FRAME_ERRORS != 0
    }
    /// Bytes written to the buffer, if the card tells the truth.
    pub(super) const fn len(self) -> u16 {
        let [low, high, ..] = self.0.to_le_bytes();
        u16::from_le_bytes([low, high])
    }
    /// What the card knows of the checksum. A bad one is not an error here: the receiver looks again.
    pub(super) const fn checksum(self) -> Checksum {
        let checked = self.0 & (Self::IXSM | Self::TCPCS) == Self::TCPCS;
        if checked && self.0 & Self::CHECKSUM_ERRORS == 0 { Checksum::Good } else { Checksum::Unknown }
    }
}

/// Marker of the extended formats.
const DEXT: u64 = 1 << 29;
/// Type 1: data. Type 0 is context.
const DATA: u64 = 1 << 20;
/// Insert the FCS.
const IFCS: u64 = 1 << 25;
/// Segmentation, in data and context.
const TSE: u64 = 1 << 26;
/// Last descriptor of the frame.
pub(super) const EOP: u64 = 1 << 24;
/// Report when done.
pub(super) const RS: u64 = 1 << 27;
/// Written by the card: done.
pub(super) const DD: u64 = 1 << 32;
/// Insert the IP checksum.
const IXSM: u64 = 1 << 40;
/// Insert the TCP or UDP checksum.
const TXSM: u64 = 1 << 41;

/// What a frame asks of the card beyond sending it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Offload {
    /// The context it needs, if any.
    pub(super) context: Option<Context>,
    /// Bits of its data descriptors.
    bits: u64,
}

/// A context descriptor: where the checksums are, and how to cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Context {
    pub(super) low: u64,
    pub(super) high: u64,
}

impl Offload {
    /// What `checksum` takes; `None` if the card cannot express it.
    pub(super) fn checksum(checksum: Checksum) -> Option<Self> {
        let Checksum::Blank { start, field } = checksum else { return Some(Self::default()) };
        let tucss = u8::try_from(start).ok()?;
        let tucso = u8::try_from(start.checked_add(field)?).ok()?;
        // TUCSE 0: to the end of the frame.
        let low = u64::from(tucss) << 32 | u64::from(tucso) << 40;
        Some(Self { context: Some(Context { low, high: DEXT }), bits: TXSM })
    }

    /// What cutting a frame into segments takes. `headers` are the bytes up to the payload, `ip` and `tcp` the
    /// offsets of those headers, `len` the frame's length.
    ///
    /// The caller has zeroed the IPv4 length and checksum and left the pseudo-header sum without the length in
    /// the TCP checksum field.
    pub(super) fn segmentation(gso: Gso, ip: u8, tcp: u8, headers: u8, len: u32) -> Self {
        const TCP: u64 = 1 << 24;
        const IPV4: u64 = 1 << 25;
        let ipcs = u64::from(ip) | u64::from(ip.wrapping_add(10)) << 8 | u64::from(tcp.wrapping_sub(1)) << 16;
        let tucs = u64::from(tcp) << 32 | u64::from(tcp.wrapping_add(16)) << 40;
        let payload = u64::from(len.saturating_sub(u32::from(headers))) & 0xf_ffff;
        let command = DEXT | TSE | TCP | if gso.ipv6 { 0 } else { IPV4 };
        let high = payload | command | u64::from(headers) << 40 | u64::from(gso.size) << 48;
        let bits = TSE | TXSM | if gso.ipv6 { 0 } else { IXSM };
        Self { context: Some(Context { low: if gso.ipv6 { tucs } else { ipcs | tucs }, high }), bits }
    }

    /// Whether the frame is cut up, which takes a context of its own each time.
    pub(super) const fn is_segmentation(self) -> bool {
        self.bits & TSE != 0
    }

    /// The second word of a data descriptor for `len` bytes of such a frame.
    pub(super) fn data(self, len: u16) -> u64 {
        u64::from(len) | DATA | DEXT | IFCS | self.bits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blank_checksum_becomes_a_context_with_absolute_offsets() {
        let offload = Offload::checksum(Checksum::Blank { start: 34, field: 16 }).unwrap_or_default();
        assert_eq!(offload.context, Some(Context { low: 34 << 32 | 50 << 40, high: 1 << 29 }));
        assert_eq!(offload.data(60) & TXSM, TXSM);
    }

    #[test]
    fn no_context_is_used_where_nothing_is_to_be_filled_in() {
        for checksum in [Checksum::Unknown, Checksum::Good] {
            assert_eq!(Offload::checksum(checksum), Some(Offload::default()));
        }
    }

    #[test]
    fn a_checksum_beyond_byte_255_cannot_be_expressed() {
        assert_eq!(Offload::checksum(Checksum::Blank { start: 250, field: 6 }), None);
        assert_eq!(Offload::checksum(Checksum::Blank { start: 256, field: 0 }), None);
        assert_eq!(Offload::checksum(Checksum::Blank { start: u16::MAX, field: u16::MAX }), None);
    }

    #[test]
    fn a_segmentation_context_has_the_lengths_where_the_card_looks() {
        let gso = Gso { ipv6: false, size: 1448 };
        let offload = Offload::segmentation(gso, 14, 34, 66, 66 + 4000);
        let Some(Context { low, high }) = offload.context else { unreachable!("no context") };
        assert_eq!(low, 14 | 24 << 8 | 33 << 16 | 34 << 32 | 50 << 40);
        assert_eq!((high & 0xf_ffff, high >> 40 & 0xff, high >> 48), (4000, 66, 1448));
        assert_eq!(offload.data(1) & (TSE | TXSM | IXSM), TSE | TXSM | IXSM);
    }
}
