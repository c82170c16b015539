//! Counters in xenstore: what Dom0 reads, how often they are written, and that nobody waits for them.

use std::collections::HashMap;
use std::time::Duration;

use netback_dom::nic::Link;

use crate::rig::{Guest, Rig};

/// Within this time a change is published.
const SOON: Duration = Duration::from_secs(6);

/// The words of a guest's node.
fn words(rig: &Rig, guest: Guest) -> Option<HashMap<String, String>> {
    let line = rig.statistics(&node(rig, guest))?;
    Some(line.split(' ').filter_map(|word| word.split_once('=')).map(|(k, v)| (k.into(), v.into())).collect())
}

fn node(rig: &Rig, guest: Guest) -> String {
    let device = rig.device(guest);
    format!("vif-{}-{}", device.frontend, device.devid)
}

/// How often a node was written.
fn writes(rig: &Rig, node: &str) -> usize {
    rig.xen.written(&format!("/local/domain/{}/data/statistics/{node}", rig.xen.backend())).len()
}

#[test]
fn counters_and_link_are_published() {
    let mut rig = Rig::new();
    rig.publish();
    let guest = rig.guest();
    rig.assert_works(guest);
    rig.run(SOON);
    let seen = words(&rig, guest).unwrap();
    assert_eq!((seen["tx-packets"].as_str(), seen["tx-bytes"].as_str()), ("1", "300"), "{seen:?}");
    assert_eq!((seen["rx-packets"].as_str(), seen["rx-dropped"].as_str()), ("1", "0"), "{seen:?}");
    assert!(rig.statistics("nic-0").is_some_and(|line| line.contains(" link=up speed=1000 ")));
    let version = format!("version={} ", env!("CARGO_PKG_VERSION"));
    assert!(rig.statistics("domain").is_some_and(|line| line.starts_with(&version) && line.contains(" vifs=1 ")));
    rig.wire.link = Link::Down;
    rig.run(SOON);
    assert!(rig.statistics("nic-0").is_some_and(|line| line.contains(" link=down speed=0 ")));
}

#[test]
fn notifications_are_counted_in_both_directions() {
    let mut rig = Rig::new();
    rig.publish();
    let guest = rig.guest();
    rig.run(SOON);
    let count = |rig: &Rig, name| words(rig, guest).unwrap()[name].parse::<u64>().unwrap();
    let (events, told) = (count(&rig, "events"), count(&rig, "notifications"));
    for _ in 0..5 {
        // While the first is pending, the second adds nothing.
        rig.fronts[guest].notify_tx();
        rig.fronts[guest].notify_rx();
        rig.fronts[guest].notify_rx();
        rig.run(Duration::from_millis(10));
    }
    rig.run(SOON);
    assert_eq!(count(&rig, "events"), events + 10, "two channels, five times");
    assert_eq!(count(&rig, "notifications"), told, "nothing was served");
    let received = rig.fronts[guest].notifications();
    rig.assert_works(guest);
    rig.run(SOON);
    let received = rig.fronts[guest].notifications() - received;
    assert!(received > 0);
    assert_eq!(count(&rig, "notifications"), told + received);
}

#[test]
fn only_changes_are_written_and_at_most_every_five_seconds() {
    let mut rig = Rig::new();
    rig.publish();
    let guest = rig.guest();
    rig.run(SOON);
    let node = node(&rig, guest);
    assert_eq!(writes(&rig, &node), 1);
    rig.run(Duration::from_secs(60));
    assert_eq!(writes(&rig, &node), 1, "written again without a change");
    for _ in 0..40 {
        rig.assert_works(guest);
        rig.run(Duration::from_millis(480));
    }
    // 40 times half a second: 20 s.
    assert!((4..=6).contains(&writes(&rig, &node)), "{} writes", writes(&rig, &node));
}

#[test]
fn the_node_of_a_vif_goes_with_it() {
    let mut rig = Rig::new();
    rig.publish();
    let (stays, goes) = (rig.guest(), rig.guest());
    rig.run(SOON);
    assert!(words(&rig, goes).is_some());
    let device = rig.device(goes);
    rig.toolstack.detach(device);
    rig.run(SOON);
    assert!(words(&rig, goes).is_none());
    assert!(words(&rig, stays).is_some());
}

#[test]
fn packets_and_new_vifs_do_not_wait_for_statistics() {
    let mut rig = Rig::new();
    rig.publish();
    let guest = rig.guest();
    rig.run(SOON);
    rig.xen.pause_store(true);
    for _ in 0..30 {
        rig.assert_works(guest);
        rig.run(Duration::from_secs(1));
    }
    rig.xen.pause_store(false);
    let late = rig.guest();
    rig.assert_works(late);
    rig.run(SOON);
    assert_eq!(words(&rig, guest).unwrap()["tx-packets"], "30");
}

#[test]
fn a_quota_that_is_used_up_costs_the_statistics_and_one_line() {
    let mut rig = Rig::new();
    let guest = rig.guest();
    let (backend, home) = (rig.xen.backend(), format!("/local/domain/{}", rig.xen.backend()));
    for number in 0..1000 {
        rig.xen.write_store_as(backend, &format!("{home}/data/filler-{number}"), "");
    }
    rig.publish();
    rig.run(Duration::from_secs(60));
    rig.assert_works(guest);
    assert_eq!(rig.log().iter().filter(|line| line.contains("cause=STATISTICS")).count(), 1, "{}", rig.state());
    // As soon as there is room, they are there.
    for number in 0..1000 {
        rig.xen.remove_store(&format!("{home}/data/filler-{number}"));
    }
    rig.run(SOON);
    assert_eq!(words(&rig, guest).unwrap()["tx-packets"], "1");
}
