//! Where our network domain's time goes under a steady load, as [`super::profile()`] finds it.

use std::path::Path;
use std::thread;
use std::time::Duration;

use smoltcp::wire::{IpEndpoint, Ipv4Address};

use super::bed::{Bed, Station};
use super::profile::{LOAD_MS, Sampler};
use super::ramdisk::LOAD;
use super::samples::Contender;
use crate::failure::{Doing, Result};
use crate::guest::XL_LIMIT;
use crate::wire::services::{Burst, SINK_PORT, SOURCE_PORT};

/// A steady load.
#[derive(Debug, Clone, Copy)]
struct Load {
    name: &'static str,
    start: fn(&Station) -> Result<()>,
}

const LOADS: &[Load] = &[
    Load {
        name: "TCP guest to wire",
        start: |s| in_guest(s, &format!("tcp-send {}:{SINK_PORT}", s.wire.config.address)),
    },
    Load {
        name: "TCP wire to guest",
        start: |s| in_guest(s, &format!("tcp-receive {}:{SOURCE_PORT}", s.wire.config.address)),
    },
    Load {
        name: "small packets guest to wire",
        start: |s| in_guest(s, &format!("udp-send {}:{SINK_PORT}", s.wire.config.address)),
    },
    Load { name: "small packets wire to guest, 2000/s", start: datagrams_in },
    Load { name: "pings, one after the other", start: pings },
];

fn in_guest(station: &Station, what: &str) -> Result<()> {
    let script = format!("{LOAD} {what} --milliseconds {LOAD_MS} >/dev/null 2>&1 &");
    station.guest.check(&script, XL_LIMIT).map(drop)
}

/// The next one as soon as the last is answered.
fn pings(station: &Station) -> Result<()> {
    let seconds = LOAD_MS.div_euclid(1000);
    let script = format!("ping -q -A -w {seconds} {} >/dev/null 2>&1 &", station.wire.config.address);
    station.guest.check(&script, XL_LIMIT).map(drop)
}

fn datagrams_in(station: &Station) -> Result<()> {
    let address: Ipv4Address = station.address.parse().doing("the guest's address")?;
    station.guest.check(&format!("{LOAD} udp-receive 5000 >/dev/null 2>&1 & sleep 0.5"), XL_LIMIT)?;
    let to = IpEndpoint::new(address.into(), 5000);
    let burst = Burst { to, payload_bytes: 18, count: 2 * LOAD_MS, per_second: 2000 };
    station.wire.send_datagrams(burst);
    Ok(())
}

/// A burst with nothing to send takes the place of one that is under way.
fn end_burst(station: &Station) {
    let to = IpEndpoint::new(station.wire.config.address.into(), 1);
    station.wire.send_datagrams(Burst { to, payload_bytes: 1, count: 0, per_second: 1 });
    thread::sleep(Duration::from_secs(1));
}

/// Samples our domain under every load, and returns the report.
///
/// # Errors
/// A tool failed.
pub fn run(bed: &Bed, image: &Path, only: &str) -> Result<String> {
    let mut report = String::new();
    for station in bed.stations.iter().filter(|station| station.contender == Contender::Bulkhead) {
        let sampler = Sampler {
            machine: &bed.machine,
            symbols: image.with_extension("debug"),
            guest: &station.guest,
            wire: Some(&station.wire),
        };
        for load in LOADS.iter().filter(|load| load.name.contains(only)) {
            report.push_str(&sampler.section(load.name, || (load.start)(station))?);
            end_burst(station);
        }
    }
    Ok(report)
}
