//! One measurement: several guests work at the same time, and one more watches meanwhile.
//!
//! Nothing runs in Dom0 while guests measure. Each is told beforehand at what time of its clock to start; all of them
//! have Xen's clock. What they saw is collected afterwards.

use std::thread;
use std::time::{Duration, Instant};

use crate::failure::{Doing, Failure, Result};
use crate::guest::Guest;

/// How long the load grows before anything counts, in ms.
pub(super) const WARM_UP_MS: u64 = 4000;
/// How long is measured, in ms.
pub(super) const WINDOW_MS: u64 = 8000;
/// How long the load goes on, in ms, for guests that started a little later.
pub(super) const COOL_DOWN_MS: u64 = 2000;
/// How long a guest may take to answer.
pub(super) const LIMIT: Duration = Duration::from_secs(90);
/// Where a guest leaves what its command said.
pub(super) const OUTPUT: &str = "/run/growth";

/// Has the first `count` guests run the first script, all from the same moment on, and the watcher the second, from when
/// the others measure. Returns those guests when all of it should have ended.
///
/// # Errors
/// A guest did not take part.
pub(super) fn run<'a>(guests: &'a [Guest], count: usize, watcher: &Guest, scripts: [String; 2]) -> Result<&'a [Guest]> {
    let guests = guests.get(..count).ok_or_else(|| Failure::new(format!("there are no {count} guests")))?;
    let attempt = |lead: f64| {
        launch(guests, watcher, &scripts, lead).inspect_err(|_| {
            // Those who were told nevertheless are not to run into the next measurement.
            for guest in guests.iter().chain([watcher]) {
                let _ = guest.run("killall sleep load ping", LIMIT);
            }
        })
    };
    // Somebody who is told too late says so; a machine that is slower for a while needs more of a lead.
    let ends = attempt(1.5).or_else(|_| attempt(3.0)).or_else(|_| attempt(6.0))?;
    thread::sleep(ends.saturating_duration_since(Instant::now()));
    Ok(guests)
}

/// Tells everyone when to start; about when all will have ended. Telling one may take `lead` times as long as asking the
/// watcher.
fn launch(guests: &[Guest], watcher: &Guest, [work, watch]: &[String; 2], lead: f64) -> Result<Instant> {
    let asked = Instant::now();
    let now: u64 = watcher.check("date +%s%3N", LIMIT)?.trim().parse().doing("the watcher's time")?;
    let (answered, took) = (Instant::now(), asked.elapsed());
    // Each guest is told as the watcher was asked.
    let tellings = u32::try_from(guests.len()).unwrap_or(u32::MAX).saturating_add(1);
    let lead = took.saturating_mul(tellings).mul_f64(lead).saturating_add(Duration::from_secs(2));
    let start = now.saturating_add(u64::try_from(lead.as_millis()).unwrap_or(u64::MAX));
    for guest in guests {
        guest.check(&at(start, work), LIMIT).doing(format!("telling {}", guest.name))?;
    }
    watcher.check(&at(start.saturating_add(WARM_UP_MS), watch), LIMIT).doing("telling the watcher")?;
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
         (sleep $((wait / 1000)).$(printf %03d $((wait % 1000))) && {{ {command}; }}) >{OUTPUT} 2>&1 &"
    )
}

/// What a guest's command said, as soon as a line of that matches, and then what another script says.
///
/// # Errors
/// The generator failed, or no line has matched for a minute.
pub(super) fn wait_for(guest: &Guest, line: &str, then: &str) -> Result<String> {
    let script = format!(
        "for i in $(seq 300); do\n\
         grep -q '^load:' {OUTPUT} && break\n\
         grep -q '{line}' {OUTPUT} && cat {OUTPUT} && {{ {then}; exit 0; }}\n\
         sleep 0.2\ndone\n\
         cat {OUTPUT}; exit 1"
    );
    guest.check(&script, LIMIT)
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
}
