//! A xenstored that breaks the protocol, or the connection.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::future::Future;
use core::task::{Context, Poll, Waker};

use crate::hyp::{Transaction, Xenstore, XsError};

use super::daemon::{
    CONNECTION, ERROR, FEATURES, READ, REQ_CONS, REQ_PROD, RESET, RSP_PROD, SERVER_ERROR, UNWATCH, WATCH, bare_header,
};
use super::watching::drain;
use super::{Bench, Outcome};

const NONE: Transaction = Transaction::NONE;

fn read(bench: &Bench) -> Outcome<Result<Vec<u8>, XsError>> {
    bench.spawn(|xs| async move { xs.read(NONE, "data/a").await })
}

/// The connection works: what was written is read.
#[track_caller]
fn assert_works(bench: &mut Bench) {
    bench.daemon.write("data/a", b"fine");
    let outcome = read(bench);
    bench.settle();
    assert_eq!(outcome.get(), Ok(b"fine".to_vec()));
}

#[test]
fn replies_to_nobody_are_skipped() {
    let mut bench = Bench::new();
    bench.daemon.send(READ, 4711, b"value");
    bench.daemon.send(ERROR, 4712, b"ENOENT\0");
    bench.daemon.send(26, 0, b"");
    assert_works(&mut bench);
    // A second reply to a request that has its answer.
    let id = bench.daemon.seen[0].id;
    bench.daemon.send(READ, id, b"again");
    assert_works(&mut bench);
    assert_eq!(bench.daemon.page.get(CONNECTION), 0);
}

#[test]
fn an_impossible_header_resets_the_connection() {
    for header in
        [bare_header(READ, 1, 4097), bare_header(READ, 1, u32::MAX), bare_header(27, 1, 0), [0xff; 16].to_vec()]
    {
        let mut bench = Bench::with_reconnection();
        let handle = bench.run(|xs| async move { xs.watch("backend").await }).ok().unwrap();
        drain(&handle);
        bench.daemon.held = Some(Vec::new());
        let pending: Vec<_> = (0..25).map(|_| read(&bench)).collect();
        bench.daemon.send_raw(&header);
        bench.daemon.run();
        assert!(bench.turn());
        assert_eq!(bench.daemon.page.get(CONNECTION), 1);
        assert!(pending.iter().all(|outcome| outcome.get() == Err(XsError::Reset)));
        bench.daemon.held = None;
        bench.settle();
        assert_eq!(drain(&handle), ["backend"], "so that the owner looks at everything");
        assert_eq!(bench.daemon.watches.len(), 1);
        assert_works(&mut bench);
    }
}

#[test]
fn while_a_reset_is_under_way_requests_wait_and_nothing_is_touched() {
    let mut bench = Bench::with_reconnection();
    bench.daemon.send_raw(&[0xff; 16]);
    bench.daemon.run();
    let page = bench.daemon.page.clone();
    let notified = page.notified.get() + 1;
    assert!(!bench.turn());
    assert_eq!(page.notified.get(), notified, "xenstored hears of it");
    let before: Vec<u32> = (0..1024).map(|word| page.get(word)).collect();
    let outcome = read(&bench);
    assert!(!bench.turn());
    assert_eq!((0..1024).map(|word| page.get(word)).collect::<Vec<_>>(), before);
    assert_eq!(page.notified.get(), notified);
    bench.settle();
    assert_eq!(outcome.get(), Err(XsError::NoEntry));
}

#[test]
fn an_impossible_index_resets_the_connection() {
    for (word, value) in [(RSP_PROD, 1025), (RSP_PROD, u32::MAX), (REQ_CONS, 1), (REQ_CONS, u32::MAX - 2000)] {
        let mut bench = Bench::with_reconnection();
        bench.daemon.page.set(word, value);
        let outcome = read(&bench);
        let _ = bench.turn();
        assert_eq!(bench.daemon.page.get(CONNECTION), 1, "{word} {value}");
        bench.settle();
        assert!(matches!(outcome.get(), Err(XsError::Reset | XsError::NoEntry)));
        assert_works(&mut bench);
    }
}

#[test]
fn without_reset_the_next_message_is_looked_for() {
    let mut bench = Bench::new();
    let handle = bench.run(|xs| async move { xs.watch("backend").await }).ok().unwrap();
    let stale = bench.run(|xs| async move { xs.begin().await.unwrap() });
    drain(&handle);
    let pending = read(&bench);
    bench.daemon.send_raw(&bare_header(READ, 9, 70_000));
    bench.daemon.send_raw(&[7; 900]);
    bench.settle();
    assert_eq!(pending.get(), Err(XsError::Reset));
    assert_eq!(drain(&handle), ["backend"]);
    assert_eq!(bench.daemon.watches.len(), 1);
    assert!(bench.daemon.transactions.is_empty());
    let refused = bench.run(move |xs| async move { xs.write(stale, "data/a", "").await });
    assert_eq!(refused, Err(XsError::Reset));
    assert_works(&mut bench);
    let kinds: Vec<u32> = bench.daemon.seen.iter().map(|seen| seen.kind).collect();
    let at = kinds.iter().position(|kind| *kind == RESET).unwrap();
    assert_eq!(kinds[at + 1], WATCH);
}

#[test]
fn the_search_may_find_the_reply_in_two_turns() {
    let mut bench = Bench::new();
    let handle = bench.run(|xs| async move { xs.watch("backend").await }).ok().unwrap();
    drain(&handle);
    bench.daemon.send_raw(&[0xff; 16]);
    bench.daemon.run();
    let _ = bench.turn();
    // Junk, the header and a part of the body.
    bench.daemon.send_raw(&[3; 50]);
    bench.daemon.step(u32::MAX, 50 + 16 + 2);
    let _ = bench.turn();
    bench.settle();
    assert_eq!(drain(&handle), ["backend"]);
    assert_works(&mut bench);
}

#[test]
fn the_search_is_for_one_reply_and_nothing_else_is_asked_meanwhile() {
    let mut bench = Bench::new();
    bench.daemon.send_raw(&[0xff; 16]);
    bench.daemon.run();
    let _ = bench.turn();
    let asked = bench.daemon.seen.len();
    bench.daemon.held = Some(Vec::new());
    let waiting = read(&bench);
    bench.daemon.run();
    assert_eq!(bench.daemon.seen.len(), asked + 1, "the probe");
    // A reply to somebody else, whose length would swallow the right one.
    let probe = bench.daemon.seen.last().unwrap().id;
    bench.daemon.send_raw(&bare_header(READ, probe + 7, 4000));
    bench.daemon.send_raw(&bare_header(WATCH, probe, 4000));
    let held = bench.daemon.held.take().unwrap();
    bench.daemon.release(&held[0]);
    bench.settle();
    assert_eq!(waiting.get(), Err(XsError::NoEntry));
    assert_works(&mut bench);
}

#[test]
fn a_reply_to_a_request_that_was_not_sent_yet_is_no_answer() {
    let mut bench = Bench::new();
    bench.daemon.write("data/a", b"true");
    bench.daemon.held = Some(Vec::new());
    let outcomes: Vec<_> = (0..21).map(|_| read(&bench)).collect();
    bench.daemon.run();
    let in_line = bench.daemon.seen.last().unwrap().id + 1;
    bench.daemon.send(READ, in_line, b"false");
    bench.daemon.run();
    let _ = bench.turn();
    assert!(outcomes.iter().all(Outcome::is_pending));
    let held = bench.daemon.held.take().unwrap();
    held.iter().for_each(|reply| bench.daemon.release(reply));
    bench.settle();
    assert!(outcomes.iter().all(|outcome| outcome.get() == Ok(b"true".to_vec())));
}

#[test]
fn a_transaction_begun_just_before_the_reset_is_not_handed_out() {
    let mut bench = Bench::with_reconnection();
    let outcome = bench.spawn(|xs| async move { xs.begin().await });
    bench.daemon.step(u32::MAX, 0);
    bench.daemon.send_raw(&[0xff; 16]);
    bench.settle();
    assert_eq!(outcome.get(), Err(XsError::Reset));
}

#[test]
fn an_answer_that_was_not_fetched_survives_the_numbers_starting_again() {
    let mut bench = Bench::with_reconnection();
    let mut cx = Context::from_waker(Waker::noop());
    let xs = bench.xs.clone();
    let mut slow = Box::pin(async move { xs.read(NONE, "data/a").await });
    assert!(slow.as_mut().poll(&mut cx).is_pending());
    bench.daemon.send_raw(&[0xff; 16]);
    bench.settle();
    bench.daemon.write("data/a", b"new");
    let fast = read(&bench);
    assert_eq!(slow.as_mut().poll(&mut cx), Poll::Ready(Err(XsError::Reset)));
    bench.settle();
    assert_eq!(fast.get(), Ok(b"new".to_vec()));
}

#[test]
fn a_watch_asked_for_during_a_reset_is_registered_once() {
    let mut bench = Bench::with_reconnection();
    bench.daemon.send_raw(&[0xff; 16]);
    bench.daemon.run();
    let _ = bench.turn();
    let outcome = bench.spawn(|xs| async move { xs.watch("backend").await });
    bench.settle();
    let handle = outcome.get().ok().unwrap();
    assert_eq!(bench.daemon.watches.len(), 1);
    assert_eq!(bench.daemon.seen.iter().filter(|seen| seen.kind == WATCH).count(), 1);
    assert_eq!(drain(&handle), ["backend"]);
}

#[test]
fn a_producer_gone_astray_is_followed() {
    let bench = Bench::new();
    bench.daemon.start_indices_at(5000);
    let mut bench = Bench::on(bench.daemon);
    bench.settle();
    let pending = read(&bench);
    bench.daemon.step(u32::MAX, 0);
    bench.daemon.page.set(RSP_PROD, 90_000);
    assert!(bench.turn());
    assert_eq!(pending.get(), Err(XsError::Reset));
    bench.settle();
    assert_works(&mut bench);
}

#[test]
fn a_producer_that_moves_back_over_what_was_seen_is_noticed() {
    let mut bench = Bench::new();
    let pending = read(&bench);
    bench.daemon.step(u32::MAX, 12);
    assert!(!bench.turn());
    let prod = bench.daemon.page.get(RSP_PROD);
    bench.daemon.page.set(RSP_PROD, prod - 4);
    assert!(bench.turn());
    assert_eq!(pending.get(), Err(XsError::Reset));
}

#[test]
fn an_impossible_request_index_is_waited_out() {
    let mut bench = Bench::new();
    let cons = bench.daemon.page.get(REQ_CONS);
    bench.daemon.page.set(REQ_CONS, cons + 1);
    assert_eq!(read(&bench).get(), Err(XsError::Reset));
    assert_eq!(read(&bench).get(), Err(XsError::Reset));
    assert_eq!(bench.daemon.page.get(REQ_PROD), cons, "not a byte is produced");
    bench.daemon.page.set(REQ_CONS, cons);
    let _ = bench.turn();
    bench.settle();
    assert_works(&mut bench);
}

#[test]
fn a_ring_reset_that_nobody_asked_for_is_taken_as_a_new_start() {
    for traffic in [1, 500] {
        let mut bench = Bench::new();
        let handle = bench.run(|xs| async move { xs.watch("backend").await }).ok().unwrap();
        drain(&handle);
        (0..traffic).for_each(|_| assert_works(&mut bench));
        bench.daemon.held = Some(Vec::new());
        let pending = read(&bench);
        bench.daemon.run();
        bench.daemon.reset();
        let _ = bench.turn();
        assert_eq!(pending.get(), Err(XsError::Reset));
        bench.daemon.held = None;
        bench.settle();
        assert_eq!(drain(&handle), ["backend"]);
        assert_eq!(bench.daemon.watches.len(), 1);
        assert_works(&mut bench);
    }
}

#[test]
fn xenstored_giving_up_fails_requests_at_once() {
    let mut bench = Bench::new();
    bench.daemon.page.set(FEATURES, 2);
    let pending = read(&bench);
    bench.daemon.page.set(SERVER_ERROR, 3);
    assert!(bench.turn());
    assert_eq!(pending.get(), Err(XsError::Reset));
    assert_eq!(read(&bench).get(), Err(XsError::Reset));
    for _ in 0..5 {
        assert!(!bench.turn());
    }
    // A new xenstored offers what the old one did not.
    bench.daemon.page.set(FEATURES, 3);
    let _ = bench.turn();
    bench.settle();
    assert_works(&mut bench);
}

#[test]
fn an_error_field_that_is_not_advertised_means_nothing() {
    let mut bench = Bench::new();
    bench.daemon.page.set(SERVER_ERROR, 77);
    assert_works(&mut bench);
}

#[test]
fn a_domain_built_before_xenstored_waits_for_it() {
    let bench = Bench::new();
    bench.daemon.page.set(CONNECTION, 1);
    bench.daemon.page.set(RSP_PROD, 99);
    let mut bench = Bench::on(bench.daemon);
    let outcome = read(&bench);
    assert!(!bench.turn());
    assert!(outcome.is_pending());
    bench.daemon.page.set(RSP_PROD, 0);
    bench.daemon.page.set(CONNECTION, 0);
    bench.settle();
    assert_eq!(outcome.get(), Err(XsError::NoEntry));
}

#[test]
fn a_transaction_does_not_outlive_the_connection_it_was_begun_on() {
    let mut bench = Bench::with_reconnection();
    let old = bench.run(|xs| async move { xs.begin().await.unwrap() });
    bench.daemon.send_raw(&[0xff; 16]);
    bench.settle();
    // xenstored counts from 1 again.
    let new = bench.run(|xs| async move { xs.begin().await.unwrap() });
    assert_eq!(bench.daemon.transactions.len(), 1);
    let refused = bench.run(move |xs| async move { xs.write(old, "data/a", "mixed up").await });
    assert_eq!(refused, Err(XsError::Reset));
    let committed = bench.run(move |xs| async move { xs.commit(new).await });
    assert_eq!(committed, Ok(()));
    assert!(bench.daemon.nodes.is_empty());
}

#[test]
fn a_watch_that_cannot_be_registered_again_still_fires() {
    let mut bench = Bench::with_reconnection();
    let handles: Vec<_> = ["a", "b", "c"]
        .iter()
        .map(|path| bench.run(move |xs| async move { xs.watch(path).await }).ok().unwrap())
        .collect();
    handles.iter().for_each(|handle| drop(drain(handle)));
    bench.daemon.watch_quota = 1;
    bench.daemon.send_raw(&[0xff; 16]);
    bench.settle();
    assert_eq!(handles.iter().map(drain).collect::<Vec<_>>(), [["a"], ["b"], ["c"]]);
}

#[test]
fn a_watch_dropped_during_a_reset_is_not_registered_again() {
    let mut bench = Bench::with_reconnection();
    let handle = bench.run(|xs| async move { xs.watch("backend").await }).ok().unwrap();
    bench.daemon.send_raw(&[0xff; 16]);
    bench.daemon.run();
    let _ = bench.turn();
    drop(handle);
    bench.settle();
    assert!(bench.daemon.watches.is_empty());
    assert!(bench.daemon.seen.iter().all(|seen| seen.kind != UNWATCH), "there was nothing to remove");
    bench.assert_idle();
}

#[test]
fn a_watch_being_registered_when_the_reset_comes_fails_and_leaves_nothing() {
    let mut bench = Bench::with_reconnection();
    bench.daemon.held = Some(Vec::new());
    let outcome = bench.spawn(|xs| async move { xs.watch("backend").await.err() });
    bench.daemon.send_raw(&[0xff; 16]);
    bench.daemon.held = None;
    bench.settle();
    assert_eq!(outcome.get(), Some(XsError::Reset));
    assert!(bench.daemon.watches.is_empty());
    bench.assert_idle();
}

#[test]
fn a_request_of_which_a_part_was_sent_is_finished_before_anything_else() {
    let mut bench = Bench::new();
    let long = "x".repeat(3000);
    let value = long.clone();
    let pending = bench.spawn(move |xs| async move { xs.write(NONE, "data/long", &value).await });
    bench.daemon.step(100, 0);
    let _ = bench.turn();
    bench.daemon.send_raw(&[0xff; 16]);
    bench.daemon.step(0, u32::MAX);
    assert!(bench.turn());
    assert_eq!(pending.get(), Err(XsError::Reset));
    // The model would panic on a request that starts inside another one.
    bench.settle();
    assert_eq!(bench.daemon.nodes.get("data/long"), Some(&long.into_bytes()));
    assert_works(&mut bench);
}

#[test]
fn faults_without_end_do_not_hold_the_caller() {
    let mut bench = Bench::with_reconnection();
    for round in 0..1000 {
        bench.daemon.send_raw(&[0xff; 64]);
        bench.daemon.run();
        let _ = bench.turn();
        bench.daemon.run();
        let _ = bench.turn();
        assert_eq!(bench.daemon.page.get(CONNECTION), 0, "round {round}");
    }
    assert_works(&mut bench);
}
