//! Connecting, closing, and what the toolstack sees of it.

use std::time::Duration;

use fake_xen::NetfrontOptions;

use crate::packets::{REMOTE, frame};
use crate::rig::Rig;

#[test]
fn a_guest_connects() {
    let mut rig = Rig::new();
    let guest = rig.guest();
    assert_eq!(rig.backend_key(guest, "hotplug-status").as_deref(), Some("connected"));
    assert_eq!(rig.error_node(guest), None);
}

#[test]
fn a_guest_with_one_event_channel_connects() {
    let mut rig = Rig::new();
    rig.guest_with(NetfrontOptions { split: false, ..NetfrontOptions::default() });
}

#[test]
fn a_frontend_that_says_initialised_connects() {
    let mut rig = Rig::new();
    rig.guest_with(NetfrontOptions { ready_state: 3, ..NetfrontOptions::default() });
}

#[test]
fn hot_attach_and_detach_leave_nothing_behind() {
    let mut rig = Rig::new();
    rig.run(Duration::from_millis(100));
    let before = rig.usage();
    let domid = rig.toolstack.create_domain("guest");
    for _ in 0..10 {
        let (device, attach) = rig.toolstack.attach_vif(domid, 0, &Rig::vif_config(0));
        rig.fronts = vec![fake_xen::Netfront::new(&rig.xen, device, NetfrontOptions::default())];
        rig.until("attach ends", |rig| rig.toolstack.outcome(attach).is_some());
        assert_eq!(rig.toolstack.outcome(attach), Some(Ok(())));
        rig.until("connected", |rig| rig.is_connected(0));
        let detach = rig.toolstack.detach(device);
        rig.until("detach ends", |rig| rig.toolstack.outcome(detach).is_some());
        assert_eq!(rig.toolstack.outcome(detach), Some(Ok(())));
        rig.run(Duration::from_millis(100));
        assert_eq!(rig.usage(), before, "{}", rig.state());
    }
}

#[test]
fn a_vif_that_was_closed_long_ago_is_detached_without_complaint() {
    let mut rig = Rig::new();
    let guest = rig.guest();
    rig.fronts[guest].close();
    rig.until("closed", |rig| rig.fronts[guest].state() == 6);
    rig.run(Duration::from_secs(5));
    let device = rig.device(guest);
    let detach = rig.toolstack.detach(device);
    rig.until("detach ends", |rig| rig.toolstack.outcome(detach).is_some());
    assert_eq!(rig.toolstack.outcome(detach), Some(Ok(())));
}

#[test]
fn the_cause_of_a_kill_stays_in_the_error_node() {
    let (mut rig, attacker, _) = Rig::attacker_and_victim();
    rig.fronts[attacker].deaf = true;
    rig.fronts[attacker].set_tx_req_prod(5000);
    rig.until("closed", |rig| rig.fronts[attacker].backend_state() == 6);
    assert_eq!(rig.lines(attacker, "CLOSE_TIMEOUT").len(), 1);
    assert!(rig.error_node(attacker).is_some_and(|text| text.contains("TX_PROD")));
}

#[test]
fn a_domain_that_shuts_down_closes_every_vif_and_keeps_the_directories() {
    let mut rig = Rig::new();
    let guests = [rig.guest(), rig.guest()];
    rig.netback.stop();
    rig.until("every vif is closed", |rig| rig.netback.is_stopped());
    for guest in guests {
        assert_eq!(rig.fronts[guest].backend_state(), 6);
    }
    assert_eq!((rig.usage().mapped, rig.usage().ports), (0, 0));
}

#[test]
fn a_kernel_that_takes_over_without_closing_is_served_as_if_it_had() {
    for ready_state in [3, 4] {
        let mut rig = Rig::new();
        let guest = rig.guest_with(NetfrontOptions { ready_state, queues: 2, ..NetfrontOptions::default() });
        let other = rig.guest();
        // What the old kernel has left in its rings is nobody's any more.
        rig.fronts[guest].send(&frame(REMOTE, Rig::mac(guest), 1000, 1));
        rig.fronts[guest].deaf = true;
        rig.fronts[guest].set_state(1);
        rig.until("offered again", |rig| rig.fronts[guest].backend_state() == 2);
        assert_eq!((rig.usage().mapped, rig.usage().ports), (2, 2), "the rings of the old kernel");
        rig.fronts[guest].reclaim();
        rig.fronts[guest].deaf = false;
        rig.until("connected again", |rig| rig.is_connected(guest));
        assert_eq!((rig.usage().mapped, rig.usage().ports), (6, 6));
        rig.assert_works(guest);
        rig.assert_works(other);
        assert!(rig.log().iter().all(|line| !line.contains("cause=")), "{:?}", rig.log());
    }
}
