//! What a driver domain did for its packets or requests, by its own counters.
//!
//! Ours publishes them in xenstore; of a Linux one, `/proc/interrupts` tells what it received. What a domain does not
//! count is `None`, and so is what comes of it.

use std::time::Duration;

use super::samples::{Contender, Metric, Samples};

/// How long after the last packet every counter of our domain has been published: it does that every 5 s, and each node
/// takes a moment.
pub const PUBLISHED: Duration = Duration::from_secs(7);

/// Interrupts of a Linux driver domain that are work for packets or requests: the start of their names.
const SERVICE: &[&str] = &["vif", "blkif-backend", "eth", "virtio", "nvme", "ahci"];

/// What a driver domain has counted so far, or between two moments.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
pub struct Work {
    /// Grant copy hypercalls.
    pub copy_calls: Option<f64>,
    /// Copies in those.
    pub copies: Option<f64>,
    /// Sleeps that ended with something to do.
    pub wakeups: Option<f64>,
    /// Interrupts of the device and notifications from frontends, received.
    pub interrupts: Option<f64>,
    /// Notifications sent to frontends.
    pub notifications: Option<f64>,
}

impl Work {
    /// From the nodes that our domain publishes, as text: the words of all nodes, one after the other.
    #[must_use]
    pub fn published(nodes: &str) -> Self {
        let sum = |name| sum(nodes, name);
        Self {
            copy_calls: sum("copy-calls"),
            copies: sum("copies"),
            wakeups: sum("wakeups"),
            interrupts: both(sum("interrupts"), sum("events"), |device, frontends| device + frontends),
            notifications: sum("notifications"),
        }
    }

    /// From the text of `/proc/interrupts`.
    #[must_use]
    pub fn interrupts(text: &str) -> Self {
        let counts = text.lines().filter_map(service_interrupts);
        Self { interrupts: counts.reduce(|sum, count| sum + count), ..Self::default() }
    }

    /// What was counted since `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        self.with(earlier, |now, before| now - before)
    }

    /// What was counted in both.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        self.with(other, |one, another| one + another)
    }

    fn with(&self, other: &Self, join: fn(f64, f64) -> f64) -> Self {
        Self {
            copy_calls: both(self.copy_calls, other.copy_calls, join),
            copies: both(self.copies, other.copies, join),
            wakeups: both(self.wakeups, other.wakeups, join),
            interrupts: both(self.interrupts, other.interrupts, join),
            notifications: both(self.notifications, other.notifications, join),
        }
    }

    /// Notes what one of `items` packets or requests took.
    pub fn note(&self, metrics: &WorkMetrics, items: f64, contender: Contender, samples: &mut Samples) {
        let mut per = |metric, count: Option<f64>, of: f64| {
            if let Some(count) = count {
                samples.add(metric, contender, count * of / items);
            }
        };
        per(metrics.copy_calls, self.copy_calls, 1000.0);
        per(metrics.copies, self.copies, 1.0);
        per(metrics.wakeups, self.wakeups, 1000.0);
        per(metrics.interrupts, self.interrupts, 1000.0);
        per(metrics.notifications, self.notifications, 1000.0);
    }
}

/// What the counts of one kind of load are called.
#[derive(Debug, Clone, Copy)]
pub struct WorkMetrics {
    /// Of 1000 items.
    pub copy_calls: Metric,
    /// Of one item.
    pub copies: Metric,
    /// Of 1000 items.
    pub wakeups: Metric,
    /// Of 1000 items.
    pub interrupts: Metric,
    /// Of 1000 items.
    pub notifications: Metric,
}

/// The numbers called `wanted` among the words of published nodes, added up; `None` if there is none.
#[must_use]
pub fn sum(nodes: &str, wanted: &str) -> Option<f64> {
    let words = nodes.split_whitespace().filter_map(|word| word.split_once('='));
    let numbers = words.filter(|(name, _)| *name == wanted).filter_map(|(_, value)| value.parse::<f64>().ok());
    numbers.reduce(|sum, value| sum + value)
}

/// Joins two counts, if there are two.
fn both(one: Option<f64>, other: Option<f64>, join: fn(f64, f64) -> f64) -> Option<f64> {
    one.zip(other).map(|(one, other)| join(one, other))
}

/// The count of a line of `/proc/interrupts`, over all CPUs, if one of its handlers serves packets or requests.
fn service_interrupts(line: &str) -> Option<f64> {
    let (_, rest) = line.split_once(':')?;
    let numbers = rest.split_whitespace().map_while(|word| word.parse::<u32>().ok());
    let serves = |word: &str| SERVICE.iter().any(|start| word.starts_with(start));
    rest.split_whitespace().any(serves).then(|| numbers.map(f64::from).sum())
}

#[cfg(test)]
mod tests;
