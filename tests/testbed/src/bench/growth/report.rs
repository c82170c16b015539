//! The report of a growth measurement: JSON with every point and a table of medians.

use std::fmt::Write as _;

use serde::Serialize;

use super::super::samples::{Contender, percentile};
use super::{COUNTS, Kind, Load, Point, plot, sender};
use crate::failure::{Doing, Result};

/// The least Jain's index that our domain is to have with the most guests.
pub const AIM_FAIRNESS: f64 = 0.95;

/// What a run has to say.
#[derive(Debug, Clone, Serialize)]
pub struct GrowthReport {
    /// What was measured on.
    pub title: String,
    /// The command that made it.
    pub command: String,
    /// The aim for our fairness with the most guests.
    pub aim_fairness: f64,
    /// What was measured, and in what units.
    pub kind: Kind,
    /// What was measured.
    pub points: Vec<Point>,
}

impl GrowthReport {
    /// Everything.
    ///
    /// # Errors
    /// None that is known: every value has a JSON form.
    pub fn json(&self) -> Result<String> {
        serde_json::to_string_pretty(self).map(|text| text + "\n").doing("writing JSON")
    }

    /// Medians of the rounds as a table, and what senders counted as another.
    #[must_use]
    pub fn markdown(&self) -> String {
        let mut text = format!(
            "# {}\n\nMade by `{}`. Medians of the rounds. Throughput is of all guests together, fairness is Jain's index over \
             them (with {} guests ours is to be ≥ {}), and the {} is of one more guest at the same time. The load: {}.\n\n\
             | load | guests | {}, ours | Linux | ours to Linux's | fairness, ours | Linux | CPU {}, ours | Linux | \
             {}, ours | Linux | KiB in use, ours |\n|---|---|---|---|---|---|---|---|---|---|---|---|\n",
            self.title,
            self.command,
            most(),
            self.aim_fairness,
            self.kind.latency,
            self.kind.work,
            self.kind.rate,
            self.kind.cpu,
            self.kind.latency,
        );
        for (load, guests) in self.kind.loads.iter().flat_map(|load| COUNTS.map(|guests| (*load, guests))) {
            text.push_str(&self.line(load, guests));
        }
        text + &sender::table(&self.points)
    }

    fn line(&self, load: Load, guests: usize) -> String {
        let of = |contender, quantity| self.median(contender, load, guests, quantity);
        let (ours, linux) = (Contender::Bulkhead, Contender::Linux);
        let (throughput, theirs) = (of(ours, throughput), of(linux, throughput));
        let fair = of(ours, |point| point.seen.fairness);
        let missed = guests == most() && fair.is_some_and(|fair| fair < self.aim_fairness);
        let mark = if missed { "**" } else { "" };
        let mut text = format!("| {} | {guests} |", load.word());
        for (value, digits) in
            [(throughput, 0), (theirs, 0), (throughput.zip(theirs).map(|(ours, theirs)| ours / theirs), 2)]
        {
            text.push_str(&cell(value, digits, ""));
        }
        text.push_str(&cell(fair, 3, mark));
        for (value, digits) in [
            (of(linux, |point| point.seen.fairness), 3),
            (of(ours, |point| point.seen.cpu), 2),
            (of(linux, |point| point.seen.cpu), 2),
            (of(ours, |point| point.seen.latency), 2),
            (of(linux, |point| point.seen.latency), 2),
            (of(ours, |point| point.seen.memory_used_kib), 0),
        ] {
            text.push_str(&cell(value, digits, ""));
        }
        text + "\n"
    }

    /// Throughput and fairness over the number of guests.
    #[must_use]
    pub fn svg(&self) -> String {
        plot::svg(self)
    }

    /// The median of the rounds, if there is one.
    pub(super) fn median(
        &self,
        contender: Contender,
        load: Load,
        guests: usize,
        quantity: fn(&Point) -> Option<f64>,
    ) -> Option<f64> {
        let wanted = |point: &&Point| (point.contender, point.load, point.guests) == (contender, load, guests);
        let values: Vec<f64> = self.points.iter().filter(wanted).filter_map(quantity).collect();
        percentile(&values, 50)
    }
}

/// As a quantity of [`GrowthReport::median`].
pub(super) fn throughput(point: &Point) -> Option<f64> {
    Some(point.throughput())
}

/// The most guests that take part.
fn most() -> usize {
    COUNTS.into_iter().max().unwrap_or_default()
}

/// A cell of the table; what does not exist is a –.
fn cell(value: Option<f64>, digits: usize, mark: &str) -> String {
    let mut text = String::from(" ");
    // A string takes everything.
    let _ = match value {
        Some(value) => write!(text, "{mark}{value:.digits$}{mark} |"),
        None => write!(text, "– |"),
    };
    text
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::{NETWORK, STORAGE, Seen};
    use super::*;

    pub(in super::super) fn point(contender: Contender, guests: usize, rates: &[f64], fairness: f64) -> Point {
        let (rates, fairness, cpu) = (rates.to_vec(), Some(fairness), Some(1.25));
        let seen = Seen { rates, fairness, cpu, latency: None, memory_used_kib: None, senders: Vec::new() };
        Point { round: 0, contender, guests, load: Load::Out, seen }
    }

    pub(in super::super) fn report(points: Vec<Point>) -> GrowthReport {
        GrowthReport { title: "t".into(), command: "c".into(), aim_fairness: 0.95, kind: NETWORK, points }
    }

    #[test]
    fn a_line_compares_both_and_marks_a_missed_aim() {
        let text = report(vec![
            point(Contender::Bulkhead, 16, &[100.0, 50.0], 0.9),
            point(Contender::Linux, 16, &[50.0, 50.0], 1.0),
            point(Contender::Bulkhead, 8, &[10.0, 10.0], 0.9),
        ])
        .markdown();
        assert!(
            text.contains("| out | 16 | 150 | 100 | 1.50 | **0.900** | 1.000 | 1.25 | 1.25 | – | – | – |\n"),
            "{text}"
        );
        assert!(text.contains("| out | 8 | 20 | – | – | 0.900 | – | 1.25 | – | – | – | – |\n"), "{text}");
        assert!(text.contains("| in | 16 | – | – |"), "{text}");
    }

    #[test]
    fn columns_are_as_many_as_headings() {
        let text = report(Vec::new()).markdown();
        let bars = |line: &str| line.matches('|').count();
        let table: Vec<_> = text.lines().filter(|line| line.starts_with('|')).collect();
        assert_eq!(table.len(), 2 + COUNTS.len() * NETWORK.loads.len());
        assert!(table.iter().all(|line| bars(line) == 13), "{text}");
    }

    #[test]
    fn storage_has_its_own_loads_and_units() {
        let text = GrowthReport { kind: STORAGE, ..report(Vec::new()) }.markdown();
        assert!(text.contains("| load | guests | requests/s, ours |"), "{text}");
        assert!(text.contains("| read | 16 |") && !text.contains("| out |"), "{text}");
    }

    #[test]
    fn rounds_make_a_median() {
        let points = [1.0, 9.0, 4.0].map(|rate| point(Contender::Linux, 4, &[rate], 1.0));
        let report = report(points.to_vec());
        assert_eq!(report.median(Contender::Linux, Load::Out, 4, throughput), Some(4.0));
        assert_eq!(report.median(Contender::Linux, Load::In, 4, throughput), None);
    }
}
