//! The learning switch: which port a frame leaves by.
//!
//! A port is a vif or an uplink (a card) and belongs to one bridge; frames never cross bridges. The switch
//! looks at addresses only and holds no frames: the data plane asks it for a [`Verdict`] and does the rest.
//!
//! [`MacTable`] is bounded per port, so that a guest that sends from many addresses evicts nothing but its
//! own. The address the toolstack gave to a vif is pinned to it: no other port can take it over.
//!
//! Standards: IEEE 802.1D, 7.8 (learning), 7.9 (ageing), 7.12.6 (reserved group addresses).

mod table;

use alloc::vec::Vec;

use xen_pv_rt::hyp::Instant;

pub use table::{MacTable, TableLimits};

use crate::nic::MacAddress;

/// Where frames enter and leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PortId {
    /// A vif, by its number in the data plane.
    Vif(u16),
    /// A card, by its number in the main loop.
    Uplink(u8),
}

/// A broadcast domain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BridgeId(pub u8);

/// What to do with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Send it out by this port.
    To(PortId),
    /// Send it out by every port of the bridge but the one it came from.
    Flood,
    /// Nobody else is to see it: it stays on the segment it came from, or is for bridges only.
    Discard,
}

struct Port {
    id: PortId,
    bridge: BridgeId,
}

/// Ports, and the addresses seen behind them.
pub struct Switch {
    ports: Vec<Port>,
    table: MacTable,
}

impl Switch {
    /// A switch without ports.
    pub fn new(limits: TableLimits, seed: u64) -> Self {
        Self { ports: Vec::new(), table: MacTable::new(limits, seed) }
    }

    /// Adds a port. `own` is the address the toolstack gave to the interface behind it, if it is a vif.
    pub fn add_port(&mut self, id: PortId, bridge: BridgeId, own: Option<MacAddress>) {
        self.remove_port(id);
        self.ports.push(Port { id, bridge });
        if let Some(mac) = own.filter(|mac| !mac.is_group()) {
            self.table.pin(bridge, mac, id);
        }
    }

    /// Removes a port and forgets every address behind it.
    pub fn remove_port(&mut self, id: PortId) {
        self.ports.retain(|port| port.id != id);
        self.table.forget(id);
    }

    /// Decides about a frame that came in by `from`, and learns its source.
    pub fn forward(&mut self, from: PortId, dest: MacAddress, source: MacAddress, now: Instant) -> Verdict {
        let Some(bridge) = self.bridge_of(from) else { return Verdict::Discard };
        if !source.is_group() {
            self.table.learn(bridge, source, from, now);
        }
        if is_reserved(dest) {
            return Verdict::Discard;
        }
        if dest.is_group() {
            return Verdict::Flood;
        }
        match self.table.lookup(bridge, dest, now) {
            Some(port) if port == from => Verdict::Discard,
            Some(port) => Verdict::To(port),
            None => Verdict::Flood,
        }
    }

    /// Forgets addresses that have aged.
    pub fn expire(&mut self, now: Instant) {
        self.table.expire(now);
    }

    /// The ports that a flooded frame from `from` leaves by, from number `start` on: the next one and the
    /// number to go on with.
    pub fn next_flood_port(&self, from: PortId, start: usize) -> Option<(PortId, usize)> {
        let bridge = self.bridge_of(from)?;
        let (skipped, port) =
            self.ports.iter().skip(start).enumerate().find(|(_, port)| port.id != from && port.bridge == bridge)?;
        Some((port.id, start.saturating_add(skipped).saturating_add(1)))
    }

    fn bridge_of(&self, id: PortId) -> Option<BridgeId> {
        self.ports.iter().find(|port| port.id == id).map(|port| port.bridge)
    }
}

/// `01:80:c2:00:00:00` to `0f`: between bridges, never forwarded.
fn is_reserved(mac: MacAddress) -> bool {
    matches!(mac.0, [0x01, 0x80, 0xc2, 0, 0, last] if last < 0x10)
}

#[cfg(test)]
mod tests;
