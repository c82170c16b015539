//! Transmit descriptors, as the two 64-bit words of each.
//!
//! Every frame is sent with data descriptors; a context precedes it where a checksum is to be filled in or a
//! packet to be cut up. What is common to both formats of the family is here with the older one (8254x manual,
//! 3.3.6 and 3.3.7); the advanced one is 82576 datasheet, 7.2.2.

use super::model::TxFormat;
use crate::frame::{Checksum, Frame, Gso};

/// Descriptors of the ring; they fill one page.
pub(super) const RING: usize = 256;

/// The words of descriptor `index` in a ring.
pub(super) const fn words(index: usize) -> (usize, usize) {
    let first = index.wrapping_mul(2);
    (first, first.wrapping_add(1))
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

/// What differs in the advanced format.
mod advanced {
    /// Types of context and data descriptors.
    pub(super) const CONTEXT: u64 = 2 << 20;
    pub(super) const DATA: u64 = 3 << 20;
    /// Segmentation, in data descriptors.
    pub(super) const TSE: u64 = 1 << 31;
    /// The packet is IPv4, in the context.
    pub(super) const IPV4: u64 = 1 << 10;
    /// It is TCP rather than UDP, in the context.
    pub(super) const TCP: u64 = 1 << 11;
    /// Where the length of the frame or, if it is cut up, of its payload goes in data descriptors.
    pub(super) const PAYLOAD_SHIFT: u32 = 46;
    /// Where the length of the Ethernet header goes in the context, above that of IP.
    pub(super) const MAC_SHIFT: u32 = 9;
}

/// Longest IP header that an advanced context can express.
const LONGEST_IP: u16 = 511;
/// Where the checksum is in TCP and UDP headers.
const TCP_CHECKSUM: u16 = 16;
const UDP_CHECKSUM: u16 = 6;

/// Where the headers of a TCP packet are that is to be cut up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Headers {
    /// Where the IP header starts.
    pub(super) ip: u8,
    /// Where the TCP header starts.
    pub(super) tcp: u8,
    /// Where the payload starts.
    pub(super) payload: u8,
}

/// What a frame asks of the card beyond sending it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Offload {
    /// The context it needs, if any.
    pub(super) context: Option<Context>,
    /// Bits of its data descriptors.
    bits: u64,
    /// It is cut up.
    segmentation: bool,
}

/// A context descriptor: where the checksums are, and how to cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Context {
    pub(super) low: u64,
    pub(super) high: u64,
}

impl Offload {
    /// What a frame takes that is not cut up; `None` if the card cannot express it.
    pub(super) fn whole(frame: &Frame, format: TxFormat) -> Option<Self> {
        let plain = match format {
            TxFormat::Offsets => DATA | DEXT | IFCS,
            TxFormat::Advanced => {
                advanced::DATA | DEXT | IFCS | u64::try_from(frame.len()).ok()? << advanced::PAYLOAD_SHIFT
            }
        };
        let Checksum::Blank { start, field } = frame.checksum else {
            return Some(Self { context: None, bits: plain, segmentation: false });
        };
        let context = match format {
            TxFormat::Offsets => Context::offsets(start, field)?,
            TxFormat::Advanced => Context::advanced(frame.head().bytes(), start, field)?,
        };
        Some(Self { context: Some(context), bits: plain | TXSM, segmentation: false })
    }

    /// What cutting a frame of `len` bytes into segments takes.
    ///
    /// The caller has zeroed the IPv4 length and checksum and left the pseudo-header sum without the length in
    /// the TCP checksum field.
    pub(super) fn segments(gso: Gso, headers: Headers, len: u32, format: TxFormat) -> Self {
        let payload = u64::from(len.saturating_sub(u32::from(headers.payload)));
        let sums = TXSM | if gso.ipv6 { 0 } else { IXSM };
        let (context, bits) = match format {
            TxFormat::Offsets => (Context::cut(gso, headers, payload), DATA | TSE),
            TxFormat::Advanced => (
                Context::advanced_cut(gso, headers),
                advanced::DATA | advanced::TSE | payload << advanced::PAYLOAD_SHIFT,
            ),
        };
        Self { context: Some(context), bits: bits | DEXT | IFCS | sums, segmentation: true }
    }

    /// Whether the frame is cut up.
    pub(super) const fn is_segmentation(self) -> bool {
        self.segmentation
    }

    /// The second word of a data descriptor for `len` bytes of such a frame.
    pub(super) fn data(self, len: u16) -> u64 {
        u64::from(len) | self.bits
    }
}

impl Context {
    fn offsets(start: u16, field: u16) -> Option<Self> {
        let tucss = u8::try_from(start).ok()?;
        let tucso = u8::try_from(start.checked_add(field)?).ok()?;
        // TUCSE 0: to the end of the frame.
        Some(Self { low: u64::from(tucss) << 32 | u64::from(tucso) << 40, high: DEXT })
    }

    fn cut(gso: Gso, Headers { ip, tcp, payload: headers }: Headers, payload: u64) -> Self {
        const TCP: u64 = 1 << 24;
        const IPV4: u64 = 1 << 25;
        // The card finds the length of an IPv6 packet by the start of its header; a checksum it has not.
        let ipv4 = u64::from(ip.wrapping_add(10)) << 8 | u64::from(tcp.wrapping_sub(1)) << 16;
        let ipcs = u64::from(ip) | if gso.ipv6 { 0 } else { ipv4 };
        let tucs = u64::from(tcp) << 32 | u64::from(tcp.wrapping_add(16)) << 40;
        let command = DEXT | TSE | TCP | if gso.ipv6 { 0 } else { IPV4 };
        let high = payload & 0xf_ffff | command | u64::from(headers) << 40 | u64::from(gso.size) << 48;
        Self { low: ipcs | tucs, high }
    }

    fn advanced(head: &[u8], start: u16, field: u16) -> Option<Self> {
        let protocol = match field {
            TCP_CHECKSUM => advanced::TCP,
            UDP_CHECKSUM => 0,
            _ => return None,
        };
        let ip = ip_offset(head)?;
        let len = start.checked_sub(ip.into()).filter(|len| (1..=LONGEST_IP).contains(len))?;
        let version = match *head.get(usize::from(ip).checked_sub(2)?..)?.first_chunk()? {
            [0x08, 0x00] => advanced::IPV4,
            _ => 0,
        };
        let low = u64::from(ip) << advanced::MAC_SHIFT | u64::from(len);
        Some(Self { low, high: advanced::CONTEXT | DEXT | protocol | version })
    }

    fn advanced_cut(gso: Gso, Headers { ip, tcp, payload }: Headers) -> Self {
        let low = u64::from(ip) << advanced::MAC_SHIFT | u64::from(tcp.saturating_sub(ip));
        let command = advanced::CONTEXT | DEXT | advanced::TCP | if gso.ipv6 { 0 } else { advanced::IPV4 };
        Self { low, high: command | u64::from(payload.saturating_sub(tcp)) << 40 | u64::from(gso.size) << 48 }
    }
}

/// Where the packet in a frame starts: behind the Ethernet header and the tag there may be.
pub(super) fn ip_offset(head: &[u8]) -> Option<u8> {
    const ETHER_TYPE: usize = 12;
    const VLAN: [u8; 2] = [0x81, 0x00];
    Some(if *head.get(ETHER_TYPE..)?.first_chunk()? == VLAN { 18 } else { 14 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blank_checksum_becomes_a_context_with_absolute_offsets() {
        assert_eq!(Context::offsets(34, 16), Some(Context { low: 34 << 32 | 50 << 40, high: 1 << 29 }));
    }

    #[test]
    fn a_checksum_beyond_byte_255_cannot_be_expressed() {
        assert_eq!(Context::offsets(250, 6), None);
        assert_eq!(Context::offsets(256, 0), None);
        assert_eq!(Context::offsets(u16::MAX, u16::MAX), None);
    }

    #[test]
    fn an_advanced_context_has_the_lengths_of_the_headers() {
        let mut head = [0; 64];
        head[12] = 8;
        let tcp4 = 2 << 20 | 1 << 29 | 1 << 10 | 1 << 11;
        assert_eq!(Context::advanced(&head, 34, 16), Some(Context { low: 14 << 9 | 20, high: tcp4 }));
        (head[12], head[13]) = (0x81, 0);
        (head[16], head[17]) = (0x86, 0xdd);
        assert_eq!(Context::advanced(&head, 58, 6), Some(Context { low: 18 << 9 | 40, high: 2 << 20 | 1 << 29 }));
    }

    #[test]
    fn what_an_advanced_context_cannot_express_is_refused() {
        let head = [0; 64];
        for (start, field) in [(34, 2), (14, 16), (0, 16), (14 + 512, 16), (u16::MAX, 6)] {
            assert_eq!(Context::advanced(&head, start, field), None, "{start} {field}");
        }
        assert_eq!(Context::advanced(&[0; 13], 34, 16), None);
    }

    #[test]
    fn a_segmentation_context_has_the_lengths_where_the_card_looks() {
        let (gso, headers) = (Gso { ipv6: false, size: 1448 }, Headers { ip: 14, tcp: 34, payload: 66 });
        let offload = Offload::segments(gso, headers, 66 + 4000, TxFormat::Offsets);
        let Some(Context { low, high }) = offload.context else { unreachable!("no context") };
        assert_eq!(low, 14 | 24 << 8 | 33 << 16 | 34 << 32 | 50 << 40);
        assert_eq!((high & 0xf_ffff, high >> 40 & 0xff, high >> 48), (4000, 66, 1448));
        assert_eq!(offload.data(1) & (TSE | TXSM | IXSM), TSE | TXSM | IXSM);
        let offload = Offload::segments(gso, headers, 66 + 4000, TxFormat::Advanced);
        let Some(Context { low, high }) = offload.context else { unreachable!("no context") };
        assert_eq!((low, high >> 40 & 0xff, high >> 48), (14 << 9 | 20, 32, 1448));
        assert_eq!((offload.data(1) >> 46, offload.data(1) & 0xffff), (4000, 1));
    }
}
