//! Frontends that lie on the receive ring, or take nothing: cases NF-42 to NF-47.

use std::time::Duration;

use fake_xen::{NetfrontOptions, Page};
use xen_pv_rt::hyp::{Access, GrantRef};

use crate::packets::{REMOTE, frame};
use crate::rig::Rig;

#[test]
fn an_impossible_producer_index_kills_nf_45() {
    for ahead in [257, 1 << 31, u32::MAX - 256] {
        let (mut rig, attacker, victim) = Rig::attacker_and_victim();
        let value = rig.fronts[attacker].rx_req_prod().wrapping_add(ahead);
        rig.fronts[attacker].keep_posted(0);
        rig.fronts[attacker].set_rx_req_prod(value);
        rig.wire.inject(&frame(Rig::mac(attacker), REMOTE, 60, 0));
        rig.until("the attacker is closed", |rig| rig.fronts[attacker].backend_state() == 6);
        rig.fronts[attacker].keep_posted(64);
        rig.assert_killed(attacker, victim, "RX_PROD");
    }
}

#[test]
fn a_producer_index_moving_backwards_kills_nf_45() {
    let (mut rig, attacker, victim) = Rig::attacker_and_victim();
    rig.fronts[attacker].keep_posted(0);
    // Behind what was taken already, which the packets of the start have moved.
    rig.fronts[attacker].set_rx_req_prod(0);
    rig.wire.inject(&frame(Rig::mac(attacker), REMOTE, 60, 0));
    rig.until("the attacker is closed", |rig| rig.fronts[attacker].backend_state() == 6);
    rig.fronts[attacker].keep_posted(64);
    rig.assert_killed(attacker, victim, "RX_PROD");
}

#[test]
fn a_guest_that_takes_nothing_costs_a_bounded_amount_nf_42() {
    let mut rig = Rig::new();
    let victim = rig.guest();
    let attacker = rig.guest_with(NetfrontOptions { rx_buffers: 0, ..NetfrontOptions::default() });
    let before = rig.buffers.available();
    for _ in 0..300 {
        let packet = frame(Rig::mac(attacker), Rig::mac(victim), 1514, 0);
        for _ in 0..10 {
            rig.fronts[victim].send(&packet);
        }
        rig.run(Duration::from_millis(2));
    }
    let held = before - rig.buffers.available();
    assert!(held <= 128, "{held} pages are held for one guest: more than 512 KiB");
    rig.fronts[victim].take_answers();
    rig.assert_works(victim);
    rig.run(Duration::from_secs(15));
    assert_eq!(rig.buffers.available(), before, "a stalled guest still holds buffers");
    assert_eq!(rig.lines(attacker, "RX_STALL").len(), 1, "{:?}", rig.log());
    assert!(rig.is_connected(attacker));
    // It is served again as soon as it posts buffers.
    rig.fronts[attacker].keep_posted(64);
    rig.run(Duration::from_millis(50));
    rig.fronts[attacker].receive_all();
    rig.assert_works(attacker);
}

#[test]
fn exactly_one_free_slot_for_a_packet_of_two_stalls_nobody_nf_42() {
    let mut rig = Rig::new();
    let victim = rig.guest();
    let attacker = rig.guest_with(NetfrontOptions { rx_buffers: 1, ..NetfrontOptions::default() });
    rig.fronts[victim].send(&frame(Rig::mac(attacker), Rig::mac(victim), 5000, 0));
    rig.run(Duration::from_secs(1));
    rig.fronts[victim].take_answers();
    rig.assert_works(victim);
    assert!(rig.fronts[attacker].receive_all().is_empty());
    rig.run(Duration::from_secs(15));
    assert_eq!(rig.lines(attacker, "RX_STALL").len(), 1, "{:?}", rig.log());
    rig.fronts[attacker].keep_posted(64);
    rig.run(Duration::from_millis(50));
    rig.fronts[attacker].receive_all();
    rig.assert_works(attacker);
}

#[test]
fn ids_are_echoed_whatever_they_are_nf_44() {
    let mut rig = Rig::new();
    let guest = rig.guest_with(NetfrontOptions { rx_buffers: 0, ..NetfrontOptions::default() });
    // The frontend itself checks that each buffer is answered with its own id.
    for id in [0, 0, 0, 0xffff, 0xffff, 256, 255, 7] {
        let page = Page::new();
        let gref = rig.xen.grant_for(rig.device(guest), &page, Access::ReadWrite);
        rig.fronts[guest].put_buffer(id, gref, page);
    }
    rig.fronts[guest].push_rx();
    for seed in 0..8 {
        rig.wire.inject(&frame(Rig::mac(guest), REMOTE, 100, seed));
    }
    rig.run(Duration::from_millis(10));
    assert_eq!(rig.fronts[guest].receive_all().len(), 8);
}

#[test]
fn a_buffer_that_cannot_be_written_is_answered_with_an_error() {
    let (mut rig, attacker, victim) = Rig::attacker_and_victim();
    rig.fronts[attacker].keep_posted(0);
    // Those that were posted are used up first.
    let posted = rig.fronts[attacker].posted();
    for _ in 0..posted {
        rig.wire.inject(&frame(Rig::mac(attacker), REMOTE, 60, 0));
    }
    rig.run(Duration::from_millis(10));
    assert_eq!(rig.fronts[attacker].receive_all().len(), posted);
    let page = Page::new();
    let read_only = rig.xen.grant_for(rig.device(attacker), &page, Access::ReadOnly);
    for gref in [GrantRef::from_raw(0), GrantRef::from_raw(0xffff_ffff), read_only] {
        rig.fronts[attacker].put_buffer(1, gref, page.clone());
        rig.fronts[attacker].push_rx();
        rig.wire.inject(&frame(Rig::mac(attacker), REMOTE, 60, 0));
        rig.run(Duration::from_millis(10));
        let packets = rig.fronts[attacker].receive_all();
        assert_eq!(packets.iter().map(|packet| packet.error).collect::<Vec<_>>(), [Some(-1)]);
    }
    rig.run(Duration::from_secs(2));
    assert!(!rig.lines(attacker, "GRANT").is_empty());
    rig.fronts[attacker].keep_posted(64);
    rig.run(Duration::from_millis(10));
    rig.assert_works(attacker);
    rig.assert_works(victim);
}

#[test]
fn a_frontend_that_does_not_notify_is_served_within_its_drain_time_nf_47() {
    let mut rig = Rig::new();
    let options =
        NetfrontOptions { rx_buffers: 0, features: vec![("request-rx-copy", "1")], ..NetfrontOptions::default() };
    let guest = rig.guest_with(options);
    rig.wire.inject(&frame(Rig::mac(guest), REMOTE, 60, 1));
    rig.run(Duration::from_millis(10));
    // Posted behind the backend's back.
    let page = Page::new();
    let gref = rig.xen.grant_for(rig.device(guest), &page, Access::ReadWrite);
    rig.fronts[guest].put_buffer(0, gref, page);
    rig.fronts[guest].publish_rx();
    rig.run(Duration::from_millis(100));
    assert_eq!(rig.fronts[guest].receive_all().len(), 1);
}

#[test]
fn a_guest_without_scatter_gather_gets_no_packet_of_several_slots() {
    let mut rig = Rig::new();
    let sender = rig.guest();
    let plain =
        rig.guest_with(NetfrontOptions { features: vec![("request-rx-copy", "1")], ..NetfrontOptions::default() });
    for len in [4096, 4097, 9000] {
        rig.fronts[sender].send(&frame(Rig::mac(plain), Rig::mac(sender), len, 0));
    }
    rig.run(Duration::from_millis(100));
    let received = rig.fronts[plain].receive_all();
    assert_eq!(received.iter().map(|packet| packet.bytes.len()).collect::<Vec<_>>(), [4096]);
}
