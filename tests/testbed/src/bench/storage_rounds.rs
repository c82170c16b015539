//! What a round of the storage benchmark holds.

use super::corner::{Measure, Measured, Moved, take_counted_turns};
use super::disks::{DiskBed, DiskPlace};
use super::domains::COSTS;
use super::hypercalls;
use super::metrics as m;
use super::network::value;
use super::ramdisk::LOAD;
use super::samples::{Metric, Samples};
use crate::failure::Result;
use crate::guest::XL_LIMIT;

/// Milliseconds of one measurement.
const WINDOW_MS: u64 = 2000;

const ALL: &[Measure<DiskPlace>] = &[
    Measure("random read, depth 1", |p| Some(with_latency(p, m::READ_1, [m::READ_1_P50, m::READ_1_P99], "--depth 1"))),
    Measure("random read, depth 8", |p| Some(rate(p, m::READ_8, "--depth 8"))),
    Measure("random read, depth 32", |p| {
        Some(with_latency(p, m::READ_32, [m::READ_32_P50, m::READ_32_P99], "--depth 32"))
    }),
    Measure("random read, depth 64", |p| Some(rate(p, m::READ_64, "--depth 64"))),
    Measure("random write, depth 1", |p| Some(rate(p, m::WRITE_1, "--depth 1 --reads 0"))),
    Measure("random write, depth 8", |p| Some(rate(p, m::WRITE_8, "--depth 8 --reads 0"))),
    Measure("random write, depth 32", |p| Some(rate(p, m::WRITE_32, "--depth 32 --reads 0"))),
    Measure("random write, depth 64", |p| Some(rate(p, m::WRITE_64, "--depth 64 --reads 0"))),
    Measure("mixed 70/30, depth 32", |p| Some(rate(p, m::MIXED_32, "--depth 32 --reads 70"))),
    Measure("write and flush", |p| Some(rate(p, m::FLUSH, "--depth 1 --reads 0 --flush"))),
    Measure("sequential read 4 KiB", |p| Some(rate(p, m::SEQ_4K, "--depth 4 --sequential"))),
    Measure("sequential read 32 KiB", |p| Some(rate(p, m::SEQ_32K, "--depth 4 --sequential --block 32768"))),
    Measure("sequential read 128 KiB", |p| Some(rate(p, m::SEQ_128K, "--depth 4 --sequential --block 131072"))),
    Measure("sequential read 1 MiB", |p| Some(rate(p, m::SEQ_1M, "--depth 4 --sequential --block 1048576"))),
    Measure("sequential write 4 KiB", |p| Some(rate(p, m::SEQ_WRITE_4K, "--depth 4 --sequential --reads 0"))),
    Measure("sequential write 128 KiB", |p| {
        Some(rate(p, m::SEQ_WRITE, "--depth 4 --sequential --block 131072 --reads 0"))
    }),
    Measure("sequential write 1 MiB", |p| {
        Some(rate(p, m::SEQ_WRITE_1M, "--depth 4 --sequential --block 1048576 --reads 0"))
    }),
];

fn rate(place: &DiskPlace, metric: Metric, options: &str) -> Measured {
    measure(place, options).map(|seen| vec![(metric, seen.per_second)])
}

fn with_latency(place: &DiskPlace, metric: Metric, [median, worst]: [Metric; 2], options: &str) -> Measured {
    measure(place, options).map(|seen| vec![(metric, seen.per_second), (median, seen.p50), (worst, seen.p99)])
}

/// What the generator saw: requests a second, and latencies in µs.
struct Seen {
    per_second: f64,
    p50: f64,
    p99: f64,
}

fn measure(place: &DiskPlace, options: &str) -> Result<Seen> {
    let script = format!("{LOAD} disk {} {options} --milliseconds {WINDOW_MS}", place.device);
    let said = place.guest.check(&script, XL_LIMIT)?;
    let requests = value(&said, "ios")?;
    let moved = place.moved.get();
    place.moved.set(Moved { items: moved.items + requests, ..moved });
    Ok(Seen { per_second: requests * 1e6 / value(&said, "us")?, p50: value(&said, "p50")?, p99: value(&said, "p99")? })
}

/// Runs `rounds` rounds of the measurements whose name contains `only`.
#[must_use]
pub fn run(bed: &DiskBed, rounds: usize, only: &str) -> Samples {
    let mut samples = Samples::default();
    for place in &bed.places {
        if let Some(domain) = place.domain.as_ref().filter(|_| COSTS.contains(only)) {
            domain.note_costs(place.contender, &mut samples);
        }
    }
    for round in 0..rounds {
        println!("round {} of {rounds}", round.saturating_add(1));
        samples.start_round(round);
        let efforts = take_counted_turns(&bed.places, ALL, only, round, &mut samples);
        if round == 0 {
            hypercalls::count(&bed.places, ALL, only, &m::DISK_CALLS, &mut samples);
        }
        for (place, effort) in bed.places.iter().zip(efforts) {
            samples.add(m::CPU_PER_REQUEST, place.contender, effort.cpu * 1e6 / effort.moved.items);
            effort.work.note(&m::DISK_WORK, effort.served, place.contender, &mut samples);
        }
    }
    samples
}
