//! Storm limits: how many frames that go to everybody a port may send.

use core::time::Duration;

use xen_pv_rt::hyp::Instant;

use super::bucket::TokenBucket;

/// Why a frame goes to everybody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FloodKind {
    /// It is a broadcast.
    Broadcast,
    /// It is for some other group.
    Multicast,
    /// It is for a station that nobody has heard of.
    Unknown,
}

/// Frames per second that each port may send to everybody; 0: as many as it likes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StormLimits {
    /// Broadcasts.
    pub broadcast: u32,
    /// Multicasts.
    pub multicast: u32,
    /// Frames for stations that nobody has heard of.
    pub unknown: u32,
}

impl Default for StormLimits {
    fn default() -> Self {
        Self { broadcast: 1000, multicast: 10_000, unknown: 1000 }
    }
}

/// What a port has left of its limits.
pub(super) struct StormControl {
    broadcast: Option<TokenBucket>,
    multicast: Option<TokenBucket>,
    unknown: Option<TokenBucket>,
}

impl StormControl {
    pub(super) fn new(limits: StormLimits) -> Self {
        let bucket = |frames| TokenBucket::new(u64::from(frames), Duration::from_secs(1));
        Self {
            broadcast: bucket(limits.broadcast),
            multicast: bucket(limits.multicast),
            unknown: bucket(limits.unknown),
        }
    }

    /// Whether the port may send one more frame of this kind, which then counts.
    pub(super) fn admit(&mut self, kind: FloodKind, now: Instant) -> bool {
        let bucket = match kind {
            FloodKind::Broadcast => &mut self.broadcast,
            FloodKind::Multicast => &mut self.multicast,
            FloodKind::Unknown => &mut self.unknown,
        };
        let Some(bucket) = bucket else { return true };
        let admitted = bucket.has_any(now);
        if admitted {
            bucket.take(1);
        }
        admitted
    }
}
