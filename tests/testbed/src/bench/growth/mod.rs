//! Growth: a crowd of stock guests behind our domain and another behind a Linux driver domain, of which more and more
//! work at once.
//!
//! All guests stay up all the time; those that do not take part are paused.

mod crowd;
mod load;
mod network;
mod plot;
mod report;
mod sender;
mod storage;

pub use crowd::{CONTENDERS, CROWD, Crowd, Members};
pub use network::NetworkBed;
pub use report::{AIM_FAIRNESS, GrowthReport};
pub use sender::SenderCounts;
pub use storage::StorageBed;

use serde::Serialize;

use super::samples::{Contender, fairness};
use crate::failure::Result;

/// How many guests take part.
pub const COUNTS: [usize; 5] = [1, 2, 4, 8, 16];

/// What guests do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Load {
    /// Send over TCP.
    Out,
    /// The same with packets that stay large. Linux makes them smaller the longer answers take, down to two segments, so
    /// guests that wait for a processor soon send what costs most for each byte.
    #[serde(rename = "large-out")]
    LargeOut,
    /// Receive over TCP.
    In,
    /// Read from anywhere on a disk.
    Read,
    /// Write to anywhere on a disk.
    Write,
}

impl Load {
    /// What a report calls it.
    const fn word(self) -> &'static str {
        match self {
            Self::Out => "out",
            Self::LargeOut => "out, large packets",
            Self::In => "in",
            Self::Read => "read",
            Self::Write => "write",
        }
    }
}

/// What is measured of a kind of driver domain, and in what units.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Kind {
    /// The loads, one after the other.
    pub loads: &'static [Load],
    /// What a load is.
    pub work: &'static str,
    /// Unit of the rates.
    pub rate: &'static str,
    /// Unit of the CPU time.
    pub cpu: &'static str,
    /// What the watcher measures, and its unit.
    pub latency: &'static str,
}

/// Of the network.
pub const NETWORK: Kind = Kind {
    loads: &[Load::Out, Load::LargeOut, Load::In],
    work: "TCP, one stream for each guest",
    rate: "Mbit/s",
    cpu: "s/GiB",
    latency: "ping ms",
};
/// Of storage.
pub const STORAGE: Kind = Kind {
    loads: &[Load::Read, Load::Write],
    work: "4 KiB anywhere, four requests under way for each guest",
    rate: "requests/s",
    cpu: "µs/request",
    latency: "lone read µs",
};

/// What came of a measurement.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Seen {
    /// What each guest got.
    pub rates: Vec<f64>,
    /// Of those, Jain's index.
    pub fairness: Option<f64>,
    /// The driver domain's CPU time by what was moved.
    pub cpu: Option<f64>,
    /// What the watcher measured meanwhile, the median; `None` if it got too little to tell.
    pub latency: Option<f64>,
    /// What our domain has in use of its memory.
    pub memory_used_kib: Option<f64>,
    /// What each guest counted, if they sent.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub senders: Vec<SenderCounts>,
}

impl Seen {
    fn new(rates: Vec<f64>, cpu: f64, latency: Option<f64>, memory_used_kib: Option<f64>) -> Self {
        let cpu = Some(cpu).filter(|cpu| cpu.is_finite());
        Self { fairness: fairness(&rates), rates, cpu, latency, memory_used_kib, senders: Vec::new() }
    }
}

/// One measurement.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Point {
    /// The round, from 0.
    pub round: usize,
    /// Whose guests.
    pub contender: Contender,
    /// How many.
    pub guests: usize,
    /// What they did.
    pub load: Load,
    /// What came of it.
    #[serde(flatten)]
    pub seen: Seen,
}

impl Point {
    /// What all guests together got.
    #[must_use]
    pub fn throughput(&self) -> f64 {
        self.seen.rates.iter().sum()
    }
}

/// Measures every count of guests under each load of `kind`, `rounds` times, if its name contains `only`.
#[must_use]
pub fn run<C: Crowd>(crowds: &[C], kind: &Kind, rounds: usize, only: &str) -> Vec<Point> {
    let mut points = Vec::new();
    for round in 0..rounds {
        println!("round {} of {rounds}", round.saturating_add(1));
        for (step, guests) in COUNTS.into_iter().enumerate() {
            let first = round.saturating_add(step);
            for load in kind.loads.iter().copied() {
                let name = format!("{guests} guests {}", load.word());
                if name.contains(only) {
                    let (measured, said) = measure_all(crowds, first, |crowd| {
                        let members = crowd.members();
                        let seen = members.let_run(guests, true).and_then(|()| crowd.measure(guests, load));
                        members.let_run(guests, false)?;
                        Ok(Point { round, contender: members.contender, guests, load, seen: seen? })
                    });
                    println!("  {name:<29}{said}");
                    points.extend(measured);
                }
            }
        }
    }
    points
}

/// Measures every contender, each time starting with another one; what came of it, also in a few words.
fn measure_all<C: Crowd>(crowds: &[C], first: usize, measure: impl Fn(&C) -> Result<Point>) -> (Vec<Point>, String) {
    let mut turns: Vec<_> = crowds.iter().collect();
    let first = first.checked_rem(turns.len()).unwrap_or(0);
    turns.rotate_left(first);
    let (mut points, mut said) = (Vec::new(), String::new());
    for crowd in turns {
        let name = crowd.members().contender.name();
        match measure(crowd) {
            Ok(point) => {
                let (rate, fairness) = (point.throughput(), point.seen.fairness.unwrap_or(0.0));
                said.push_str(&format!("  {name} {rate:.0}, fairness {fairness:.3}"));
                points.push(point);
            }
            Err(failure) => said.push_str(&format!("  {name} FAILED: {failure}")),
        }
    }
    (points, said)
}
