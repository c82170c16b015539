//! Reading Ethernet, IP and TCP/UDP headers.
//!
//! Every function takes bytes that a guest or the wire has written, looks only where bytes are, and says
//! `None` for anything that is not exactly what it is asked for. Nothing here writes.
//!
//! Standards: IEEE 802.3, 802.1Q; RFC 791, 8200, 9293, 768.

use crate::nic::MacAddress;

/// Bytes of an Ethernet header without tags; no frame is shorter.
pub const ETHERNET_HEADER: usize = 14;

pub(crate) const TPID_8021Q: u16 = 0x8100;
pub(crate) const TPID_8021AD: u16 = 0x88a8;
pub(crate) const VLAN_TAG: usize = 4;
/// Tags that are skipped to find the network header; deeper stacks are opaque.
const MAX_TAGS: usize = 2;

pub(crate) const ETHERTYPE_IPV4: u16 = 0x0800;
pub(crate) const ETHERTYPE_IPV6: u16 = 0x86dd;
pub(crate) const IPV6_HEADER: usize = 40;
/// IPv6 extension headers that are walked; longer chains are opaque.
const MAX_EXTENSIONS: usize = 8;

pub(crate) fn u8_at(bytes: &[u8], at: usize) -> Option<u8> {
    bytes.get(at).copied()
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk::<2>().map(|pair| u16::from_be_bytes(*pair))
}

pub(crate) fn mac_at(bytes: &[u8], at: usize) -> Option<MacAddress> {
    bytes.get(at..)?.first_chunk::<6>().map(|mac| MacAddress(*mac))
}

/// An Ethernet header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ethernet {
    /// Destination.
    pub dest: MacAddress,
    /// Source.
    pub source: MacAddress,
    /// Tag control information of the outermost VLAN tag.
    pub vlan: Option<u16>,
    /// Type of the payload behind all tags.
    pub ethertype: u16,
    /// Where the payload starts, in bytes from the start of the frame.
    pub payload: usize,
}

impl Ethernet {
    /// Reads the header; `None` if it is truncated or carries more than two tags.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (dest, source) = (mac_at(bytes, 0)?, mac_at(bytes, 6)?);
        let mut ethertype = u16_at(bytes, 12)?;
        let mut payload = ETHERNET_HEADER;
        let mut vlan = None;
        for _ in 0..MAX_TAGS {
            if !matches!(ethertype, TPID_8021Q | TPID_8021AD) {
                break;
            }
            // Behind the type of the tag lie its control information and the next type.
            vlan = vlan.or(Some(u16_at(bytes, payload)?));
            ethertype = u16_at(bytes, payload.saturating_add(2))?;
            payload = payload.saturating_add(VLAN_TAG);
        }
        Some(Self { dest, source, vlan, ethertype, payload })
    }

    /// The addresses alone, which every frame has.
    pub fn addresses(bytes: &[u8]) -> Option<(MacAddress, MacAddress)> {
        Some((mac_at(bytes, 0)?, mac_at(bytes, 6)?))
    }
}

/// A transport protocol with a checksum that cards and guests offload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    const fn from_number(number: u8) -> Option<Self> {
        match number {
            6 => Some(Self::Tcp),
            17 => Some(Self::Udp),
            _ => None,
        }
    }

    /// Where the checksum is, in bytes from the start of the transport header.
    pub const fn checksum_field(self) -> usize {
        match self {
            Self::Tcp => 16,
            Self::Udp => 6,
        }
    }

    const fn min_header(self) -> usize {
        match self {
            Self::Tcp => 20,
            Self::Udp => 8,
        }
    }
}

/// Where the transport header of a TCP or UDP packet lies. All offsets are from the start of the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transport {
    /// Over IPv6, rather than over IPv4.
    pub ipv6: bool,
    /// Which protocol.
    pub protocol: Protocol,
    /// Start of the IP header.
    pub network: usize,
    /// Start of the transport header.
    pub start: usize,
    /// End of the packet as its IP header says; bytes behind it are padding.
    pub end: usize,
}

impl Transport {
    /// Finds the transport header in the first bytes of a frame of `frame_len` bytes.
    ///
    /// `None` for anything but a whole, unfragmented TCP or UDP packet whose fixed transport header is within
    /// `head` and whose length fits in the frame.
    pub fn find(head: &[u8], frame_len: usize) -> Option<Self> {
        let ethernet = Ethernet::parse(head)?;
        let found = match ethernet.ethertype {
            ETHERTYPE_IPV4 => Self::over_ipv4(head, ethernet.payload)?,
            ETHERTYPE_IPV6 => Self::over_ipv6(head, ethernet.payload)?,
            _ => return None,
        };
        let header_end = found.start.checked_add(found.protocol.min_header())?;
        (header_end <= head.len() && header_end <= found.end && found.end <= frame_len).then_some(found)
    }

    /// Where the payload of a TCP packet starts; `None` if the header is not within `head` and the packet.
    pub fn tcp_payload(&self, head: &[u8]) -> Option<usize> {
        let words = u8_at(head, self.start.checked_add(12)?)? >> 4;
        let len = usize::from(words).checked_mul(4).filter(|len| *len >= Protocol::Tcp.min_header())?;
        let end = self.start.checked_add(len)?;
        (self.protocol == Protocol::Tcp && end <= head.len() && end <= self.end).then_some(end)
    }

    fn over_ipv4(head: &[u8], network: usize) -> Option<Self> {
        let version_ihl = u8_at(head, network)?;
        let header = usize::from(version_ihl & 0xf).checked_mul(4)?;
        let total = usize::from(u16_at(head, network.checked_add(2)?)?);
        let fragment = u16_at(head, network.checked_add(6)?)?;
        // Neither "more fragments" nor an offset; "don't fragment" may be set.
        if version_ihl >> 4 != 4 || header < 20 || fragment & 0x3fff != 0 {
            return None;
        }
        let protocol = Protocol::from_number(u8_at(head, network.checked_add(9)?)?)?;
        let start = network.checked_add(header)?;
        Some(Self { ipv6: false, protocol, network, start, end: network.checked_add(total)? })
    }

    fn over_ipv6(head: &[u8], network: usize) -> Option<Self> {
        let payload = usize::from(u16_at(head, network.checked_add(4)?)?);
        let mut next = u8_at(head, network.checked_add(6)?)?;
        let mut start = network.checked_add(IPV6_HEADER)?;
        if u8_at(head, network)? >> 4 != 6 {
            return None;
        }
        let end = start.checked_add(payload)?;
        for _ in 0..MAX_EXTENSIONS {
            // Hop-by-hop options, routing, destination options: length in 8-byte units after the first.
            if !matches!(next, 0 | 43 | 60) {
                break;
            }
            next = u8_at(head, start)?;
            let units = usize::from(u8_at(head, start.checked_add(1)?)?);
            start = start.checked_add(units.checked_add(1)?.checked_mul(8)?)?;
        }
        Some(Self { ipv6: true, protocol: Protocol::from_number(next)?, network, start, end })
    }
}

#[cfg(test)]
#[expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    reason = "tests"
)]
mod tests;
