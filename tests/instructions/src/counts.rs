//! Counts, and how they compare with those kept in the repository.

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// A change beyond this many percent counts.
pub const TOLERANCE_PERCENT: u64 = 2;

/// Instructions of one iteration, in thousandths, by case.
pub type Counts = BTreeMap<String, u64>;

/// Instructions that callgrind says it has seen.
#[must_use]
pub fn parse_callgrind(said: &str) -> Option<u64> {
    let (_, rest) = said.split_once("Collected :")?;
    rest.split_whitespace().next()?.parse().ok()
}

/// Reads counts as [`write()`] writes them.
#[must_use]
pub fn read(text: &str) -> Counts {
    let line = |line: &str| {
        let (count, name) = line.trim().split_once(' ')?;
        let (whole, thousandths) = count.split_once('.')?;
        let value = whole.parse::<u64>().ok()?.checked_mul(1000)?.checked_add(thousandths.parse().ok()?)?;
        Some((name.to_owned(), value))
    };
    text.lines().filter_map(line).collect()
}

/// One line a case.
#[must_use]
pub fn write(counts: &Counts) -> String {
    counts.iter().fold(String::new(), |mut text, (name, count)| {
        let _ = writeln!(text, "{}.{:03} {name}", count / 1000, count % 1000);
        text
    })
}

/// A line for each case, and whether one costs more than it did.
#[must_use]
pub fn compare(now: &Counts, before: &Counts) -> (String, bool) {
    let mut text = String::new();
    let mut worse = false;
    for (name, count) in now {
        let change = match before.get(name) {
            None => "new".to_owned(),
            Some(old) => {
                let limit = |value: u64| value.saturating_mul(100 + TOLERANCE_PERCENT) / 100;
                if *count > limit(*old) {
                    worse = true;
                    format!("WORSE, was {}.{:03}", old / 1000, old % 1000)
                } else if *old > limit(*count) {
                    format!("better, was {}.{:03}", old / 1000, old % 1000)
                } else {
                    "as before".to_owned()
                }
            }
        };
        let _ = writeln!(text, "{:>9}.{:03}  {name}: {change}", count / 1000, count % 1000);
    }
    (text, worse)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn one(count: u64) -> Counts {
        Counts::from([("a case".to_owned(), count)])
    }

    #[test]
    fn what_is_written_is_read_again() {
        assert_eq!(read(&write(&one(12_005))), one(12_005));
    }

    #[test]
    fn only_a_change_beyond_the_tolerance_counts() {
        assert!(!compare(&one(102_000), &one(100_000)).1);
        assert!(compare(&one(102_001), &one(100_000)).1);
        assert!(!compare(&one(50_000), &one(100_000)).1);
        assert!(compare(&one(50_000), &one(100_000)).0.contains("better"));
    }

    #[test]
    fn callgrinds_count_is_found() {
        assert_eq!(parse_callgrind("==7== Events    : Ir\n==7== Collected : 12345\n").unwrap(), 12_345);
    }
}
