//! What a round of the network benchmark holds.

use std::time::Duration;

use super::bed::{Bed, Station};
use super::corner::{Measure, Measured, one, take_counted_turns, take_turns, two};
use super::domains::COSTS;
use super::hypercalls;
use super::metrics as m;
use super::network::{self, Direction, Place};
use super::samples::{Metric, Samples, float};

/// How long one measurement looks.
const WINDOW: Duration = Duration::from_secs(3);
const PACKET_WINDOW: Duration = Duration::from_millis(1200);

/// These make the CPU time per byte.
const BULK: &[Measure<Station>] = &[
    Measure("TCP out", |s| Some(tcp(s, m::TCP_OUT_1, Direction::Out, 1))),
    Measure("TCP in", |s| Some(tcp(s, m::TCP_IN_1, Direction::In, 1))),
    Measure("TCP out, 4 streams", |s| Some(tcp(s, m::TCP_OUT_4, Direction::Out, 4))),
    Measure("TCP in, 4 streams", |s| Some(tcp(s, m::TCP_IN_4, Direction::In, 4))),
];
/// And these, per packet.
const SMALL: &[Measure<Station>] = &[
    Measure("small packets out", |s| Some(one(m::UDP_OUT, network::datagrams_out(s, PACKET_WINDOW)))),
    Measure("small packets in", |s| Some(one(m::UDP_IN, network::datagrams_in(s, PACKET_WINDOW)))),
];
const OTHER: &[Measure<Station>] = &[
    Measure("ping", |s| Some(two([m::PING, m::PING_P99], network::ping(s, false)))),
    Measure("ping under load", |s| Some(two([m::PING_LOADED, m::PING_LOADED_P99], network::ping(s, true)))),
    Measure("guest to guest", |s| s.peer.as_ref().map(|_| one(m::GUEST_TO_GUEST, network::tcp_to_peer(s, WINDOW)))),
    Measure("Dom0 out", |s| dom0(s, m::DOM0_OUT, Direction::Out)),
    Measure("Dom0 in", |s| dom0(s, m::DOM0_IN, Direction::In)),
];

fn tcp(station: &Station, metric: Metric, direction: Direction, streams: usize) -> Measured {
    one(metric, network::tcp(station, Place::Guest(&station.guest), direction, streams, WINDOW))
}

fn dom0(station: &Station, metric: Metric, direction: Direction) -> Option<Measured> {
    station.dom0_interface.as_ref()?;
    Some(one(metric, network::tcp(station, Place::Dom0(station.dom0()), direction, 1, WINDOW)))
}

/// Runs `rounds` rounds of the measurements whose name contains `only`.
#[must_use]
pub fn run(bed: &Bed, rounds: usize, only: &str) -> Samples {
    let mut samples = Samples::default();
    for station in &bed.stations {
        if let Some(domain) = station.domain.as_ref().filter(|_| COSTS.contains(only)) {
            domain.note_costs(station.contender, &mut samples);
        }
    }
    for round in 0..rounds {
        println!("round {} of {rounds}", round.saturating_add(1));
        samples.start_round(round);
        let bulk = take_counted_turns(&bed.stations, BULK, only, round, &mut samples);
        let small = take_counted_turns(&bed.stations, SMALL, only, round, &mut samples);
        if round == 0 {
            hypercalls::count(&bed.stations, BULK, only, &m::TCP_CALLS, &mut samples);
            hypercalls::count(&bed.stations, SMALL, only, &m::SMALL_CALLS, &mut samples);
        }
        take_turns(&bed.stations, OTHER, only, round, &mut samples);
        for (station, (bulk, small)) in bed.stations.iter().zip(bulk.iter().zip(&small)) {
            if station.domain.is_some() {
                samples.add(m::CPU_PER_GIB, station.contender, bulk.cpu * float(1 << 30) / bulk.moved.bytes);
                samples.add(m::CPU_PER_PACKET, station.contender, small.cpu * 1e6 / small.moved.items);
            }
            bulk.work.note(&m::TCP_WORK, bulk.served, station.contender, &mut samples);
            small.work.note(&m::SMALL_WORK, small.served, station.contender, &mut samples);
        }
    }
    samples
}
