//! The reports of a run: JSON with every sample, a Markdown table and a plot of the ratios.

use std::fmt::Write as _;

use serde::Serialize;

use super::samples::{Contender, Ratio, Row};
use crate::failure::{Doing, Result};

/// What a run has to say.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// What was measured on.
    pub title: String,
    /// The command that made it.
    pub command: String,
    /// The quantities.
    pub rows: Vec<Row>,
}

impl Report {
    /// All samples and ratios.
    ///
    /// # Errors
    /// None that is known: every value has a JSON form.
    pub fn json(&self) -> Result<String> {
        serde_json::to_string_pretty(self).map(|text| text + "\n").doing("writing JSON")
    }

    /// The ratios as a table.
    #[must_use]
    pub fn markdown(&self) -> String {
        let mut text = format!(
            "# {}\n\nMade by `{}`. Ratios of our domain to the other: the median of the rounds, and their range.\n\n\
             | | against a Linux driver domain | aim | against the bare device | aim |\n|---|---|---|---|---|\n",
            self.title, self.command
        );
        for row in self.rows.iter().filter(|row| !row.metric.is_count) {
            let aim = |aim: Option<f64>| {
                aim.map_or_else(String::new, |aim| {
                    format!("{} {aim}", if row.metric.higher_is_better { "≥" } else { "≤" })
                })
            };
            let variant = row
                .against_variant
                .map(|ratio| format!(" (with the other options: {})", shown(Some(ratio), None, true)));
            let _ = writeln!(
                text,
                "| {}{} | {} | {} | {} | {} |",
                row.metric.title,
                variant.unwrap_or_default(),
                shown(row.against_linux, row.metric.aim_linux, row.metric.higher_is_better),
                aim(row.metric.aim_linux),
                shown(row.against_bare, row.metric.aim_bare, row.metric.higher_is_better),
                aim(row.metric.aim_bare),
            );
        }
        text + &self.counts()
    }

    /// What was counted, as a table; nothing if nothing was.
    fn counts(&self) -> String {
        let rows: Vec<_> = self.rows.iter().filter(|row| row.metric.is_count).collect();
        if rows.is_empty() {
            return String::new();
        }
        let mut text = String::from(
            "\nCounts of the driver domain's work, as they are: the median of the rounds. Whom they do not exist for has a –.\n\n\
             | | ours | Linux | bare device | ours to Linux's |\n|---|---|---|---|---|\n",
        );
        for row in rows {
            let count = |contender| row.median(contender).map_or_else(|| "–".into(), |count| format!("{count:.2}"));
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} | {} |",
                row.metric.title,
                count(Contender::Bulkhead),
                count(Contender::Linux),
                count(Contender::Bare),
                shown(row.against_linux, row.metric.aim_linux, row.metric.higher_is_better),
            );
        }
        text
    }

    /// The ratios to Linux's as bars on a logarithmic axis; the longer to the right, the better for us.
    #[must_use]
    pub fn svg(&self) -> String {
        let bars: Vec<_> = self.rows.iter().filter_map(|row| Some((row, row.against_linux?))).collect();
        let height = bars.len().saturating_mul(22).saturating_add(60);
        let mut text = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"760\" height=\"{height}\" font-family=\"sans-serif\" \
             font-size=\"12\">\n<rect width=\"760\" height=\"{height}\" fill=\"white\"/>\n\
             <text x=\"10\" y=\"18\">{}: how many times better than a Linux driver domain</text>\n",
            self.title
        );
        for times in [0.5_f64, 1.0, 2.0, 4.0, 8.0] {
            let x = position(times);
            let _ = writeln!(
                text,
                "<line x1=\"{x:.0}\" x2=\"{x:.0}\" y1=\"28\" y2=\"{}\" stroke=\"{}\"/>\
                 <text x=\"{x:.0}\" y=\"{}\" text-anchor=\"middle\">{times} ×</text>",
                height.saturating_sub(28),
                if times == 1.0 { "black" } else { "lightgrey" },
                height.saturating_sub(12)
            );
        }
        for ((row, ratio), y) in bars.iter().zip((32_u32..).step_by(22)) {
            let better = |value: f64| if row.metric.higher_is_better { value } else { 1.0 / value };
            let (middle, one) = (position(better(ratio.median)), position(1.0));
            let (low, high) = (position(better(ratio.min)), position(better(ratio.max)));
            let _ = writeln!(
                text,
                "<text x=\"290\" y=\"{}\" text-anchor=\"end\">{}</text>\
                 <rect x=\"{:.1}\" y=\"{y}\" width=\"{:.1}\" height=\"14\" fill=\"{}\"/>\
                 <line x1=\"{low:.1}\" x2=\"{high:.1}\" y1=\"{}\" y2=\"{}\" stroke=\"black\"/>",
                y.saturating_add(12),
                row.metric.title,
                middle.min(one),
                (middle - one).abs(),
                if middle >= one { "steelblue" } else { "indianred" },
                y.saturating_add(7),
                y.saturating_add(7),
            );
        }
        text + "</svg>\n"
    }
}

/// Where on the axis a ratio lies: 0.25 at 300, 16 at 740.
fn position(ratio: f64) -> f64 {
    300.0 + (ratio.clamp(0.25, 16.0).log2() + 2.0) * 440.0 / 6.0
}

/// A ratio with its range, in bold where it misses its aim.
fn shown(ratio: Option<Ratio>, aim: Option<f64>, higher_is_better: bool) -> String {
    let Some(Ratio { median, min, max, .. }) = ratio else { return "–".into() };
    let met = aim.is_none_or(|aim| if higher_is_better { median >= aim } else { median <= aim });
    let mark = if met { "" } else { "**" };
    format!("{mark}{median:.2}{mark} ({min:.2}..{max:.2})")
}

#[cfg(test)]
mod tests {
    use super::super::metrics::{PING, TCP_WORK};
    use super::super::samples::Samples;
    use super::*;

    fn report(samples: &Samples) -> String {
        Report { title: "t".into(), command: "c".into(), rows: samples.rows() }.markdown()
    }

    #[test]
    fn counts_stand_apart_as_they_are() {
        let mut samples = Samples::default();
        samples.add(PING, Contender::Bulkhead, 1.0);
        samples.add(PING, Contender::Linux, 4.0);
        samples.add(TCP_WORK.copies, Contender::Bulkhead, 1.5);
        samples.add(TCP_WORK.interrupts, Contender::Bulkhead, 30.0);
        samples.add(TCP_WORK.interrupts, Contender::Linux, 60.0);
        let text = report(&samples);
        assert!(text.contains("| ping, median | 0.25 (0.25..0.25) |"), "{text}");
        assert!(text.contains("| grant copies per frame of TCP | 1.50 | – | – | – |\n"), "{text}");
        assert!(text.contains("| 30.00 | 60.00 | – | 0.50 (0.50..0.50) |\n"), "{text}");
        assert_eq!(text.matches("grant copies").count(), 1);
    }

    #[test]
    fn without_counts_there_is_no_table_of_them() {
        let mut samples = Samples::default();
        samples.add(PING, Contender::Bulkhead, 1.0);
        assert!(!report(&samples).contains("Counts"));
    }
}
