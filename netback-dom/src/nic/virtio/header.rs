//! `struct virtio_net_hdr_v1`, in front of every frame: what is still to be done to it. Virtio 1.2, section 5.1.6.

use super::features::Features;
use crate::frame::{Checksum, Frame, Gso};
use crate::nic::Capabilities;

/// Length in bytes.
pub(super) const HEADER: u16 = 12;
/// `VIRTIO_NET_HDR_F_NEEDS_CSUM` and `VIRTIO_NET_HDR_F_DATA_VALID`.
const NEEDS_CSUM: u8 = 1;
const DATA_VALID: u8 = 2;
/// `VIRTIO_NET_HDR_GSO_TCPV4` and `VIRTIO_NET_HDR_GSO_TCPV6`.
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
/// Offset of the length nibble in a TCP header.
const TCP_DATA_OFFSET: u16 = 12;

/// That of a frame to send, as words.
pub(super) type SentHeader = [u32; 3];

/// The header that says what a frame to send wants done. `None` if the device does not do it.
pub(super) fn for_sending(frame: &Frame, capabilities: Capabilities) -> Option<SentHeader> {
    let Checksum::Blank { start, field } = frame.checksum else {
        return frame.gso.is_none().then_some([0; 3]);
    };
    if !capabilities.tx_checksum {
        return None;
    }
    let (mut gso_type, mut headers, mut gso_size) = (0, 0_u16, 0);
    if let Some(gso) = frame.gso {
        let (offered, kind) = if gso.ipv6 { (capabilities.tso6, GSO_TCPV6) } else { (capabilities.tso4, GSO_TCPV4) };
        if !offered {
            return None;
        }
        let nibble = *frame.head().bytes().get(usize::from(start.checked_add(TCP_DATA_OFFSET)?))?;
        (gso_type, gso_size) = (kind, gso.size);
        headers = start.checked_add(u16::from(nibble >> 4).wrapping_mul(4))?;
    }
    let half = |low: u16, high: u16| u32::from(low) | u32::from(high) << 16;
    Some([half(u16::from_le_bytes([NEEDS_CSUM, gso_type]), headers), half(gso_size, start), half(field, 0)])
}

/// A header asks for something that the device was not allowed to.
pub(super) struct NotAgreed;

/// That of a received frame, as far as it matters.
pub(super) struct ReceivedHeader {
    flags: u8,
    gso_type: u8,
    gso_size: u16,
    csum_start: u16,
    csum_offset: u16,
    /// Buffers that the frame is in.
    pub(super) num_buffers: u16,
}

impl ReceivedHeader {
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let [flags, gso_type, _, _, g, h, a, b, c, d, e, f] = *bytes.first_chunk()?;
        let [gso_size, csum_start, csum_offset, num_buffers] = [[g, h], [a, b], [c, d], [e, f]].map(u16::from_le_bytes);
        Some(Self { flags, gso_type, gso_size, csum_start, csum_offset, num_buffers })
    }

    /// How the frame is to be cut up, if it is. An error if that was not agreed.
    pub(super) fn gso(&self, features: Features) -> Result<Option<Gso>, NotAgreed> {
        let (feature, ipv6) = match self.gso_type {
            0 => return Ok(None),
            GSO_TCPV4 => (Features::GUEST_TSO4, false),
            GSO_TCPV6 => (Features::GUEST_TSO6, true),
            _ => return Err(NotAgreed),
        };
        let agreed = features.contains(feature) && self.gso_size > 0;
        agreed.then_some(Some(Gso { ipv6, size: self.gso_size })).ok_or(NotAgreed)
    }

    /// What the device knows of the checksum. Only believed if that was agreed, and if the field is in the frame.
    pub(super) fn checksum(&self, features: Features, len: usize) -> Checksum {
        let end = usize::from(self.csum_start).saturating_add(usize::from(self.csum_offset)).saturating_add(2);
        if !features.contains(Features::GUEST_CSUM) {
            Checksum::Unknown
        } else if self.flags & NEEDS_CSUM != 0 && end <= len {
            Checksum::Blank { start: self.csum_start, field: self.csum_offset }
        } else if self.flags & (NEEDS_CSUM | DATA_VALID) == DATA_VALID {
            Checksum::Good
        } else {
            Checksum::Unknown
        }
    }
}
