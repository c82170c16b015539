//! Steps that several scenarios share.

use std::time::{Duration, Instant};

use crate::bed::{Bed, NETDOM};
use crate::dom0::PATIENCE;
use crate::failure::{Doing, Failure, Result, ensure};
use crate::guest::{Guest, XL_LIMIT, console_log};
use crate::leaks::Resources;
use crate::wire::counters::Snapshot;

/// A guest pings an address until it is answered five times, at most `limit`.
///
/// # Errors
/// An answer is missing; the sentence holds what ping said.
pub fn ping(guest: &Guest, address: &str) -> Result<()> {
    let script = format!("ping -c 5 -i 0.2 -W 3 {address} || ping -c 5 -W 3 {address}");
    guest.check(&script, Duration::from_secs(60)).doing(format!("{} pings {address}", guest.name)).map(|_| ())
}

/// The address of the wire as guests write it.
#[must_use]
pub fn wire_address(bed: &Bed) -> String {
    bed.wire.config.address.to_string()
}

/// Fails if the wire received a frame that no receiver should see.
///
/// # Errors
/// Names how many frames were wrong in which way.
pub fn no_bad_frames(seen: &Snapshot) -> Result<()> {
    ensure(seen.faults() == 0, || {
        format!("{} of {} frames on the wire are wrong: {seen:?}", seen.faults(), seen.frames_in)
    })
}

/// Waits until `holds`, or until `limit` has passed several times over (`PATIENCE`).
pub fn eventually(limit: Duration, mut holds: impl FnMut() -> bool) {
    let (started, limit) = (Instant::now(), limit.saturating_mul(PATIENCE));
    while !holds() && started.elapsed() < limit {
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Takes stock of what the domains hold.
///
/// # Errors
/// The driver domain does not run, or Dom0 does not answer.
pub fn stock(bed: &Bed) -> Result<Resources> {
    let netdom = bed.netdom()?.ok_or_else(|| Failure::new(format!("{NETDOM} does not run")))?;
    Resources::take(bed.dom0(), netdom)
}

/// Fails if more (or less) is held than `before`; what is still being closed gets a while.
///
/// # Errors
/// Names every difference.
pub fn nothing_left_behind(bed: &Bed, before: &Resources) -> Result<()> {
    before.are_all(|| stock(bed))
}

/// Runs an `xl` command that must succeed without an error or warning line.
///
/// # Errors
/// A non-zero exit status, or an output that speaks of an error or a time-out.
pub fn xl_quietly(bed: &Bed, command: &str) -> Result<()> {
    let output = bed.dom0().check(&format!("xl {command}"), XL_LIMIT)?;
    match complaint(&output) {
        Some(line) => Err(Failure::new(format!("`xl {command}` said: {line}"))),
        None => Ok(()),
    }
}

/// The first line of an output that speaks of an error or a time-out.
#[must_use]
pub fn complaint(output: &str) -> Option<&str> {
    output.lines().find(|line| {
        let line = line.to_lowercase();
        line.contains("error") || line.contains("warning") || line.contains("timed out") || line.contains("unable")
    })
}

/// Lines on the console of driver domains so far. Each continues the log of the one before.
///
/// # Errors
/// Dom0 does not answer.
pub fn console_lines(bed: &Bed) -> Result<usize> {
    let script = format!("cat {} 2>/dev/null | wc -l", console_log(NETDOM));
    bed.dom0().check(&script, XL_LIMIT)?.trim().parse().doing("counting the console's lines")
}

/// Fails if the driver domain has reported a fault since line `from` of its console, see [`console_lines`].
///
/// # Errors
/// The lines that tell of an error or a warning.
pub fn faults_on_console(bed: &Bed, from: usize) -> Result<()> {
    let console = bed.dom0().check(&format!("cat {}", console_log(NETDOM)), XL_LIMIT)?;
    let faults: Vec<_> =
        console.lines().skip(from).filter(|line| line.contains("error: ") || line.contains("warning: ")).collect();
    ensure(faults.is_empty(), || format!("the driver domain reported:\n{}", faults.join("\n")))
}
