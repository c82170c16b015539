#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests may fail loudly")]

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::Cell;

use super::*;
use crate::hyp::Instant;
use crate::xenstore::tests::daemon::{END, START, WRITE};
use crate::xenstore::tests::{Bench, Outcome, Xs};

#[derive(Clone, Default)]
struct TestClock {
    now: Rc<Cell<Instant>>,
    wake_at: Rc<Cell<Option<Instant>>>,
}

impl Clock for TestClock {
    fn now(&self) -> Instant {
        self.now.get()
    }
    fn wake_at(&self, at: Instant) {
        self.wake_at.set(Some(at));
    }
    fn take_wake_at(&self) -> Option<Instant> {
        self.wake_at.take()
    }
}

/// A domain as the toolstack makes it, which waits for a request.
fn domain() -> (Bench, TestClock, Outcome<Request>) {
    let mut bench = Bench::new();
    bench.daemon.write(SHUTDOWN, b"");
    FEATURES.iter().for_each(|(node, _)| bench.daemon.write(node, b""));
    let (outcome, clock) = wait(&bench);
    bench.settle();
    (bench, clock, outcome)
}

fn wait(bench: &Bench) -> (Outcome<Request>, TestClock) {
    let clock = TestClock::default();
    let mine = clock.clone();
    (bench.spawn(|xs: Xs| async move { requested(&xs, &mine).await }), clock)
}

#[test]
fn requests_are_returned_and_acknowledged() {
    for (word, request) in [("poweroff", Request::PowerOff), ("halt", Request::Halt), ("reboot", Request::Reboot)] {
        let (mut bench, _, outcome) = domain();
        assert!(outcome.is_pending());
        bench.daemon.write(SHUTDOWN, word.as_bytes());
        bench.settle();
        assert_eq!(outcome.get(), request);
        assert_eq!(bench.daemon.nodes[SHUTDOWN], b"");
        assert!(bench.daemon.watches.is_empty());
        assert!(bench.daemon.transactions.is_empty());
    }
}

#[test]
fn a_request_from_before_we_watched_is_seen() {
    let mut bench = Bench::new();
    bench.daemon.write(SHUTDOWN, b"poweroff");
    let (outcome, _) = wait(&bench);
    bench.settle();
    assert_eq!(outcome.get(), Request::PowerOff);
}

#[test]
fn the_toolstack_learns_what_we_respond_to() {
    let (bench, ..) = domain();
    assert!(FEATURES.iter().all(|(node, value)| bench.daemon.nodes[*node] == value.as_bytes()));
}

#[test]
fn suspend_is_acknowledged_and_has_no_effect() {
    let (mut bench, _, outcome) = domain();
    bench.daemon.write(SHUTDOWN, b"suspend");
    bench.settle();
    assert!(outcome.is_pending());
    assert_eq!(bench.daemon.nodes[SHUTDOWN], b"");
    bench.daemon.write(SHUTDOWN, b"poweroff");
    bench.settle();
    assert_eq!(outcome.get(), Request::PowerOff);
}

#[test]
fn junk_is_left_alone() {
    for junk in [&b"crash"[..], b"poweroff\0", b"POWEROFF", b" reboot", b"\xff\xfe", &[b'x'; 4000]] {
        let (mut bench, _, outcome) = domain();
        bench.daemon.write(SHUTDOWN, junk);
        bench.settle();
        assert!(outcome.is_pending());
        assert_eq!(bench.daemon.nodes[SHUTDOWN], junk);
        bench.daemon.write(SHUTDOWN, b"reboot");
        bench.settle();
        assert_eq!(outcome.get(), Request::Reboot);
    }
}

#[test]
fn a_node_that_goes_away_and_comes_back_is_no_request() {
    let (mut bench, _, outcome) = domain();
    bench.daemon.nodes.remove(SHUTDOWN);
    bench.daemon.send_event(SHUTDOWN, &bench.daemon.watches[0].1.clone());
    bench.settle();
    assert!(outcome.is_pending());
    bench.daemon.write(SHUTDOWN, b"halt");
    bench.settle();
    assert_eq!(outcome.get(), Request::Halt);
}

#[test]
fn a_word_that_changes_under_the_transaction_is_read_again() {
    let (mut bench, _, outcome) = domain();
    bench.daemon.write(SHUTDOWN, b"reboot");
    // Up to the write within the transaction.
    while bench.daemon.seen.last().is_none_or(|seen| seen.kind != WRITE || seen.tx == 0) {
        bench.daemon.step(1, u32::MAX);
        let _ = bench.turn();
    }
    bench.daemon.write(SHUTDOWN, b"poweroff");
    bench.settle();
    assert_eq!(outcome.get(), Request::PowerOff);
    assert_eq!(bench.daemon.nodes[SHUTDOWN], b"");
    let ends: Vec<_> = bench.daemon.seen.iter().filter(|seen| seen.kind == END).map(|seen| &seen.body[..]).collect();
    assert_eq!(ends.last(), Some(&&b"T\0"[..]));
    assert!(ends.len() >= 3, "{ends:?}");
}

#[test]
fn without_a_transaction_to_be_had_the_request_is_served_still() {
    let (mut bench, _, outcome) = domain();
    bench.daemon.transaction_quota = 0;
    bench.daemon.write(SHUTDOWN, b"poweroff");
    bench.settle();
    assert_eq!(outcome.get(), Request::PowerOff);
    assert_eq!(bench.daemon.nodes[SHUTDOWN], b"");
}

#[test]
fn a_refused_watch_is_tried_again_a_second_later() {
    let mut bench = Bench::new();
    bench.daemon.write(SHUTDOWN, b"poweroff");
    bench.daemon.watch_quota = 0;
    let (outcome, clock) = wait(&bench);
    bench.settle();
    let wake_at = clock.take_wake_at().unwrap();
    assert_eq!(wake_at, clock.now().saturating_add(RETRY));
    bench.daemon.watch_quota = 1;
    bench.tasks.poll();
    bench.settle();
    assert!(outcome.is_pending(), "it is not time yet");
    clock.now.set(wake_at);
    bench.tasks.poll();
    bench.settle();
    assert_eq!(outcome.get(), Request::PowerOff);
}

#[test]
fn a_reset_of_the_connection_loses_no_request() {
    let mut bench = Bench::with_reconnection();
    let (outcome, clock) = wait(&bench);
    bench.settle();
    bench.daemon.nodes.insert(SHUTDOWN.into(), b"reboot".into());
    bench.daemon.send_raw(&[0xff; 16]);
    bench.settle();
    clock.now.set(Instant::from_nanos(u64::MAX));
    bench.tasks.poll();
    bench.settle();
    assert_eq!(outcome.get(), Request::Reboot);
    assert!(bench.daemon.seen.iter().any(|seen| seen.kind == START));
}

#[test]
fn a_node_that_is_denied_is_tried_again_and_leaves_no_transaction() {
    let (mut bench, clock, outcome) = domain();
    bench.daemon.denied = Some(SHUTDOWN);
    bench.daemon.write(SHUTDOWN, b"poweroff");
    bench.settle();
    assert!(outcome.is_pending());
    assert!(bench.daemon.transactions.is_empty());
    bench.daemon.denied = None;
    clock.now.set(clock.take_wake_at().unwrap());
    bench.tasks.poll();
    bench.settle();
    assert_eq!(outcome.get(), Request::PowerOff);
}
