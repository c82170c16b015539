//! The learning switch: which port a frame leaves by.
//!
//! A port is a vif or an uplink (a card) and belongs to one bridge, and there to some VLANs; frames never cross
//! bridges or VLANs. The switch looks at the first bytes of a frame and holds none: the data plane asks it for a
//! [`Verdict`] and does the rest.
//!
//! - `table`: [`MacTable`], bounded per port, so that a guest that sends from many addresses evicts nothing but its
//!   own. The address the toolstack gave to a vif is pinned to it: no other port can take it over.
//! - [`vlan`], [`tag`]: VLANs of ports, tags of frames.
//! - [`guard`], [`address`]: anti-spoofing.
//! - [`storm`], [`bucket`]: limits of frames that go to everybody.
//! - [`bridges`], [`policy`]: what options and a vif's keys make of it.
//!
//! Standards: IEEE 802.1D, 7.8 (learning), 7.9 (ageing), 7.12.6 (reserved group addresses).

pub mod address;
pub mod bridges;
pub mod bucket;
pub mod guard;
mod per_port;
pub mod policy;
pub mod storm;
mod table;
pub mod tag;
pub mod vlan;

use alloc::vec::Vec;

use xen_pv_rt::hyp::Instant;

pub use table::{MacTable, TableLimits};

use crate::nic::MacAddress;
use crate::wire::Ethernet;
use guard::Guard;
use per_port::PerPort;
use storm::{FloodKind, StormControl, StormLimits};
use tag::Bearing;
use vlan::{Tags, Vid, Vlans};

/// Most bridges: their numbers fit in four bits.
pub const MAX_BRIDGES: usize = 16;

/// Where frames enter and leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PortId {
    /// A vif, by its number in the data plane.
    Vif(u16),
    /// A card, by its number in the main loop.
    Uplink(u8),
}

/// A broadcast domain, or several if it has VLANs; below [`MAX_BRIDGES`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BridgeId(pub u8);

/// A way out of the switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// The port.
    pub port: PortId,
    /// How the frame is to bear its VLAN there.
    pub bearing: Bearing,
}

/// A frame that leaves by several ports; see [`Switch::next_exit`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flood {
    from: PortId,
    bridge: BridgeId,
    vlan: Vid,
    dest: MacAddress,
}

/// What to do with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Send it out by this port.
    To(Exit),
    /// Send it out by every port that may have it.
    Flood(Flood),
    /// Nobody else is to see it: it stays on the segment it came from, or is for bridges only.
    Discard,
    /// Its sender may not send it.
    Refuse(Refusal),
}

/// Why a frame may not be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// From an address that is not the sender's.
    Spoof,
    /// In a VLAN that is not the sender's.
    Vlan,
    /// More of those that go to everybody than the port may send.
    Storm,
}

/// What a port is to the switch.
#[derive(Clone, Debug)]
pub struct PortConfig {
    /// Its bridge.
    pub bridge: BridgeId,
    /// The address the toolstack gave to the interface behind it, if it is a vif.
    pub own: Option<MacAddress>,
    /// Its VLANs.
    pub vlans: Vlans,
    /// What it is held to.
    pub guard: Guard,
    /// It ends here, so frames from cards reach it and its frames reach cards, whatever `transit` says.
    pub local: bool,
}

impl PortConfig {
    /// A card.
    pub const fn uplink(bridge: BridgeId) -> Self {
        Self { bridge, own: None, vlans: Vlans::Wire, guard: Guard::NONE, local: false }
    }

    /// The domain's own interface, which knows no VLANs.
    pub const fn local(bridge: BridgeId) -> Self {
        Self { bridge, own: None, vlans: Vlans::Access(Vid::NATIVE), guard: Guard::NONE, local: true }
    }
}

/// What can be set about a switch.
#[derive(Clone, Copy, Debug, Default)]
pub struct SwitchOptions {
    /// Bounds of the address table.
    pub table: TableLimits,
    /// Vifs reach cards, but not each other.
    pub isolate: bool,
    /// Cards of one bridge reach each other. Two of them on one LAN then make a loop.
    pub transit: bool,
    /// Of each port.
    pub storm: StormLimits,
}

struct Port {
    config: PortConfig,
    storm: StormControl,
}

/// Ports, and the addresses seen behind them.
pub struct Switch {
    ports: PerPort<Port>,
    /// The ports of each bridge.
    members: Vec<Vec<PortId>>,
    table: MacTable,
    options: SwitchOptions,
}

impl Switch {
    /// A switch without ports.
    pub fn new(options: SwitchOptions, seed: u64) -> Self {
        let members = (0..MAX_BRIDGES).map(|_| Vec::new()).collect();
        Self { ports: PerPort::new(), members, table: MacTable::new(options.table, seed), options }
    }

    /// Adds a port.
    pub fn add_port(&mut self, id: PortId, config: PortConfig) {
        self.remove_port(id);
        let bridge = config.bridge;
        if let Some(members) = self.members.get_mut(usize::from(bridge.0)) {
            members.push(id);
            if let Some(mac) = config.own.filter(|mac| !mac.is_group()) {
                self.table.pin(bridge, mac, id);
            }
            self.ports.insert(id, Port { config, storm: StormControl::new(self.options.storm) });
        }
    }

    /// Removes a port and forgets every address behind it.
    pub fn remove_port(&mut self, id: PortId) {
        if let Some(port) = self.ports.remove(id)
            && let Some(members) = self.members.get_mut(usize::from(port.config.bridge.0))
        {
            members.retain(|member| *member != id);
            self.table.forget(id);
        }
    }

    /// Decides about a frame that came in by `from` and starts with `head`, and learns its source.
    pub fn forward(&mut self, from: PortId, head: &[u8], now: Instant) -> Verdict {
        let Some(PortConfig { bridge, vlans, guard, .. }) = self.ports.get(from).map(|port| &port.config) else {
            return Verdict::Discard;
        };
        let Some((dest, source)) = Ethernet::addresses(head) else { return Verdict::Discard };
        let Some(vlan) = vlans.ingress(Tags::of(head)) else { return Verdict::Refuse(Refusal::Vlan) };
        if !guard.admits(head) {
            return Verdict::Refuse(Refusal::Spoof);
        }
        let bridge = *bridge;
        if !guard.is_on() && self.is_claimed_by_another(from, bridge, vlan, head) {
            return Verdict::Refuse(Refusal::Spoof);
        }
        if !source.is_group() {
            match self.owner(bridge, vlan, source).filter(|owner| *owner != from) {
                // A card that is on the same LAN as another, or a loop behind it, gives back what we sent.
                Some(_) if matches!(from, PortId::Uplink(_)) => return Verdict::Discard,
                Some(owner) if self.is_guarded(owner) => return Verdict::Refuse(Refusal::Spoof),
                Some(_) => {}
                None => self.table.learn(bridge, vlan, source, from, now),
            }
        }
        if is_reserved(dest) {
            return Verdict::Discard;
        }
        let flood = Flood { from, bridge, vlan, dest };
        if !dest.is_group()
            && let Some(to) = self.owner(bridge, vlan, dest).or_else(|| self.table.lookup(bridge, vlan, dest, now))
        {
            return self.exit(&flood, to).map_or(Verdict::Discard, Verdict::To);
        }
        let kind = match dest {
            MacAddress::BROADCAST => FloodKind::Broadcast,
            _ if dest.is_group() => FloodKind::Multicast,
            _ => FloodKind::Unknown,
        };
        let admitted = self.ports.get_mut(from).is_some_and(|port| port.storm.admit(kind, now));
        if admitted { Verdict::Flood(flood) } else { Verdict::Refuse(Refusal::Storm) }
    }

    /// Forgets addresses that have aged.
    pub fn expire(&mut self, now: Instant) {
        self.table.expire(now);
    }

    /// The ways out for a frame that goes to everybody, from number `start` on: the next one and the number to go on
    /// with.
    pub fn next_exit(&self, flood: &Flood, start: usize) -> Option<(Exit, usize)> {
        let members = self.members.get(usize::from(flood.bridge.0))?.iter().zip(0_usize..).skip(start);
        let mut exits = members.filter_map(|(to, at)| Some((self.exit(flood, *to)?, at.saturating_add(1))));
        exits.next()
    }

    /// The vif to which the toolstack gave an address, if it is in the VLAN.
    fn owner(&self, bridge: BridgeId, vlan: Vid, mac: MacAddress) -> Option<PortId> {
        let owner = self.table.pinned(bridge, mac)?;
        self.ports.get(owner)?.config.vlans.egress(vlan).map(|_| owner)
    }

    /// Whether a vif says that it has an address that is another's. Only ARP and neighbour discovery say such things, so
    /// few frames are compared with all ports. The wire may: addresses move between hosts.
    fn is_claimed_by_another(&self, from: PortId, bridge: BridgeId, vlan: Vid, head: &[u8]) -> bool {
        let PortId::Vif(_) = from else { return false };
        let Some(address) = guard::claim(head) else { return false };
        let members = self.members.get(usize::from(bridge.0)).into_iter().flatten();
        members
            .filter_map(|member| self.ports.get(*member))
            .any(|port| port.config.guard.names(address) && port.config.vlans.egress(vlan).is_some())
    }

    fn is_guarded(&self, id: PortId) -> bool {
        self.ports.get(id).is_some_and(|port| port.config.guard.is_on())
    }

    fn is_local(&self, id: PortId) -> bool {
        self.ports.get(id).is_some_and(|port| port.config.local)
    }

    /// The way out by one port, if a frame may take it.
    fn exit(&self, flood: &Flood, to: PortId) -> Option<Exit> {
        let reachable = match (flood.from, to) {
            (PortId::Vif(_), PortId::Vif(_)) => !self.options.isolate,
            (PortId::Uplink(_), PortId::Uplink(_)) => {
                self.options.transit || self.is_local(flood.from) || self.is_local(to)
            }
            _ => true,
        };
        let config = &self.ports.get(to).filter(|_| reachable && to != flood.from)?.config;
        let form = config.vlans.egress(flood.vlan).filter(|_| config.guard.takes(flood.dest))?;
        Some(Exit { port: to, bearing: Bearing { vlan: flood.vlan, form } })
    }
}

/// `01:80:c2:00:00:00` to `0f`: between bridges, never forwarded.
fn is_reserved(mac: MacAddress) -> bool {
    matches!(mac.0, [0x01, 0x80, 0xc2, 0, 0, last] if last < 0x10)
}

#[cfg(test)]
mod tests;
