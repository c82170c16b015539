//! What the options decide about vifs, and what becomes of a vif's own keys.

use alloc::format;

use xen_pv_rt::xenbus::backend::Fault;

use super::address::AddressList;
use super::bridges::Bridges;
use super::guard::Guard;
use super::vlan::Vlans;
use super::{BridgeId, PortConfig};
use crate::nic::MacAddress;

/// Which vifs are held to their own addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AntiSpoof {
    /// None.
    Off,
    /// Those with an `ip` key, to their MAC address and those IP addresses.
    #[default]
    Ip,
    /// Those too, and all others to their MAC address.
    Mac,
}

impl AntiSpoof {
    /// Reads `off`, `ip` or `mac`.
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "off" => Self::Off,
            "ip" => Self::Ip,
            "mac" => Self::Mac,
            _ => return None,
        })
    }
}

/// The toolstack's keys of a vif, as far as the switch cares.
#[derive(Clone, Copy, Debug, Default)]
pub struct PortKeys<'a> {
    /// `mac`.
    pub mac: Option<MacAddress>,
    /// `bridge`.
    pub bridge: Option<&'a str>,
    /// `ip`.
    pub ip: Option<&'a str>,
    /// `vlan`.
    pub vlan: Option<&'a str>,
}

/// What holds for all vifs.
#[derive(Clone, Debug)]
pub struct Policy {
    /// The bridges there are.
    pub bridges: Bridges,
    /// Which vifs are held to their own addresses.
    pub antispoof: AntiSpoof,
    /// What a vif without a `vlan` key belongs to.
    pub vlans: Vlans,
}

impl Default for Policy {
    fn default() -> Self {
        Self { bridges: Bridges::default(), antispoof: AntiSpoof::default(), vlans: Vlans::Wire }
    }
}

impl Policy {
    /// What a vif with these keys is to the switch.
    ///
    /// # Errors
    /// `BRIDGE`, `VLAN` or `IP`: the key that cannot be obeyed.
    pub fn port(&self, keys: &PortKeys<'_>) -> Result<PortConfig, Fault> {
        let bridge = self.bridge(keys.bridge)?;
        let vlans = match keys.vlan {
            Some(text) => Vlans::parse(text).ok_or_else(|| malformed("VLAN", "vlan", text))?,
            None => self.vlans.clone(),
        };
        let addresses = match keys.ip.filter(|_| self.antispoof != AntiSpoof::Off) {
            Some(text) => Some(AddressList::parse(text).ok_or_else(|| malformed("IP", "ip", text))?),
            None => None,
        };
        let guard = match (keys.mac, addresses) {
            (Some(mac), addresses @ Some(_)) => Guard::new(mac, addresses),
            (Some(mac), None) if self.antispoof == AntiSpoof::Mac => Guard::new(mac, None),
            (None, None) if self.antispoof != AntiSpoof::Mac => Guard::NONE,
            (Some(_), None) => Guard::NONE,
            // Without an address of its own there is nothing to hold it to.
            (None, _) => return Err(Fault::new("MAC", "antispoof= or ip= needs the mac key")),
        };
        Ok(PortConfig { bridge, own: keys.mac, vlans, guard, local: false })
    }

    fn bridge(&self, name: Option<&str>) -> Result<BridgeId, Fault> {
        self.bridges.find(name).ok_or_else(|| {
            let wanted = shown(name.unwrap_or(""));
            Fault::with("BRIDGE", format!("no bridge {wanted:?} (known: {})", self.bridges.names()))
        })
    }
}

/// The fault of a key that makes no sense.
pub(crate) fn malformed(code: &'static str, key: &str, text: &str) -> Fault {
    Fault::with(code, format!("malformed {key} key {:?}", shown(text)))
}

/// As much of a value as fits into a fault.
fn shown(text: &str) -> &str {
    text.get(..64).unwrap_or(text)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    const OWN: MacAddress = MacAddress([0, 0x16, 0x3e, 0, 0, 1]);

    fn is_guarded(antispoof: AntiSpoof, ip: Option<&str>) -> bool {
        let policy = Policy { antispoof, ..Policy::default() };
        policy.port(&PortKeys { mac: Some(OWN), ip, ..PortKeys::default() }).unwrap().guard.is_on()
    }

    #[test]
    fn a_list_of_addresses_is_enforced_unless_switched_off() {
        let ip = Some("10.0.0.1");
        assert_eq!(
            [AntiSpoof::Off, AntiSpoof::Ip, AntiSpoof::Mac].map(|mode| is_guarded(mode, ip)),
            [false, true, true]
        );
        let without = [AntiSpoof::Off, AntiSpoof::Ip, AntiSpoof::Mac].map(|mode| is_guarded(mode, None));
        assert_eq!(without, [false, false, true]);
    }

    #[test]
    fn a_key_that_cannot_be_obeyed_is_named() {
        let policy = Policy { bridges: Bridges::new(alloc::vec::Vec::new(), 2).unwrap(), ..Policy::default() };
        let keys = PortKeys { mac: Some(OWN), ..PortKeys::default() };
        for (keys, code, word) in [
            (PortKeys { bridge: Some("br9"), ..keys }, "BRIDGE", "br9"),
            (PortKeys { vlan: Some("10/20"), ..keys }, "VLAN", "10/20"),
            (PortKeys { ip: Some("10.0.0"), ..keys }, "IP", "10.0.0"),
            (PortKeys { ip: Some("10.0.0.1"), mac: None, ..keys }, "MAC", "mac"),
        ] {
            let fault = policy.port(&keys).unwrap_err();
            assert_eq!(fault.code, code);
            assert!(fault.text.contains(word), "{fault:?}");
        }
    }
}
