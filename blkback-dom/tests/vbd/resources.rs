//! What vbds hold is bounded and comes back.

use std::time::Duration;

use blkback_dom::disk::Controller;
use blkback_dom::vbd::Budget;
use fake_xen::BlkRequest;

use crate::rig::Rig;

#[test]
fn buffers_come_back_with_the_vbd() {
    let mut rig = Rig::new();
    let before = rig.xen.memory().pages_in_use();
    let guest = rig.guest();
    let budget = Budget::default();
    assert_eq!(rig.xen.memory().pages_in_use() - before, budget.pages);
    rig.assert_works(guest);
    rig.fronts[guest].close();
    rig.until("closed", |rig| rig.fronts[guest].backend_state() == 6);
    assert_eq!(rig.xen.memory().pages_in_use(), before);
}

#[test]
fn buffers_stay_while_the_disk_has_them_bf_39() {
    let mut rig = Rig::new();
    let before = rig.xen.memory().pages_in_use();
    let guest = rig.guest();
    rig.ram.hold = true;
    let requests: Vec<_> = (0..32).map(|_| rig.transfer(guest, 0, 0, 4096).0).collect();
    rig.fronts[guest].submit(&requests);
    rig.run(Duration::from_millis(10));
    rig.fronts[guest].close();
    rig.run(Duration::from_secs(3));
    assert!(rig.xen.memory().pages_in_use() > before + 32, "buffers were freed under the disk's DMA");
    // The disk writes into them now; the model panics if they are gone.
    rig.ram.hold = false;
    rig.wake();
    rig.until("closed", |rig| rig.fronts[guest].backend_state() == 6);
    assert_eq!(rig.xen.memory().pages_in_use(), before);
}

#[test]
fn a_few_hypercalls_carry_many_requests() {
    let mut rig = Rig::new();
    let guest = rig.guest();
    let requests: Vec<_> = (0..32).map(|_| rig.transfer(guest, 1, 0, 4096).0).collect();
    let before = rig.blkback.copied().calls;
    assert_eq!(rig.ask(guest, &requests), [0; 32]);
    let hypercalls = rig.blkback.copied().calls - before;
    assert!(hypercalls <= 2, "{hypercalls} copy hypercalls for 32 requests");
}

#[test]
fn a_frontend_whose_disk_has_much_to_do_wakes_us_for_several_requests_at_once() {
    let mut rig = Rig::new();
    let guest = rig.guest();
    rig.ram.hold = true;
    let submit = |rig: &mut Rig, count: usize| {
        let requests: Vec<_> = (0..count).map(|_| rig.transfer(guest, 0, 0, 4096).0).collect();
        rig.fronts[guest].submit(&requests);
        rig.xen.driver_wakes()
    };
    assert!(submit(&mut rig, 3), "an idle domain is woken at once");
    rig.run(Duration::from_millis(1));
    assert!(submit(&mut rig, 13), "and so is one with little to do");
    rig.run(Duration::from_millis(1));
    assert_eq!(rig.ram.in_flight(), 16);
    assert!(!submit(&mut rig, 3), "but 16 commands will wake it");
    rig.run(Duration::from_millis(1));
    assert_eq!(rig.ram.in_flight(), 16);
    assert!(submit(&mut rig, 1), "a quarter as many are enough");
    rig.run(Duration::from_millis(1));
    assert_eq!(rig.ram.in_flight(), 20);
    // A disk that answers nothing does not keep a request waiting for long.
    assert!(!submit(&mut rig, 1));
    rig.run(Duration::from_millis(12));
    assert_eq!(rig.ram.in_flight(), 21);
    rig.ram.hold = false;
    rig.until("all are answered", |rig| rig.fronts[guest].unanswered() == 0);
}

#[test]
fn notifications_are_those_that_were_asked_for_ld_08() {
    let mut rig = Rig::new();
    let guest = rig.guest();
    let before = rig.fronts[guest].notifications();
    let requests: Vec<_> = (0..32).map(|_| BlkRequest::flush(rig.id())).collect();
    assert_eq!(rig.ask(guest, &requests), [0; 32]);
    let sent = rig.fronts[guest].notifications() - before;
    assert!((1..=4).contains(&sent), "{sent} notifications for 32 requests at once");
}

#[test]
fn counters_tell_what_was_done() {
    let mut rig = Rig::new();
    let guest = rig.guest();
    rig.assert_works(guest);
    let discard = BlkRequest::discard(rig.id(), 0, 8);
    let bad = BlkRequest::discard(rig.id(), 0, 0);
    rig.ask(guest, &[discard, bad]);
    let (_, devid, counters) = rig.blkback.counters()[0];
    assert_eq!(devid, 51712);
    assert_eq!((counters.reads, counters.writes, counters.flushes, counters.discards), (1, 1, 1, 1));
    assert_eq!((counters.sectors_read, counters.sectors_written, counters.errors.total()), (25, 25, 1));
}
