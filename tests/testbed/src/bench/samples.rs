//! What was measured, round by round, and the ratios that come of it.
//!
//! A single value says more about the machine and its load than about a driver domain. So contenders take turns within
//! a round, ratios are taken within a round, and a result is the median of those ratios with their range.

use std::collections::BTreeMap;

use serde::Serialize;

/// Who is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Contender {
    /// Our domain.
    Bulkhead,
    /// A Linux driver domain.
    Linux,
    /// The guest drives the device itself: the limit.
    Bare,
    /// Our domain with other options.
    Variant,
}

impl Contender {
    /// The name used in reports and of domains.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Bulkhead => "bulkhead",
            Self::Linux => "linux",
            Self::Bare => "bare",
            Self::Variant => "variant",
        }
    }
}

/// One quantity.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Metric {
    /// A short name for JSON and plots.
    pub id: &'static str,
    /// What a report calls it.
    pub title: &'static str,
    /// The unit of the samples.
    pub unit: &'static str,
    /// Whether more is better; if not, less is.
    pub higher_is_better: bool,
    /// A count of what was done, which says something about a driver domain by itself: the machine's speed is no part of it.
    pub is_count: bool,
    /// The aim for ours divided by Linux's.
    pub aim_linux: Option<f64>,
    /// The aim for ours divided by the bare device's.
    pub aim_bare: Option<f64>,
}

/// A ratio over all rounds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Ratio {
    /// The median of the rounds' ratios.
    pub median: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
    /// How many rounds it is made of.
    pub rounds: usize,
}

/// A metric with what was measured: one value a round for each contender, `None` where a measurement failed.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// What it is.
    #[serde(flatten)]
    pub metric: Metric,
    /// The values.
    pub samples: BTreeMap<Contender, Vec<Option<f64>>>,
    /// Ours divided by Linux's.
    pub against_linux: Option<Ratio>,
    /// Ours divided by the bare device's.
    pub against_bare: Option<Ratio>,
    /// Ours divided by that of our domain with other options, if there was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub against_variant: Option<Ratio>,
}

/// All samples of one run.
#[derive(Debug, Default)]
pub struct Samples {
    rows: Vec<Row>,
    round: usize,
}

impl Samples {
    /// Starts the next round; the first is 0.
    pub fn start_round(&mut self, round: usize) {
        self.round = round;
    }

    /// Notes a value of the current round.
    pub fn add(&mut self, metric: Metric, contender: Contender, value: f64) {
        let at = self.rows.iter().position(|row| row.metric.id == metric.id).unwrap_or_else(|| {
            let row = Row {
                metric,
                samples: BTreeMap::new(),
                against_linux: None,
                against_bare: None,
                against_variant: None,
            };
            self.rows.push(row);
            self.rows.len().saturating_sub(1)
        });
        let Some(row) = self.rows.get_mut(at) else { return };
        let values = row.samples.entry(contender).or_default();
        values.resize(self.round, None);
        // A time or a rate of nothing is a measurement that failed; of something that is counted there may be none.
        let measured = |value: &f64| value.is_finite() && (*value > 0.0 || metric.is_count && *value == 0.0);
        values.push(Some(value).filter(measured));
    }

    /// The rows with their ratios.
    #[must_use]
    pub fn rows(&self) -> Vec<Row> {
        let mut rows = self.rows.clone();
        for row in &mut rows {
            row.against_linux = row.ratio_to(Contender::Linux);
            row.against_bare = row.ratio_to(Contender::Bare);
            row.against_variant = row.ratio_to(Contender::Variant);
        }
        rows
    }
}

impl Row {
    /// The median of what was measured of a contender.
    #[must_use]
    pub fn median(&self, contender: Contender) -> Option<f64> {
        let values: Vec<f64> = self.samples.get(&contender)?.iter().flatten().copied().collect();
        percentile(&values, 50)
    }

    fn ratio_to(&self, other: Contender) -> Option<Ratio> {
        let (ours, theirs) = (self.samples.get(&Contender::Bulkhead)?, self.samples.get(&other)?);
        let ratios = ours.iter().zip(theirs).filter_map(|(a, b)| Some(a.as_ref()? / b.as_ref()?));
        let ratios: Vec<f64> = ratios.filter(|ratio| ratio.is_finite()).collect();
        Some(Ratio {
            median: percentile(&ratios, 50)?,
            min: percentile(&ratios, 0)?,
            max: percentile(&ratios, 100)?,
            rounds: ratios.len(),
        })
    }
}

/// The value below which `percent` of the values lie (nearest rank; the median of an even number is the mean of the
/// middle two).
#[must_use]
pub fn percentile(values: &[f64], percent: usize) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    if percent == 50 && sorted.len().is_multiple_of(2) {
        let upper = sorted.len() / 2;
        return Some(f64::midpoint(*sorted.get(upper.checked_sub(1)?)?, *sorted.get(upper)?));
    }
    let rank = sorted.len().saturating_mul(percent).div_ceil(100).max(1);
    sorted.get(rank.saturating_sub(1)).copied()
}

/// Jain's index of fairness: 1 if all have the same, one over their number if one has everything. `None` if nobody has
/// anything.
#[must_use]
pub fn fairness(shares: &[f64]) -> Option<f64> {
    let sum: f64 = shares.iter().sum();
    let squares: f64 = shares.iter().map(|share| share * share).sum();
    let count = float(u64::try_from(shares.len()).ok()?);
    (squares > 0.0).then(|| sum * sum / (count * squares))
}

/// The nearest `f64`.
#[must_use]
pub fn float(value: u64) -> f64 {
    let half = |half: u64| f64::from(u32::try_from(half).unwrap_or(u32::MAX));
    half(value >> 32) * 4_294_967_296.0 + half(value & 0xffff_ffff)
}

#[cfg(test)]
mod tests;
