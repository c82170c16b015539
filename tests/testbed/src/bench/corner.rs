//! Taking turns: every contender is measured in one quantity right after the other.

use std::thread;
use std::time::Instant;

use super::domains::DriverDomain;
use super::samples::{Contender, Metric, Samples};
use super::work::{PUBLISHED, Work};
use crate::failure::Result;

/// One contender's corner of the machine.
pub trait Corner {
    /// Whose it is.
    fn contender(&self) -> Contender;
    /// The driver domain, if there is one.
    fn domain(&self) -> Option<&DriverDomain>;
    /// What has been moved so far.
    fn moved(&self) -> Moved;
    /// What the driver domain has counted so far, and for how many packets or requests; nothing if there is none.
    ///
    /// # Errors
    /// It cannot be read.
    fn work(&self) -> Result<(Work, f64)>;
}

/// Bytes, and packets or requests.
#[derive(Debug, Default, Clone, Copy)]
pub struct Moved {
    /// Bytes.
    pub bytes: f64,
    /// Packets or requests.
    pub items: f64,
}

/// What a driver domain used for what was moved.
#[derive(Debug, Default, Clone, Copy)]
pub struct Effort {
    /// Seconds of CPU.
    pub cpu: f64,
    /// For what.
    pub moved: Moved,
    /// What it counted meanwhile, if that was asked for.
    pub work: Work,
    /// For how many packets or requests.
    pub served: f64,
}

/// What one measurement gave.
pub type Measured = Result<Vec<(Metric, f64)>>;

/// A named measurement of a corner: `None` if there is nothing to measure there.
pub struct Measure<C>(pub &'static str, pub fn(&C) -> Option<Measured>);

/// Runs the measurements whose name contains `only`; what each corner's driver domain used for them.
pub fn take_turns<C: Corner>(
    corners: &[C],
    measures: &[Measure<C>],
    only: &str,
    round: usize,
    samples: &mut Samples,
) -> Vec<Effort> {
    let mut efforts = vec![Effort::default(); corners.len()];
    for measure in measures.iter().filter(|measure| measure.0.contains(only)) {
        let mut line = format!("  {:<24}", measure.0);
        // Each round starts with another contender, so that none is always the one after a pause.
        let mut turns: Vec<_> = corners.iter().zip(&mut efforts).collect();
        let first = round.checked_rem(turns.len()).unwrap_or(0);
        turns.rotate_left(first);
        for (corner, effort) in turns {
            line.push_str(&take_turn(corner, measure, effort, samples));
        }
        println!("{line}");
    }
    efforts
}

/// As [`take_turns`], with what each driver domain counts meanwhile.
pub fn take_counted_turns<C: Corner>(
    corners: &[C],
    measures: &[Measure<C>],
    only: &str,
    round: usize,
    samples: &mut Samples,
) -> Vec<Effort> {
    if !measures.iter().any(|measure| measure.0.contains(only)) {
        return vec![Effort::default(); corners.len()];
    }
    let before = counts(corners);
    let mut efforts = take_turns(corners, measures, only, round, samples);
    for ((effort, before), after) in efforts.iter_mut().zip(before).zip(counts(corners)) {
        (effort.work, effort.served) = (after.0.since(&before.0), after.1 - before.1);
    }
    efforts
}

/// What every driver domain has counted. All are idle, so one wait serves all.
fn counts<C: Corner>(corners: &[C]) -> Vec<(Work, f64)> {
    thread::sleep(PUBLISHED);
    let read = |corner: &C| {
        corner.work().unwrap_or_else(|failure| {
            println!("  counters of {} FAILED: {failure}", corner.contender().name());
            Default::default()
        })
    };
    corners.iter().map(read).collect()
}

/// Measures once, and says in a few words what came of it.
fn take_turn<C: Corner>(corner: &C, measure: &Measure<C>, effort: &mut Effort, samples: &mut Samples) -> String {
    let started = Instant::now();
    let cpu_seconds = || corner.domain().map_or(Ok(0.0), DriverDomain::cpu_seconds);
    let (cpu, before) = (cpu_seconds(), corner.moved());
    let Some(outcome) = (measure.1)(corner) else { return String::new() };
    let name = corner.contender().name();
    let (values, cpu) = match (outcome, cpu, cpu_seconds()) {
        (Ok(values), Ok(before), Ok(after)) => (values, after - before),
        (Err(failure), ..) | (_, Err(failure), _) | (.., Err(failure)) => return format!("  {name} FAILED: {failure}"),
    };
    let after = corner.moved();
    effort.cpu += cpu;
    effort.moved.bytes += after.bytes - before.bytes;
    effort.moved.items += after.items - before.items;
    let mut said = format!("  {name}");
    for (metric, value) in values {
        samples.add(metric, corner.contender(), value);
        said.push_str(&format!(" {value:.2}"));
    }
    format!("{said} ({:.0} s)", started.elapsed().as_secs_f32())
}

/// A measurement of one value.
///
/// # Errors
/// It failed.
pub fn one(metric: Metric, value: Result<f64>) -> Measured {
    value.map(|value| vec![(metric, value)])
}

/// A measurement of two values.
///
/// # Errors
/// It failed.
pub fn two(metrics: [Metric; 2], values: Result<(f64, f64)>) -> Measured {
    let [first, second] = metrics;
    values.map(|(a, b)| vec![(first, a), (second, b)])
}
