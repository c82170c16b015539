//! The rounds: in each, every contender is measured in every quantity, one right after the other.

use std::time::{Duration, Instant};

use super::bed::{Bed, Station};
use super::metrics as m;
use super::network::{self, Direction, Place};
use super::samples::{Contender, Metric, Samples, float};
use crate::failure::Result;
use crate::wire::counters::Snapshot;

/// How long one measurement looks.
const WINDOW: Duration = Duration::from_secs(3);
const PACKET_WINDOW: Duration = Duration::from_millis(1200);

/// A measurement of a station: `None` if there is nothing to measure there.
type Measure = fn(&Station) -> Option<Result<Vec<(Metric, f64)>>>;

/// Everything that is measured, in order; the first group makes the CPU time per byte, the second that per packet.
const BULK: &[(&str, Measure)] = &[
    ("TCP out", |s| Some(tcp(s, m::TCP_OUT_1, Direction::Out, 1))),
    ("TCP in", |s| Some(tcp(s, m::TCP_IN_1, Direction::In, 1))),
    ("TCP out, 4 streams", |s| Some(tcp(s, m::TCP_OUT_4, Direction::Out, 4))),
    ("TCP in, 4 streams", |s| Some(tcp(s, m::TCP_IN_4, Direction::In, 4))),
];
const SMALL: &[(&str, Measure)] = &[
    ("small packets out", |s| Some(one(m::UDP_OUT, network::datagrams_out(s, PACKET_WINDOW)))),
    ("small packets in", |s| Some(one(m::UDP_IN, network::datagrams_in(s, PACKET_WINDOW)))),
];
const OTHER: &[(&str, Measure)] = &[
    ("ping", |s| Some(two([m::PING, m::PING_P99], network::ping(s, false)))),
    ("ping under load", |s| Some(two([m::PING_LOADED, m::PING_LOADED_P99], network::ping(s, true)))),
    ("guest to guest", |s| s.peer.as_ref().map(|_| one(m::GUEST_TO_GUEST, network::tcp_to_peer(s, WINDOW)))),
    ("Dom0 out", |s| dom0(s, m::DOM0_OUT, Direction::Out)),
    ("Dom0 in", |s| dom0(s, m::DOM0_IN, Direction::In)),
];

fn tcp(station: &Station, metric: Metric, direction: Direction, streams: usize) -> Result<Vec<(Metric, f64)>> {
    one(metric, network::tcp(station, Place::Guest(&station.guest), direction, streams, WINDOW))
}

fn dom0(station: &Station, metric: Metric, direction: Direction) -> Option<Result<Vec<(Metric, f64)>>> {
    station.dom0_interface.as_ref()?;
    Some(one(metric, network::tcp(station, Place::Dom0(station.dom0()), direction, 1, WINDOW)))
}

fn one(metric: Metric, value: Result<f64>) -> Result<Vec<(Metric, f64)>> {
    value.map(|value| vec![(metric, value)])
}

fn two(metrics: [Metric; 2], values: Result<(f64, f64)>) -> Result<Vec<(Metric, f64)>> {
    let [first, second] = metrics;
    values.map(|(a, b)| vec![(first, a), (second, b)])
}

/// What a station's driver domain used for what its wire saw.
#[derive(Debug, Default, Clone, Copy)]
struct Effort {
    cpu: f64,
    bytes: f64,
    frames: f64,
}

impl Effort {
    fn add(&mut self, cpu: f64, wire: Snapshot) {
        self.cpu += cpu;
        self.bytes += float(wire.bytes_in.saturating_add(wire.bytes_out));
        self.frames += float(wire.frames_in.saturating_add(wire.frames_out));
    }
}

/// Runs `rounds` rounds of the measurements whose name contains `only`.
#[must_use]
pub fn run(bed: &Bed, rounds: usize, only: &str) -> Samples {
    let mut samples = Samples::default();
    for round in 0..rounds {
        println!("round {} of {rounds}", round.saturating_add(1));
        samples.start_round(round);
        let bulk = run_group(bed, BULK, only, round, &mut samples);
        let small = run_group(bed, SMALL, only, round, &mut samples);
        run_group(bed, OTHER, only, round, &mut samples);
        for (station, (bulk, small)) in bed.stations.iter().zip(bulk.iter().zip(&small)) {
            if station.domain().is_some() {
                samples.add(m::CPU_PER_GIB, station.contender, bulk.cpu * float(1 << 30) / bulk.bytes);
                samples.add(m::CPU_PER_PACKET, station.contender, small.cpu * 1e6 / small.frames);
            }
        }
    }
    samples
}

fn run_group(bed: &Bed, group: &[(&str, Measure)], only: &str, round: usize, samples: &mut Samples) -> Vec<Effort> {
    let mut efforts = vec![Effort::default(); bed.stations.len()];
    for (name, measure) in group.iter().filter(|(name, _)| name.contains(only)) {
        let mut line = format!("  {name:<20}");
        // Each round starts with another contender, so that none is always the one after a pause.
        let mut turns: Vec<_> = bed.stations.iter().zip(&mut efforts).collect();
        let first = round.checked_rem(turns.len()).unwrap_or(0);
        turns.rotate_left(first);
        for (station, effort) in turns {
            line.push_str(&run_one(station, *measure, effort, samples));
        }
        println!("{line}");
    }
    efforts
}

/// Measures once, and says in a few words what came of it.
fn run_one(station: &Station, measure: Measure, effort: &mut Effort, samples: &mut Samples) -> String {
    let started = Instant::now();
    let (cpu, wire) = (station.cpu_seconds(), station.wire.counters());
    let Some(outcome) = measure(station) else { return String::new() };
    let name = station.contender.name();
    let values = match (outcome, cpu, station.cpu_seconds()) {
        (Ok(values), Ok(before), Ok(after)) => {
            effort.add(after - before, station.wire.counters().since(&wire));
            values
        }
        (Err(failure), ..) | (_, Err(failure), _) | (.., Err(failure)) => return format!("  {name} FAILED: {failure}"),
    };
    let mut said = format!("  {name}");
    for (metric, value) in values {
        samples.add(metric, station.contender, value);
        said.push_str(&format!(" {value:.2}"));
    }
    format!("{said} ({:.0} s)", started.elapsed().as_secs_f32())
}

/// The contenders a bed of this kind has.
pub const CONTENDERS: [Contender; 3] = [Contender::Bulkhead, Contender::Linux, Contender::Bare];
