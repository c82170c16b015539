//! Requests and replies when both sides behave.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use crate::hyp::{Transaction, Xenstore, XsError};

use super::Bench;
use super::daemon::{END, READ, START, WRITE};
use crate::xenstore::requests::LINE_MAX;

const NONE: Transaction = Transaction::NONE;

#[test]
fn what_was_written_is_read_listed_and_removed() {
    let mut bench = Bench::new();
    let (read, list, gone) = bench.run(|xs| async move {
        xs.write(NONE, "data/a", "1").await.unwrap();
        xs.write(NONE, "data/b", "").await.unwrap();
        let read = xs.read(NONE, "data/a").await;
        let list = xs.list(NONE, "data").await;
        xs.remove(NONE, "data").await.unwrap();
        (read, list, xs.read(NONE, "data/a").await)
    });
    assert_eq!(read, Ok(b"1".to_vec()));
    assert_eq!(list, Ok(Vec::from(["a".to_string(), "b".to_string()])));
    assert_eq!(gone, Err(XsError::NoEntry));
    bench.assert_idle();
}

#[test]
fn requests_are_pipelined_but_never_more_than_twenty() {
    let mut bench = Bench::new();
    let outcomes: Vec<_> = (0..100)
        .map(|n| bench.spawn(move |xs| async move { xs.write(NONE, &format!("data/{n}"), &n.to_string()).await }))
        .collect();
    // The model panics at the 21st outstanding request.
    bench.daemon.step(u32::MAX, 0);
    assert_eq!(bench.daemon.seen.len(), 20);
    bench.settle();
    assert!(outcomes.iter().all(|outcome| outcome.get() == Ok(())));
    assert_eq!(bench.daemon.nodes.len(), 100);
    bench.assert_idle();
}

#[test]
fn replies_in_any_order_find_their_request() {
    let mut bench = Bench::new();
    (0..5).for_each(|n| bench.daemon.write(&format!("data/{n}"), &[n]));
    bench.daemon.held = Some(Vec::new());
    let outcomes: Vec<_> =
        (0..5).map(|n| bench.spawn(move |xs| async move { xs.read(NONE, &format!("data/{n}")).await })).collect();
    bench.daemon.step(u32::MAX, 0);
    let held = bench.daemon.held.take().unwrap();
    held.iter().rev().for_each(|reply| bench.daemon.release(reply));
    bench.settle();
    for (n, outcome) in outcomes.iter().enumerate() {
        assert_eq!(outcome.get(), Ok(Vec::from([n as u8])));
    }
}

#[test]
fn the_reply_to_a_dropped_future_is_discarded() {
    let mut bench = Bench::new();
    bench.daemon.write("data/slow", b"old");
    let reader = bench.xs.clone();
    let mut future = alloc::boxed::Box::pin(async move { reader.read(NONE, "data/slow").await });
    let mut cx = core::task::Context::from_waker(core::task::Waker::noop());
    assert!(future.as_mut().poll(&mut cx).is_pending());
    drop(future);
    bench.settle();
    assert_eq!(bench.daemon.seen.len(), 1);
    bench.assert_idle();
}

#[test]
fn a_request_that_still_waits_in_line_is_not_sent_when_its_future_is_dropped() {
    let mut bench = Bench::new();
    let mut cx = core::task::Context::from_waker(core::task::Waker::noop());
    let mut futures: Vec<_> = (0..30)
        .map(|n| {
            let xs = bench.xs.clone();
            alloc::boxed::Box::pin(async move { xs.write(NONE, &format!("data/{n}"), "").await })
        })
        .collect();
    assert!(futures.iter_mut().all(|future| future.as_mut().poll(&mut cx).is_pending()));
    futures.clear();
    bench.settle();
    assert_eq!(bench.daemon.seen.len(), 20);
    bench.assert_idle();
}

#[test]
fn a_transaction_begun_for_nobody_is_ended() {
    for fetched_late in [false, true] {
        let mut bench = Bench::new();
        let xs = bench.xs.clone();
        let mut future = alloc::boxed::Box::pin(async move { xs.begin().await });
        let mut cx = core::task::Context::from_waker(core::task::Waker::noop());
        assert!(future.as_mut().poll(&mut cx).is_pending());
        if fetched_late {
            bench.settle();
            assert_eq!(bench.daemon.transactions.len(), 1);
        }
        drop(future);
        bench.settle();
        assert!(bench.daemon.transactions.is_empty());
        assert_eq!(bench.daemon.seen.iter().map(|seen| seen.kind).collect::<Vec<_>>(), [START, END]);
        bench.assert_idle();
    }
}

#[test]
fn transactions_commit_conflict_and_abort() {
    let mut bench = Bench::new();
    bench.run(|xs| async move {
        let t = xs.begin().await.unwrap();
        xs.write(t, "data/x", "1").await.unwrap();
        assert_eq!(xs.read(NONE, "data/x").await, Err(XsError::NoEntry));
        assert_eq!(xs.commit(t).await, Ok(()));
        assert_eq!(xs.read(NONE, "data/x").await, Ok(b"1".to_vec()));

        let t = xs.begin().await.unwrap();
        xs.write(t, "data/x", "2").await.unwrap();
        xs.write(NONE, "data/x", "3").await.unwrap();
        assert_eq!(xs.commit(t).await, Err(XsError::Again));

        let t = xs.begin().await.unwrap();
        xs.write(t, "data/x", "4").await.unwrap();
        assert_eq!(xs.abort(t).await, Ok(()));
        assert_eq!(xs.read(NONE, "data/x").await, Ok(b"3".to_vec()));
        // Over is over; the model would panic on it.
        assert_eq!(xs.commit(t).await, Err(XsError::Reset));
        assert_eq!(xs.write(t, "data/x", "5").await, Err(XsError::Reset));
        assert_eq!(xs.commit(NONE).await, Err(XsError::Invalid));
    });
    assert!(bench.daemon.transactions.is_empty());
}

#[test]
fn the_end_of_a_transaction_is_sent_even_if_nobody_waits_for_it() {
    let mut bench = Bench::new();
    let t = bench.run(|xs| async move { xs.begin().await.unwrap() });
    bench.daemon.held = Some(Vec::new());
    let reads: Vec<_> = (0..20).map(|_| bench.spawn(|xs| async move { xs.read(NONE, "data/a").await })).collect();
    let xs = bench.xs.clone();
    let mut commit = alloc::boxed::Box::pin(async move { xs.commit(t).await });
    let mut cx = core::task::Context::from_waker(core::task::Waker::noop());
    assert!(commit.as_mut().poll(&mut cx).is_pending());
    drop(commit);
    bench.daemon.run();
    let held = bench.daemon.held.take().unwrap();
    held.iter().for_each(|reply| bench.daemon.release(reply));
    bench.settle();
    assert!(reads.iter().all(|read| read.get() == Err(XsError::NoEntry)));
    assert!(bench.daemon.transactions.is_empty());
    bench.assert_idle();
}

#[test]
fn what_xenstored_would_cut_us_off_for_is_never_sent() {
    let mut bench = Bench::new();
    bench.run(|xs| async move {
        let path = "data/a";
        let most = 4096 - path.len() - 1;
        assert_eq!(xs.write(NONE, path, &"x".repeat(most)).await, Ok(()));
        assert_eq!(xs.read(NONE, path).await.map(|value| value.len()), Ok(most));
        assert_eq!(xs.write(NONE, path, &"x".repeat(most + 1)).await, Err(XsError::TooBig));
        assert_eq!(xs.read(NONE, &"p".repeat(2048)).await, Err(XsError::TooBig));
        assert_eq!(xs.read(NONE, &format!("/{}", "p".repeat(3071))).await, Err(XsError::TooBig));
        assert!(matches!(xs.watch(&"p".repeat(2048)).await, Err(XsError::TooBig)));
        for path in ["", "data/a\0data/b"] {
            assert_eq!(xs.read(NONE, path).await, Err(XsError::Invalid));
            assert_eq!(xs.remove(NONE, path).await, Err(XsError::Invalid));
            assert_eq!(xs.list(NONE, path).await, Err(XsError::Invalid));
            assert!(matches!(xs.watch(path).await, Err(XsError::Invalid)));
        }
    });
    assert_eq!(bench.daemon.seen.iter().map(|seen| seen.kind).collect::<Vec<_>>(), [WRITE, READ]);
    bench.assert_idle();
}

#[test]
fn error_names_become_errors() {
    let names = [
        ("ENOENT", XsError::NoEntry),
        ("EACCES", XsError::Denied),
        ("EPERM", XsError::Denied),
        ("EINVAL", XsError::Invalid),
        ("EAGAIN", XsError::Again),
        ("EEXIST", XsError::Exists),
        ("ENOSPC", XsError::Quota),
        ("EQUOTA", XsError::Quota),
        ("E2BIG", XsError::TooBig),
        ("EBUSY", XsError::Busy),
        ("EIO", XsError::Other),
        ("", XsError::Other),
        ("ENOENTX", XsError::Other),
    ];
    for (name, error) in names {
        let mut bench = Bench::new();
        bench.daemon.held = Some(Vec::new());
        let outcome = bench.spawn(|xs| async move { xs.read(NONE, "data/a").await });
        bench.daemon.run();
        let id = bench.daemon.seen[0].id;
        bench.daemon.send(super::daemon::ERROR, id, format!("{name}\0").as_bytes());
        bench.settle();
        assert_eq!(outcome.get(), Err(error), "{name}");
    }
}

#[test]
fn the_line_is_bounded() {
    let mut bench = Bench::new();
    bench.daemon.held = Some(Vec::new());
    let outcomes: Vec<_> =
        (0..20 + LINE_MAX + 3).map(|_| bench.spawn(|xs| async move { xs.read(NONE, "data/a").await })).collect();
    let refused = outcomes.iter().filter(|outcome| !outcome.is_pending()).count();
    assert_eq!(refused, 3);
    assert_eq!(outcomes.last().unwrap().get(), Err(XsError::Busy));
    bench.daemon.step(u32::MAX, 0);
    assert_eq!(bench.daemon.seen.len(), 20);
}

#[test]
fn xenstored_is_notified_when_an_index_moved_and_only_then() {
    let mut bench = Bench::new();
    let page = bench.daemon.page.clone();
    assert_eq!(page.notified.get(), 0);
    let outcome = bench.spawn(|xs| async move { xs.read(NONE, "data/a").await });
    assert_eq!(page.notified.get(), 1);
    assert!(!bench.turn());
    assert_eq!(page.notified.get(), 1);
    bench.daemon.run();
    assert!(bench.turn());
    assert_eq!(page.notified.get(), 2);
    assert_eq!(outcome.get(), Err(XsError::NoEntry));
}

#[test]
fn a_silent_xenstored_gets_nothing_twice_and_loses_nothing() {
    let mut bench = Bench::new();
    bench.daemon.write("data/a", b"1");
    let outcomes: Vec<_> = (0..50).map(|_| bench.spawn(|xs| async move { xs.read(NONE, "data/a").await })).collect();
    for _ in 0..60 {
        bench.seconds += 1;
        assert!(!bench.turn());
    }
    bench.settle();
    assert!(outcomes.iter().all(|outcome| outcome.get() == Ok(b"1".to_vec())));
    assert_eq!(bench.daemon.seen.len(), 50);
}

#[test]
fn a_reply_of_another_type_is_malformed() {
    let mut bench = Bench::new();
    bench.daemon.held = Some(Vec::new());
    let outcome = bench.spawn(|xs| async move { xs.read(NONE, "data/a").await });
    bench.daemon.run();
    let id = bench.daemon.seen[0].id;
    bench.daemon.send(WRITE, id, b"OK\0");
    bench.settle();
    assert_eq!(outcome.get(), Err(XsError::Malformed));
    bench.assert_idle();
}

#[test]
fn a_transaction_number_that_is_none_is_malformed() {
    for reply in [&b""[..], b"\0", b"0\0", b"x\0", b"-1\0", b"4294967296\0", b"1 \0", b"\xff\0"] {
        let mut bench = Bench::new();
        bench.daemon.held = Some(Vec::new());
        let outcome = bench.spawn(|xs| async move { xs.begin().await });
        bench.daemon.run();
        let id = bench.daemon.seen[0].id;
        bench.daemon.send(START, id, reply);
        bench.settle();
        assert_eq!(outcome.get(), Err(XsError::Malformed), "{:?}", String::from_utf8_lossy(reply));
    }
}
