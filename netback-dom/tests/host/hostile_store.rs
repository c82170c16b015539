//! What frontends, toolstack and xenstored do to a handshake beside wrong keys: cases XB-04, XB-05, XB-08, XB-11,
//! XB-12, XB-18, XB-19, XB-24, XB-26 and NF-53.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use fake_xen::{Netfront, NetfrontOptions, Perms, StoreOp, Toolstack, Usage};
use xen_pv_rt::hyp::{Domid, XsError};

use crate::packets::{REMOTE, frame};
use crate::rig::{Guest, Rig};

/// A frontend that has published everything but its state.
fn about_to_connect(rig: &mut Rig) -> Guest {
    let guest = rig.add(NetfrontOptions::default());
    rig.fronts[guest].deaf = true;
    rig.until("the vif waits", |rig| rig.fronts[guest].backend_state() == 2);
    rig.fronts[guest].share_rings();
    rig.fronts[guest].publish();
    guest
}

/// The frontend says that it is ready, is refused for `cause` in one line, and nothing is left of the attempt.
fn is_refused(rig: &mut Rig, guest: Guest, cause: &str) {
    let before = rig.usage();
    rig.fronts[guest].set_state(4);
    rig.until("the vif is refused", |rig| rig.fronts[guest].backend_state() == 6);
    let lines = rig.lines(guest, cause);
    assert_eq!(lines.len(), 1, "{}", rig.state());
    assert!(lines[0].contains("action=refuse"), "{lines:?}");
    assert!(rig.error_node(guest).is_some_and(|text| text.contains(cause)));
    let usage = rig.usage();
    assert_eq!((usage.mapped, usage.ports, usage.transactions), (before.mapped, before.ports, 0));
}

#[test]
fn a_key_that_is_no_text_is_refused_xb_04() {
    for value in [&b"\xff\xfe"[..], b"8\0", b"\x80"] {
        let mut rig = Rig::new();
        let guest = about_to_connect(&mut rig);
        let path = format!("{}/tx-ring-ref", Toolstack::frontend_path(&rig.device(guest)));
        rig.xen.write_store_as(rig.domid(guest), &path, value);
        is_refused(&mut rig, guest, "READ");
        rig.start_over(guest);
        rig.assert_works(guest);
    }
}

#[test]
fn a_frontend_path_without_end_is_refused_xb_04() {
    let mut rig = Rig::new();
    let victim = rig.guest();
    let guest = rig.add(NetfrontOptions::default());
    rig.fronts[guest].frozen = true;
    let path = format!("{}/frontend", rig.toolstack.backend_path(&rig.device(guest)));
    let long = format!("{}{}", Toolstack::frontend_path(&rig.device(guest)), "/x".repeat(1500));
    rig.xen.write_store(&path, &long);
    rig.until("the vif is refused", |rig| rig.fronts[guest].backend_state() == 6);
    assert_eq!(rig.lines(guest, "FE_ID").len(), 1, "{}", rig.state());
    rig.assert_works(victim);
}

#[test]
fn a_frontend_that_hides_its_state_is_closed_xb_04() {
    let (mut rig, attacker, victim) = Rig::attacker_and_victim();
    rig.fronts[attacker].deaf = true;
    let path = format!("{}/state", Toolstack::frontend_path(&rig.device(attacker)));
    rig.xen.set_perms(&path, Perms::private(rig.domid(attacker)));
    // Nobody tells us of a node that we may not read; the next look finds out.
    rig.xen.spurious_events();
    rig.until("closed", |rig| rig.fronts[attacker].backend_state() == 6);
    assert_eq!(rig.lines(attacker, "GONE").len(), 1, "{:?}", rig.log());
    assert_eq!((rig.usage().mapped, rig.usage().ports), (2, 2));
    rig.assert_works(victim);
    rig.xen.set_perms(&path, Perms::shared(rig.domid(attacker), rig.xen.backend()));
    rig.start_over(attacker);
    rig.assert_works(attacker);
}

#[test]
fn a_frontend_whose_directory_comes_back_is_served_again_xb_05() {
    let (mut rig, attacker, victim) = Rig::attacker_and_victim();
    let front = Toolstack::frontend_path(&rig.device(attacker));
    let nodes = rig.xen.dump_store(&front);
    rig.fronts[attacker].frozen = true;
    rig.xen.remove_store(&front);
    rig.until("closed", |rig| rig.fronts[attacker].backend_state() == 6);
    rig.fronts[attacker].reclaim();
    for (path, value) in nodes {
        rig.xen.set_perms(&path, Perms::shared(rig.domid(attacker), rig.xen.backend()));
        rig.xen.write_store(&path, if path.ends_with("/state") { "1" } else { &value });
    }
    rig.fronts[attacker].frozen = false;
    rig.until("connected again", |rig| rig.is_connected(attacker));
    rig.assert_works(attacker);
    rig.assert_works(victim);
}

#[test]
fn transactions_that_never_succeed_refuse_the_vif_and_only_that_xb_08() {
    let mut rig = Rig::new();
    let victim = rig.guest();
    rig.xen.faults().store = Some(Box::new(|op| matches!(op, StoreOp::Commit).then_some(XsError::Again)));
    let guest = rig.add(NetfrontOptions::default());
    rig.run(Duration::from_secs(5));
    let lines = rig.lines(guest, "XS_BUSY");
    assert!((1..=5).contains(&lines.len()) && lines[0].contains("action=refuse"), "{}", rig.state());
    assert_eq!(rig.usage().transactions, 0);
    rig.xen.faults().store = None;
    rig.until("connected once xenstored has time", |rig| rig.is_connected(guest));
    rig.assert_works(guest);
    rig.assert_works(victim);
}

#[test]
fn an_event_channel_for_somebody_else_is_refused_xb_11() {
    for key in ["event-channel-tx", "event-channel-rx"] {
        let mut rig = Rig::new();
        let guest = about_to_connect(&mut rig);
        let port = rig.xen.offer_port_to(rig.device(guest), Domid::from_raw(77));
        rig.fronts[guest].write(key, &port.to_string());
        is_refused(&mut rig, guest, "EVTCHN");
        rig.start_over(guest);
        rig.assert_works(guest);
    }
}

#[test]
fn one_page_for_both_rings_is_refused_nf_53() {
    let mut rig = Rig::new();
    let guest = about_to_connect(&mut rig);
    let [tx, _] = rig.fronts[guest].ring_grefs();
    rig.fronts[guest].write("rx-ring-ref", &tx.to_string());
    is_refused(&mut rig, guest, "RING_REF");
    rig.start_over(guest);
    rig.assert_works(guest);
}

#[test]
fn rings_that_contradict_themselves_from_the_start_are_refused_xb_12() {
    for ahead in [257, 1 << 31, u32::MAX] {
        for rx in [false, true] {
            let mut rig = Rig::new();
            let guest = about_to_connect(&mut rig);
            let front = &mut rig.fronts[guest];
            // Posting a buffer would put the index right.
            front.keep_posted(0);
            if rx {
                front.set_rx_req_prod(ahead);
            } else {
                front.set_tx_req_prod(ahead);
            }
            is_refused(&mut rig, guest, if rx { "RX_PROD" } else { "TX_PROD" });
            rig.fronts[guest].keep_posted(64);
            rig.start_over(guest);
            rig.assert_works(guest);
        }
    }
}

#[test]
fn a_ring_that_is_granted_a_moment_later_is_refused_and_then_served_xb_12() {
    let mut rig = Rig::new();
    let guest = about_to_connect(&mut rig);
    let (domid, [tx, _]) = (rig.domid(guest), rig.fronts[guest].ring_grefs());
    let started = rig.xen.now();
    let xen = rig.xen.clone();
    rig.xen.faults().map = Some(Box::new(move |(_, gref)| {
        let early = *gref == tx && xen.now() < started.saturating_add(Duration::from_millis(200));
        early.then_some(xen_pv_rt::hyp::GrantError::BadGntref)
    }));
    is_refused(&mut rig, guest, "RING_REF");
    rig.xen.faults().map = None;
    assert_eq!(rig.usage().mapped, 0, "{domid}");
    rig.start_over(guest);
    rig.assert_works(guest);
}

/// Fails the `number`th operation on xenstore from now on, `times` times. Returns how many there were so far.
fn fail_nth(rig: &Rig, number: usize, times: usize, error: XsError) -> Rc<Cell<usize>> {
    let seen = Rc::new(Cell::new(0));
    let count = seen.clone();
    rig.xen.faults().store = Some(Box::new(move |_| {
        let at = count.replace(count.get() + 1);
        (number..number + times).contains(&at).then_some(error)
    }));
    seen
}

#[test]
fn each_request_to_xenstored_may_fail_while_a_vif_lives_and_dies_xb_12_18() {
    let errors = [
        (XsError::Again, 1),
        (XsError::Busy, 1),
        (XsError::Quota, 1),
        (XsError::Denied, 1),
        (XsError::Other, 3),
        (XsError::Malformed, 1),
    ];
    for (turn, (error, times)) in errors.into_iter().enumerate() {
        // Every request has its turn, with one of the errors.
        for number in (turn..).step_by(6) {
            let mut rig = Rig::new();
            rig.run(Duration::from_millis(100));
            let before = rig.usage();
            let seen = fail_nth(&rig, number, times, error);
            let name = format!("{error:?} {times} times from request {number} on");
            let guest = rig.add(NetfrontOptions::default());
            rig.run(Duration::from_secs(1));
            rig.fronts[guest].close();
            rig.until(&name, |rig| rig.fronts[guest].backend_state() == 6);
            rig.xen.faults().store = None;
            if seen.get() <= number {
                assert!(number > 40, "the vif made {} requests", seen.get());
                break;
            }
            rig.start_over(guest);
            rig.assert_works(guest);
            let device = rig.device(guest);
            let detach = rig.toolstack.detach(device);
            rig.until(&name, |rig| rig.toolstack.outcome(detach).is_some());
            assert_eq!(rig.toolstack.outcome(detach), Some(Ok(())), "{name}\n{}", rig.state());
            rig.run(Duration::from_millis(100));
            let after = rig.usage();
            // The two directories above all error nodes stay.
            assert!(after.nodes <= before.nodes + 2, "{name}\n{}", rig.state());
            assert_eq!(Usage { nodes: before.nodes, ..after }, before, "{name}");
        }
    }
}

#[test]
fn a_quota_of_any_kind_costs_the_new_vif_only_xb_18() {
    // Each with the option of xenstored's that raises it.
    type Kind = (&'static str, fn(&StoreOp) -> bool);
    let kinds: [Kind; 3] = [
        ("--transaction", |op| matches!(op, StoreOp::Begin)),
        ("--entry-nb", |op| matches!(op, StoreOp::Write(path, _) if path.contains("/feature-"))),
        ("--watch-nb", |op| matches!(op, StoreOp::Watch(_))),
    ];
    for (option, kind) in kinds {
        let mut rig = Rig::new();
        let victim = rig.guest();
        rig.xen.faults().store = Some(Box::new(move |op| kind(op).then_some(XsError::Quota)));
        let guest = rig.add(NetfrontOptions::default());
        rig.run(Duration::from_secs(5));
        let lines = rig.lines(guest, "QUOTA");
        assert!((1..=5).contains(&lines.len()), "{option}: {}", rig.state());
        assert!(lines.iter().all(|line| line.contains("action=refuse") && line.contains(option)), "{lines:?}");
        rig.assert_works(victim);
        rig.xen.faults().store = None;
        // Its frontend may have given up when it saw the vif closed.
        rig.run(Duration::from_secs(3));
        if !rig.is_connected(guest) {
            rig.start_over(guest);
            rig.assert_works(guest);
        }
        rig.assert_works(guest);
    }
}

#[test]
fn what_xenstored_refuses_is_tried_once_a_second_xb_18() {
    let mut rig = Rig::new();
    let guest = rig.add(NetfrontOptions::default());
    // A frontend that does not even see that the vif is closed.
    rig.fronts[guest].frozen = true;
    rig.xen.faults().store = Some(Box::new(|op| {
        matches!(op, StoreOp::Write(path, _) if path.contains("/feature-")).then_some(XsError::Quota)
    }));
    rig.run(Duration::from_secs(10));
    let states = rig.xen.written(&format!("{}/state", rig.toolstack.backend_path(&rig.device(guest))));
    // 5 and 6 each time.
    assert!((8..=22).contains(&states.len()), "{states:?}");
    rig.xen.faults().store = None;
    rig.fronts[guest].frozen = false;
    rig.run(Duration::from_secs(3));
    if !rig.is_connected(guest) {
        rig.start_over(guest);
        rig.assert_works(guest);
    }
    rig.assert_works(guest);
}

#[test]
fn events_that_xenstored_threw_away_are_made_up_for_xb_19() {
    let mut rig = Rig::new();
    let (stays, goes) = (rig.guest(), rig.guest());
    rig.run(Duration::from_secs(1));
    // What happens now is not told: a vif comes, a frontend closes, a device is to be removed.
    rig.xen.pause_store(true);
    let comes = rig.add(NetfrontOptions::default());
    let device = rig.device(goes);
    let detach = rig.toolstack.detach(device);
    rig.run(Duration::from_secs(2));
    rig.xen.lose_events();
    rig.xen.pause_store(false);
    rig.run(Duration::from_secs(1));
    assert_ne!(rig.fronts[comes].backend_state(), 4, "the test wants the events to be lost");
    // The client notices that it was away for long, and has every watch fire.
    rig.xen.spurious_events();
    rig.until("the new vif is connected", |rig| rig.is_connected(comes));
    rig.until("the old one is removed", |rig| rig.toolstack.outcome(detach).is_some());
    assert_eq!(rig.toolstack.outcome(detach), Some(Ok(())));
    rig.assert_works(comes);
    rig.assert_works(stays);
}

#[test]
fn odd_values_of_the_other_features_mean_on_or_off_too_xb_24() {
    let on =
        [("2", true), ("1", true), ("0", false), ("yes", false), ("", false), ("-1", false), ("4294967296", false)];
    for (value, wanted) in on.into_iter().map(|(value, on)| (Some(value), on)).chain([(None, false)]) {
        // Without request-rx-copy there is no service.
        let mut rig = Rig::new();
        let guest = about_to_connect(&mut rig);
        match value {
            Some(value) => rig.fronts[guest].write("request-rx-copy", value),
            None => {
                let front = Toolstack::frontend_path(&rig.device(guest));
                rig.xen.remove_store(&format!("{front}/request-rx-copy"));
            }
        }
        if wanted {
            rig.fronts[guest].set_state(4);
            rig.until("connected", |rig| rig.is_connected(guest));
        } else {
            is_refused(&mut rig, guest, "RX_COPY");
        }
        // Without feature-rx-notify, buffers are looked for now and then.
        let mut rig = Rig::new();
        let mut features = vec![("request-rx-copy", "1")];
        features.extend(value.map(|value| ("feature-rx-notify", value)));
        let guest = rig.guest_with(NetfrontOptions { rx_buffers: 0, features, ..NetfrontOptions::default() });
        rig.wire.inject(&frame(Rig::mac(guest), REMOTE, 60, 0));
        rig.run(Duration::from_millis(10));
        let page = fake_xen::Page::new();
        let gref = rig.xen.grant_for(rig.device(guest), &page, xen_pv_rt::hyp::Access::ReadWrite);
        rig.fronts[guest].put_buffer(0, gref, page);
        rig.fronts[guest].publish_rx();
        rig.run(Duration::from_millis(100));
        assert_eq!(rig.fronts[guest].receive_all().is_empty(), wanted, "feature-rx-notify = {value:?}");
    }
}

#[test]
fn a_frontend_that_is_ready_before_us_is_served_xb_26() {
    for state in [3, 4] {
        let mut rig = Rig::new();
        let domid = rig.toolstack.create_domain("early");
        let device = rig.toolstack.create_vif(domid, 0, &Rig::vif_config(0));
        let mut front = Netfront::new(&rig.xen, device, NetfrontOptions { ready_state: state, ..Default::default() });
        front.connect();
        rig.fronts.push(front);
        rig.until("connected", |rig| rig.is_connected(0));
        rig.assert_works(0);
    }
}
