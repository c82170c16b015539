//! The control plane as an event loop drives it.

#![allow(clippy::panic, clippy::unwrap_used, reason = "test code: a panic is a failed test")]

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use fake_xen::{FakeHyp, FakeXen, Toolstack};
use xen_pv_rt::control::Request;
use xen_pv_rt::control_plane::ControlPlane;
use xen_pv_rt::hyp::{Clock, sleep};
use xen_pv_rt::task::Tasks;

fn control_plane(xen: &FakeXen, tasks: &Tasks) -> ControlPlane<FakeHyp> {
    // Makes the nodes that are the domain's to write.
    let _ = Toolstack::new(xen);
    ControlPlane::new(xen.hyp(), tasks.clone())
}

/// Turns of the loop until there is nothing to do; what was asked for.
fn settle(control: &mut ControlPlane<FakeHyp>, xen: &FakeXen) -> Option<Request> {
    (0..20).filter_map(|_| control.poll(xen.hyp().now())).last()
}

#[test]
fn a_request_of_the_toolstack_is_returned_once() {
    let xen = FakeXen::new();
    let mut control = control_plane(&xen, &Tasks::new());
    assert_eq!(settle(&mut control, &xen), None);
    let node = format!("/local/domain/{}/control/shutdown", xen.backend().into_raw());
    xen.write_store(&node, "reboot");
    assert_eq!(settle(&mut control, &xen), Some(Request::Reboot));
    assert_eq!(settle(&mut control, &xen), None);
    assert_eq!(xen.read_store(&node).as_deref(), Some(""), "acknowledged");
}

#[test]
fn a_task_that_sleeps_is_polled_when_it_is_due() {
    let (xen, tasks, woke) = (FakeXen::new(), Tasks::new(), Rc::new(Cell::new(false)));
    let mut control = control_plane(&xen, &tasks);
    settle(&mut control, &xen);
    let (hyp, flag) = (xen.hyp(), woke.clone());
    tasks.spawn(async move {
        sleep(&hyp, Duration::from_secs(3)).await;
        flag.set(true);
    });
    assert!(control.is_dirty(), "a new task must not wait for the next event");
    settle(&mut control, &xen);
    assert_eq!(control.deadline(), Some(xen.now().saturating_add(Duration::from_secs(3))));
    xen.advance(Duration::from_secs(2));
    settle(&mut control, &xen);
    assert!(!woke.get() && !control.is_dirty());
    xen.advance(Duration::from_secs(1));
    settle(&mut control, &xen);
    assert!(woke.get());
}
