//! Growth: a crowd of stock guests behind our domain and another behind a Linux driver domain, of which more and more
//! send at once, then receive.
//!
//! All guests stay up all the time; those that do not take part are idle and cost nothing.

mod crowd;
mod load;
mod plot;
mod report;

pub use crowd::{CONTENDERS, CROWD, GrowthBed};
pub use load::Seen;
pub use report::{AIM_FAIRNESS, GrowthReport};

use serde::Serialize;

use super::network::Direction;
use super::samples::Contender;

/// How many guests take part.
pub const COUNTS: [usize; 5] = [1, 2, 4, 8, 16];
/// Which way their bytes go.
pub const DIRECTIONS: [Direction; 2] = [Direction::Out, Direction::In];

/// One measurement.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Point {
    /// The round, from 0.
    pub round: usize,
    /// Whose guests.
    pub contender: Contender,
    /// How many.
    pub guests: usize,
    /// Which way.
    pub direction: Direction,
    /// What came of it.
    #[serde(flatten)]
    pub seen: Seen,
}

impl Point {
    /// What all guests together got, in Mbit/s.
    #[must_use]
    pub fn throughput(&self) -> f64 {
        self.seen.rates.iter().sum()
    }
}

/// Measures every count of guests in both directions, `rounds` times, if its name contains `only`.
#[must_use]
pub fn run(bed: &GrowthBed, rounds: usize, only: &str) -> Vec<Point> {
    let mut points = Vec::new();
    for round in 0..rounds {
        println!("round {} of {rounds}", round.saturating_add(1));
        for (step, guests) in COUNTS.into_iter().enumerate() {
            let first = round.saturating_add(step);
            for direction in DIRECTIONS {
                let name = format!("{guests} guests {}", word(direction));
                if name.contains(only) {
                    println!("  {name:<14}{}", measure_all(bed, first, round, guests, direction, &mut points));
                }
            }
        }
    }
    points
}

/// Measures every contender, each time starting with another one; what came of it in a few words.
fn measure_all(
    bed: &GrowthBed,
    first: usize,
    round: usize,
    guests: usize,
    direction: Direction,
    points: &mut Vec<Point>,
) -> String {
    let mut turns: Vec<_> = bed.crowds.iter().collect();
    let first = first.checked_rem(turns.len()).unwrap_or(0);
    turns.rotate_left(first);
    let mut said = String::new();
    for crowd in turns {
        let (contender, name) = (crowd.contender, crowd.contender.name());
        match load::measure(crowd, guests, direction) {
            Ok(seen) => {
                let point = Point { round, contender, guests, direction, seen };
                let (rate, fairness) = (point.throughput(), point.seen.fairness.unwrap_or(0.0));
                said.push_str(&format!("  {name} {rate:.0} Mbit/s, fairness {fairness:.3}"));
                points.push(point);
            }
            Err(failure) => said.push_str(&format!("  {name} FAILED: {failure}")),
        }
    }
    said
}

/// What a report calls the direction.
fn word(direction: Direction) -> &'static str {
    match direction {
        Direction::Out => "out",
        Direction::In => "in",
    }
}
