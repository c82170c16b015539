//! One measurement: several guests send, or receive, at the same time, and one more pings meanwhile.
//!
//! Nothing runs in Dom0 while guests measure. Each is told beforehand at what time of its clock to start; all of them
//! have Xen's clock. What they saw is collected afterwards.

use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::super::network::{Direction, round_trips, value};
use super::super::ramdisk::LOAD;
use super::super::samples::{fairness, float, percentile};
use super::crowd::Crowd;
use crate::failure::{Doing, Failure, Result};
use crate::guest::Guest;

/// How long connections grow before anything counts, in ms.
const WARM_UP_MS: u64 = 4000;
/// How long is measured, in ms.
const WINDOW_MS: u64 = 8000;
/// How long the load goes on, in ms, for guests that started a little later.
const COOL_DOWN_MS: u64 = 2000;
/// Pings, 100 ms apart: they begin and end within the window.
const PINGS: usize = 60;
const LIMIT: Duration = Duration::from_secs(90);
/// Where a guest leaves what the generator, or the watcher what ping said.
const OUTPUT: &str = "/run/growth";

/// What came of a measurement.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Seen {
    /// What each guest got, in Mbit/s.
    pub rates: Vec<f64>,
    /// Of those, Jain's index.
    pub fairness: Option<f64>,
    /// The driver domain's CPU seconds by the bytes on the wire.
    pub cpu_per_gib: Option<f64>,
    /// Median of one more guest's round trips meanwhile, in ms; `None` if less than half of them were answered.
    pub ping_ms: Option<f64>,
    /// What our domain has in use of its memory.
    pub memory_used_kib: Option<f64>,
}

/// Loads the first `count` guests of a crowd.
///
/// # Errors
/// A guest did not take part.
pub(super) fn measure(crowd: &Crowd, count: usize, direction: Direction) -> Result<Seen> {
    let guests = crowd.guests.get(..count).ok_or_else(|| Failure::new(format!("there are no {count} guests")))?;
    measure_guests(crowd, guests, direction).inspect_err(|_| {
        // Those who were told nevertheless are not to run into the next measurement.
        for guest in guests.iter().chain([&crowd.watcher]) {
            let _ = guest.run("killall sleep load ping", LIMIT);
        }
    })
}

fn measure_guests(crowd: &Crowd, guests: &[Guest], direction: Direction) -> Result<Seen> {
    let (cpu, wire) = (crowd.domain.cpu_seconds()?, crowd.wire.counters());
    let ends = launch(crowd, guests, direction)?;
    thread::sleep(ends.saturating_duration_since(Instant::now()));
    let rates = guests.iter().map(collect_rate).collect::<Result<Vec<_>>>()?;
    let ping_ms = collect_ping(&crowd.watcher)?;
    let (cpu, wire) = (crowd.domain.cpu_seconds()? - cpu, crowd.wire.counters().since(&wire));
    let gib = float(wire.bytes_in.saturating_add(wire.bytes_out)) / float(1 << 30);
    Ok(Seen {
        fairness: fairness(&rates),
        rates,
        cpu_per_gib: Some(cpu / gib).filter(|seconds| seconds.is_finite()),
        ping_ms,
        memory_used_kib: crowd.domain.memory_used_kib()?,
    })
}

/// Tells everyone when to start; about when all will have ended.
fn launch(crowd: &Crowd, guests: &[Guest], direction: Direction) -> Result<Instant> {
    let asked = Instant::now();
    let now: u64 = crowd.watcher.check("date +%s%3N", LIMIT)?.trim().parse().doing("the watcher's time")?;
    let (answered, took) = (Instant::now(), asked.elapsed());
    // Each guest is told as the watcher was asked, and that may take twice as long.
    let tellings = u32::try_from(guests.len()).unwrap_or(u32::MAX).saturating_add(1);
    let lead = took.saturating_mul(tellings).saturating_mul(2).saturating_add(Duration::from_secs(2));
    let start = now.saturating_add(u64::try_from(lead.as_millis()).unwrap_or(u64::MAX));
    let (verb, port) = direction.service();
    let address = crowd.wire.config.address;
    let generator = format!(
        "{LOAD} {verb} {address}:{port} --warm-up-ms {WARM_UP_MS} --milliseconds {WINDOW_MS} --cool-down-ms {COOL_DOWN_MS}"
    );
    for guest in guests {
        guest.check(&at(start, &generator), LIMIT).doing(format!("telling {}", guest.name))?;
    }
    let ping = format!("ping -c {PINGS} -i 0.1 -W 3 {address}");
    crowd.watcher.check(&at(start.saturating_add(WARM_UP_MS), &ping), LIMIT).doing("telling the watcher")?;
    let load = Duration::from_millis(WARM_UP_MS.saturating_add(WINDOW_MS).saturating_add(COOL_DOWN_MS));
    // The watcher's time was read before its answer came; and a busy guest is late.
    let all = lead.saturating_add(load).saturating_add(Duration::from_secs(1));
    let left = all.saturating_sub(answered.elapsed());
    Ok(Instant::now().checked_add(left).unwrap_or(answered))
}

/// A script that runs a command in the background when the guest's clock is at `start`, in ms, and fails if that is over.
fn at(start: u64, command: &str) -> String {
    format!(
        "wait=$(({start} - $(date +%s%3N)))\n\
         [ $wait -gt 0 ] || {{ echo \"told $wait ms too late\"; exit 1; }}\n\
         [ $wait -lt 300000 ] || {{ echo \"another clock: $wait ms to go\"; exit 1; }}\n\
         rm -f {OUTPUT}\n\
         (sleep $((wait / 1000)).$(printf %03d $((wait % 1000))) && exec {command}) >{OUTPUT} 2>&1 &"
    )
}

/// Mbit/s of one guest, as soon as its generator has ended.
fn collect_rate(guest: &Guest) -> Result<f64> {
    let script = format!(
        "for i in $(seq 300); do\n\
         grep -q '^load:' {OUTPUT} && break\n\
         grep '^bytes ' {OUTPUT} && exit 0\n\
         sleep 0.2\ndone\n\
         cat {OUTPUT}; exit 1"
    );
    let said = guest.check(&script, LIMIT)?;
    // Bits per microsecond are Mbit/s.
    Ok(value(&said, "bytes")? * 8.0 / value(&said, "us")?)
}

/// The watcher's median round trip, if at least half of its pings were answered.
fn collect_ping(watcher: &Guest) -> Result<Option<f64>> {
    let script = format!(
        "for i in $(seq 100); do grep -q 'packets transmitted' {OUTPUT} && break; sleep 0.2; done; cat {OUTPUT}"
    );
    Ok(median_of_most(&round_trips(&watcher.check(&script, LIMIT)?)))
}

fn median_of_most(times: &[f64]) -> Option<f64> {
    percentile(times, 50).filter(|_| times.len().saturating_mul(2) >= PINGS)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// Runs a script of [`at`] here, for a start so many ms away.
    fn told(away_ms: i64) -> (bool, String) {
        let date = Command::new("date").arg("+%s%3N").output().unwrap();
        let now: i64 = String::from_utf8(date.stdout).unwrap().trim().parse().unwrap();
        let output = std::env::temp_dir().join(format!("growth-{}-{away_ms}", std::process::id()));
        let script =
            at(u64::try_from(now + away_ms).unwrap(), "echo started").replace(OUTPUT, output.to_str().unwrap());
        let done = Command::new("sh").arg("-c").arg(script + "\nwait").output().unwrap();
        let left = std::fs::read_to_string(&output).unwrap_or_default();
        let _ = std::fs::remove_file(output);
        (done.status.success(), left)
    }

    #[test]
    fn a_guest_starts_only_at_a_time_to_come() {
        assert_eq!(told(1100), (true, "started\n".into()));
        assert_eq!(told(-50), (false, String::new()));
        assert_eq!(told(400_000), (false, String::new()));
    }

    #[test]
    fn a_median_needs_half_of_the_pings() {
        assert_eq!(median_of_most(&vec![2.0; PINGS / 2]), Some(2.0));
        assert_eq!(median_of_most(&vec![2.0; PINGS / 2 - 1]), None);
    }
}
