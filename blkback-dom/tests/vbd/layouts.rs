//! Frontends that say one thing of their rings and mean another, and what every layout carries.

use std::time::Duration;

use blkback_dom::disk::Op;
use fake_xen::{BlkRequest, Blkfront, BlkfrontOptions};
use xen_pv_rt::hyp::Access;

use crate::ram::Asked;
use crate::rig::{Guest, Rig, target_config};

#[test]
fn slots_are_read_in_the_layout_that_was_declared_bf_36() {
    let mut rig = Rig::new();
    let victim = rig.guest();
    let options = BlkfrontOptions { x86_32: true, protocol: Some("x86_32-abi"), ..BlkfrontOptions::default() };
    let attacker = rig.guest_with(&target_config("nvme0n1@2048+1024"), options);
    let (segments, _pages) = rig.pages(attacker, 1, |_| 0x36);
    // A write in the 64-bit layout, whose padding is where a 32-bit frontend has its id: all that follows is one
    // word late, so that the first segment's sectors are what was meant as its grant.
    let honest = BlkRequest::direct(1, 0x0909_0909_0909_0909, 0, &segments).words();
    let mut words = honest;
    (words[1], words[2]) = (0, honest[1]);
    words[3..].copy_from_slice(&honest[2..27]);
    let trace = rig.ram.trace.len();
    assert_eq!(rig.ask(attacker, &[BlkRequest::from_words(words)]), [-1]);
    assert_eq!(rig.ram.trace.len(), trace);
    rig.run(Duration::from_millis(50));
    assert_eq!(rig.lines(attacker, "SECT").len(), 1, "{}", rig.state());
    rig.assert_works(attacker);
    rig.assert_works(victim);
}

#[test]
fn every_kind_of_request_works_in_both_layouts_bf_36() {
    for (x86_32, protocol) in [(false, Some("x86_64-abi")), (true, None)] {
        let mut rig = Rig::new();
        let options = BlkfrontOptions { x86_32, protocol, ..BlkfrontOptions::default() };
        let guest = rig.guest_with(&target_config("nvme0n1"), options);
        let (segments, pages) = rig.pages(guest, 40, |number| number as u8 + 1);
        let (list, list_page) = rig.fronts[guest].page(Access::ReadOnly);
        BlkRequest::write_list(&list_page, &segments);
        let write = BlkRequest::indirect(1, rig.id(), 1000, 40, list);
        assert_eq!(rig.ask(guest, &[write]), [0]);
        assert!((0..40_u64).all(|n| rig.ram.bytes(0, 1000 + n * 8, 8).iter().all(|byte| *byte == n as u8 + 1)));
        pages.iter().for_each(|page| page.write(0, &[0; 4096]));
        let read = BlkRequest::indirect(0, rig.id(), 1000, 40, list);
        assert_eq!(rig.ask(guest, &[read]), [0]);
        assert_eq!(pages[39].word(1023), u32::from_le_bytes([40; 4]));
        let discard = BlkRequest::discard(rig.id(), 1008, 24);
        assert_eq!(rig.ask(guest, &[discard]), [0]);
        let asked = Asked { disk: 0, op: Op::Discard { sectors: 24 }, sector: 1008, sectors: 24 };
        assert_eq!(rig.ram.trace.last(), Some(&asked));
        let barrier = BlkRequest::direct(2, rig.id(), 0, &segments[..1]);
        assert_eq!(rig.ask(guest, &[barrier]), [0]);
        assert_eq!(rig.ram.trace.last().map(|asked| asked.op), Some(Op::Flush));
    }
}

#[test]
fn large_rings_wrap_bf_34() {
    for (x86_32, protocol) in [(false, Some("x86_64-abi")), (true, Some("x86_32-abi"))] {
        let mut rig = Rig::new();
        let options = BlkfrontOptions { x86_32, protocol, order: 4, ..BlkfrontOptions::default() };
        let guest = rig.guest_with(&target_config("nvme0n1"), options);
        for round in 0..5 {
            let flushes: Vec<_> = (0..400).map(|_| BlkRequest::flush(rig.id())).collect();
            assert!(rig.ask(guest, &flushes).iter().all(|status| *status == 0), "round {round}");
        }
        rig.assert_works(guest);
    }
}

#[test]
fn what_a_frontend_says_of_persistent_grants_may_change_bf_33() {
    let mut rig = Rig::new();
    let guest = rig.guest();
    for value in ["1", "0", "2", "yes", "", "-1", "18446744073709551616"] {
        rig.fronts[guest].write("feature-persistent", value);
        rig.fronts[guest].close();
        rig.until("closed", |rig| !rig.fronts[guest].is_connected() && rig.fronts[guest].backend_state() == 6);
        rig.fronts[guest].reopen();
        rig.until("connected again", |rig| rig.is_connected(guest));
        rig.assert_works(guest);
    }
}

/// Offers rings, changes keys, and says that it is ready.
fn connect_with(rig: &mut Rig, guest: Guest, key: impl Fn(&Blkfront) -> (String, String)) {
    rig.fronts[guest].frozen = true;
    rig.until("offered", |rig| rig.fronts[guest].backend_state() == 2);
    rig.fronts[guest].share_rings();
    rig.fronts[guest].publish();
    let (key, value) = key(&rig.fronts[guest]);
    rig.fronts[guest].write(&key, &value);
    rig.fronts[guest].set_state(3);
}

#[test]
fn a_page_or_channel_that_would_serve_twice_is_refused_bf_35() {
    type Change = fn(&Blkfront) -> (String, String);
    let shared_port: Change = |front| ("queue-1/event-channel".into(), front.port(0).to_string());
    let shared_page: Change = |front| ("queue-1/ring-ref0".into(), front.ring_grefs(0)[1].to_string());
    let repeated_page: Change = |front| ("queue-0/ring-ref1".into(), front.ring_grefs(0)[0].to_string());
    for change in [shared_port, shared_page, repeated_page] {
        let mut rig = Rig::new();
        let options = BlkfrontOptions { queues: 2, order: 1, ..BlkfrontOptions::default() };
        let guest = rig.add(&target_config("nvme0n1"), options);
        connect_with(&mut rig, guest, change);
        rig.until("refused", |rig| rig.fronts[guest].backend_state() == 5);
        assert_eq!(rig.lines(guest, "QUEUES").len(), 1, "{}", rig.state());
        let usage = rig.usage();
        assert_eq!((usage.mapped, usage.ports), (0, 0));
    }
}
