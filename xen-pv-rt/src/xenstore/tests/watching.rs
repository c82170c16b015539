//! Watches and their events.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use crate::hyp::{Watch, Xenstore, XsError};
use crate::xenstore::WatchHandle;
use crate::xenstore::requests::LINE_MAX;
use crate::xenstore::watches::{QUEUE_BYTES_MAX, QUEUE_MAX};
use alloc::rc::Rc;

use super::daemon::{SharedPage, UNWATCH, WATCH};
use super::{Bench, Xs};

type Handle = WatchHandle<Rc<SharedPage>>;

fn watch(bench: &mut Bench, path: &'static str) -> Handle {
    bench.run(move |xs: Xs| async move { xs.watch(path).await }).ok().unwrap()
}

/// All events that are there now.
pub(super) fn drain(handle: &Handle) -> Vec<String> {
    let mut cx = core::task::Context::from_waker(core::task::Waker::noop());
    let mut events = Vec::new();
    loop {
        let future = core::pin::pin!(handle.next());
        match core::future::Future::poll(future, &mut cx) {
            core::task::Poll::Ready(path) => events.push(path),
            core::task::Poll::Pending => return events,
        }
    }
}

#[test]
fn a_watch_fires_at_once_and_at_every_change_below() {
    let mut bench = Bench::new();
    let handle = watch(&mut bench, "backend");
    assert_eq!(drain(&handle), ["backend"]);
    bench.daemon.write("backend/vif/1/0/state", b"1");
    bench.daemon.write("other", b"1");
    bench.settle();
    assert_eq!(drain(&handle), ["backend/vif/1/0/state"]);
    assert!(drain(&handle).is_empty());
}

#[test]
fn a_waiting_task_sees_the_event() {
    let mut bench = Bench::new();
    let outcome = bench.spawn(|xs| async move {
        let watch = xs.watch("backend").await.unwrap();
        assert_eq!(watch.next().await, "backend");
        watch.next().await
    });
    bench.settle();
    assert!(outcome.is_pending());
    bench.daemon.write("backend/x", b"");
    bench.settle();
    assert_eq!(outcome.get(), "backend/x");
}

#[test]
fn events_for_one_path_coalesce() {
    let mut bench = Bench::new();
    let handle = watch(&mut bench, "backend");
    drain(&handle);
    for _ in 0..1000 {
        bench.daemon.write("backend/a", b"");
        bench.daemon.write("backend/b", b"");
    }
    bench.settle();
    assert_eq!(drain(&handle), ["backend/a", "backend/b"]);
}

#[test]
fn a_queue_that_overflows_says_look_at_all_of_it_once() {
    let mut bench = Bench::new();
    let handle = watch(&mut bench, "backend");
    drain(&handle);
    (0..QUEUE_MAX).for_each(|n| bench.daemon.write(&format!("backend/{n}"), b""));
    bench.settle();
    assert_eq!(drain(&handle).len(), QUEUE_MAX);
    (0..QUEUE_MAX + 101).for_each(|n| bench.daemon.write(&format!("backend/{n}"), b""));
    bench.settle();
    assert_eq!(drain(&handle), ["backend"]);
    bench.daemon.write("backend/0", b"");
    bench.settle();
    assert_eq!(drain(&handle), ["backend/0"]);
}

#[test]
fn long_paths_overflow_the_queue_sooner() {
    let mut bench = Bench::new();
    let handle = watch(&mut bench, "backend");
    drain(&handle);
    let long = |n: usize| format!("backend/{n}/{}", "x".repeat(QUEUE_BYTES_MAX / 4 - 10));
    (0..4).for_each(|n| bench.daemon.write(&long(n), b""));
    bench.settle();
    assert_eq!(drain(&handle), [long(0), long(1), long(2), long(3)]);
    (0..5).for_each(|n| bench.daemon.write(&long(n), b""));
    bench.settle();
    assert_eq!(drain(&handle), ["backend"]);
}

#[test]
fn a_task_that_never_gets_its_watch_does_not_fill_the_line() {
    let mut bench = Bench::new();
    bench.daemon.held = Some(Vec::new());
    let mut cx = core::task::Context::from_waker(core::task::Waker::noop());
    for _ in 0..5000 {
        let xs = bench.xs.clone();
        let mut future = alloc::boxed::Box::pin(async move { xs.watch("backend").await.err() });
        let _ = core::future::Future::poll(future.as_mut(), &mut cx);
    }
    assert!(bench.xs.0.connection.borrow().requests.waiting() <= LINE_MAX + 1);
    bench.daemon.step(u32::MAX, 0);
    assert_eq!(bench.daemon.seen.len(), 20);
}

#[test]
fn two_watches_on_one_path_each_get_the_event() {
    let mut bench = Bench::new();
    let handles = [watch(&mut bench, "backend"), watch(&mut bench, "backend")];
    handles.iter().for_each(|handle| drop(drain(handle)));
    bench.daemon.write("backend/a", b"");
    bench.settle();
    assert!(handles.iter().all(|handle| drain(handle) == ["backend/a"]));
}

#[test]
fn a_dropped_watch_is_removed() {
    let mut bench = Bench::new();
    let handle = watch(&mut bench, "backend");
    assert_eq!(bench.daemon.watches.len(), 1);
    drop(handle);
    // Crosses the removal on the wire.
    bench.daemon.write("backend/a", b"");
    bench.settle();
    assert!(bench.daemon.watches.is_empty());
    bench.assert_idle();
}

#[test]
fn a_watch_whose_future_is_dropped_is_removed() {
    let mut cx = core::task::Context::from_waker(core::task::Waker::noop());
    for answered in [false, true] {
        let mut bench = Bench::new();
        let xs = bench.xs.clone();
        let mut future = alloc::boxed::Box::pin(async move { xs.watch("backend").await });
        assert!(core::future::Future::poll(future.as_mut(), &mut cx).is_pending());
        if answered {
            bench.settle();
        }
        drop(future);
        bench.settle();
        assert_eq!(bench.daemon.seen.iter().map(|seen| seen.kind).collect::<Vec<_>>(), [WATCH, UNWATCH]);
        assert!(bench.daemon.watches.is_empty());
        bench.assert_idle();
    }
}

#[test]
fn a_refused_watch_is_an_error_and_leaves_nothing() {
    let mut bench = Bench::new();
    bench.daemon.watch_quota = 0;
    let outcome = bench.run(|xs| async move { xs.watch("backend").await.err() });
    assert_eq!(outcome, Some(XsError::Quota));
    bench.daemon.watch_quota = 128;
    let kept = watch(&mut bench, "backend");
    assert_eq!(drain(&kept), ["backend"]);
    assert_eq!(bench.daemon.watches.len(), 1);
}

#[test]
fn odd_events_are_ignored_or_mean_everything() {
    let mut bench = Bench::new();
    let handle = watch(&mut bench, "backend");
    let token = bench.daemon.watches[0].1.clone();
    drain(&handle);
    bench.daemon.send_event("backend/a", "4711");
    bench.daemon.send_event("backend/a", "");
    bench.daemon.send_event("backend/a", "backend");
    for body in [&b""[..], b"\0", b"backend/a", b"backend/a\0", b"\0\0\0", b"backend/a\0\xff\0"] {
        bench.daemon.send(super::daemon::EVENT, 0, body);
    }
    bench.settle();
    assert!(drain(&handle).is_empty());
    let unreadable = [&b"backend/\xff\0"[..], token.as_bytes(), b"\0"].concat();
    bench.daemon.send(super::daemon::EVENT, 0, &unreadable);
    bench.settle();
    assert_eq!(drain(&handle), ["backend"]);
}

#[test]
fn a_pause_with_a_full_ring_makes_every_watch_fire() {
    let mut bench = Bench::new();
    let (busy, quiet) = (watch(&mut bench, "backend"), watch(&mut bench, "control/shutdown"));
    drop((drain(&busy), drain(&quiet)));
    (0..200).for_each(|n| bench.daemon.write(&format!("backend/{n}"), b""));
    bench.daemon.run();
    // xenstored drops what it could not deliver.
    bench.daemon.output.clear();
    bench.seconds += 16;
    assert!(bench.turn());
    assert_eq!(drain(&quiet), ["control/shutdown"]);
    assert_eq!(drain(&busy)[0], "backend");
}

#[test]
fn a_long_idle_time_is_no_pause() {
    let mut bench = Bench::new();
    let (busy, quiet) = (watch(&mut bench, "backend"), watch(&mut bench, "control/shutdown"));
    drop((drain(&busy), drain(&quiet)));
    bench.seconds += 3600;
    bench.daemon.write("backend/a", b"");
    bench.settle();
    assert_eq!(drain(&busy), ["backend/a"]);
    assert!(drain(&quiet).is_empty());
}

#[test]
fn a_full_ring_without_a_pause_is_just_much_to_read() {
    let mut bench = Bench::new();
    let (busy, quiet) = (watch(&mut bench, "backend"), watch(&mut bench, "control/shutdown"));
    drop((drain(&busy), drain(&quiet)));
    (0..200).for_each(|n| bench.daemon.write(&format!("backend/{}", n % 9), b""));
    bench.seconds += 14;
    bench.settle();
    assert_eq!(drain(&busy).len(), 9);
    assert!(drain(&quiet).is_empty());
}

#[test]
fn a_watch_does_not_use_the_transaction_of_anybody() {
    let mut bench = Bench::new();
    bench.run(|xs| async move {
        let t = xs.begin().await.unwrap();
        let watch = xs.watch("backend").await.unwrap();
        drop(watch);
        xs.commit(t).await.unwrap();
    });
    assert!(bench.daemon.seen.iter().filter(|seen| [WATCH, UNWATCH].contains(&seen.kind)).all(|seen| seen.tx == 0));
}
