//! Frontends that lie on the ring: cases BF-01 to BF-54.

use std::time::Duration;

use blkback_dom::disk::DiskError;
use fake_xen::{BlkRequest, BlkfrontOptions, VbdConfig};
use xen_pv_rt::hyp::{Access, GrantError, GrantRef};

use crate::rig::{DISK, Rig, target_config};

const EOPNOTSUPP: i16 = -2;

#[test]
fn an_impossible_producer_index_kills_bf_01_bf_02() {
    for ahead in [33, 1 << 31, u32::MAX, u32::MAX - 2] {
        let (mut rig, attacker, victim) = Rig::attacker_and_victim();
        let value = rig.fronts[attacker].req_prod(0).wrapping_add(ahead);
        rig.fronts[attacker].set_req_prod(0, value);
        rig.fronts[attacker].notify(0);
        rig.assert_killed(attacker, victim, "BLK_PROD");
    }
}

#[test]
fn an_impossible_producer_index_with_requests_in_flight_kills_once_they_are_back_bf_01_bf_39() {
    let (mut rig, attacker, victim) = Rig::attacker_and_victim();
    rig.ram.hold = true;
    let (request, _pages) = rig.transfer(attacker, 0, 0, 4096);
    rig.fronts[attacker].submit(&[request]);
    rig.run(Duration::from_millis(5));
    rig.fronts[attacker].set_req_prod(0, 1 << 30);
    rig.fronts[attacker].notify(0);
    rig.run(Duration::from_secs(1));
    assert_eq!(rig.fronts[attacker].backend_state(), 4, "closed while the disk has a command");
    rig.ram.hold = false;
    rig.wake();
    rig.assert_killed(attacker, victim, "BLK_PROD");
}

#[test]
fn a_ring_with_impossible_indices_is_refused_bf_03() {
    let mut rig = Rig::new();
    let guest = rig.add(&target_config("nvme0n1"), BlkfrontOptions::default());
    rig.fronts[guest].frozen = true;
    rig.until("offered", |rig| rig.fronts[guest].backend_state() == 2);
    rig.fronts[guest].share_rings();
    rig.fronts[guest].set_req_prod(0, 40);
    rig.fronts[guest].publish();
    rig.fronts[guest].set_state(3);
    rig.until("refused", |rig| rig.fronts[guest].backend_state() == 5);
    assert_eq!(rig.lines(guest, "RING_STATE").len(), 1, "{}", rig.state());
    assert_eq!(rig.usage().mapped, 0);
}

#[test]
fn every_wrong_number_of_segments_is_an_error_bf_07_bf_10() {
    let (mut rig, attacker, victim) = Rig::attacker_and_victim();
    let (segments, _pages) = rig.pages(attacker, 11, |_| 1);
    let mut requests = Vec::new();
    for operation in [0, 1] {
        for count in (12..=255).chain([0]) {
            requests.push(BlkRequest::direct(operation, rig.id(), 0, &segments).with_segments(count));
        }
    }
    for chunk in requests.chunks(32) {
        assert!(rig.ask(attacker, chunk).iter().all(|status| *status == -1));
    }
    rig.assert_errors(attacker, victim, "SEGS", &requests[..32]);
}

#[test]
fn every_sector_beyond_the_page_is_an_error_bf_08() {
    let (mut rig, attacker, victim) = Rig::attacker_and_victim();
    let (gref, _page) = rig.fronts[attacker].page(Access::ReadWrite);
    let mut requests = Vec::new();
    for sect in 8..=255 {
        requests.push(BlkRequest::direct(0, rig.id(), 0, &[(gref, 0, sect)]));
        requests.push(BlkRequest::direct(1, rig.id(), 0, &[(gref, sect, 7)]));
        requests.push(BlkRequest::direct(1, rig.id(), 0, &[(gref, sect, sect)]));
    }
    requests.push(BlkRequest::direct(1, rig.id(), 0, &[(gref, 5, 4)]));
    for chunk in requests.chunks(32) {
        assert!(rig.ask(attacker, chunk).iter().all(|status| *status == -1));
    }
    rig.assert_errors(attacker, victim, "SECT", &requests[..32]);
}

#[test]
fn unknown_operations_are_not_supported_bf_11() {
    let (mut rig, attacker, victim) = Rig::attacker_and_victim();
    let (segments, _pages) = rig.pages(attacker, 1, |_| 1);
    let requests: Vec<_> = [4, 7, 8, 100, 255].map(|op| BlkRequest::direct(op, rig.id(), 0, &segments)).to_vec();
    rig.assert_errors(attacker, victim, "OP", &requests);
    let (list, _list_page) = rig.fronts[attacker].page(Access::ReadOnly);
    let nested = BlkRequest::indirect(6, rig.id(), 0, 1, list);
    assert_eq!(rig.ask(attacker, &[nested]), [EOPNOTSUPP]);
}

#[test]
fn a_wrong_number_of_indirect_segments_is_an_error_bf_13() {
    let (mut rig, attacker, victim) = Rig::attacker_and_victim();
    let (list, _page) = rig.fronts[attacker].page(Access::ReadOnly);
    let requests: Vec<_> = [0, 257, 512, 65535].map(|n| BlkRequest::indirect(1, rig.id(), 0, n, list)).to_vec();
    rig.assert_errors(attacker, victim, "SEGS", &requests);
}

#[test]
fn an_indirect_list_is_read_once_bf_06() {
    let (mut rig, attacker, victim) = Rig::attacker_and_victim();
    let (segments, _pages) = rig.pages(attacker, 4, |_| 6);
    let (list, list_page) = rig.fronts[attacker].page(Access::ReadOnly);
    BlkRequest::write_list(&list_page, &segments);
    let domid = rig.device(attacker).frontend;
    rig.ram.hold = true;
    let request = BlkRequest::indirect(1, rig.id(), 0, 4, list);
    rig.fronts[attacker].submit(&[request]);
    rig.run(Duration::from_millis(5));
    BlkRequest::write_list(&list_page, &[(GrantRef::from_raw(0xffff), 7, 0); 4]);
    rig.ram.hold = false;
    rig.wake();
    rig.until("answered", |rig| rig.fronts[attacker].unanswered() == 0);
    assert_eq!(rig.fronts[attacker].take_answers()[0].status, 0);
    let reads: Vec<_> = rig.xen.copied_from(domid, list).iter().map(|read| (read.start, read.end)).collect();
    assert_eq!(reads, [(0, 32)], "once, and only the segments");
    // Nonsense in any segment of a list costs the request.
    let mut requests = Vec::new();
    let mut lists = Vec::new();
    for bad in 0..4 {
        let mut segments = segments.clone();
        segments[bad].2 = 8;
        let (list, page) = rig.fronts[attacker].page(Access::ReadOnly);
        BlkRequest::write_list(&page, &segments);
        requests.push(BlkRequest::indirect(1, rig.id(), 0, 4, list));
        lists.push(page);
    }
    rig.assert_errors(attacker, victim, "SECT", &requests);
}

#[test]
fn ranges_end_with_the_volume_bf_15_bf_16_bf_17() {
    let (mut rig, attacker, victim) = Rig::attacker_and_victim();
    let (segments, _pages) = rig.pages(attacker, 2, |_| 0xaa);
    let at = |rig: &mut Rig, op, sector| BlkRequest::direct(op, rig.id(), sector, &segments);
    let last = at(&mut rig, 1, 1024 - 16);
    assert_eq!(rig.ask(attacker, &[last]), [0]);
    // The disk goes on beyond the slice, and belongs to the victim there.
    let neighbour = rig.ram.bytes(0, 1024, 1024).to_vec();
    let mut requests = Vec::new();
    for sector in [1024 - 15, 1024, 2000, DISK - 16, DISK, u64::MAX - 16, u64::MAX - 15, u64::MAX - 8, u64::MAX] {
        for op in [0, 1, 2] {
            requests.push(at(&mut rig, op, sector));
        }
    }
    rig.assert_errors(attacker, victim, "RANGE", &requests);
    assert_eq!(rig.ask(attacker, &requests[..3]), [-1; 3]);
    assert_eq!(neighbour[..4096], rig.ram.bytes(0, 1024, 1024)[..4096]);
}

#[test]
fn an_indirect_range_ends_with_the_volume_too_bf_16() {
    let (mut rig, attacker, victim) = Rig::attacker_and_victim();
    let (segments, _pages) = rig.pages(attacker, 64, |_| 0xbb);
    let (list, list_page) = rig.fronts[attacker].page(Access::ReadOnly);
    BlkRequest::write_list(&list_page, &segments);
    let fits = BlkRequest::indirect(1, rig.id(), 1024 - 512, 64, list);
    assert_eq!(rig.ask(attacker, &[fits]), [0]);
    let requests: Vec<_> = [1024 - 511, 1024, u64::MAX - 511, u64::MAX]
        .into_iter()
        .flat_map(|sector| [(0, sector), (1, sector)])
        .map(|(op, sector)| BlkRequest::indirect(op, rig.id(), sector, 64, list))
        .collect();
    rig.assert_errors(attacker, victim, "RANGE", &requests);
}

#[test]
fn a_read_only_vbd_is_not_written_bf_18() {
    let mut rig = Rig::new();
    let victim = rig.guest();
    let config = VbdConfig { mode: "r", ..target_config("nvme0n1@2048+1024") };
    let attacker = rig.guest_with(&config, BlkfrontOptions::default());
    assert_eq!(rig.fronts[attacker].backend_key("info").as_deref(), Some("4"));
    assert_eq!(rig.fronts[attacker].backend_key("feature-discard").as_deref(), Some("0"));
    let (segments, _pages) = rig.pages(attacker, 1, |_| 1);
    let requests = [1, 2].map(|op| BlkRequest::direct(op, rig.id(), 0, &segments));
    let trace = rig.ram.trace.len();
    assert_eq!(rig.ask(attacker, &requests), [-1, -1]);
    let discard = BlkRequest::discard(rig.id(), 0, 8);
    assert_eq!(rig.ask(attacker, &[discard]), [EOPNOTSUPP]);
    assert_eq!(rig.ram.trace.len(), trace);
    rig.run(Duration::from_millis(50));
    assert_eq!(rig.lines(attacker, "RO").len(), 1);
    assert_eq!(rig.read(attacker, 0, 4096), Ok(vec![0; 4096]));
    rig.assert_works(victim);
}

#[test]
fn a_bad_discard_is_an_error_bf_19() {
    let (mut rig, attacker, victim) = Rig::attacker_and_victim();
    let requests: Vec<_> = [(0, 0), (0, 1025), (1024, 1), (u64::MAX, 2), (1, u64::MAX), (1000, 1 << 40)]
        .map(|(sector, sectors)| BlkRequest::discard(rig.id(), sector, sectors))
        .to_vec();
    rig.assert_errors(attacker, victim, "RANGE", &requests);
}

#[test]
fn a_flood_of_bad_requests_makes_one_line_per_second_bf_20() {
    let (mut rig, attacker, victim) = Rig::attacker_and_victim();
    rig.run(Duration::from_secs(2));
    let before = rig.log().len();
    let start = rig.xen.now();
    let mut count = 0;
    while rig.xen.now() < start.saturating_add(Duration::from_secs(3)) {
        let requests: Vec<_> = (0..32).map(|_| BlkRequest::discard(rig.id(), u64::MAX, 1)).collect();
        rig.ask(attacker, &requests);
        count += 32;
    }
    assert!(count > 10_000, "{count}");
    let lines = rig.log().len() - before;
    assert!((2..=4).contains(&lines), "{lines} lines in 3 s");
    rig.assert_works(victim);
}

#[test]
fn a_flush_with_segments_is_a_barrier_bf_22() {
    let (mut rig, attacker, victim) = Rig::attacker_and_victim();
    let (segments, _pages) = rig.pages(attacker, 1, |_| 0x5f);
    let request = BlkRequest::direct(3, rig.id(), 64, &segments);
    assert_eq!(rig.ask(attacker, &[request]), [0]);
    rig.ram.cut_power();
    assert!(rig.ram.bytes(0, 64, 8).iter().all(|byte| *byte == 0x5f));
    rig.assert_works(victim);
}

#[test]
fn a_handle_routes_nowhere_bf_23() {
    let (mut rig, attacker, victim) = Rig::attacker_and_victim();
    let (segments, _pages) = rig.pages(attacker, 1, |_| 0x23);
    let request = BlkRequest::direct(1, rig.id(), 0, &segments).with_handle(51712 + 16);
    let victims = rig.ram.bytes(0, 1024, 1024).to_vec();
    assert_eq!(rig.ask(attacker, &[request]), [0]);
    assert_eq!(rig.ram.bytes(0, 1024, 1024), victims);
    assert!(rig.ram.bytes(0, 0, 8).iter().all(|byte| *byte == 0x23));
    rig.assert_works(victim);
}

#[test]
fn ids_are_echoed_whatever_they_are_bf_25() {
    let (mut rig, attacker, _) = Rig::attacker_and_victim();
    // The frontend itself checks that each answer is to a request under way.
    let requests: Vec<_> = [5, 5, 5, u64::MAX, 0, 0, 1 << 63].map(BlkRequest::flush).to_vec();
    assert_eq!(rig.ask(attacker, &requests), [0; 7]);
}

#[test]
fn a_read_into_a_read_only_grant_is_an_error_bf_27() {
    let (mut rig, attacker, victim) = Rig::attacker_and_victim();
    let (gref, _page) = rig.fronts[attacker].page(Access::ReadOnly);
    let read = BlkRequest::direct(0, rig.id(), 0, &[(gref, 0, 7)]);
    assert_eq!(rig.ask(attacker, &[read]), [-1]);
    let write = BlkRequest::direct(1, rig.id(), 0, &[(gref, 0, 7)]);
    assert_eq!(rig.ask(attacker, &[write]), [0]);
    rig.run(Duration::from_millis(50));
    assert_eq!(rig.lines(attacker, "GRANT").len(), 1, "{}", rig.state());
    rig.assert_works(victim);
}

#[test]
fn a_bad_grant_anywhere_costs_the_request_bf_28() {
    let (mut rig, attacker, victim) = Rig::attacker_and_victim();
    let usage = rig.usage();
    for bad in 0..11 {
        for wrong in [0, 0xffff_ffff, 123_456] {
            let (mut segments, _pages) = rig.pages(attacker, 11, |_| 1);
            segments[bad].0 = GrantRef::from_raw(wrong);
            for op in [0, 1] {
                let request = BlkRequest::direct(op, rig.id(), 0, &segments);
                assert_eq!(rig.ask(attacker, &[request]), [-1], "segment {bad}");
            }
        }
    }
    let third = rig.toolstack.create_domain("third");
    let page = fake_xen::Page::new();
    let device = rig.device(attacker);
    let not_ours = rig.xen.grant_to(device.frontend, third, &page, Access::ReadWrite, None);
    let request = BlkRequest::direct(1, rig.id(), 0, &[(not_ours, 0, 7)]);
    assert_eq!(rig.ask(attacker, &[request]), [-1]);
    let missing_list = BlkRequest::indirect(1, rig.id(), 0, 5, GrantRef::from_raw(77_777));
    assert_eq!(rig.ask(attacker, &[missing_list]), [-1]);
    assert_eq!(rig.usage(), usage);
    rig.assert_works(attacker);
    rig.assert_works(victim);
}

#[test]
fn a_write_with_a_bad_grant_changes_nothing_bf_28() {
    let (mut rig, attacker, _) = Rig::attacker_and_victim();
    let before = rig.ram.bytes(0, 0, 1024).to_vec();
    let (mut segments, _pages) = rig.pages(attacker, 4, |_| 0x99);
    segments[3].0 = GrantRef::from_raw(55_555);
    let request = BlkRequest::direct(1, rig.id(), 0, &segments);
    assert_eq!(rig.ask(attacker, &[request]), [-1]);
    assert_eq!(rig.ram.bytes(0, 0, 1024), before);
}

#[test]
fn every_failure_of_the_hypervisor_costs_one_request_bf_29() {
    for error in
        [GrantError::General, GrantError::Again, GrantError::NoSpace, GrantError::BadPage, GrantError::PermissionDenied]
    {
        let (mut rig, attacker, victim) = Rig::attacker_and_victim();
        let domid = rig.device(attacker).frontend;
        rig.xen.faults().copy = Some(Box::new(move |op| {
            let theirs = [op.source, op.dest].into_iter().flatten().any(|(peer, _)| peer == domid);
            theirs.then_some(error)
        }));
        for op in [0, 1] {
            let (request, _pages) = rig.transfer(attacker, op, 0, 4096);
            assert_eq!(rig.ask(attacker, &[request]), [-1], "{error:?}");
        }
        rig.assert_works(victim);
        rig.xen.faults().copy = None;
        rig.assert_works(attacker);
    }
}

#[test]
fn a_failed_read_shows_the_guest_nothing_bf_45() {
    let (mut rig, attacker, victim) = Rig::attacker_and_victim();
    // The victim's bytes have been in buffers of this domain.
    assert_eq!(rig.write(victim, 0, &[0x42; 8192]), 0);
    rig.ram.fail = Box::new(|_| Some(DiskError::Media));
    let (request, pages) = rig.transfer(attacker, 0, 0, 8192);
    assert_eq!(rig.ask(attacker, &[request]), [-1]);
    for page in pages {
        assert_eq!(page.word(0), 0xeeee_eeee);
        assert_eq!(page.word(1023), 0xeeee_eeee);
    }
    rig.ram.fail = Box::new(|_| None);
    rig.assert_works(victim);
}

#[test]
fn what_a_guest_writes_about_partitions_changes_nothing_bf_51() {
    let mut rig = Rig::new();
    let guest = rig.guest_on("nvme0n1@0+1024");
    let mut table = vec![0; 512];
    table[446..462].copy_from_slice(&[0, 0, 0, 0, 0x83, 0, 0, 0, 0, 0, 0, 0, 0, 0, 16, 0]);
    table[510..].copy_from_slice(&[0x55, 0xaa]);
    assert_eq!(rig.write(guest, 0, &table), 0);
    let other = rig.add(&target_config("nvme0n1:1"), BlkfrontOptions::default());
    rig.until("refused", |rig| !rig.lines(other, "NO_PARTITION").is_empty());
}

#[test]
fn a_device_type_of_the_frontends_is_ignored_bf_54() {
    for junk in ["cdrom".to_string(), "x".repeat(4096)] {
        let mut rig = Rig::new();
        let guest = rig.add(&target_config("nvme0n1"), BlkfrontOptions::default());
        rig.fronts[guest].write("device-type", &junk);
        rig.until("connected", |rig| rig.is_connected(guest));
        assert_eq!(rig.fronts[guest].backend_key("info").as_deref(), Some("0"));
    }
}

#[test]
fn a_disk_that_shrinks_takes_no_request_beyond_its_end_bf_49() {
    let mut rig = Rig::new();
    let guest = rig.guest_on("nvme0n1");
    rig.ram.disk_mut(0).geometry.sectors = 2048;
    rig.blkback.disk_changed(rig.ram.named()[0].clone());
    rig.wake();
    rig.until("the frontend is told", |rig| rig.fronts[guest].backend_key("sectors").as_deref() == Some("2048"));
    assert_eq!(rig.read(guest, 2048, 4096), Err(-1));
    assert_eq!(rig.read(guest, 2040, 4096).map(drop), Ok(()));
}

#[test]
fn a_disk_that_is_gone_fails_requests_and_nothing_else_dv_32() {
    let (mut rig, a, b) = Rig::attacker_and_victim();
    rig.ram.disk_mut(0).present = false;
    assert_eq!(rig.read(a, 0, 4096), Err(-1));
    rig.run(Duration::from_millis(50));
    assert_eq!(rig.lines(a, "DISK_GONE").len(), 1);
    assert!(rig.is_connected(a) && rig.is_connected(b));
    rig.ram.disk_mut(0).present = true;
    rig.assert_works(b);
}
