//! Grants that are wrong, revoked or refused, and what of our memory a guest can see.

use std::time::Duration;

use fake_xen::{BlkRequest, BlkfrontOptions};
use xen_pv_rt::hyp::{Access, GrantError, GrantRef};

use crate::rig::{Rig, target_config};

#[test]
fn a_bad_grant_anywhere_in_an_indirect_list_costs_the_request_bf_28() {
    let (mut rig, attacker, victim) = Rig::attacker_and_victim();
    let (usage, memory) = (rig.usage(), rig.xen.memory().pages_in_use());
    let disk = rig.ram.bytes(0, 64, 512).to_vec();
    let (good, _pages) = rig.pages(attacker, 64, |_| 0x28);
    for count in [1, 2, 12, 31, 64] {
        for bad in (0..count).filter(|at| count < 31 || at % 7 == 0 || *at == count - 1) {
            let mut segments = good[..count].to_vec();
            segments[bad].0 = GrantRef::from_raw(0xdead_0000);
            let (list, page) = rig.fronts[attacker].page(Access::ReadOnly);
            BlkRequest::write_list(&page, &segments);
            for op in [0, 1] {
                let request = BlkRequest::indirect(op, rig.id(), 64, count as u16, list);
                assert_eq!(rig.ask(attacker, &[request]), [-1], "segment {bad} of {count}");
            }
        }
    }
    assert_eq!(rig.ram.bytes(0, 64, 512), disk, "a part of a bad write has reached the disk");
    assert_eq!((rig.usage(), rig.xen.memory().pages_in_use()), (usage, memory));
    rig.assert_works(attacker);
    rig.assert_works(victim);
}

#[test]
fn what_the_hypervisor_fails_is_told_from_what_the_frontend_did_bf_29() {
    for (error, cause) in [
        (GrantError::General, "GRANT"),
        (GrantError::BadGntref, "GRANT"),
        (GrantError::Again, "GRANT_SYS"),
        (GrantError::NoSpace, "GRANT_SYS"),
    ] {
        let (mut rig, attacker, victim) = Rig::attacker_and_victim();
        let domid = rig.device(attacker).frontend;
        let (segments, _pages) = rig.pages(attacker, 3, |_| 1);
        let (list, page) = rig.fronts[attacker].page(Access::ReadOnly);
        BlkRequest::write_list(&page, &segments);
        // First the list cannot be fetched, then its second page cannot be copied.
        for hit in [list, segments[1].0] {
            rig.run(Duration::from_millis(1100));
            let before = rig.lines(attacker, cause).len();
            rig.xen.faults().copy = Some(Box::new(move |op| {
                let hits = [op.source, op.dest].into_iter().flatten().any(|peer| peer == (domid, hit));
                hits.then_some(error)
            }));
            for op in [0, 1] {
                let request = BlkRequest::indirect(op, rig.id(), 0, 3, list);
                assert_eq!(rig.ask(attacker, &[request]), [-1], "{error:?}");
            }
            rig.xen.faults().copy = None;
            rig.run(Duration::from_millis(50));
            assert_eq!(rig.lines(attacker, cause).len(), before + 1, "{error:?}: {}", rig.state());
            rig.assert_works(attacker);
            rig.assert_works(victim);
        }
    }
}

#[test]
fn a_ring_page_that_cannot_be_mapped_undoes_the_others_bf_29() {
    for failing in 0..8 {
        let mut rig = Rig::new();
        let mut left = failing;
        rig.xen.faults().map = Some(Box::new(move |_: &(_, GrantRef)| {
            left -= 1;
            (left == -1).then_some(GrantError::NoSpace)
        }));
        let options = BlkfrontOptions { queues: 2, order: 2, ..BlkfrontOptions::default() };
        let guest = rig.add(&target_config("nvme0n1@0+1024"), options);
        rig.until("refused", |rig| !rig.lines(guest, "RING_REF").is_empty());
        let usage = rig.usage();
        assert_eq!((usage.mapped, usage.ports), (0, 0), "page {failing}");
        assert_eq!(rig.xen.memory().pages_in_use(), 0, "buffers of a vbd that was refused");
    }
}

#[test]
fn a_grant_that_goes_while_the_disk_works_hurts_nobody_bf_53() {
    let (mut rig, attacker, victim) = Rig::attacker_and_victim();
    let domid = rig.device(attacker).frontend;
    rig.ram.hold = true;
    let (read, _read_pages) = rig.pages(attacker, 1, |_| 0);
    let (write, _write_pages) = rig.pages(attacker, 1, |_| 0x53);
    let requests = [BlkRequest::direct(0, 1, 0, &read), BlkRequest::direct(1, 2, 64, &write)];
    rig.fronts[attacker].submit(&requests);
    rig.run(Duration::from_millis(10));
    assert_eq!(rig.ram.trace.len(), 2 + 6, "both are with the disk");
    for (gref, ..) in [read[0], write[0]] {
        assert!(!rig.xen.revoke(domid, gref), "we hold on to a page of a request");
    }
    rig.ram.hold = false;
    rig.wake();
    rig.until("answered", |rig| rig.fronts[attacker].unanswered() == 0);
    let mut answers: Vec<_> = rig.fronts[attacker].take_answers().iter().map(|a| (a.id, a.status)).collect();
    answers.sort_unstable();
    // The data of the write was ours already; that of the read has nowhere to go.
    assert_eq!(answers, [(1, -1), (2, 0)]);
    assert!(rig.ram.bytes(0, 64, 8).iter().all(|byte| *byte == 0x53));
    rig.assert_works(victim);
}

#[test]
fn a_disk_that_reads_nothing_and_says_so_shows_no_other_guests_bytes_bf_45_dv_22() {
    let mut rig = Rig::new();
    let victim = rig.guest();
    for sector in 0..40 {
        assert_eq!(rig.write(victim, sector * 8, &[0x42; 4096]), 0);
    }
    // Buffers of the victim's are free, and some are free for good: its neighbour connects afterwards.
    let gone = rig.guest();
    assert_eq!(rig.write(gone, 0, &[0x43; 44 * 1024]), 0);
    let detach = rig.toolstack.detach(rig.device(gone));
    rig.until("detached", |rig| rig.toolstack.outcome(detach) == Some(Ok(())));
    let attacker = rig.guest_on("nvme0n1@2048+1024");
    assert_eq!(rig.write(attacker, 0, &[0x11; 4096]), 0);
    rig.ram.lies = true;
    for round in 0..50 {
        let bytes = rig.read(attacker, round * 8, 8192).unwrap();
        assert!(bytes.iter().all(|byte| matches!(byte, 0 | 0x11)), "round {round}: somebody else's bytes");
    }
    rig.ram.lies = false;
    rig.assert_works(victim);
}

#[test]
fn requests_of_one_id_move_their_own_data_bf_25() {
    let (mut rig, attacker, victim) = Rig::attacker_and_victim();
    rig.ram.backwards = true;
    let mut kept = Vec::new();
    let requests: Vec<_> = (0..16_u64)
        .map(|number| {
            let (segments, pages) = rig.pages(attacker, 1, |_| number as u8 + 1);
            kept.push(pages);
            BlkRequest::direct(1, u64::MAX, number * 8, &segments)
        })
        .collect();
    rig.fronts[attacker].submit(&requests);
    rig.until("answered", |rig| rig.fronts[attacker].unanswered() == 0);
    assert!(rig.fronts[attacker].take_answers().iter().all(|answer| (answer.id, answer.status) == (u64::MAX, 0)));
    for number in 0..16_u64 {
        assert!(rig.ram.bytes(0, number * 8, 8).iter().all(|byte| *byte == number as u8 + 1));
    }
    rig.assert_works(victim);
}
