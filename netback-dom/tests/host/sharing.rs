//! Guests side by side: shares, bounds, and how much work a packet is.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use fake_xen::{CopyOp, NetfrontOptions};
use netback_dom::nic::Link;
use xen_pv_rt::hyp::GrantError;

use crate::packets::{BROADCAST, REMOTE, frame};
use crate::rig::{Guest, Rig};

/// Counts the grant copies from now on: all of them, and those from guest to guest.
fn count_copies(rig: &Rig) -> (Rc<Cell<usize>>, Rc<Cell<usize>>) {
    let (all, direct) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
    let (count_all, count_direct) = (all.clone(), direct.clone());
    rig.xen.faults().copy = Some(Box::new(move |op: &CopyOp| {
        count_all.set(count_all.get() + 1);
        count_direct.set(count_direct.get() + usize::from(op.source.is_some() && op.dest.is_some()));
        None
    }));
    (all, direct)
}

/// Lets the switch know where [`REMOTE`] is, so that packets for it are not flooded.
fn introduce_remote(rig: &mut Rig) {
    rig.wire.inject(&frame(BROADCAST, REMOTE, 60, 0));
    rig.run(Duration::from_millis(5));
    rig.fronts.iter_mut().for_each(|front| drop(front.receive_all()));
}

/// Fills a guest's transmit ring with packets to the wire.
fn fill(rig: &mut Rig, guest: Guest) {
    let packet = frame(REMOTE, Rig::mac(guest), 1000, guest as u8);
    while rig.fronts[guest].tx_free() > 0 {
        rig.fronts[guest].send(&packet);
    }
}

fn sent_by(rig: &Rig, guest: Guest) -> usize {
    rig.wire.sent.iter().filter(|sent| sent.bytes[6..12] == Rig::mac(guest)).count()
}

#[test]
fn guests_that_flood_get_equal_shares() {
    let mut rig = Rig::new();
    let guests: Vec<_> = (0..5).map(|_| rig.guest()).collect();
    introduce_remote(&mut rig);
    // The card takes fewer frames than any guest offers.
    rig.wire.room = 0;
    for _ in 0..200 {
        guests.iter().for_each(|guest| fill(&mut rig, *guest));
        rig.wire.room = 10;
        rig.step();
    }
    let shares: Vec<_> = guests.iter().map(|guest| sent_by(&rig, *guest)).collect();
    let (least, most) = (*shares.iter().min().unwrap(), *shares.iter().max().unwrap());
    assert!(least * 10 >= most * 8, "{shares:?}");
    assert!(shares.iter().sum::<usize>() >= 1900, "{shares:?}");
}

#[test]
fn a_congested_card_drops_nothing_and_holds_up_no_traffic_between_guests() {
    let mut rig = Rig::new();
    let (first, second, third) = (rig.guest(), rig.guest(), rig.guest());
    introduce_remote(&mut rig);
    rig.assert_works(first);
    rig.wire.sent.clear();
    rig.wire.room = 0;
    fill(&mut rig, first);
    rig.run(Duration::from_millis(50));
    let waiting = rig.fronts[first].tx_unanswered();
    assert!(waiting > 100, "packets wait in the guest's own ring: {waiting}");
    let packet = frame(Rig::mac(third), Rig::mac(second), 700, 9);
    rig.fronts[second].send(&packet);
    rig.run(Duration::from_millis(5));
    assert_eq!(rig.fronts[third].receive().map(|packet| packet.bytes), Some(packet));
    rig.wire.room = usize::MAX;
    rig.until("all is sent", |rig| rig.fronts[first].tx_unanswered() == 0);
    rig.run(Duration::from_millis(5));
    assert!(rig.fronts[first].take_answers().iter().all(|answer| answer.status == 0));
    assert_eq!(sent_by(&rig, first), 256);
}

#[test]
fn without_a_link_packets_are_dropped_and_answered() {
    let mut rig = Rig::new();
    let guest = rig.guest();
    rig.wire.link = Link::Down;
    fill(&mut rig, guest);
    rig.until("all is answered", |rig| rig.fronts[guest].tx_unanswered() == 0);
    assert!(rig.fronts[guest].take_answers().iter().all(|answer| answer.status == -2));
    rig.wire.link = Link::Up(1000);
    rig.assert_works(guest);
}

#[test]
fn a_broadcast_to_many_is_one_frame_in_our_memory() {
    let mut rig = Rig::new();
    // Nobody posts buffers, so that every receiver's copy has to wait.
    let guests: Vec<_> =
        (0..12).map(|_| rig.guest_with(NetfrontOptions { rx_buffers: 0, ..NetfrontOptions::default() })).collect();
    let sender = rig.guest();
    let free = rig.buffers.available();
    rig.fronts[sender].send(&frame(BROADCAST, Rig::mac(sender), 1000, 1));
    rig.run(Duration::from_millis(10));
    assert_eq!(rig.buffers.available(), free - 1);
    for guest in &guests {
        rig.fronts[*guest].post(4);
    }
    rig.run(Duration::from_millis(10));
    assert_eq!(rig.buffers.available(), free);
    assert!(guests.iter().all(|guest| rig.fronts[*guest].receive_all().len() == 1));
}

#[test]
fn packets_of_one_turn_share_a_hypercall() {
    let mut rig = Rig::new();
    let guests: Vec<_> = (0..4).map(|_| rig.guest()).collect();
    guests.iter().for_each(|guest| rig.assert_works(*guest));
    let before = rig.netback.copied().calls;
    for guest in &guests {
        for _ in 0..8 {
            rig.fronts[*guest].send(&frame(REMOTE, Rig::mac(*guest), 900, 1));
            rig.wire.inject(&frame(Rig::mac(*guest), REMOTE, 900, 2));
        }
    }
    rig.run(Duration::from_millis(10));
    assert!(guests.iter().all(|guest| rig.fronts[*guest].receive_all().len() == 8));
    assert_eq!(rig.netback.copied().calls - before, 1);
}

#[test]
fn a_large_packet_between_guests_is_copied_once_but_for_its_headers() {
    let mut rig = Rig::new();
    let (first, second) = (rig.guest(), rig.guest());
    rig.fronts[first].send(&frame(Rig::mac(second), Rig::mac(first), 60, 0));
    rig.run(Duration::from_millis(5));
    rig.fronts[second].receive_all();
    let (all, direct) = count_copies(&rig);
    let packet = frame(Rig::mac(second), Rig::mac(first), 3 * 4096, 5);
    rig.fronts[first].send(&packet);
    rig.run(Duration::from_millis(5));
    assert_eq!(rig.fronts[second].receive().map(|packet| packet.bytes), Some(packet));
    assert!(direct.get() >= 3);
    assert_eq!(all.get() - direct.get(), 2, "headers in, headers out");
}

#[test]
fn a_wrong_guess_about_the_destination_costs_a_copy_and_no_packet() {
    let mut rig = Rig::new();
    rig.wire.capabilities.max_frame = 9014;
    let (first, second) = (rig.guest(), rig.guest());
    introduce_remote(&mut rig);
    for round in 0..4 {
        let to = if round % 2 == 0 { Rig::mac(second) } else { REMOTE };
        let packet = frame(to, Rig::mac(first), 9014, round);
        rig.fronts[first].send(&packet);
        rig.run(Duration::from_millis(5));
        let arrived = if round % 2 == 0 {
            rig.fronts[second].receive().map(|packet| packet.bytes)
        } else {
            rig.wire.sent.pop().map(|sent| sent.bytes)
        };
        assert!(arrived == Some(packet), "round {round}");
    }
    assert_eq!(rig.fronts[second].receive(), None);
}

#[test]
fn a_large_packet_waits_for_a_guest_without_buffers_and_frees_the_sender() {
    let mut rig = Rig::new();
    let first = rig.guest();
    let second = rig.guest_with(NetfrontOptions { rx_buffers: 0, ..NetfrontOptions::default() });
    let packets: Vec<_> = (0..3).map(|seed| frame(Rig::mac(second), Rig::mac(first), 9014, seed)).collect();
    for packet in &packets {
        rig.fronts[first].send(packet);
        rig.run(Duration::from_millis(5));
    }
    assert_eq!(rig.fronts[first].tx_unanswered(), 0);
    rig.fronts[second].post(64);
    rig.run(Duration::from_millis(5));
    let received: Vec<_> = rig.fronts[second].receive_all().into_iter().map(|packet| packet.bytes).collect();
    assert!(received == packets);
}

#[test]
fn a_bad_grant_behind_the_headers_ends_copies_from_guest_to_guest_for_its_sender() {
    let mut rig = Rig::new();
    let (first, second) = (rig.guest(), rig.guest());
    rig.fronts[first].send(&frame(Rig::mac(second), Rig::mac(first), 60, 0));
    rig.run(Duration::from_millis(5));
    rig.fronts[second].receive_all();
    rig.fronts[first].take_answers();
    rig.xen.faults().copy =
        Some(Box::new(|op: &CopyOp| (op.source.is_some() && op.dest.is_some()).then_some(GrantError::BadGntref)));
    rig.fronts[first].send(&frame(Rig::mac(second), Rig::mac(first), 9014, 1));
    rig.run(Duration::from_millis(5));
    assert!(rig.fronts[second].receive_all().iter().all(|packet| packet.error.is_some()));
    assert!(rig.fronts[first].take_answers().iter().all(|answer| answer.status == -2));
    // From now on its packets are copied to us first, where a bad grant is its own affair.
    let packet = frame(Rig::mac(second), Rig::mac(first), 9014, 2);
    rig.fronts[first].send(&packet);
    rig.run(Duration::from_millis(5));
    assert!(rig.fronts[second].receive().map(|packet| packet.bytes) == Some(packet));
}

#[test]
fn guests_that_take_nothing_leave_buffers_for_another() {
    // 48 pages may wait for guests; the card has 64 buffers.
    let mut rig = Rig::with_buffers(96);
    let slow: Vec<_> =
        (0..6).map(|_| rig.guest_with(NetfrontOptions { rx_buffers: 0, ..NetfrontOptions::default() })).collect();
    let quick = rig.guest();
    for guest in slow {
        (0..60).for_each(|_| rig.wire.inject(&frame(Rig::mac(guest), REMOTE, 1000, 1)));
    }
    (0..30).for_each(|_| rig.wire.inject(&frame(Rig::mac(quick), REMOTE, 1000, 2)));
    rig.run(Duration::from_millis(20));
    assert_eq!(rig.fronts[quick].receive_all().len(), 30);
    assert!(!rig.wire.has_interrupt());
    rig.assert_works(quick);
}
