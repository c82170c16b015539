use super::*;

const METRIC: Metric = Metric {
    id: "m",
    title: "m",
    unit: "1/s",
    higher_is_better: true,
    is_count: false,
    aim_linux: None,
    aim_bare: None,
};

#[test]
fn ratios_are_taken_within_a_round() {
    let mut samples = Samples::default();
    for (round, (ours, theirs)) in [(20.0, 10.0), (60.0, 20.0), (4.0, 4.0)].into_iter().enumerate() {
        samples.start_round(round);
        samples.add(METRIC, Contender::Bulkhead, ours);
        samples.add(METRIC, Contender::Linux, theirs);
    }
    let rows = samples.rows();
    assert_eq!(rows[0].against_linux, Some(Ratio { median: 2.0, min: 1.0, max: 3.0, rounds: 3 }));
    assert_eq!(rows[0].against_bare, None);
}

#[test]
fn a_missing_value_takes_its_round_out() {
    let mut samples = Samples::default();
    samples.start_round(0);
    samples.add(METRIC, Contender::Bulkhead, 2.0);
    samples.start_round(1);
    samples.add(METRIC, Contender::Bulkhead, 3.0);
    samples.add(METRIC, Contender::Linux, 1.0);
    let ratio = samples.rows()[0].against_linux.unwrap();
    assert_eq!((ratio.median, ratio.rounds), (3.0, 1));
}

#[test]
fn a_measurement_of_nothing_is_missing() {
    let mut samples = Samples::default();
    samples.add(METRIC, Contender::Bulkhead, f64::INFINITY);
    samples.add(METRIC, Contender::Linux, 0.0);
    assert_eq!(samples.rows()[0].against_linux, None);
}

#[test]
fn a_count_of_nothing_is_a_count_and_has_no_ratio() {
    let counted = Metric { is_count: true, ..METRIC };
    let mut samples = Samples::default();
    samples.add(counted, Contender::Bulkhead, 3.0);
    samples.add(counted, Contender::Linux, 0.0);
    let rows = samples.rows();
    assert_eq!((rows[0].median(Contender::Linux), rows[0].median(Contender::Bare)), (Some(0.0), None));
    assert_eq!(rows[0].against_linux, None);
}

#[test]
fn percentiles_are_values_that_occurred() {
    let values: Vec<f64> = (1..=100).rev().map(f64::from).collect();
    assert_eq!(percentile(&values, 99), Some(99.0));
    assert_eq!(percentile(&values, 0), Some(1.0));
    assert_eq!(percentile(&values, 50), Some(50.5));
    assert_eq!(percentile(&[], 50), None);
}

#[test]
fn fairness_lies_between_one_for_all_and_all_for_one() {
    assert_eq!(fairness(&[3.0, 3.0, 3.0, 3.0]), Some(1.0));
    assert_eq!(fairness(&[8.0, 0.0, 0.0, 0.0]), Some(0.25));
    // (1 + 3)² / (2 (1 + 9))
    assert_eq!(fairness(&[1.0, 3.0]), Some(0.8));
    assert_eq!((fairness(&[]), fairness(&[0.0, 0.0])), (None, None));
}

#[test]
fn float_keeps_both_halves() {
    assert_eq!(float(0x1_0000_0003), 4_294_967_299.0);
}
