//! Frontends and stores that misbehave during the handshake: cases XB-01 to XB-28 and NF-53 of the catalogue
//! of hostile inputs.

use std::time::Duration;

use fake_xen::{FakeXen, Netfront, NetfrontOptions, Perms, StoreOp, Usage};
use xen_pv_rt::hyp::{Domid, EvtchnError, GrantError, XsError};

use crate::packets::{REMOTE, frame};
use crate::rig::{Guest, Rig};

fn state_path(rig: &Rig, guest: Guest) -> String {
    format!("{}/state", rig.toolstack.backend_path(&rig.device(guest)))
}

/// States that the backend has published for a guest.
fn published(rig: &Rig, guest: Guest) -> Vec<String> {
    rig.xen.written(&state_path(rig, guest))
}

/// The vif never enters service, for `cause`; nothing is left of the attempt; and when the frontend does it
/// right it is served.
fn assert_refused(rig: &mut Rig, guest: Guest, cause: &str, before: Usage) {
    rig.until("the vif is refused", |rig| rig.fronts[guest].backend_state() >= 5);
    assert!(rig.error_node(guest).is_some_and(|text| text.contains(cause)), "{}", rig.state());
    rig.until("the vif is closed", |rig| rig.fronts[guest].backend_state() == 6);
    let lines = rig.lines(guest, cause);
    assert_eq!(lines.len(), 1, "{}", rig.state());
    assert!(lines[0].contains("action=refuse"), "{lines:?}");
    assert!(!published(rig, guest).contains(&"4".to_string()));
    let usage = rig.usage();
    assert_eq!((usage.mapped, usage.ports, usage.transactions), (before.mapped, before.ports, 0));
}

/// A frontend whose keys are `change`d before it says that it is ready is refused, and served once it starts
/// over with the right ones.
fn refuses(cause: &str, change: impl Fn(&FakeXen, &Netfront)) {
    let mut rig = Rig::new();
    let victim = rig.guest();
    let before = rig.usage();
    let guest = rig.add(NetfrontOptions::default());
    rig.fronts[guest].deaf = true;
    rig.until("the vif waits", |rig| rig.fronts[guest].backend_state() == 2);
    rig.fronts[guest].share_rings();
    rig.fronts[guest].publish();
    change(&rig.xen, &rig.fronts[guest]);
    rig.fronts[guest].set_state(4);
    assert_refused(&mut rig, guest, cause, before);
    rig.assert_works(victim);
    rig.start_over(guest);
    rig.assert_works(guest);
    rig.assert_works(victim);
}

#[test]
fn a_frontend_that_toggles_its_state_is_followed_slowly_xb_01() {
    let (mut rig, attacker, victim) = Rig::attacker_and_victim();
    rig.fronts[attacker].deaf = true;
    let before = published(&rig, attacker).len();
    for round in 0..4000 {
        rig.fronts[attacker].set_state([1, 3, 4, 5, 6][round % 5]);
        rig.step();
    }
    let transitions = published(&rig, attacker).len() - before;
    assert!(transitions <= 44, "{transitions} transitions in four seconds");
    rig.assert_works(victim);
    rig.start_over(attacker);
    rig.assert_works(attacker);
}

#[test]
fn every_state_of_a_frontend_is_survived_in_every_state_of_ours_xb_02() {
    let values =
        ["", "0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "255", "-1", "connected", "4 ", " 4", "04", "\u{1}"];
    for ours in ["waiting", "connected", "closed"] {
        for value in values {
            let mut rig = Rig::new();
            let guest = rig.add(NetfrontOptions::default());
            match ours {
                "connected" => rig.until("connected", |rig| rig.is_connected(guest)),
                "closed" => {
                    rig.until("connected", |rig| rig.is_connected(guest));
                    rig.fronts[guest].close();
                    rig.until("closed", |rig| rig.fronts[guest].state() == 6);
                }
                _ => rig.fronts[guest].deaf = true,
            }
            rig.run(Duration::from_millis(600));
            rig.fronts[guest].deaf = true;
            rig.fronts[guest].write("state", value);
            rig.run(Duration::from_secs(1));
            assert!(matches!(rig.fronts[guest].backend_state(), 1..=6 | 8), "{ours}, {value:?}");
            rig.start_over(guest);
            rig.assert_works(guest);
        }
    }
}

#[test]
fn keys_that_cannot_be_read_are_refused_xb_04() {
    refuses("READ", |xen, front| {
        let path = format!("{}/rx-ring-ref", fake_xen::Toolstack::frontend_path(&front.device()));
        xen.set_perms(&path, Perms::private(front.device().frontend));
    });
}

#[test]
fn keys_that_are_no_numbers_are_refused_xb_04() {
    let long = "9".repeat(2048);
    for value in ["", "x", "-1", "4294967296", "0x10", " 9", long.as_str()] {
        refuses("READ", |_, front| front.write("tx-ring-ref", value));
    }
}

#[test]
fn a_directory_full_of_junk_is_not_looked_at_xb_06() {
    let mut rig = Rig::new();
    let guest = rig.add(NetfrontOptions::default());
    for number in 0..1000 {
        rig.fronts[guest].write(&format!("queue-{number}/tx-ring-ref"), "0");
    }
    rig.until("connected", |rig| rig.is_connected(guest));
    rig.assert_works(guest);
}

#[test]
fn a_frontend_that_deletes_its_directory_is_closed_xb_05() {
    let (mut rig, attacker, victim) = Rig::attacker_and_victim();
    rig.fronts[attacker].frozen = true;
    rig.xen.remove_store(&fake_xen::Toolstack::frontend_path(&rig.device(attacker)));
    rig.until("closed", |rig| rig.fronts[attacker].backend_state() == 6);
    assert_eq!(rig.lines(attacker, "GONE").len(), 1, "{:?}", rig.log());
    assert_eq!((rig.usage().mapped, rig.usage().ports), (2, 2));
    rig.assert_works(victim);
}

#[test]
fn a_flood_of_writes_to_the_state_changes_nothing_xb_07() {
    let (mut rig, attacker, victim) = Rig::attacker_and_victim();
    let before = (published(&rig, attacker), rig.usage(), rig.log());
    for _ in 0..100_000 {
        rig.fronts[attacker].set_state(4);
    }
    rig.run(Duration::from_millis(100));
    for _ in 0..500 {
        (0..100).for_each(|_| rig.fronts[attacker].set_state(4));
        rig.step();
    }
    assert_eq!((published(&rig, attacker), rig.usage(), rig.log()), before);
    rig.assert_works(attacker);
    rig.assert_works(victim);
}

#[test]
fn a_store_that_always_conflicts_costs_a_bounded_number_of_attempts_xb_08() {
    let mut rig = Rig::new();
    let victim = rig.guest();
    let commits = std::rc::Rc::new(std::cell::Cell::new(0));
    let count = commits.clone();
    rig.xen.faults().store = Some(Box::new(move |op| {
        let commit = matches!(op, StoreOp::Commit);
        count.set(count.get() + u32::from(commit));
        commit.then_some(XsError::Again)
    }));
    let guest = rig.add(NetfrontOptions::default());
    rig.run(Duration::from_secs(3));
    assert!(commits.get() <= 300, "{} commits in three seconds", commits.get());
    rig.assert_works(victim);
    rig.xen.faults().store = None;
    // It is the store's fault: once it is over, the guest is served, if need be after starting over.
    rig.run(Duration::from_secs(3));
    if !rig.is_connected(guest) {
        rig.start_over(guest);
    }
    rig.assert_works(guest);
}

#[test]
fn a_directory_that_names_another_frontend_is_refused_xb_10() {
    for (key, value) in [
        ("frontend-id", "11"),
        ("frontend-id", "x"),
        ("frontend", "/local/domain/77/device/vif/0"),
        ("frontend", "/local/domain/10/../3/backend"),
        ("frontend", "device/vif/0"),
    ] {
        let mut rig = Rig::new();
        let before = rig.usage();
        let guest = rig.add(NetfrontOptions::default());
        rig.fronts[guest].frozen = true;
        let path = format!("{}/{key}", rig.toolstack.backend_path(&rig.device(guest)));
        rig.xen.write_store(&path, value);
        let cause = if value == "x" { "READ" } else { "FE_ID" };
        assert_refused(&mut rig, guest, cause, before);
    }
}

#[test]
fn event_channels_that_are_not_for_us_are_refused_xb_11() {
    for port in ["0", "2147483648", "4294967295", "99999"] {
        for key in ["event-channel-tx", "event-channel-rx"] {
            refuses("EVTCHN", |_, front| front.write(key, port));
        }
    }
}

#[test]
fn one_event_channel_for_two_rings_by_mistake_is_refused_xb_11() {
    // The second binding finds it bound already.
    refuses("EVTCHN", |_, front| front.write("event-channel-rx", &front.tx_port().to_string()));
}

#[test]
fn rings_that_cannot_be_mapped_are_refused_xb_12() {
    for key in ["tx-ring-ref", "rx-ring-ref"] {
        for gref in ["0", "7", "4294967295"] {
            refuses("RING_REF", |_, front| front.write(key, gref));
        }
    }
}

#[test]
fn each_step_of_connecting_may_fail_xb_12() {
    for step in 0..4 {
        refuses(if step < 2 { "RING_REF" } else { "QUOTA" }, |xen, _| {
            let calls = std::cell::Cell::new(0);
            let fail = move |wanted: i32| {
                let call = calls.replace(calls.get() + 1);
                call == wanted
            };
            if step < 2 {
                xen.faults().map = Some(Box::new(move |_| fail(step).then_some(GrantError::NoSpace)));
            } else {
                xen.faults().bind = Some(Box::new(move |_| fail(step - 2).then_some(EvtchnError::Exhausted)));
            }
        });
    }
}

#[test]
fn the_number_of_queues_must_be_one_that_was_offered_nf_53() {
    for count in ["0", "2", "4294967296", "-1", "many"] {
        refuses("QUEUES", |_, front| front.write("multi-queue-num-queues", count));
    }
}

#[test]
fn half_of_a_pair_of_event_channels_is_refused_xb_25() {
    for missing in ["event-channel-tx", "event-channel-rx"] {
        refuses("EVTCHN", |xen, front| {
            let path = format!("{}/{missing}", fake_xen::Toolstack::frontend_path(&front.device()));
            xen.remove_store(&path);
        });
    }
}

#[test]
fn a_frontend_that_wants_its_pages_flipped_is_refused() {
    refuses("RX_COPY", |_, front| front.write("request-rx-copy", "0"));
}

#[test]
fn odd_values_of_features_mean_on_or_off_xb_24() {
    for (value, several) in [("2", true), ("1", true), ("0", false), ("yes", false), ("", false), ("-1", false)] {
        let mut rig = Rig::new();
        let sender = rig.guest();
        let features = vec![("request-rx-copy", "1"), ("feature-rx-notify", "1"), ("feature-sg", value)];
        let guest = rig.guest_with(NetfrontOptions { features, ..NetfrontOptions::default() });
        rig.fronts[sender].send(&frame(Rig::mac(guest), Rig::mac(sender), 9000, 0));
        rig.run(Duration::from_millis(50));
        assert_eq!(rig.fronts[guest].receive_all().len(), usize::from(several), "feature-sg = {value:?}");
    }
}

#[test]
fn a_frontend_that_never_answers_is_closed_in_time_for_the_toolstack_xb_13() {
    let (mut rig, attacker, victim) = Rig::attacker_and_victim();
    rig.fronts[attacker].frozen = true;
    let device = rig.device(attacker);
    let detach = rig.toolstack.detach(device);
    rig.until("detach ends", |rig| rig.toolstack.outcome(detach).is_some());
    assert_eq!(rig.toolstack.outcome(detach), Some(Ok(())));
    assert_eq!((rig.usage().mapped, rig.usage().ports), (2, 2));
    rig.assert_works(victim);
}

#[test]
fn a_directory_that_vanishes_leaves_nothing_behind_xb_14() {
    let (mut rig, attacker, victim) = Rig::attacker_and_victim();
    rig.fronts[attacker].frozen = true;
    let path = rig.toolstack.backend_path(&rig.device(attacker));
    rig.xen.remove_store(&path);
    rig.run(Duration::from_secs(10));
    assert_eq!((rig.usage().mapped, rig.usage().ports), (2, 2));
    assert_eq!(rig.xen.read_store(&path), None, "the directory was brought back");
    rig.assert_works(victim);
}

#[test]
fn a_guest_destroyed_under_traffic_leaves_nothing_behind() {
    let mut rig = Rig::new();
    let victim = rig.guest();
    rig.run(Duration::from_secs(1));
    let before = rig.usage();
    for _ in 0..20 {
        let guest = rig.guest();
        let packet = frame(REMOTE, Rig::mac(guest), 1000, 0);
        for _ in 0..50 {
            rig.fronts[guest].send(&packet);
        }
        (0..20).for_each(|_| rig.wire.inject(&frame(Rig::mac(guest), REMOTE, 1000, 0)));
        rig.fronts[guest].frozen = true;
        let device = rig.device(guest);
        let destroy = rig.toolstack.destroy_device(device);
        rig.until("destroy ends", |rig| rig.toolstack.outcome(destroy).is_some());
        assert_eq!(rig.toolstack.outcome(destroy), Some(Ok(())));
        rig.toolstack.destroy_domain(device.frontend);
        rig.run(Duration::from_millis(100));
        assert_eq!(rig.usage(), before);
    }
    rig.assert_works(victim);
}

#[test]
fn many_devices_come_and_go_xb_15() {
    let mut rig = Rig::new();
    rig.run(Duration::from_secs(1));
    let before = rig.usage();
    for _ in 0..10 {
        let guests: Vec<Guest> = (0..20).map(|_| rig.add(NetfrontOptions::default())).collect();
        rig.until("all are connected", |rig| guests.iter().all(|guest| rig.is_connected(*guest)));
        let jobs: Vec<usize> = guests.iter().map(|guest| rig.toolstack.detach(rig.fronts[*guest].device())).collect();
        rig.until("all are gone", |rig| jobs.iter().all(|job| rig.toolstack.outcome(*job).is_some()));
        assert!(jobs.iter().all(|job| rig.toolstack.outcome(*job) == Some(Ok(()))));
        rig.fronts.clear();
        rig.run(Duration::from_millis(100));
        assert_eq!(rig.usage(), before);
    }
}

#[test]
fn traffic_goes_on_while_xenstored_does_not_xb_17() {
    let mut rig = Rig::new();
    let (first, second) = (rig.guest(), rig.guest());
    rig.run(Duration::from_secs(1));
    rig.xen.pause_store(true);
    let waiting = rig.add(NetfrontOptions::default());
    for _ in 0..20 {
        rig.assert_works(first);
        rig.assert_works(second);
        rig.run(Duration::from_secs(1));
    }
    assert_eq!(rig.fronts[waiting].backend_state(), 1);
    rig.xen.pause_store(false);
    rig.until("the new guest is connected", |rig| rig.is_connected(waiting));
    rig.assert_works(waiting);
}

#[test]
fn a_quota_costs_the_new_device_only_xb_18() {
    let mut rig = Rig::new();
    let victim = rig.guest();
    let before = rig.usage();
    rig.xen.faults().store = Some(Box::new(|op| {
        let of_device = matches!(op, StoreOp::Watch(path) if path.contains("/device/vif/"));
        of_device.then_some(XsError::Quota)
    }));
    let guest = rig.add(NetfrontOptions::default());
    rig.fronts[guest].frozen = true;
    assert_refused(&mut rig, guest, "QUOTA", before);
    rig.assert_works(victim);
}

#[test]
fn a_vif_of_a_previous_instance_is_left_alone_and_reported_xb_26() {
    let mut rig = Rig::new();
    let domid = rig.toolstack.create_domain("old");
    let device = rig.toolstack.create_vif(domid, 0, &Rig::vif_config(0));
    let mut front = Netfront::new(&rig.xen, device, NetfrontOptions::default());
    front.connect();
    front.frozen = true;
    rig.xen.write_store(&format!("{}/state", rig.toolstack.backend_path(&device)), "4");
    rig.fronts.push(front);
    rig.run(Duration::from_secs(1));
    assert_eq!(rig.usage().mapped, 0, "rings of a previous instance were mapped");
    assert_eq!(rig.lines(0, "REATTACH").len(), 1, "{:?}", rig.log());
}

#[test]
fn a_vif_that_is_never_connected_delays_nobody_xb_28() {
    let mut rig = Rig::new();
    rig.add_domain_of(2);
    rig.fronts[0].frozen = true;
    rig.until("the second vif is connected", |rig| rig.is_connected(1));
    let other = rig.guest();
    rig.assert_works(1);
    rig.assert_works(other);
}

#[test]
fn keys_may_appear_one_by_one() {
    let mut rig = Rig::new();
    let domid = rig.toolstack.create_domain("slow");
    let device = rig.toolstack.create_vif(domid, 0, &Rig::vif_config(0));
    let path = rig.toolstack.backend_path(&device);
    let keys: Vec<(String, String)> = rig.xen.dump_store(&path).into_iter().skip(1).collect();
    for (key, _) in &keys {
        rig.xen.remove_store(key);
    }
    rig.fronts.push(Netfront::new(&rig.xen, device, NetfrontOptions::default()));
    for (key, value) in &keys {
        rig.run(Duration::from_millis(50));
        rig.xen.write_store(key, value);
    }
    rig.until("connected", |rig| rig.is_connected(0));
    rig.assert_works(0);
}

#[test]
fn spurious_and_reordered_events_change_nothing() {
    for seed in 1..20 {
        let mut rig = Rig::new();
        rig.xen.shuffle_events(seed);
        let guests: Vec<Guest> = (0..5).map(|_| rig.add(NetfrontOptions::default())).collect();
        for _ in 0..100 {
            rig.xen.spurious_events();
            rig.run(Duration::from_millis(seed % 9 + 1));
        }
        rig.until("all are connected", |rig| guests.iter().all(|guest| rig.is_connected(*guest)));
        let jobs: Vec<usize> = guests.iter().map(|guest| rig.toolstack.detach(rig.fronts[*guest].device())).collect();
        for _ in 0..300 {
            rig.xen.spurious_events();
            rig.run(Duration::from_millis(10));
        }
        assert!(jobs.iter().all(|job| rig.toolstack.outcome(*job) == Some(Ok(()))), "seed {seed}");
    }
}

#[test]
fn every_transaction_may_conflict_once() {
    for conflict in 0..12 {
        let mut rig = Rig::new();
        let count = std::cell::Cell::new(0);
        rig.xen.faults().store = Some(Box::new(move |op| {
            let now = matches!(op, StoreOp::Commit) && count.replace(count.get() + 1) == conflict;
            now.then_some(XsError::Again)
        }));
        let guest = rig.guest();
        rig.assert_works(guest);
        let device = rig.device(guest);
        let detach = rig.toolstack.detach(device);
        rig.until("detach ends", |rig| rig.toolstack.outcome(detach).is_some());
        assert_eq!(rig.toolstack.outcome(detach), Some(Ok(())), "conflict {conflict}");
    }
}

#[test]
fn a_kill_may_be_followed_by_anything_nf_55() {
    for ending in ["close", "destroy", "reconnect", "vanish"] {
        let (mut rig, attacker, victim) = Rig::attacker_and_victim();
        let value = rig.fronts[attacker].tx_req_prod().wrapping_add(1000);
        rig.fronts[attacker].set_tx_req_prod(value);
        rig.run(Duration::from_millis(1));
        let device = rig.device(attacker);
        match ending {
            "close" => rig.fronts[attacker].close(),
            "destroy" => {
                rig.fronts[attacker].frozen = true;
                rig.toolstack.destroy_device(device);
            }
            "vanish" => {
                rig.fronts[attacker].frozen = true;
                rig.xen.remove_store(&rig.toolstack.backend_path(&device));
            }
            _ => rig.fronts[attacker].set_state(1),
        }
        rig.run(Duration::from_secs(12));
        assert_eq!((rig.usage().mapped, rig.usage().ports), (2, 2), "{ending}");
        rig.assert_works(victim);
    }
}

#[test]
fn dom0_may_be_a_frontend() {
    let mut rig = Rig::new();
    let (device, attach) = rig.toolstack.attach_vif(Domid::DOM0, 0, &Rig::vif_config(0));
    rig.fronts.push(Netfront::new(&rig.xen, device, NetfrontOptions::default()));
    rig.until("attach ends", |rig| rig.toolstack.outcome(attach).is_some());
    assert_eq!(rig.toolstack.outcome(attach), Some(Ok(())));
    rig.until("connected", |rig| rig.is_connected(0));
    rig.assert_works(0);
}
