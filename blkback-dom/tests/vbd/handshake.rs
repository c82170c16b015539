//! Connecting, closing, and what the toolstack sees of it.

use std::time::Duration;

use fake_xen::{Blkfront, BlkfrontOptions, VbdConfig};
use xen_pv_rt::hyp::RemotePort;

use crate::rig::{Rig, target_config};

#[test]
fn a_guest_connects_and_learns_what_the_disk_is() {
    let mut rig = Rig::new();
    let guest = rig.guest_on("nvme0n1");
    for (key, value) in [
        ("sectors", "4096"),
        ("sector-size", "512"),
        ("physical-sector-size", "4096"),
        ("info", "0"),
        ("feature-flush-cache", "1"),
        ("feature-barrier", "1"),
        ("feature-discard", "1"),
        ("discard-granularity", "4096"),
        ("discard-alignment", "0"),
        ("discard-secure", "0"),
        ("feature-persistent", "1"),
        ("feature-max-indirect-segments", "256"),
        ("max-ring-page-order", "4"),
        ("multi-queue-max-queues", "4"),
        ("hotplug-status", "connected"),
    ] {
        assert_eq!(rig.fronts[guest].backend_key(key).as_deref(), Some(value), "{key}");
    }
    assert_eq!(rig.error_node(guest), None);
}

#[test]
fn hot_attach_and_detach_leave_nothing_behind() {
    let mut rig = Rig::new();
    rig.run(Duration::from_millis(100));
    let before = rig.usage();
    let domid = rig.toolstack.create_domain("guest");
    for _ in 0..50 {
        let (device, attach) = rig.toolstack.attach_vbd(domid, 51712, &target_config("nvme0n1"));
        rig.fronts = vec![Blkfront::new(&rig.xen, device, BlkfrontOptions::default())];
        rig.until("attach ends", |rig| rig.toolstack.outcome(attach).is_some());
        assert_eq!(rig.toolstack.outcome(attach), Some(Ok(())));
        rig.until("connected", |rig| rig.is_connected(0));
        rig.assert_works(0);
        let detach = rig.toolstack.detach(device);
        rig.until("detach ends", |rig| rig.toolstack.outcome(detach).is_some());
        assert_eq!(rig.toolstack.outcome(detach), Some(Ok(())));
        rig.run(Duration::from_millis(100));
        assert_eq!(rig.usage(), before, "{}", rig.state());
    }
    assert_eq!(rig.blkback.counters().len(), 0);
}

#[test]
fn a_guest_that_reboots_is_served_again_with_another_layout_bf_33_bf_37() {
    let mut rig = Rig::new();
    let guest = rig.guest();
    rig.assert_works(guest);
    for round in 0..6 {
        rig.fronts[guest].close();
        rig.until("closed", |rig| !rig.fronts[guest].is_connected() && rig.fronts[guest].backend_state() == 6);
        let x86_32 = round % 2 == 0;
        let options = rig.fronts[guest].options_mut();
        (options.x86_32, options.protocol) = (x86_32, Some(if x86_32 { "x86_32-abi" } else { "x86_64-abi" }));
        rig.fronts[guest].reopen();
        rig.until("connected again", |rig| rig.is_connected(guest));
        rig.assert_works(guest);
    }
}

#[test]
fn a_layout_of_another_machine_is_refused_bf_36() {
    for protocol in ["arm-abi", "", "X86_64-ABI"] {
        let mut rig = Rig::new();
        let options = BlkfrontOptions { protocol: Some(protocol), ..BlkfrontOptions::default() };
        assert_refused(&mut rig, options, &[], "PROTO");
    }
    let long: &'static str = Box::leak("x".repeat(4000).into_boxed_str());
    let mut rig = Rig::new();
    assert_refused(&mut rig, BlkfrontOptions { protocol: Some(long), ..BlkfrontOptions::default() }, &[], "PROTO");
}

/// A frontend that publishes these options and keys is refused for `cause`, and served once it is honest.
fn assert_refused(rig: &mut Rig, options: BlkfrontOptions, keys: &[(&str, &str)], cause: &str) {
    let guest = rig.add(&target_config("nvme0n1@0+1024"), options);
    rig.fronts[guest].frozen = true;
    rig.until("offered", |rig| rig.fronts[guest].backend_state() == 2);
    rig.fronts[guest].share_rings();
    rig.fronts[guest].publish();
    for (key, value) in keys {
        rig.fronts[guest].write(key, value);
    }
    rig.fronts[guest].set_state(3);
    rig.until("refused", |rig| rig.fronts[guest].backend_state() == 5);
    let lines = rig.lines(guest, cause);
    assert_eq!(lines.len(), 1, "{cause}: {}", rig.state());
    assert!(lines[0].contains("action=refuse"));
    assert!(rig.error_node(guest).is_some_and(|text| text.starts_with(cause)));
    let usage = rig.usage();
    assert_eq!((usage.mapped, usage.ports), (0, 0), "{cause}: something is left over");
    let device = rig.device(guest);
    rig.until("closed", |rig| {
        rig.fronts[guest].set_state(6);
        rig.fronts[guest].backend_state() == 6
    });
    for (key, _) in keys {
        rig.xen.remove_store(&format!("{}/{key}", fake_xen::Toolstack::frontend_path(&device)));
    }
    for key in ["multi-queue-num-queues", "ring-page-order"] {
        rig.xen.remove_store(&format!("{}/{key}", fake_xen::Toolstack::frontend_path(&device)));
    }
    rig.fronts[guest].reclaim();
    rig.fronts[guest] = Blkfront::new(&rig.xen, device, BlkfrontOptions::default());
    rig.fronts[guest].reopen();
    rig.until("served at last", |rig| rig.is_connected(guest));
    rig.assert_works(guest);
}

#[test]
fn queues_that_were_not_offered_or_are_shared_are_refused_bf_35() {
    for count in ["0", "5", "4294967295", "4294967296", "-1", "x"] {
        let mut rig = Rig::new();
        assert_refused(&mut rig, BlkfrontOptions::default(), &[("multi-queue-num-queues", count)], "QUEUES");
    }
    let mut rig = Rig::new();
    let guest = rig.add(&target_config("nvme0n1"), BlkfrontOptions { queues: 2, ..BlkfrontOptions::default() });
    rig.fronts[guest].frozen = true;
    rig.until("offered", |rig| rig.fronts[guest].backend_state() == 2);
    rig.fronts[guest].share_rings();
    rig.fronts[guest].publish();
    let gref = rig.fronts[guest].ring_grefs(0)[0].to_string();
    rig.fronts[guest].write("queue-1/ring-ref", &gref);
    rig.fronts[guest].set_state(3);
    rig.until("refused", |rig| rig.fronts[guest].backend_state() == 5);
    assert_eq!(rig.lines(guest, "QUEUES").len(), 1);
}

#[test]
fn bad_ring_and_channel_keys_are_refused() {
    for (key, value, cause) in [
        ("ring-ref", "4294967295", "RING_REF"),
        ("ring-ref", "x", "READ"),
        ("ring-page-order", "5", "RING_REF"),
        ("ring-page-order", "-1", "RING_REF"),
        ("ring-page-order", "1", "READ"),
        ("event-channel", "0", "EVTCHN"),
        ("event-channel", "4294967295", "EVTCHN"),
        ("event-channel", "", "READ"),
    ] {
        let mut rig = Rig::new();
        assert_refused(&mut rig, BlkfrontOptions::default(), &[(key, value)], cause);
    }
}

#[test]
fn a_channel_that_cannot_be_bound_undoes_everything_xb_12() {
    let mut rig = Rig::new();
    rig.xen.faults().bind = Some(Box::new(|(_, port): &(_, RemotePort)| {
        (port.into_raw() != 0).then_some(xen_pv_rt::hyp::EvtchnError::Exhausted)
    }));
    let guest = rig.add(&target_config("nvme0n1"), BlkfrontOptions::default());
    rig.until("refused", |rig| !rig.lines(guest, "EVTCHN").is_empty());
    let usage = rig.usage();
    assert_eq!((usage.mapped, usage.ports), (0, 0));
}

#[test]
fn targets_that_name_nothing_are_refused_with_their_cause() {
    for (target, mode, cause, words) in [
        ("nvme1n1", "w", "NO_DISK", "nvme1n1 (there are: nvme0n1 nvme0n2)"),
        ("nvme0n1:2", "w", "NO_PARTITION", "nvme0n1:2"),
        ("PARTLABEL=root", "w", "NO_PARTITION", "PARTLABEL=root"),
        ("vg/lv", "w", "NO_VOLUME", "vg/lv"),
        ("nvme0n1@4000+97", "w", "TOO_BIG", "nvme0n1@4000+97"),
        ("nvme0n2@4+16", "w", "SECTOR_SIZE", "nvme0n2@4+16"),
        ("/dev/sda", "w", "TARGET", "none of"),
        ("", "w", "TARGET", "none of"),
    ] {
        let mut rig = Rig::new();
        let config = VbdConfig { mode, ..target_config(target) };
        let guest = rig.add(&config, BlkfrontOptions::default());
        rig.until("refused", |rig| rig.fronts[guest].backend_state() == 6);
        let lines = rig.lines(guest, cause);
        assert_eq!(lines.len(), 1, "{target}: {}", rig.state());
        assert!(lines[0].contains(words), "{lines:?}");
        assert!(rig.error_node(guest).unwrap().contains(words));
        assert_eq!(rig.fronts[guest].backend_key("hotplug-status").as_deref(), Some("error"));
        // Nobody has done anything since, so nothing is tried again.
        rig.run(Duration::from_secs(5));
        assert_eq!(rig.lines(guest, cause).len(), 1, "{target}");
    }
}

#[test]
fn sectors_that_are_written_have_one_user() {
    let mut rig = Rig::new();
    let first = rig.guest_on("nvme0n1@0+1024");
    let second = rig.add(&target_config("nvme0n1"), BlkfrontOptions::default());
    rig.until("refused", |rig| rig.fronts[second].backend_state() == 6);
    let holder = format!("domain {} vbd 51712", rig.device(first).frontend);
    assert!(rig.lines(second, "IN_USE")[0].contains(&holder), "{}", rig.state());
    // Gone with the first: the second may start over.
    let detach = rig.toolstack.detach(rig.device(first));
    rig.until("detached", |rig| rig.toolstack.outcome(detach) == Some(Ok(())));
    rig.fronts[second].set_state(6);
    rig.run(Duration::from_millis(200));
    rig.fronts[second].set_state(1);
    rig.until("served", |rig| rig.is_connected(second));
    rig.assert_works(second);
}

#[test]
fn readers_share_and_writers_that_say_so_too() {
    let mut rig = Rig::new();
    let read = VbdConfig { mode: "r", ..target_config("nvme0n1") };
    rig.guest_with(&read, BlkfrontOptions::default());
    rig.guest_with(&read, BlkfrontOptions::default());
    rig.guest_on("nvme0n2,shared");
    let both = rig.guest_on("nvme0n2,shared");
    assert_eq!(rig.read(both, 0, 4096), Ok(vec![0; 4096]));
}

#[test]
fn a_disk_that_grows_is_seen_to_grow() {
    let mut rig = Rig::new();
    let whole = rig.guest_on("nvme0n1");
    rig.ram.disk_mut(0).geometry.sectors = 8192;
    rig.ram.platters[0].seen.resize(8192 * 512, 0);
    let state_writes =
        |rig: &Rig| rig.xen.written(&format!("{}/state", rig.toolstack.backend_path(&rig.device(whole)))).len();
    let before = state_writes(&rig);
    rig.blkback.disk_changed(rig.ram.named()[0].clone());
    rig.wake();
    rig.until("told", |rig| rig.fronts[whole].backend_key("sectors").as_deref() == Some("8192"));
    assert_eq!(state_writes(&rig), before + 1, "the state is written again, so that the frontend's watch fires");
    assert_eq!(rig.write(whole, 8184, &[3; 4096]), 0);
}

#[test]
fn a_guest_that_is_destroyed_leaves_nothing_behind() {
    let mut rig = Rig::new();
    rig.run(Duration::from_millis(100));
    let before = rig.usage();
    let guest = rig.guest_on("nvme0n1");
    rig.ram.hold = true;
    let (request, _pages) = rig.transfer(guest, 1, 0, 4096);
    rig.fronts[guest].submit(&[request]);
    rig.run(Duration::from_millis(10));
    rig.fronts[guest].frozen = true;
    let device = rig.device(guest);
    let destroy = rig.toolstack.destroy_device(device);
    rig.run(Duration::from_millis(500));
    rig.ram.hold = false;
    rig.wake();
    rig.until("destroyed", |rig| rig.toolstack.outcome(destroy).is_some());
    assert_eq!(rig.toolstack.outcome(destroy), Some(Ok(())));
    rig.toolstack.destroy_domain(device.frontend);
    rig.run(Duration::from_millis(500));
    assert_eq!(rig.usage(), before, "{}", rig.state());
}

/// libxl takes a directory that goes before it has read the 6 for an error (rc -6).
#[test]
fn a_dom0_that_becomes_busy_still_reads_the_six() {
    let mut rig = Rig::new();
    let guest = rig.guest_on("nvme0n1");
    rig.fronts[guest].set_state(6);
    rig.until("closed", |rig| rig.fronts[guest].backend_state() == 6);
    let xen = rig.xen.clone();
    // Many domains are destroyed at once: xenstored answers slowly, and xl reads late.
    rig.toolstack.read_latency = Duration::from_secs(6);
    rig.xen.faults().store = Some(Box::new(move |_| {
        xen.advance(Duration::from_millis(150));
        None
    }));
    let destroy = rig.toolstack.destroy_device(rig.device(guest));
    rig.until("destroyed", |rig| rig.toolstack.outcome(destroy).is_some());
    assert_eq!(rig.toolstack.outcome(destroy), Some(Ok(())));
}

#[test]
fn a_frontend_that_is_busy_is_served_until_it_closes() {
    let mut rig = Rig::new();
    let guest = rig.guest();
    rig.fronts[guest].frozen = true;
    let detach = rig.toolstack.detach(rig.device(guest));
    rig.run(Duration::from_millis(500));
    assert_eq!(rig.fronts[guest].backend_state(), 5);
    // Like blkfront, which reads the partition table before it looks at our state.
    rig.assert_works(guest);
    rig.fronts[guest].frozen = false;
    rig.until("detached", |rig| rig.toolstack.outcome(detach).is_some());
    assert_eq!(rig.toolstack.outcome(detach), Some(Ok(())));
    assert_eq!(rig.lines(guest, "CLOSE_TIMEOUT").len(), 0);
}

#[test]
fn a_frontend_that_toggles_is_paced_bf_38() {
    let mut rig = Rig::new();
    let guest = rig.guest();
    let state = |rig: &Rig| format!("{}/state", rig.toolstack.backend_path(&rig.device(guest)));
    let before = rig.xen.written(&state(&rig)).len();
    let start = rig.xen.now();
    rig.fronts[guest].frozen = true;
    while rig.xen.now() < start.saturating_add(Duration::from_secs(5)) {
        for number in [5, 6, 1, 3, 4] {
            rig.fronts[guest].set_state(number);
            rig.step();
        }
    }
    let states = rig.xen.written(&state(&rig)).len() - before;
    assert!(states <= 50, "{states} states in 5 s");
}

#[test]
fn shutting_down_closes_every_vbd() {
    let mut rig = Rig::new();
    let (a, b) = (rig.guest(), rig.guest());
    rig.assert_works(a);
    rig.blkback.stop();
    rig.until("stopped", |rig| rig.blkback.is_stopped());
    assert_eq!((rig.fronts[a].backend_state(), rig.fronts[b].backend_state()), (6, 6));
    assert_eq!(rig.usage().mapped, 0);
}
