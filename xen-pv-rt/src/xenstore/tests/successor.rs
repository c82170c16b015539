//! A new program in the same domain takes over the page as the old one left it.

use alloc::format;
use alloc::vec::Vec;

use crate::hyp::{Transaction, Xenstore, XsError};

use super::Bench;
use super::daemon::{REQ_PROD, RESET};
use super::watching::drain;

const NONE: Transaction = Transaction::NONE;

/// Forgets the client without any farewell, as a crash does.
fn crash(bench: Bench) -> Bench {
    let Bench { xs, mut daemon, tasks, seconds } = bench;
    core::mem::forget((xs, tasks));
    // The new one cannot know what is outstanding from before.
    daemon.strict = false;
    Bench { seconds, ..Bench::on(daemon) }
}

#[test]
fn a_fresh_page_needs_no_cleaning() {
    let mut bench = Bench::new();
    bench.settle();
    assert!(bench.daemon.seen.is_empty());
    assert_eq!(bench.daemon.page.get(REQ_PROD), 0);
}

#[test]
fn watches_and_transactions_of_the_dead_are_freed() {
    let mut bench = Bench::new();
    let handle = bench.run(|xs| async move { xs.watch("backend").await }).ok().unwrap();
    core::mem::forget(handle);
    bench.run(|xs| async move { xs.begin().await }).unwrap();
    let mut bench = crash(bench);
    bench.settle();
    assert!(bench.daemon.watches.is_empty());
    assert!(bench.daemon.transactions.is_empty());
    assert_eq!(bench.daemon.seen.last().unwrap().kind, RESET);
}

#[test]
fn a_crash_at_any_byte_leaves_both_streams_in_step() {
    for cut in 0..700 {
        let mut bench = Bench::new();
        bench.daemon.write("data/a", b"new");
        let before: Vec<_> = (0..30)
            .map(|n| {
                bench.spawn(move |xs| async move { xs.write(NONE, &format!("data/{n}"), &"v".repeat(n * 7)).await })
            })
            .collect();
        bench.daemon.step(cut, cut / 2);
        let _ = bench.turn();
        bench.daemon.step(cut / 3, cut % 40);
        let _ = bench.turn();
        drop(before);
        let mut bench = crash(bench);
        let handle = bench.run(|xs| async move { xs.watch("backend").await }).ok().unwrap();
        assert_eq!(drain(&handle), ["backend"], "cut at {cut}");
        let value = bench.run(|xs| async move { xs.read(NONE, "data/a").await });
        assert_eq!(value, Ok(b"new".to_vec()), "cut at {cut}");
    }
}

#[test]
fn replies_owed_to_the_dead_are_not_taken_for_ours() {
    let mut bench = Bench::new();
    bench.daemon.write("data/secret", b"theirs");
    (0..20).for_each(|_| drop(bench.spawn(|xs| async move { xs.read(NONE, "data/secret").await })));
    let mut bench = crash(bench);
    let ours = bench.run(|xs| async move { xs.read(NONE, "data/none").await });
    assert_eq!(ours, Err(XsError::NoEntry));
}

#[test]
fn numbers_stay_below_the_bytes_sent_also_after_a_reset() {
    // A successor starts above that many, so that it cannot meet one that is still in flight.
    let mut bench = Bench::with_reconnection();
    for round in 0..3 {
        for _ in 0..100 {
            let _ = bench.run(|xs| async move { xs.read(NONE, "data/a").await });
            let seen = bench.daemon.seen.last().unwrap();
            assert!(seen.id <= bench.daemon.page.get(REQ_PROD), "round {round}");
        }
        bench.daemon.send_raw(&[0xff; 16]);
        bench.settle();
    }
}
