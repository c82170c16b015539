//! Runs the scenarios of a bed one after another: a line for each, and after a failure the evidence and a clean bed.

use std::fmt;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::evidence;
use crate::failure::Result;
use crate::machine::Machine;

/// What scenarios work on.
pub trait TestBed {
    /// The machine, for its logs.
    fn machine(&self) -> &Machine;

    /// Ends every domain but Dom0, so that the next scenario starts clean.
    ///
    /// # Errors
    /// Dom0 does not answer.
    fn reset(&mut self) -> Result<()>;
}

/// When a scenario is worth its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Length {
    /// In every run.
    Short,
    /// In a run of its own kind.
    Medium,
    /// In the long matrix only.
    Long,
}

/// One system test of the bed `B`.
#[derive(Debug)]
pub struct Scenario<B> {
    /// A sentence about behaviour.
    pub name: &'static str,
    /// Fails with what went wrong.
    pub run: fn(&mut B) -> Result<()>,
    /// When it runs.
    pub length: Length,
}

/// Which scenarios to run.
#[derive(Debug, Clone)]
pub struct Selection {
    /// Only those whose name contains one of these; all if empty.
    pub only: Vec<String>,
    /// The longest; those that are named run whatever their length.
    pub longest: Length,
}

impl Selection {
    /// Whether a scenario is selected.
    #[must_use]
    pub fn takes<B>(&self, scenario: &Scenario<B>) -> bool {
        if self.only.is_empty() {
            return scenario.length <= self.longest;
        }
        self.only.iter().any(|part| scenario.name.contains(part.as_str()))
    }
}

/// How many scenarios did what, and what failed.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Tally {
    /// Did what their names say.
    passed: usize,
    /// Did not.
    failed: usize,
    /// A line for each failure. Shown last: who reads the end of a long output, or has only that, should not have to search.
    failures: Vec<String>,
}

impl Tally {
    /// Adds another tally.
    pub fn add(&mut self, other: Self) {
        self.passed = self.passed.saturating_add(other.passed);
        self.failed = self.failed.saturating_add(other.failed);
        self.failures.extend(other.failures);
    }

    /// Counts `scenarios` that failed together, for what `line` says.
    pub fn fail(&mut self, scenarios: usize, line: impl Into<String>) {
        self.failed = self.failed.saturating_add(scenarios);
        self.failures.push(line.into());
    }

    /// Whether something ran and nothing failed.
    #[must_use]
    pub const fn is_green(&self) -> bool {
        self.failed == 0 && self.passed > 0
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.failures {
            writeln!(f, "{line}")?;
        }
        write!(f, "{} passed, {} failed", self.passed, self.failed)
    }
}

/// Runs `chosen` on a bed that `set_up` makes and whose logs are in `logs`, then `finish`.
pub fn run<B: TestBed>(
    tag: &str,
    logs: &Path,
    set_up: impl FnOnce() -> Result<B>,
    chosen: &[&Scenario<B>],
    finish: impl FnOnce(&mut B),
) -> Tally {
    if chosen.is_empty() {
        return Tally::default();
    }
    println!("[{tag}] booting");
    let mut bed = match set_up() {
        Ok(bed) => bed,
        Err(failure) => {
            let line = format!("[{tag}] FAIL boot: {failure}");
            println!("{line}");
            evidence::print_ends(logs);
            let mut tally = Tally::default();
            tally.fail(chosen.len(), line);
            return tally;
        }
    };
    let machine = bed.machine();
    println!("[{tag}] Dom0 is up after {}, logs in {}", seconds(machine.boot_time), machine.logs.display());
    let tally = run_chosen(&mut bed, tag, chosen);
    finish(&mut bed);
    if bed.machine().collect_logs().is_err() {
        println!("[{tag}] logs of Dom0 could not be collected");
    }
    tally
}

fn run_chosen<B: TestBed>(bed: &mut B, tag: &str, chosen: &[&Scenario<B>]) -> Tally {
    let mut tally = Tally::default();
    for (index, scenario) in (1_usize..).zip(chosen) {
        let started = Instant::now();
        let outcome = (scenario.run)(bed);
        let place = format!("[{tag}] {index}/{}", chosen.len());
        let taken = seconds(started.elapsed());
        let Err(failure) = outcome else {
            println!("{place} PASS {} ({taken})", scenario.name);
            tally.passed = tally.passed.saturating_add(1);
            continue;
        };
        let line = format!("{place} FAIL {} ({taken}): {failure}", scenario.name);
        println!("{line}");
        tally.fail(1, line);
        if !clean_up_after_failure(bed, scenario.name) {
            let rest = chosen.len().saturating_sub(index);
            let line =
                format!("[{tag}] Dom0 does not answer any more: {rest} scenarios did not run and count as failed");
            println!("{line}");
            tally.fail(rest, line);
            break;
        }
    }
    tally
}

/// Shows and keeps the evidence, then cleans the bed. False if Dom0 is gone.
fn clean_up_after_failure<B: TestBed>(bed: &mut B, name: &str) -> bool {
    let collected = bed.machine().collect_logs().is_ok();
    evidence::print_ends(&bed.machine().logs);
    evidence::keep(&bed.machine().logs, name);
    collected && bed.reset().is_ok()
}

fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f32())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scenario(name: &'static str, length: Length) -> Scenario<()> {
        Scenario { name, run: |()| Ok(()), length }
    }

    #[test]
    fn a_tally_ends_with_what_failed_on_every_machine() {
        let mut all = Tally { passed: 3, ..Tally::default() };
        assert!(all.is_green());
        let mut other = Tally { passed: 1, ..Tally::default() };
        other.fail(1, "[virtio] 2/9 FAIL reads (1.0 s): no answer");
        other.fail(7, "[virtio] Dom0 does not answer any more");
        all.add(other);
        let shown =
            "[virtio] 2/9 FAIL reads (1.0 s): no answer\n[virtio] Dom0 does not answer any more\n4 passed, 8 failed";
        assert_eq!(all.to_string(), shown);
        assert!(!all.is_green() && !Tally::default().is_green());
    }

    #[test]
    fn a_selection_takes_what_is_short_enough_or_named() {
        let (short, long) = (scenario("reads", Length::Short), scenario("reads_for_an_hour", Length::Long));
        let by_length = Selection { only: Vec::new(), longest: Length::Medium };
        assert!(by_length.takes(&short) && !by_length.takes(&long));
        let by_name = Selection { only: vec!["hour".into(), "day".into()], longest: Length::Short };
        assert!(!by_name.takes(&short) && by_name.takes(&long));
    }
}
