//! The addresses a vif may use: `ip=` of its configuration.

use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Most addresses and networks of one vif.
const MAX_NETWORKS: usize = 64;

/// Addresses with the same first bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Network<T> {
    bits: T,
    mask: T,
}

/// Addresses and networks, of both versions of IP.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AddressList {
    v4: Vec<Network<u32>>,
    v6: Vec<Network<u128>>,
}

impl AddressList {
    /// Reads addresses with or without `/prefix length`, with blanks between them; `None` if there is none, there are
    /// more than 64, or one is malformed.
    pub fn parse(text: &str) -> Option<Self> {
        let mut list = Self::default();
        for word in text.split_ascii_whitespace() {
            let (address, prefix) = match word.split_once('/') {
                Some((address, prefix)) => (address, Some(prefix)),
                None => (word, None),
            };
            match address.parse::<Ipv4Addr>() {
                Ok(address) => {
                    let mask = u32::MAX.checked_shl(32_u32.checked_sub(prefix_len(prefix, 32)?)?).unwrap_or(0);
                    list.v4.push(Network { bits: address.to_bits() & mask, mask });
                }
                Err(_) => {
                    let address: Ipv6Addr = address.parse().ok()?;
                    let mask = u128::MAX.checked_shl(128_u32.checked_sub(prefix_len(prefix, 128)?)?).unwrap_or(0);
                    list.v6.push(Network { bits: address.to_bits() & mask, mask });
                }
            }
        }
        (1..=MAX_NETWORKS).contains(&list.v4.len().saturating_add(list.v6.len())).then_some(list)
    }

    /// Whether an IPv4 address is in the list.
    pub fn has_v4(&self, address: Ipv4Addr) -> bool {
        self.v4.iter().any(|network| address.to_bits() & network.mask == network.bits)
    }

    /// Whether an IPv6 address is in the list.
    pub fn has_v6(&self, address: Ipv6Addr) -> bool {
        self.v6.iter().any(|network| address.to_bits() & network.mask == network.bits)
    }

    /// Whether an address is in the list by itself, rather than as part of a network.
    pub fn names(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self.v4.contains(&Network { bits: address.to_bits(), mask: u32::MAX }),
            IpAddr::V6(address) => self.v6.contains(&Network { bits: address.to_bits(), mask: u128::MAX }),
        }
    }
}

/// The length of a prefix of an address of `bits` bits; a missing one is all of it.
fn prefix_len(text: Option<&str>, bits: u32) -> Option<u32> {
    let Some(text) = text else { return Some(bits) };
    let plain = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|len| plain && *len <= bits)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_networks_of_both_versions_are_read() {
        let list = AddressList::parse(" 10.0.0.5  192.168.1.7/24 fd00::5 2001:db8::/32 ").unwrap();
        for (address, listed) in [
            ("10.0.0.5", true),
            ("10.0.0.4", false),
            ("192.168.1.255", true),
            ("192.168.2.0", false),
            ("0.0.0.0", false),
        ] {
            assert_eq!(list.has_v4(address.parse().unwrap()), listed, "{address}");
        }
        for (address, listed) in [("fd00::5", true), ("fd00::6", false), ("2001:db8:1::1", true), ("::", false)] {
            assert_eq!(list.has_v6(address.parse().unwrap()), listed, "{address}");
        }
        assert!(AddressList::parse("0.0.0.0/0 ::/0").unwrap().has_v6("1::".parse().unwrap()));
    }

    #[test]
    fn a_network_names_no_address() {
        let list = AddressList::parse("10.0.0.5 192.168.0.0/24 fd00::5 ::/0").unwrap();
        for (address, named) in [("10.0.0.5", true), ("192.168.0.1", false), ("fd00::5", true), ("fd00::6", false)] {
            assert_eq!(list.names(address.parse().unwrap()), named, "{address}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in
            ["", " ", "10.0.0", "10.0.0.1/33", "10.0.0.1/", "10.0.0.1/+8", "10.0.0.1,10.0.0.2", "fd00::/129", "x"]
        {
            assert_eq!(AddressList::parse(text), None, "{text}");
        }
        assert!(AddressList::parse(&"10.0.0.1 ".repeat(64)).is_some());
        assert_eq!(AddressList::parse(&"10.0.0.1 ".repeat(65)), None);
    }
}
