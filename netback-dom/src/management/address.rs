//! The option `management=`.

use smoltcp::wire::Ipv4Address;

/// Where the management address comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Address {
    /// `dhcp`.
    Dhcp,
    /// `ADDRESS/LENGTH[,GATEWAY]`.
    Static {
        /// The address.
        address: Ipv4Address,
        /// Length of the network's prefix in bits, 1 to 32.
        prefix: u8,
        /// The way to other networks.
        gateway: Option<Ipv4Address>,
    },
}

impl Address {
    /// Reads the option's value.
    pub fn parse(value: &str) -> Option<Self> {
        if value == "dhcp" {
            return Some(Self::Dhcp);
        }
        let (network, gateway) = match value.split_once(',') {
            Some((network, gateway)) => (network, Some(host(gateway)?)),
            None => (value, None),
        };
        let (address, prefix) = network.split_once('/')?;
        let prefix = prefix.parse().ok().filter(|bits| (1..=32).contains(bits) && !prefix.starts_with('+'))?;
        Some(Self::Static { address: host(address)?, prefix, gateway })
    }
}

/// An address that one host can have.
fn host(text: &str) -> Option<Ipv4Address> {
    let address: Ipv4Address = text.parse().ok()?;
    let usable =
        !address.is_unspecified() && !address.is_multicast() && !address.is_broadcast() && !address.is_loopback();
    usable.then_some(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read() {
        let address = Ipv4Address::new(10, 0, 0, 9);
        assert_eq!(Address::parse("dhcp"), Some(Address::Dhcp));
        assert_eq!(Address::parse("10.0.0.9/24"), Some(Address::Static { address, prefix: 24, gateway: None }));
        let gateway = Some(Ipv4Address::new(10, 0, 0, 1));
        assert_eq!(Address::parse("10.0.0.9/8,10.0.0.1"), Some(Address::Static { address, prefix: 8, gateway }));
    }

    #[test]
    fn anything_else_is_refused() {
        for value in [
            "",
            "DHCP",
            "10.0.0.9",
            "10.0.0.9/0",
            "10.0.0.9/33",
            "10.0.0.9/+8",
            "10.0.0.9/24,",
            "10.0.0.9/24,x",
            "0.0.0.0/8",
            "224.0.0.1/24",
            "255.255.255.255/24",
            "127.0.0.1/8",
            "10.0.0.9/24,10.0.0.1,10.0.0.2",
            "fd00::1/64",
        ] {
            assert_eq!(Address::parse(value), None, "{value}");
        }
    }
}
