//! The hypercalls of a driver domain while it works, from Xen's own trace: the same instrument for every contender.
//!
//! Tracing costs time, so rates and CPU times are never taken while it is on.

use std::time::Duration;

use super::corner::{Corner, Measure};
use super::domains::DriverDomain;
use super::network::value;
use super::ramdisk::LOAD;
use super::samples::{Contender, Metric, Samples};
use crate::dom0::Dom0;
use crate::failure::{Failure, Result};
use crate::guest::XL_LIMIT;
use crate::shell::until;

/// Traced are the scheduler's switches and what PV guests enter Xen for (`public/trace.h`: classes and subclasses).
const EVENTS: &str = "0x229000";
/// Room for records in Xen, in pages: more than are made between two looks of `xentrace`.
const BUFFER_PAGES: u32 = 1024;
const TRACE: &str = "/run/hypercalls.trace";
/// What was sent last has been answered by then.
const SETTLED: Duration = Duration::from_millis(300);

/// What the counts are called: by 1000 packets or requests.
#[derive(Debug, Clone, Copy)]
pub struct HypercallMetrics {
    /// All of them.
    pub all: Metric,
    /// About grants.
    pub grant: Metric,
    /// About event channels.
    pub event: Metric,
    /// Sleeps, and other words to the scheduler.
    pub sched: Metric,
    /// Times that the CPU went over to the domain.
    pub switches: Metric,
}

/// Repeats the measurements whose name contains `only` with every driver domain traced, and notes what it did for each
/// packet or request of them together.
pub fn count<C: Corner>(
    corners: &[C],
    measures: &[Measure<C>],
    only: &str,
    metrics: &HypercallMetrics,
    samples: &mut Samples,
) {
    if !measures.iter().any(|measure| measure.0.contains(only)) {
        return;
    }
    let mut line = String::from("  hypercalls");
    for corner in corners {
        let Some(domain) = corner.domain() else { continue };
        let chosen = measures.iter().filter(|measure| measure.0.contains(only));
        match traced(corner, domain, chosen) {
            Ok((said, items)) => {
                line.push_str(&format!("\n    {}, for {items:.0} items: {}", corner.contender().name(), said.trim()));
                note(&said, items, metrics, corner.contender(), samples);
            }
            Err(failure) => line.push_str(&format!("\n    {} FAILED: {failure}", corner.contender().name())),
        }
    }
    println!("{line}");
}

/// Runs measurements under a trace: what `load hypercalls` said, and for how many packets or requests.
fn traced<'m, C: Corner + 'm>(
    corner: &C,
    domain: &DriverDomain,
    measures: impl Iterator<Item = &'m Measure<C>>,
) -> Result<(String, f64)> {
    let before = corner.work()?.1;
    let trace = Trace::start(domain.dom0())?;
    for measure in measures {
        (measure.1)(corner).transpose()?;
    }
    std::thread::sleep(SETTLED);
    let said = trace.end(domain.name)?;
    let items = corner.work()?.1 - before;
    if items > 0.0 { Ok((said, items)) } else { Err(Failure::new("nothing was moved")) }
}

fn note(said: &str, items: f64, metrics: &HypercallMetrics, contender: Contender, samples: &mut Samples) {
    let names = [
        (metrics.all, "hypercalls"),
        (metrics.grant, "grant"),
        (metrics.event, "event"),
        (metrics.sched, "sched"),
        (metrics.switches, "switches"),
    ];
    for (metric, name) in names {
        samples.add(metric, contender, said_of(said, name) * 1000.0 / items);
    }
}

/// The number after a name; not a number if there is none, which samples do not keep.
fn said_of(said: &str, name: &str) -> f64 {
    value(said, name).unwrap_or(f64::NAN)
}

/// A trace that is being written in Dom0; it ends with its owner, whatever happens.
struct Trace<'a> {
    dom0: &'a Dom0,
}

impl<'a> Trace<'a> {
    fn start(dom0: &'a Dom0) -> Result<Self> {
        let script = format!(
            "rm -f {TRACE}; xentrace -D -e {EVENTS} -S {BUFFER_PAGES} -s 50 {TRACE} >/run/xentrace.log 2>&1 &\n\
             {{ {}; }} || {{ cat /run/xentrace.log; exit 1; }}",
            until(&format!("[ -s {TRACE} ]"))
        );
        dom0.check(&script, XL_LIMIT)?;
        Ok(Self { dom0 })
    }

    /// Ends it, and counts.
    fn end(self, domain: &str) -> Result<String> {
        let script = format!(
            "killall xentrace; {}\nexec {LOAD} hypercalls {TRACE} $(xl domid {domain})",
            until("! pidof xentrace >/dev/null")
        );
        self.dom0.check(&script, XL_LIMIT)
    }
}

impl Drop for Trace<'_> {
    fn drop(&mut self) {
        // Nothing is left to be ended if it went well.
        let _ = self.dom0.run(&format!("killall -q xentrace; rm -f {TRACE}"), XL_LIMIT);
    }
}
