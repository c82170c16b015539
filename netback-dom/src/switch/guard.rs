//! Anti-spoofing: what a port may claim to be, and what it gets to see.
//!
//! A guarded port sends from its own MAC address only. If it has a list of IP addresses, it also sends nothing but
//! ARP, IPv4 and IPv6, from addresses of the list, and claims no other in ARP and neighbour discovery; a DHCP
//! client may ask for its address; what only routers and DHCP servers say is dropped. Of frames for one station it
//! gets its own. Another vif that is not guarded may not claim an address that is in the list by itself.
//!
//! An IPv6 packet whose headers cannot be followed to the end within the first bytes is dropped: nobody could tell
//! what it says (RFC 7112), and neighbour discovery does not come in fragments (RFC 6980).
//!
//! Standards: RFC 826, 4861, 4862, 6620, 2131, 8415.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::address::AddressList;
use crate::nic::MacAddress;
use crate::wire::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ethernet, IPV6_HEADER, mac_at, u8_at, u16_at};

const ETHERTYPE_ARP: u16 = 0x0806;
/// Headers between IPv6 and the upper layer that are walked.
const MAX_EXTENSIONS: usize = 8;
/// Options of a neighbour discovery message that are walked.
const MAX_OPTIONS: usize = 16;

/// What a port is held to.
#[derive(Clone, Debug, Default)]
pub struct Guard {
    mac: Option<MacAddress>,
    addresses: Option<AddressList>,
}

impl Guard {
    /// Nothing.
    pub const NONE: Self = Self { mac: None, addresses: None };

    /// Its MAC address, and a list of IP addresses if there is one.
    pub const fn new(mac: MacAddress, addresses: Option<AddressList>) -> Self {
        Self { mac: Some(mac), addresses }
    }

    /// Whether the port is held to anything.
    pub const fn is_on(&self) -> bool {
        self.mac.is_some()
    }

    /// Whether the port may send a frame that starts with `head`.
    pub fn admits(&self, head: &[u8]) -> bool {
        let Some(mac) = self.mac else { return true };
        let Some(ethernet) = Ethernet::parse(head).filter(|ethernet| ethernet.source == mac) else { return false };
        let Some(addresses) = &self.addresses else { return true };
        let packet = head.get(ethernet.payload..).unwrap_or(&[]);
        let allowed = Allowed { mac, addresses };
        match ethernet.ethertype {
            ETHERTYPE_ARP => allowed.arp(packet),
            ETHERTYPE_IPV4 => allowed.ipv4(packet),
            ETHERTYPE_IPV6 => allowed.ipv6(packet),
            _ => None,
        }
        .unwrap_or(false)
    }

    /// Whether an address is the port's and nobody else's.
    pub fn names(&self, address: IpAddr) -> bool {
        self.addresses.as_ref().is_some_and(|addresses| addresses.names(address))
    }

    /// Whether the port gets a frame for `dest`.
    pub fn takes(&self, dest: MacAddress) -> bool {
        dest.is_group() || self.mac.is_none_or(|mac| mac == dest)
    }
}

/// The address that a frame says its sender has, in ARP or neighbour discovery.
pub fn claim(head: &[u8]) -> Option<IpAddr> {
    let ethernet = Ethernet::parse(head)?;
    let packet = head.get(ethernet.payload..)?;
    match ethernet.ethertype {
        ETHERTYPE_ARP => ipv4_at(packet, 14).map(IpAddr::V4),
        ETHERTYPE_IPV6 => {
            let Upper::Icmp { at, .. } = upper(packet)? else { return None };
            let message = packet.get(at..)?;
            let claims = match u8_at(message, 0)? {
                136 => true,
                135 => ipv6_at(packet, 8)?.is_unspecified(),
                _ => false,
            };
            ipv6_at(message, 8).filter(|_| claims).map(IpAddr::V6)
        }
        _ => None,
    }
}

/// Addresses to compare with. Of each method, `None` means that the packet is malformed or too short.
struct Allowed<'a> {
    mac: MacAddress,
    addresses: &'a AddressList,
}

impl Allowed<'_> {
    fn has_v6(&self, address: Ipv6Addr) -> bool {
        self.addresses.has_v6(address) || address == link_local(self.mac)
    }

    fn arp(&self, packet: &[u8]) -> Option<bool> {
        // Ethernet and IPv4, with addresses of 6 and 4 bytes.
        let known = packet.get(..6)? == [0, 1, 8, 0, 6, 4];
        let sender = ipv4_at(packet, 14)?;
        Some(known && mac_at(packet, 8)? == self.mac && (sender.is_unspecified() || self.addresses.has_v4(sender)))
    }

    fn ipv4(&self, packet: &[u8]) -> Option<bool> {
        let version_ihl = u8_at(packet, 0)?;
        let header = usize::from(version_ihl & 0xf).checked_mul(4)?;
        if version_ihl >> 4 != 4 || header < 20 {
            return None;
        }
        let source = ipv4_at(packet, 12)?;
        let whole = u16_at(packet, 6)? & 0x3fff == 0;
        let udp = match u8_at(packet, 9)? {
            17 if whole => ports(packet, header),
            _ => None,
        };
        Some(match udp {
            // A DHCP client without an address, and a DHCP server.
            Some((68, 67)) if source.is_unspecified() => true,
            Some((67, 68)) => false,
            _ => self.addresses.has_v4(source),
        })
    }

    fn ipv6(&self, packet: &[u8]) -> Option<bool> {
        if u8_at(packet, 0)? >> 4 != 6 {
            return None;
        }
        let source = ipv6_at(packet, 8)?;
        let known = self.has_v6(source);
        Some(match upper(packet)? {
            Upper::Icmp { at, whole } => self.icmp(packet.get(at..)?, source, known, whole)?,
            Upper::Udp { at } => known && ports(packet, at) != Some((547, 546)),
            Upper::Other => known,
        })
    }

    /// `packet`: from the ICMPv6 header on.
    fn icmp(&self, packet: &[u8], source: Ipv6Addr, known: bool, whole: bool) -> Option<bool> {
        Some(match u8_at(packet, 0)? {
            // Router advertisement, redirect.
            134 | 137 => false,
            // Router solicitation: its options start behind 8 bytes.
            133 => whole && (known || source.is_unspecified()) && self.options(packet, 8)?,
            // Neighbour solicitation; without a source it asks whether its target is in use already.
            135 => {
                let target = ipv6_at(packet, 8)?;
                let probe = source.is_unspecified() && self.has_v6(target);
                whole && (known || probe) && self.options(packet, 24)?
            }
            // Neighbour advertisement.
            136 => whole && known && self.has_v6(ipv6_at(packet, 8)?) && self.options(packet, 24)?,
            // Multicast listener reports, also before there is an address.
            131 | 132 | 143 => known || source.is_unspecified(),
            _ => known,
        })
    }

    /// Whether the link-layer addresses in the options of a neighbour discovery message are the port's own.
    fn options(&self, packet: &[u8], from: usize) -> Option<bool> {
        let mut at = from;
        for _ in 0..MAX_OPTIONS {
            let Some(kind) = u8_at(packet, at) else { return Some(true) };
            let len = usize::from(u8_at(packet, at.checked_add(1)?)?).checked_mul(8).filter(|len| *len > 0)?;
            if matches!(kind, 1 | 2) && mac_at(packet, at.checked_add(2)?)? != self.mac {
                return Some(false);
            }
            at = at.checked_add(len)?;
        }
        None
    }
}

/// What an IPv6 packet carries.
enum Upper {
    /// ICMPv6 at this offset; `whole` unless it is the first fragment of something.
    Icmp { at: usize, whole: bool },
    /// UDP at this offset.
    Udp { at: usize },
    /// Something else, or a fragment that is not the first.
    Other,
}

/// Walks the headers of an IPv6 packet.
fn upper(packet: &[u8]) -> Option<Upper> {
    let (mut next, mut at, mut whole) = (u8_at(packet, 6)?, IPV6_HEADER, true);
    for _ in 0..MAX_EXTENSIONS {
        let units = |unit: usize, extra: usize| {
            usize::from(u8_at(packet, at.checked_add(1)?)?).checked_add(extra)?.checked_mul(unit)
        };
        let len = match next {
            // Hop-by-hop options, routing, destination options.
            0 | 43 | 60 => units(8, 1)?,
            // Authentication header.
            51 => units(4, 2)?,
            44 => {
                whole = false;
                if u16_at(packet, at.checked_add(2)?)? & 0xfff8 != 0 {
                    return Some(Upper::Other);
                }
                8
            }
            58 => return Some(Upper::Icmp { at, whole }),
            17 => return Some(Upper::Udp { at }),
            _ => return Some(Upper::Other),
        };
        next = u8_at(packet, at)?;
        at = at.checked_add(len)?;
    }
    None
}

/// The link-local address that is formed from a MAC address (RFC 4291, appendix A).
fn link_local(mac: MacAddress) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac.0;
    Ipv6Addr::from_octets([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f])
}

fn ports(packet: &[u8], at: usize) -> Option<(u16, u16)> {
    Some((u16_at(packet, at)?, u16_at(packet, at.checked_add(2)?)?))
}

fn ipv4_at(bytes: &[u8], at: usize) -> Option<Ipv4Addr> {
    bytes.get(at..)?.first_chunk::<4>().map(|octets| Ipv4Addr::from_octets(*octets))
}

fn ipv6_at(bytes: &[u8], at: usize) -> Option<Ipv6Addr> {
    bytes.get(at..)?.first_chunk::<16>().map(|octets| Ipv6Addr::from_octets(*octets))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
mod tests;
