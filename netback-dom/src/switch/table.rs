//! Addresses and the ports they were seen behind.
//!
//! A hash table of fixed size in which an address can only be within [`WINDOW`] entries from where it
//! hashes to. That bounds every operation and needs no tombstones. The hash is seeded, so that a guest
//! cannot aim its addresses at one window.

use alloc::vec;
use alloc::vec::Vec;
use core::time::Duration;

use xen_pv_rt::hyp::Instant;

use super::per_port::PerPort;
use super::vlan::Vid;
use super::{BridgeId, PortId};
use crate::nic::MacAddress;

/// Entries in which an address may be found.
const WINDOW: usize = 8;

/// Bounds of a [`MacTable`].
#[derive(Clone, Copy, Debug)]
pub struct TableLimits {
    /// Entries in all; rounded up to a power of two.
    pub entries: usize,
    /// Most addresses behind one vif, its own not counted.
    pub per_vif: u16,
    /// Most addresses behind one card.
    pub per_uplink: u16,
    /// How long an address that is not seen stays.
    pub ageing: Duration,
}

impl Default for TableLimits {
    fn default() -> Self {
        Self { entries: 2048, per_vif: 16, per_uplink: 1024, ageing: Duration::from_secs(300) }
    }
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    key: u64,
    port: PortId,
    /// `None`: pinned, never ages.
    seen: Option<Instant>,
}

/// The address table of all bridges.
pub struct MacTable {
    entries: Vec<Option<Entry>>,
    /// How many learned addresses a port has. A port at its limit learns again when one of its own has aged.
    usage: PerPort<u16>,
    limits: TableLimits,
    seed: u64,
}

/// Bridge, VLAN (`None` for addresses that are pinned, in whichever of its VLANs their port uses them) and address
/// in one word.
fn key(bridge: BridgeId, vlan: Option<Vid>, mac: MacAddress) -> u64 {
    let [high, low] = vlan.map_or(0, Vid::into_raw).to_be_bytes();
    let [a, b, c, d, e, f] = mac.0;
    // Both fit: there are 16 bridges and 4096 VLANs.
    u64::from_be_bytes([(bridge.0 << 4) | high, low, a, b, c, d, e, f])
}

impl MacTable {
    /// An empty table. `seed` should differ from boot to boot.
    pub fn new(limits: TableLimits, seed: u64) -> Self {
        let entries = limits.entries.max(WINDOW).next_power_of_two();
        Self { entries: vec![None; entries], usage: PerPort::new(), limits, seed }
    }

    /// Gives `mac` to `port` for as long as the port exists.
    pub fn pin(&mut self, bridge: BridgeId, mac: MacAddress, port: PortId) {
        let key = key(bridge, None, mac);
        // Two vifs with one address are a mistake of the toolstack's; the first keeps it.
        if self.find(key).is_none() && !self.place(key, port, None) {
            self.evict_learned(key);
            self.place(key, port, None);
        }
    }

    /// The port to which `mac` was given.
    pub fn pinned(&self, bridge: BridgeId, mac: MacAddress) -> Option<PortId> {
        self.find(key(bridge, None, mac)).and_then(|at| self.entry(at)).map(|entry| entry.port)
    }

    /// Notes that `mac` was seen behind `port`.
    pub fn learn(&mut self, bridge: BridgeId, vlan: Vid, mac: MacAddress, port: PortId, now: Instant) {
        let key = key(bridge, Some(vlan), mac);
        let Some(at) = self.find(key) else {
            self.admit(key, port, now);
            return;
        };
        match self.entry(at) {
            Some(entry) if entry.port == port => self.set(at, Some(Entry { seen: Some(now), ..entry })),
            Some(_) => {
                self.remove(key);
                self.admit(key, port, now);
            }
            None => {}
        }
    }

    /// The port behind which `mac` was last seen.
    pub fn lookup(&self, bridge: BridgeId, vlan: Vid, mac: MacAddress, now: Instant) -> Option<PortId> {
        let entry = self.find(key(bridge, Some(vlan), mac)).and_then(|at| self.entry(at))?;
        self.is_fresh(&entry, now).then_some(entry.port)
    }

    /// Forgets every address behind `port`.
    pub fn forget(&mut self, port: PortId) {
        for entry in &mut self.entries {
            if entry.is_some_and(|entry| entry.port == port) {
                *entry = None;
            }
        }
        self.usage.remove(port);
    }

    /// Addresses learned behind `port`, aged ones that were not replaced yet included.
    pub fn learned(&self, port: PortId) -> u16 {
        self.usage.get(port).copied().unwrap_or(0)
    }

    #[cfg(test)]
    pub(super) fn held(&self, port: PortId) -> usize {
        self.entries.iter().flatten().filter(|entry| entry.port == port).count()
    }

    /// Learns a new address if the port may have one more.
    fn admit(&mut self, key: u64, port: PortId, now: Instant) {
        let limit = match port {
            PortId::Vif(_) => self.limits.per_vif,
            PortId::Uplink(_) => self.limits.per_uplink,
        };
        self.expire_window(key, now);
        if self.learned(port) < limit {
            self.place(key, port, Some(now));
        }
    }

    /// Frees what has aged in the window of `key`.
    fn expire_window(&mut self, key: u64, now: Instant) {
        for offset in 0..WINDOW {
            let at = self.slot(key, offset);
            if let Some(entry) = self.entry(at).filter(|entry| !self.is_fresh(entry, now)) {
                self.set(at, None);
                self.count(entry.port, false);
            }
        }
    }

    /// Frees everything that has aged. Called now and then, so that a quiet port gets its room back.
    pub fn expire(&mut self, now: Instant) {
        for at in 0..self.entries.len() {
            if let Some(entry) = self.entry(at).filter(|entry| !self.is_fresh(entry, now)) {
                self.set(at, None);
                self.count(entry.port, false);
            }
        }
    }

    /// Returns whether there was room within reach. A learned address for which there is none stays unknown.
    fn place(&mut self, key: u64, port: PortId, seen: Option<Instant>) -> bool {
        for offset in 0..WINDOW {
            let at = self.slot(key, offset);
            if self.entry(at).is_none() {
                self.set(at, Some(Entry { key, port, seen }));
                if seen.is_some() {
                    self.count(port, true);
                }
                return true;
            }
        }
        false
    }

    /// Makes room in the window of `key` at the cost of an address that can be learned again.
    fn evict_learned(&mut self, key: u64) {
        let learned = (0..WINDOW)
            .map(|offset| self.slot(key, offset))
            .find_map(|at| self.entry(at).filter(|entry| entry.seen.is_some()));
        if let Some(entry) = learned {
            self.remove(entry.key);
        }
    }

    fn remove(&mut self, key: u64) {
        if let Some((at, entry)) = self.find(key).and_then(|at| Some((at, self.entry(at)?))) {
            self.set(at, None);
            if entry.seen.is_some() {
                self.count(entry.port, false);
            }
        }
    }

    fn count(&mut self, port: PortId, more: bool) {
        match self.usage.get_mut(port) {
            Some(learned) if more => *learned = learned.saturating_add(1),
            Some(learned) => *learned = learned.saturating_sub(1),
            None => self.usage.insert(port, u16::from(more)),
        }
    }

    fn is_fresh(&self, entry: &Entry, now: Instant) -> bool {
        entry.seen.is_none_or(|seen| now.saturating_since(seen) < self.limits.ageing)
    }

    fn find(&self, key: u64) -> Option<usize> {
        (0..WINDOW)
            .map(|offset| self.slot(key, offset))
            .find(|at| self.entry(*at).is_some_and(|entry| entry.key == key))
    }

    fn entry(&self, at: usize) -> Option<Entry> {
        self.entries.get(at).copied().flatten()
    }

    fn set(&mut self, at: usize, entry: Option<Entry>) {
        if let Some(place) = self.entries.get_mut(at) {
            *place = entry;
        }
    }

    /// Entry number `offset` in the window of `key`.
    fn slot(&self, key: u64, offset: usize) -> usize {
        // A multiplicative hash; the upper bits are the well mixed ones.
        let mixed = (key ^ self.seed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mixed = (mixed ^ (mixed >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
        let start = usize::try_from(mixed >> 32).unwrap_or(0);
        start.wrapping_add(offset) & self.entries.len().wrapping_sub(1)
    }
}
