//! One measurement each: what a guest, or Dom0, gets out of its network.

use std::thread;
use std::time::Duration;

use serde::Serialize;
use smoltcp::wire::{IpEndpoint, Ipv4Address};

use super::bed::Station;
use super::ramdisk::LOAD;
use super::samples::{float, percentile};
use crate::dom0::Dom0;
use crate::failure::{Doing, Failure, Result, ensure};
use crate::guest::Guest;
use crate::wire::services::{Burst, SINK_PORT, SOURCE_PORT};

const LIMIT: Duration = Duration::from_secs(60);
/// Payload of a small datagram: the least an Ethernet frame holds.
const SMALL_BYTES: usize = 18;
const DATAGRAM_PORT: u16 = 5000;
/// Room of the socket that takes small datagrams.
const SOCKET_BYTES: u64 = 4 << 20;
const PINGS: u32 = 100;

/// Where the generator runs.
#[derive(Debug, Clone, Copy)]
pub enum Place<'a> {
    /// In a guest.
    Guest(&'a Guest),
    /// In Dom0.
    Dom0(&'a Dom0),
}

impl Place<'_> {
    fn run(self, script: &str) -> Result<String> {
        match self {
            Self::Guest(guest) => guest.check(script, LIMIT),
            Self::Dom0(dom0) => dom0.check(script, LIMIT),
        }
    }
}

/// Which way the bytes go, as the guest sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// Out of the guest.
    Out,
    /// Into the guest.
    In,
}

impl Direction {
    /// The generator's word for TCP that goes this way, and the wire's port for it.
    #[must_use]
    pub fn service(self) -> (&'static str, u16) {
        match self {
            Self::Out => ("tcp-send", SINK_PORT),
            Self::In => ("tcp-receive", SOURCE_PORT),
        }
    }
}

/// The number after `name` in the generator's line.
///
/// # Errors
/// There is none.
pub fn value(said: &str, name: &str) -> Result<f64> {
    let mut words = said.split_whitespace();
    words
        .find(|word| *word == name)
        .and_then(|_| words.next()?.parse().ok())
        .ok_or_else(|| Failure::new(format!("no {name} in what the generator said: {said:?}")))
}

/// TCP between `place` and the wire, in Mbit/s.
///
/// # Errors
/// The generator failed.
pub fn tcp(station: &Station, place: Place<'_>, direction: Direction, streams: usize, window: Duration) -> Result<f64> {
    let (verb, port) = direction.service();
    tcp_to(place, verb, &format!("{}:{port}", station.wire.config.address), streams, window)
}

/// TCP from the station's guest to its peer, in Mbit/s.
///
/// # Errors
/// There is no peer, or the generator failed.
pub fn tcp_to_peer(station: &Station, window: Duration) -> Result<f64> {
    let (_, address) = station.peer.as_ref().ok_or_else(|| Failure::new("no peer"))?;
    tcp_to(Place::Guest(&station.guest), "tcp-send", &format!("{address}:{SINK_PORT}"), 1, window)
}

fn tcp_to(place: Place<'_>, verb: &str, peer: &str, streams: usize, window: Duration) -> Result<f64> {
    let said = place.run(&format!("{LOAD} {verb} {peer} --streams {streams} --milliseconds {}", window.as_millis()))?;
    let rate = mbit_per_second(&said)?;
    ensure(rate > 0.0, || format!("nothing moved within {window:?}"))?;
    Ok(rate)
}

/// The rate that the generator saw; 0 if nothing moved in its window.
///
/// # Errors
/// It said something else.
pub fn mbit_per_second(said: &str) -> Result<f64> {
    // Bits per microsecond are Mbit/s.
    Ok(value(said, "bytes")? * 8.0 / value(said, "us")?)
}

/// The highest rate of small datagrams to the wire, in packets/s, of which less than 1 % are lost.
///
/// # Errors
/// The generator failed, or packets are lost at every rate.
pub fn datagrams_out(station: &Station, window: Duration) -> Result<f64> {
    let mut offered = 0.0_f64;
    for _ in 0..6 {
        let before = station.wire.counters();
        let said = station.guest.check(
            &format!(
                "{LOAD} udp-send {}:{SINK_PORT} --payload {SMALL_BYTES} --rate {offered:.0} --milliseconds {}",
                station.wire.config.address,
                window.as_millis()
            ),
            LIMIT,
        )?;
        let rate = value(&said, "window")? * 1e6 / value(&said, "us")?;
        let sent = value(&said, "sent")?;
        // What is still queued in the guest arrives.
        thread::sleep(Duration::from_millis(300));
        let arrived = float(station.wire.counters().since(&before).udp_sink_datagrams);
        if arrived >= sent * 0.99 {
            return Ok(rate * (arrived / sent).min(1.0));
        }
        offered = (rate * arrived / sent).min(rate * 0.9);
    }
    Err(Failure::new("more than 1 % of the datagrams were lost at every rate"))
}

/// What arrived of datagrams from the wire.
#[derive(Debug, Clone, Copy)]
struct Arrival {
    /// Packets a second, from the first to the last.
    rate: f64,
    /// The part that arrived.
    part: f64,
}

/// The highest rate of small datagrams from the wire, in packets/s, of which less than 1 % are lost or late.
///
/// # Errors
/// The generator failed, or packets are lost at every rate.
pub fn datagrams_in(station: &Station, window: Duration) -> Result<f64> {
    // QEMU keeps what a card has no room for, so overload shows as delay first: what counts is that the packets of
    // the window come within the window. A short burst tells where to look.
    let capacity = offer(station, 1000, 50_000)?.rate;
    let kept_up = |factor: f64| -> Result<Option<f64>> {
        let wanted = capacity * factor;
        let arrival = offer(station, whole(wanted * window.as_secs_f64()), whole(wanted))?;
        // A window that starts late ends as if it had been faster than what was offered.
        let rate = Some(arrival.rate.min(wanted));
        Ok(rate.filter(|rate| arrival.part >= 0.99 && *rate >= wanted * 0.985))
    };
    highest(kept_up)?.ok_or_else(|| Failure::new("more than 1 % of the datagrams were lost at every rate"))
}

/// The result of the highest factor that gives one, of a ladder that is left at the first rung above the best that fails.
/// A rung fails if two attempts do: the machine is shared, so one may have been disturbed.
///
/// # Errors
/// Those of `attempt`.
fn highest(mut attempt: impl FnMut(f64) -> Result<Option<f64>>) -> Result<Option<f64>> {
    let mut rung = |factor| match attempt(factor)? {
        None => attempt(factor),
        found => Ok(found),
    };
    let mut factor = 0.6_f64;
    let mut best = rung(factor)?;
    while best.is_none() && factor > 0.1 {
        factor /= 1.25;
        best = rung(factor)?;
    }
    while best.is_some() && factor < 4.0 {
        factor *= 1.12;
        match rung(factor)? {
            None => break,
            better => best = better,
        }
    }
    Ok(best)
}

/// A whole number, at least 1.
fn whole(value: f64) -> u64 {
    format!("{value:.0}").parse().unwrap_or(1).max(1)
}

fn offer(station: &Station, count: u64, per_second: u64) -> Result<Arrival> {
    let address: Ipv4Address = station.address.parse().doing("the guest's address")?;
    // A socket takes 128 small datagrams by default, of which each counts as a buffer. An emulated guest's program is
    // away for longer than that lasts, and all losses would be its socket's, whoever serves the guest.
    let start = format!(
        "echo {SOCKET_BYTES} >/proc/sys/net/core/rmem_default\n\
         {LOAD} udp-receive {DATAGRAM_PORT} >/run/datagrams 2>&1 &\n\
         for i in $(seq 100); do grep -q @listening /run/datagrams && exit 0; sleep 0.02; done; exit 1"
    );
    station.guest.check(&start, LIMIT)?;
    station.wire.send_datagrams(Burst {
        to: IpEndpoint::new(address.into(), DATAGRAM_PORT),
        payload_bytes: SMALL_BYTES,
        count,
        per_second,
    });
    thread::sleep(Duration::from_secs_f64(float(count) / float(per_second) + 0.3));
    let end = "for i in $(seq 300); do grep received /run/datagrams && exit 0; sleep 0.1; done; exit 1";
    let said = station.guest.check(end, LIMIT)?;
    let us = value(&said, "us")?;
    ensure(us > 0.0, || format!("no datagrams arrived: {said:?}"))?;
    Ok(Arrival { rate: value(&said, "window")? * 1e6 / us, part: value(&said, "received")? / float(count) })
}

/// Median and 99th percentile of a ping's round trip to the wire, in ms; `loaded`: while the guest sends over TCP.
///
/// # Errors
/// Pings were lost.
pub fn ping(station: &Station, loaded: bool) -> Result<(f64, f64)> {
    let wire = station.wire.config.address;
    let ping = format!("ping -c {PINGS} -i 0.02 -W 3 {wire}");
    let script = if loaded {
        format!(
            "{LOAD} tcp-send {wire}:{SINK_PORT} --milliseconds 60000 >/dev/null & load=$!\n\
             sleep 0.7; {ping}; kill $load"
        )
    } else {
        ping
    };
    let said = station.guest.check(&script, LIMIT)?;
    let times = round_trips(&said);
    let enough = usize::try_from(PINGS).unwrap_or(0).saturating_mul(9) / 10;
    ensure(times.len() >= enough, || format!("{} of {PINGS} pings were answered", times.len()))?;
    let at = |percent| percentile(&times, percent).ok_or_else(|| Failure::new("no pings"));
    Ok((at(50)?, at(99)?))
}

/// The round trips, in ms, in what `ping` said.
#[must_use]
pub fn round_trips(said: &str) -> Vec<f64> {
    said.lines().filter_map(|line| line.split_once("time=")?.1.split_whitespace().next()?.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is found if everything up to `limit` is kept up with, and how many attempts that takes.
    fn found(limit: f64) -> (Option<f64>, u32) {
        let mut attempts = 0;
        let best = highest(|factor| {
            attempts += 1;
            Ok(Some(factor).filter(|factor| *factor <= limit))
        });
        (best.unwrap(), attempts)
    }

    #[test]
    fn the_highest_rate_is_found_from_below_and_from_above() {
        for limit in [0.15, 0.3, 0.59, 0.6, 0.8, 1.0, 2.5] {
            let (best, attempts) = found(limit);
            let best = best.unwrap();
            assert!(best <= limit && best * 1.12 > limit * 0.999, "{best} for {limit}");
            assert!(attempts < 20, "{attempts} attempts for {limit}");
        }
        assert_eq!(found(0.01).0, None);
    }

    #[test]
    fn one_bad_window_on_each_rung_does_not_end_the_search() {
        let mut attempts = 0;
        let best = highest(|factor| {
            attempts += 1;
            Ok(Some(factor).filter(|factor| attempts % 2 == 0 && *factor <= 1.0))
        });
        assert!(best.unwrap().unwrap() > 0.9);
    }
}
