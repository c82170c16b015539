//! What a vif counts.

use super::cause::Cause;

/// Packets not delivered, by cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DropCounts([u64; Cause::COUNT]);

impl Default for DropCounts {
    fn default() -> Self {
        Self([0; Cause::COUNT])
    }
}

impl DropCounts {
    /// Packets dropped for `cause`.
    pub fn of(&self, cause: Cause) -> u64 {
        self.0.get(cause.index()).copied().unwrap_or(0)
    }

    /// Packets dropped for any cause.
    pub fn total(&self) -> u64 {
        self.0.iter().fold(0, |sum, count| sum.wrapping_add(*count))
    }

    pub(crate) fn add(&mut self, cause: Cause) {
        if let Some(count) = self.0.get_mut(cause.index()) {
            *count = count.wrapping_add(1);
        }
    }
}

/// Packets and bytes in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Packets.
    pub packets: u64,
    /// Bytes, without FCS.
    pub bytes: u64,
}

impl Traffic {
    pub(crate) fn add(&mut self, bytes: usize) {
        self.packets = self.packets.wrapping_add(1);
        self.bytes = self.bytes.wrapping_add(u64::try_from(bytes).unwrap_or(0));
    }
}

/// Counters of a vif since it connected. They wrap. TX and RX are the frontend's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VifCounters {
    /// Taken from the frontend and switched.
    pub tx: Traffic,
    /// Delivered to the frontend.
    pub rx: Traffic,
    /// Packets from the frontend that went nowhere.
    pub tx_drops: DropCounts,
    /// Packets for the frontend that did not get there.
    pub rx_drops: DropCounts,
    /// Of the wire's TCP segments, those that were appended to an earlier one: not among the packets delivered.
    pub rx_joined: u64,
    /// Notifications sent.
    pub notifications: u64,
    /// Notifications received, counted before the domain sleeps: those of one event channel since it last did are one.
    pub events: u64,
}
