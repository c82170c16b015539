//! The rules of the fake: what Xen would let pass, or answer with an error, must fail a test.

#![allow(clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, reason = "test code: a panic is a failed test")]

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use fake_xen::{DeviceId, FakeHyp, FakePort, FakeXen, Netfront, NetfrontOptions, Page, Toolstack, VifConfig};
use xen_pv_rt::hyp::{
    Access, CopyDest, CopySource, Domid, EventChannels, GrantCopy, GrantError, GrantRef, Grants, Instant, PeerSpan,
    Pirq, Transaction, Watch, Xenstore, XsError, sleep,
};
use xen_pv_rt::task::block_on;

/// Memory that starts a page.
#[repr(align(4096))]
struct Buffer([u8; 8192]);

struct Bench {
    xen: FakeXen,
    hyp: FakeHyp,
    toolstack: Toolstack,
    device: DeviceId,
}

impl Bench {
    fn new() -> Self {
        let xen = FakeXen::new();
        let mut toolstack = Toolstack::new(&xen);
        let domid = toolstack.create_domain("guest");
        let device = toolstack.create_vif(domid, 0, &VifConfig::default());
        let hyp = xen.hyp();
        Self { xen, hyp, toolstack, device }
    }

    fn domid(&self) -> Domid {
        self.device.frontend
    }

    fn key(&self, key: &str) -> String {
        self.device.key(key)
    }

    /// Runs a request of the driver domain's to its end.
    fn run<T>(&self, request: impl Future<Output = T>) -> T {
        let mut request = pin!(request);
        for _ in 0..9 {
            if let Poll::Ready(value) = request.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                return value;
            }
            self.hyp.poll(Instant::default());
        }
        panic!("the request is not answered");
    }

    /// Copies `len` bytes at `offset` of a page of the guest's to `start` of our own memory.
    fn copy(&self, gref: GrantRef, offset: u16, start: usize, len: u16) -> Result<(), GrantError> {
        let mut buffer = Box::new(Buffer([0; 8192]));
        let source = CopySource::Peer(PeerSpan { domid: self.domid(), gref, offset });
        let mut ops = [GrantCopy::new(source, CopyDest::Local(&mut buffer.0[start..]), len)];
        self.hyp.copy(&mut ops);
        ops[0].status
    }

    fn granted(&self) -> GrantRef {
        self.xen.grant(self.domid(), &Page::new(), Access::ReadOnly)
    }
}

#[test]
fn a_copy_within_its_page_arrives() {
    let bench = Bench::new();
    assert_eq!(bench.copy(bench.granted(), 4000, 0, 96), Ok(()));
    assert_eq!(bench.copy(GrantRef::from_raw(1), 0, 0, 96), Err(GrantError::BadGntref));
}

#[test]
#[should_panic(expected = "rule 1")]
fn a_copy_that_leaves_its_page_fails_the_test() {
    let bench = Bench::new();
    let _ = bench.copy(bench.granted(), 4000, 0, 97);
}

#[test]
#[should_panic(expected = "rule 1")]
fn a_copy_that_crosses_a_page_of_ours_fails_the_test() {
    let bench = Bench::new();
    let _ = bench.copy(bench.granted(), 0, 4000, 97);
}

#[test]
#[should_panic(expected = "rule 1")]
fn an_empty_copy_fails_the_test() {
    let bench = Bench::new();
    let _ = bench.copy(bench.granted(), 0, 0, 0);
}

#[test]
fn a_read_only_grant_is_not_written() {
    let bench = Bench::new();
    let (gref, buffer) = (bench.granted(), Buffer([0; 8192]));
    let dest = CopyDest::Peer(PeerSpan { domid: bench.domid(), gref, offset: 0 });
    let mut ops = [GrantCopy::new(CopySource::Local(&buffer.0), dest, 8)];
    bench.hyp.copy(&mut ops);
    assert_eq!(ops[0].status, Err(GrantError::General));
}

#[test]
#[should_panic(expected = "rule 2")]
fn closed_with_a_page_mapped_fails_the_test() {
    let bench = Bench::new();
    let mut front = Netfront::new(&bench.xen, bench.device, NetfrontOptions::default());
    front.share_rings();
    let _page = bench.hyp.map_one(bench.domid(), front.ring_grefs()[0]).unwrap();
    let _ = bench.run(bench.hyp.write(Transaction::NONE, &bench.key("state"), "6"));
}

#[test]
#[should_panic(expected = "rule 2")]
fn closed_in_a_transaction_with_a_port_bound_fails_the_test() {
    let bench = Bench::new();
    let mut front = Netfront::new(&bench.xen, bench.device, NetfrontOptions::default());
    front.share_rings();
    let _port = bench.hyp.bind_interdomain(bench.domid(), front.tx_port()).unwrap();
    let t = bench.run(bench.hyp.begin()).unwrap();
    let _ = bench.run(bench.hyp.write(t, &bench.key("state"), "6"));
    let _ = bench.run(bench.hyp.commit(t));
}

#[test]
#[should_panic(expected = "still mapped")]
fn a_page_of_a_destroyed_domain_that_stays_mapped_fails_the_test() {
    let bench = Bench::new();
    let gref = bench.xen.grant(bench.domid(), &Page::new(), Access::ReadWrite);
    let page = bench.hyp.map_one(bench.domid(), gref).unwrap();
    bench.toolstack.destroy_domain(bench.domid());
    std::mem::forget(page);
}

#[test]
#[should_panic(expected = "rule 4")]
fn a_write_outside_of_our_own_directories_fails_the_test() {
    let bench = Bench::new();
    let _ = bench.run(bench.hyp.write(Transaction::NONE, "/local/domain/3/name", "me"));
}

#[test]
fn a_transaction_conflicts_with_a_write_from_outside() {
    let bench = Bench::new();
    let (state, path) = (bench.key("state"), bench.toolstack.backend_path(&bench.device));
    let t = bench.run(bench.hyp.begin()).unwrap();
    assert_eq!(bench.run(bench.hyp.read(t, &state)), Ok(b"1".to_vec()));
    bench.run(bench.hyp.write(t, &bench.key("feature-sg"), "1")).unwrap();
    assert_eq!(bench.xen.read_store(&format!("{path}/feature-sg")), None, "not before the commit");
    bench.xen.write_store(&format!("{path}/state"), "5");
    assert_eq!(bench.run(bench.hyp.commit(t)), Err(XsError::Again));
    assert_eq!(bench.xen.read_store(&format!("{path}/feature-sg")), None);
}

#[test]
fn the_frontends_directory_may_be_read_and_not_listed_by_others() {
    let bench = Bench::new();
    let front = Toolstack::frontend_path(&bench.device);
    assert!(bench.run(bench.hyp.read(Transaction::NONE, &format!("{front}/state"))).is_ok());
    let other = format!("/local/domain/{}/data", bench.domid());
    assert_eq!(bench.run(bench.hyp.list(Transaction::NONE, &other)), Err(XsError::Denied));
    let missing = format!("{other}/nothing");
    assert_eq!(bench.run(bench.hyp.read(Transaction::NONE, &missing)), Err(XsError::Denied));
    assert_eq!(bench.run(bench.hyp.read(Transaction::NONE, &bench.key("nothing"))), Err(XsError::NoEntry));
}

#[test]
fn a_watch_fires_when_it_is_set_and_when_something_changes_below() {
    let bench = Bench::new();
    let watch = bench.run(bench.hyp.watch("backend/vif")).unwrap();
    assert_eq!(bench.run(watch.next()), "backend/vif");
    for _ in 0..3 {
        bench.xen.write_store(&format!("{}/online", bench.toolstack.backend_path(&bench.device)), "0");
    }
    assert_eq!(bench.run(watch.next()), bench.key("online"));
    let mut next = pin!(watch.next());
    bench.hyp.poll(Instant::default());
    assert!(next.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending(), "events coalesce");
    assert_eq!(bench.xen.usage().watches, 1);
}

#[test]
fn events_coalesce_and_a_new_port_starts_pending() {
    let bench = Bench::new();
    let remote = bench.xen.offer_port(bench.device);
    let port = bench.hyp.bind_interdomain(bench.domid(), remote).unwrap();
    assert!(bench.hyp.take_pending(&port));
    bench.xen.notify_from(bench.domid(), remote);
    bench.xen.notify_from(bench.domid(), remote);
    assert!(bench.hyp.take_pending(&port) && !bench.hyp.take_pending(&port));
    bench.hyp.notify(&port);
    bench.hyp.notify(&port);
    assert!(bench.xen.take_pending_of(bench.domid(), remote) && !bench.xen.take_pending_of(bench.domid(), remote));
    assert_eq!(bench.xen.received_by(bench.domid(), remote), 2);
    drop(port);
    // The frontend's port can be bound again, as after the death of a backend.
    assert!(bench.hyp.bind_interdomain(bench.domid(), remote).is_ok());
}

/// A port of the domain's with an event that nobody takes.
fn pending_port(xen: &FakeXen) -> FakePort {
    let pirq = Pirq::from_raw(11);
    xen.add_pirq(pirq);
    let port = xen.hyp().bind_pirq(pirq, false).unwrap();
    xen.raise_pirq(pirq);
    port
}

#[test]
#[should_panic(expected = "rule 8")]
fn waiting_for_any_event_with_one_that_nobody_takes_is_no_sleep() {
    let xen = FakeXen::new();
    let _port = pending_port(&xen);
    let until = xen.now().saturating_add(Duration::from_secs(1));
    while xen.now() < until {
        xen.hyp().wait(Some(until));
    }
}

#[test]
fn block_on_sleeps_and_asks_xenstore_with_an_interrupt_pending() {
    let xen = FakeXen::new();
    let port = pending_port(&xen);
    let (hyp, start) = (xen.hyp(), xen.now());
    block_on(&hyp, sleep(&hyp, Duration::from_secs(1)));
    assert_eq!(xen.now().saturating_since(start), Duration::from_secs(1));
    assert_eq!(
        block_on(&hyp, hyp.read(Transaction::NONE, "data/absent")),
        Err(XsError::Denied),
        "an answer, though it says no"
    );
    assert!(hyp.take_pending(&port), "it is there for who looks for it");
}

#[test]
fn waiting_on_one_port_sees_no_other() {
    let xen = FakeXen::new();
    let other = pending_port(&xen);
    let (hyp, start) = (xen.hyp(), xen.now());
    let port = hyp.alloc_unbound(Domid::DOM0).unwrap();
    let until = start.saturating_add(Duration::from_secs(1));
    hyp.wait_on(&port, until);
    assert_eq!(xen.now(), until);
    hyp.wait_on(&other, until.saturating_add(Duration::from_secs(1)));
    assert_eq!(xen.now(), until, "that one is pending");
}
