use alloc::format;

use super::*;

fn at(milliseconds: u64) -> Instant {
    Instant::from_nanos(milliseconds.saturating_mul(1_000_000))
}

#[test]
fn the_first_line_goes_out_and_the_rest_of_the_second_is_counted() {
    let mut limit: LogLimit<u8, 4> = LogLimit::new();
    assert_eq!(limit.check(1, at(0)), Some(0));
    assert!((1..1000).all(|ms| limit.check(1, at(ms)).is_none()));
    assert_eq!(limit.check(1, at(1000)), Some(999));
    assert_eq!(limit.check(1, at(1999)), None);
    assert_eq!(limit.check(1, at(3000)), Some(1));
    assert_eq!(limit.check(1, at(9000)), Some(0));
}

#[test]
fn causes_do_not_silence_each_other() {
    let mut limit: LogLimit<u8, 4> = LogLimit::new();
    assert!((0..4).all(|key| limit.check(key, at(0)) == Some(0)));
    assert_eq!(limit.check(2, at(10)), None);
    assert_eq!(limit.check(3, at(1000)), Some(0));
    assert_eq!(limit.check(2, at(1000)), Some(1));
}

#[test]
fn events_counted_elsewhere_make_one_line() {
    let mut limit: LogLimit<u8, 4> = LogLimit::new();
    assert_eq!(limit.check_many(1, 500, at(0)), Some(499));
    assert_eq!(limit.check_many(1, 300, at(100)), None);
    assert_eq!(limit.check_many(1, 1, at(2000)), Some(300));
}

#[test]
fn more_keys_than_room_are_silent_but_not_forgotten() {
    let mut limit: LogLimit<u8, 2> = LogLimit::new();
    assert_eq!(limit.check(1, at(0)), Some(0));
    assert_eq!(limit.check(2, at(500)), Some(0));
    assert_eq!(limit.check(2, at(600)), None);
    assert_eq!(limit.check(3, at(900)), None);
    assert_eq!(limit.take_untold(), 1);
    // The oldest gives way as soon as its second is over.
    assert_eq!(limit.check(3, at(1000)), Some(0));
    assert_eq!(limit.check(2, at(1100)), None);
    assert_eq!(limit.check(1, at(1600)), Some(0), "in the place of 2");
    assert_eq!(limit.take_untold(), 2);
    assert_eq!(limit.take_untold(), 0);
}

#[test]
fn a_table_without_room_lets_nothing_through() {
    let mut limit: LogLimit<u8, 0> = LogLimit::new();
    assert_eq!(limit.check(1, at(0)), None);
    assert_eq!(limit.take_untold(), 1);
}

#[test]
fn time_that_stands_still_or_runs_backwards_is_no_way_around() {
    let mut limit: LogLimit<u8, 1> = LogLimit::new();
    assert_eq!(limit.check(1, at(5000)), Some(0));
    assert_eq!(limit.check(1, at(5000)), None);
    assert_eq!(limit.check(1, at(10)), None);
    assert_eq!(limit.check(1, at(6000)), Some(2));
}

#[test]
fn counts_saturate() {
    let mut limit: LogLimit<u8, 1> = LogLimit::new();
    assert_eq!(limit.check_many(1, u64::MAX, at(0)), Some(u64::MAX - 1));
    assert_eq!(limit.check_many(1, u64::MAX, at(1)), None);
    assert_eq!(limit.check_many(1, u64::MAX, at(1000)), Some(u64::MAX - 1));
}

#[test]
fn the_line_has_the_format_that_machines_read() {
    let line = FaultLine {
        kind: DeviceKind::Vif,
        frontend: Domid::from_raw(7),
        devid: 1,
        queue: 2,
        cause: "TX_PROD",
        details: format_args!("req_prod={} req_cons={}", 5000, 3),
        action: Action::Kill,
        suppressed: 41,
    };
    let text = "be=vif dom=7 dev=1 q=2 cause=TX_PROD req_prod=5000 req_cons=3 action=kill n=41";
    assert_eq!(format!("{line}"), text);
    let actions = [(Action::Err, "err"), (Action::Drop, "drop"), (Action::Refuse, "refuse")];
    for (action, word) in actions {
        let line = FaultLine { kind: DeviceKind::Vbd, details: format_args!(""), action, suppressed: 0, ..line };
        assert_eq!(format!("{line}"), format!("be=vbd dom=7 dev=1 q=2 cause=TX_PROD action={word} n=0"));
    }
}
