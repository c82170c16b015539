//! Log lines about faults: one format, and at most one line per cause and second.
//!
//! Whoever causes a fault can cause it a million times, so each device has a [`LogLimit`], keyed by cause and
//! made once with room for all causes. Devices that share one could silence each other.

use core::fmt;
use core::time::Duration;

use crate::hyp::{Domid, Instant};
use crate::xenbus::DeviceKind;

/// The least time between two lines for one key.
pub const LOG_INTERVAL: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug)]
struct Slot<K> {
    key: K,
    last: Instant,
    suppressed: u64,
}

/// When each key was last logged, for up to `N` keys. Never allocates.
#[derive(Clone, Debug)]
pub struct LogLimit<K, const N: usize> {
    slots: [Option<Slot<K>>; N],
    untold: u64,
}

impl<K: Copy + Eq, const N: usize> LogLimit<K, N> {
    /// Nothing was logged yet.
    pub const fn new() -> Self {
        Self { slots: [const { None }; N], untold: 0 }
    }

    /// Whether a line about `key` may be logged at `now`: then the number of lines about it that were suppressed
    /// since the last one.
    pub fn check(&mut self, key: K, now: Instant) -> Option<u64> {
        self.check_many(key, 1, now)
    }

    /// The same for `count` events that would make one line: all but one count as suppressed.
    pub fn check_many(&mut self, key: K, count: u64, now: Instant) -> Option<u64> {
        if let Some(slot) = self.slots.iter_mut().flatten().find(|slot| slot.key == key) {
            slot.suppressed = slot.suppressed.saturating_add(count);
            if now.saturating_since(slot.last) < LOG_INTERVAL {
                return None;
            }
            slot.last = now;
            return Some(core::mem::take(&mut slot.suppressed).saturating_sub(1));
        }
        let Some(place) = self.place(now) else {
            self.untold = self.untold.saturating_add(count);
            return None;
        };
        let evicted = place.replace(Slot { key, last: now, suppressed: 0 });
        self.untold = self.untold.saturating_add(evicted.map_or(0, |slot| slot.suppressed));
        Some(count.saturating_sub(1))
    }

    /// The number of suppressed events that no line will count, because there were more than `N` keys; counts from
    /// zero again.
    pub fn take_untold(&mut self) -> u64 {
        core::mem::take(&mut self.untold)
    }

    /// A slot for a new key: a free one, or that of the key which was logged the longest time ago, if it may be
    /// forgotten.
    fn place(&mut self, now: Instant) -> Option<&mut Option<Slot<K>>> {
        let oldest = self.slots.iter_mut().min_by_key(|slot| slot.as_ref().map(|slot| slot.last))?;
        let free = oldest.as_ref().is_none_or(|slot| now.saturating_since(slot.last) >= LOG_INTERVAL);
        free.then_some(oldest)
    }
}

impl<K: Copy + Eq, const N: usize> Default for LogLimit<K, N> {
    fn default() -> Self {
        Self::new()
    }
}

/// What was done about a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The device was taken out of service.
    Kill,
    /// The request was answered with an error.
    Err,
    /// The packet was dropped.
    Drop,
    /// The device did not enter service.
    Refuse,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kill => "kill",
            Self::Err => "err",
            Self::Drop => "drop",
            Self::Refuse => "refuse",
        })
    }
}

/// The log line about a fault of a frontend:
/// `be=<vif|vbd> dom=<domid> dev=<handle> q=<n> cause=<CODE> <k=v…> action=<kill|err|drop|refuse> n=<suppressed>`.
#[derive(Clone, Copy, Debug)]
pub struct FaultLine<'a> {
    /// The kind of device.
    pub kind: DeviceKind,
    /// The domain it serves.
    pub frontend: Domid,
    /// The device's number in that domain.
    pub devid: u32,
    /// The queue or ring.
    pub queue: u32,
    /// A code in capitals.
    pub cause: &'a str,
    /// `key=value` pairs separated by blanks: numbers and text of ours, nothing that a peer wrote. May be empty.
    pub details: fmt::Arguments<'a>,
    /// What was done.
    pub action: Action,
    /// Lines left out since the last one, see [`LogLimit::check`].
    pub suppressed: u64,
}

impl fmt::Display for FaultLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, frontend, devid, queue, cause, details, action, suppressed } = self;
        write!(f, "be={kind} dom={frontend} dev={devid} q={queue} cause={cause} ")?;
        if details.as_str() != Some("") {
            write!(f, "{details} ")?;
        }
        write!(f, "action={action} n={suppressed}")
    }
}

#[cfg(test)]
mod tests;
