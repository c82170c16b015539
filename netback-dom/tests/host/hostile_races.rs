//! Frontends that change what they have published while it is being served: cases NF-07, NF-08, NF-37, NF-38 and NF-51.
//!
//! The fake lets a test act in the instant before each grant copy, between the look at a request and the move of its
//! bytes. That each word of a slot is loaded once is held by `ring/tests/rings/double_fetch.rs`.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use fake_xen::{NetfrontOptions, Page};
use xen_pv_rt::hyp::{Access, GrantError};

use crate::packets::{BROADCAST, REMOTE, frame};
use crate::rig::Rig;

const MOMENT: Duration = Duration::from_millis(10);
/// Words of a ring page in front of its slots.
const HEADER_WORDS: usize = 16;

/// Overwrites every slot of a ring.
fn overwrite(page: &Page, value: u32) {
    (HEADER_WORDS..page.words().len()).for_each(|word| page.set_word(word, value));
}

#[test]
fn a_request_that_changes_once_it_was_taken_changes_nothing_nf_07_08() {
    // Nothing, everything at once, an offset of 65535 with a size of 65535, other grants.
    for value in [0, u32::MAX, 0xffff_0000, 0x0000_ffff, 9] {
        let (mut rig, attacker, victim) = Rig::attacker_and_victim();
        let ring = rig.fronts[attacker].tx_page().clone();
        rig.xen.faults().copy = Some(Box::new(move |_| {
            overwrite(&ring, value);
            None
        }));
        let packets: Vec<_> = (0..4).map(|seed| frame(REMOTE, Rig::mac(attacker), 6000, seed)).collect();
        rig.wire.capabilities.max_frame = 9000;
        rig.wire.sent.clear();
        for packet in &packets {
            rig.fronts[attacker].send_in(packet, &[100, 4000, 1900]);
        }
        rig.run(MOMENT);
        let sent: Vec<_> = rig.wire.sent.iter().map(|sent| &sent.bytes).collect();
        assert!(sent.iter().copied().eq(&packets), "{value:#x}");
        assert!(rig.fronts[attacker].take_answers().iter().all(|answer| answer.status == 0));
        rig.xen.faults().copy = None;
        rig.assert_works(attacker);
        rig.assert_works(victim);
    }
}

#[test]
fn a_buffer_that_changes_once_it_was_taken_is_the_one_it_was_nf_08() {
    for value in [0, u32::MAX, 9] {
        let mut rig = Rig::new();
        let guest = rig.guest_with(NetfrontOptions { rx_buffers: 0, ..NetfrontOptions::default() });
        rig.fronts[guest].post(3);
        let ring = rig.fronts[guest].rx_page().clone();
        rig.xen.faults().copy = Some(Box::new(move |_| {
            overwrite(&ring, value);
            None
        }));
        let packets: Vec<_> = (0..3).map(|seed| frame(Rig::mac(guest), REMOTE, 700, seed)).collect();
        packets.iter().for_each(|packet| rig.wire.inject(packet));
        rig.run(MOMENT);
        // That each answer has its buffer's id is checked by the frontend.
        let received: Vec<_> = rig.fronts[guest].receive_all().into_iter().map(|packet| packet.bytes).collect();
        assert_eq!(received, packets, "{value:#x}");
        rig.xen.faults().copy = None;
    }
}

#[test]
fn headers_that_change_once_they_were_read_are_sent_as_they_were_nf_08() {
    let (mut rig, attacker, victim) = Rig::attacker_and_victim();
    // The next large packet is expected to go to the victim, too: its headers are copied first, then the rest.
    rig.fronts[attacker].send(&frame(Rig::mac(victim), Rig::mac(attacker), 60, 0));
    rig.run(MOMENT);
    rig.fronts[victim].receive_all();
    let packet = frame(Rig::mac(victim), Rig::mac(attacker), 8000, 1);
    let pages = [Page::new(), Page::new()];
    for (page, part) in pages.iter().zip(packet.chunks(4000)) {
        page.write(0, part);
    }
    let (domid, first, copies) = (rig.domid(attacker), pages[0].clone(), Rc::new(Cell::new(0)));
    let count = copies.clone();
    rig.xen.faults().copy = Some(Box::new(move |op| {
        if op.source.is_some_and(|(source, _)| source == domid) && count.replace(count.get() + 1) > 0 {
            first.write(0, &frame(BROADCAST, [0xee; 6], 256, 9));
        }
        None
    }));
    rig.fronts[attacker].put_request(&pages[0], 0, 8000, 4);
    rig.fronts[attacker].put_request(&pages[1], 0, 4000, 0);
    rig.fronts[attacker].push_tx();
    rig.run(MOMENT);
    rig.xen.faults().copy = None;
    let received: Vec<_> = rig.fronts[victim].receive_all().into_iter().map(|packet| packet.bytes).collect();
    assert!(received == [packet], "{} packets", received.len());
    assert!(copies.get() > 1, "the test wants a packet that is copied in two steps");
    assert!(rig.fronts[attacker].take_answers().iter().all(|answer| answer.status == 0));
}

#[test]
fn a_grant_that_ends_before_its_copy_costs_that_packet_nf_38() {
    let (mut rig, attacker, victim) = Rig::attacker_and_victim();
    let (domid, device) = (rig.domid(attacker), rig.device(attacker));
    let grefs = [0, 1, 2].map(|seed| {
        let page = Page::new();
        page.write(0, &frame(REMOTE, Rig::mac(attacker), 200, seed));
        let gref = rig.xen.grant_for(device, &page, Access::ReadOnly);
        rig.fronts[attacker].put_request_for(gref, 0, 200, 0);
        gref
    });
    let xen = rig.xen.clone();
    rig.xen.faults().copy = Some(Box::new(move |op| {
        if op.source.is_some_and(|(source, _)| source == domid) {
            xen.revoke(domid, grefs[1]);
        }
        None
    }));
    let before = rig.wire.sent.len();
    rig.fronts[attacker].push_tx();
    rig.until("answered", |rig| rig.fronts[attacker].tx_unanswered() == 0);
    rig.xen.faults().copy = None;
    let answers: Vec<i16> = rig.fronts[attacker].take_answers().iter().map(|answer| answer.status).collect();
    assert_eq!((answers, rig.wire.sent.len() - before), (vec![0, -1, 0], 2));
    rig.run(Duration::from_secs(1));
    assert_eq!(rig.lines(attacker, "GRANT").len(), 1);
    rig.assert_works(attacker);
    rig.assert_works(victim);
}

#[test]
fn a_batch_of_which_every_copy_fails_costs_its_packets_and_no_more_nf_38() {
    let (mut rig, first, second) = Rig::attacker_and_victim();
    let before = rig.buffers.available();
    rig.xen.faults().copy = Some(Box::new(|_| Some(GrantError::General)));
    for guest in [first, second] {
        for seed in 0..3 {
            rig.fronts[guest].send(&frame(REMOTE, Rig::mac(guest), 5000, seed));
        }
        rig.wire.inject(&frame(Rig::mac(guest), REMOTE, 1000, 7));
    }
    rig.run(MOMENT);
    for guest in [first, second] {
        let answers: Vec<i16> = rig.fronts[guest].take_answers().iter().map(|answer| answer.status).collect();
        assert_eq!(answers, [-1; 6]);
        let received: Vec<_> = rig.fronts[guest].receive_all().into_iter().map(|packet| packet.error).collect();
        assert_eq!(received, [Some(-1)]);
    }
    rig.xen.faults().copy = None;
    assert_eq!(rig.buffers.available(), before);
    rig.assert_works(first);
    rig.assert_works(second);
}

#[test]
fn a_frame_writes_its_own_bytes_of_a_buffer_and_no_others() {
    let mut rig = Rig::new();
    let (guest, sender) =
        (rig.guest_with(NetfrontOptions { rx_buffers: 0, ..NetfrontOptions::default() }), rig.guest());
    for (from_wire, len) in [(true, 60), (true, 1514), (false, 60), (false, 4095), (false, 5000)] {
        let pages = [Page::new(), Page::new()];
        for page in &pages {
            page.write(0, &[0xa5; 4096]);
            let gref = rig.xen.grant_for(rig.device(guest), page, Access::ReadWrite);
            rig.fronts[guest].put_buffer(0, gref, page.clone());
        }
        rig.fronts[guest].push_rx();
        let packet = frame(Rig::mac(guest), if from_wire { REMOTE } else { Rig::mac(sender) }, len, 0);
        if from_wire {
            rig.wire.inject(&packet);
        } else {
            rig.fronts[sender].send(&packet);
        }
        rig.run(MOMENT);
        let mut bytes = [0; 8192];
        pages[0].read(0, &mut bytes[..4096]);
        pages[1].read(0, &mut bytes[4096..]);
        assert!(bytes[..len] == packet && bytes[len..].iter().all(|byte| *byte == 0xa5), "{len} bytes");
        // Uses up what is left.
        while rig.fronts[guest].posted() > 0 {
            rig.wire.inject(&frame(Rig::mac(guest), REMOTE, 60, 0));
            rig.run(MOMENT);
        }
        rig.fronts[guest].receive_all();
    }
}

#[test]
fn events_without_work_cost_no_copy_and_no_line_nf_51() {
    let (mut rig, attacker, victim) = Rig::attacker_and_victim();
    rig.run(Duration::from_secs(1));
    let (log, copies, usage) = (rig.log(), rig.netback.copied(), rig.usage());
    for _ in 0..2000 {
        for _ in 0..50 {
            rig.fronts[attacker].notify_tx();
            rig.fronts[attacker].notify_rx();
        }
        rig.step();
    }
    assert_eq!((rig.log(), rig.netback.copied(), rig.usage()), (log, copies, usage));
    rig.assert_works(victim);
    rig.assert_works(attacker);
}
