//! Two plots side by side: throughput and fairness over the number of guests.

use std::fmt::Write as _;

use super::super::samples::{Contender, float};
use super::report::{GrowthReport, throughput};
use super::{COUNTS, Kind, Load, Point};

const WIDTH: f64 = 300.0;
const HEIGHT: f64 = 200.0;
/// Where the plots lie: their left edges and their common bottom.
const LEFT: [f64; 2] = [60.0, 430.0];
const BOTTOM: f64 = 250.0;
const LINES: [(Contender, &str, &str); 2] =
    [(Contender::Bulkhead, "ours", "steelblue"), (Contender::Linux, "Linux", "darkorange")];

/// The whole picture.
pub(super) fn svg(report: &GrowthReport) -> String {
    let most = report.points.iter().map(Point::throughput).fold(1.0, f64::max);
    let throughputs = Axes { left: LEFT[0], top: most * 1.1, title: format!("{} of all guests", report.kind.rate) };
    let fairness = Axes { left: LEFT[1], top: 1.0, title: "fairness (Jain's index)".into() };
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"760\" height=\"340\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"760\" height=\"340\" fill=\"white\"/>\n<text x=\"10\" y=\"18\">{}</text>\n",
        report.title
    );
    text.push_str(&throughputs.svg());
    text.push_str(&fairness.svg());
    let (aim, end) = (fairness.y(report.aim_fairness), fairness.left + WIDTH);
    let _ = writeln!(
        text,
        "<line x1=\"{}\" x2=\"{end}\" y1=\"{aim:.1}\" y2=\"{aim:.1}\" stroke=\"grey\" stroke-dasharray=\"2 3\"/>",
        fairness.left
    );
    for (contender, _, colour) in LINES {
        for (load, dashes) in drawn(&report.kind) {
            let line = Line { report, contender, load, colour, dashes };
            text.push_str(&throughputs.line(line, throughput));
            text.push_str(&fairness.line(line, |point| point.seen.fairness));
        }
    }
    text + &legend(&report.kind) + "</svg>\n"
}

/// One plot: where it stands, and the value at its top; 0 is at its bottom.
#[derive(Debug, Clone)]
struct Axes {
    left: f64,
    top: f64,
    title: String,
}

impl Axes {
    /// Counts stand at equal distances.
    fn x(&self, index: u64) -> f64 {
        self.left + 15.0 + float(index) * 67.0
    }

    fn y(&self, value: f64) -> f64 {
        BOTTOM - value / self.top * HEIGHT
    }

    /// The frame with its numbers.
    fn svg(&self) -> String {
        let mut text = format!(
            "<text x=\"{}\" y=\"40\">{}</text>\n\
             <rect x=\"{}\" y=\"{}\" width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"none\" stroke=\"lightgrey\"/>\n",
            self.left,
            self.title,
            self.left,
            BOTTOM - HEIGHT
        );
        for part in [0.0, 0.5, 1.0] {
            let value = self.top * part;
            let digits = if self.top > 2.0 { 0 } else { 1 };
            let (x, y) = (self.left - 6.0, self.y(value) + 4.0);
            let _ = writeln!(text, "<text x=\"{x}\" y=\"{y:.1}\" text-anchor=\"end\">{value:.digits$}</text>");
        }
        for (index, guests) in (0..).zip(COUNTS) {
            let (x, y) = (self.x(index), BOTTOM + 16.0);
            let _ = writeln!(text, "<text x=\"{x:.1}\" y=\"{y}\" text-anchor=\"middle\">{guests}</text>");
        }
        text
    }

    /// What was measured of one contender under one load.
    fn line(&self, line: Line<'_>, quantity: fn(&Point) -> Option<f64>) -> String {
        let Line { report, contender, load, colour, dashes } = line;
        let mut places = String::new();
        let mut dots = String::new();
        for (index, guests) in (0..).zip(COUNTS) {
            if let Some(value) = report.median(contender, load, guests, quantity) {
                let (x, y) = (self.x(index), self.y(value));
                let _ = write!(places, "{x:.1},{y:.1} ");
                let _ = write!(dots, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2.5\" fill=\"{colour}\"/>");
            }
        }
        format!("<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\"{dashes}/>{dots}\n", places.trim_end())
    }
}

/// Whose line, and what it looks like.
#[derive(Debug, Clone, Copy)]
struct Line<'a> {
    report: &'a GrowthReport,
    contender: Contender,
    load: Load,
    colour: &'static str,
    dashes: &'static str,
}

/// The loads: the first is drawn through, the second is dashed, the third dotted.
fn drawn(kind: &Kind) -> impl Iterator<Item = (Load, &'static str)> {
    kind.loads.iter().copied().zip(["", " stroke-dasharray=\"6 3\"", " stroke-dasharray=\"2 2\""])
}

fn legend(kind: &Kind) -> String {
    let mut text = String::from("<text x=\"60\" y=\"284\">guests at once</text>\n");
    for ((_, name, colour), y) in LINES.into_iter().zip([304.0, 324.0]) {
        let mut x = LEFT[0];
        for (load, dashes) in drawn(kind) {
            let (end, words) = (x + 30.0, x + 36.0);
            let _ = writeln!(
                text,
                "<line x1=\"{x}\" x2=\"{end}\" y1=\"{y}\" y2=\"{y}\" stroke=\"{colour}\"{dashes}/>\
                 <text x=\"{words}\" y=\"{}\">{name}, {}</text>",
                y + 4.0,
                load.word(),
            );
            x += 190.0;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::{point, report};
    use super::*;

    #[test]
    fn values_stand_where_the_axes_say() {
        let axes = Axes { left: 100.0, top: 2.0, title: "t".into() };
        assert_eq!((axes.y(0.0), axes.y(2.0)), (BOTTOM, BOTTOM - HEIGHT));
        assert!(axes.x(4) < axes.left + WIDTH, "the last count lies within");
    }

    #[test]
    fn a_line_has_a_dot_for_each_count_that_was_measured() {
        let text = svg(&report(vec![
            point(Contender::Bulkhead, 1, &[10.0], 1.0),
            point(Contender::Bulkhead, 16, &[5.0, 15.0], 0.8),
        ]));
        // In both plots.
        assert_eq!(text.matches("<circle").count(), 4);
        // 20 of 22 Mbit/s; the last of five counts.
        assert!(text.contains("<circle cx=\"343.0\" cy=\"68.2\""), "{text}");
        assert!(text.starts_with("<svg") && text.ends_with("</svg>\n"));
    }
}
