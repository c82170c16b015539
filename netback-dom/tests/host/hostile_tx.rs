//! Frontends that lie on the transmit ring: cases NF-01 to NF-41 of the catalogue of hostile inputs.

use std::time::Duration;

use fake_xen::{Netfront, NetfrontOptions, Page};
use xen_pv_rt::hyp::{Access, Domid, GrantError, GrantRef};

use crate::packets::{CSUM_BLANK, DATA_VALIDATED, EXTRA_INFO, MORE_DATA, REMOTE, frame, slot};
use crate::rig::Rig;

/// The attack costs the attacker its vif.
fn kills(cause: &str, attack: impl Fn(&mut Netfront)) {
    let (mut rig, attacker, victim) = Rig::attacker_and_victim();
    attack(&mut rig.fronts[attacker]);
    rig.assert_killed(attacker, victim, cause);
}

/// The attack costs the attacker a packet of `slots` requests.
fn drops(cause: &str, slots: usize, attack: impl Fn(&mut Netfront)) {
    let (mut rig, attacker, victim) = Rig::attacker_and_victim();
    attack(&mut rig.fronts[attacker]);
    rig.assert_dropped(attacker, victim, cause, slots);
}

/// Puts one slot with a page of its own.
fn gso(size: u16, kind: u8, more: bool) -> [u32; 2] {
    let [low, high] = size.to_le_bytes();
    [u32::from_le_bytes([1, more.into(), low, high]), u32::from(kind)]
}

#[test]
fn a_producer_index_beyond_the_ring_kills_nf_01_03() {
    for ahead in [257, 1 << 31, u32::MAX] {
        kills("TX_PROD", |front| {
            let value = front.tx_req_prod().wrapping_add(ahead);
            front.set_tx_req_prod(value);
        });
    }
}

#[test]
fn a_producer_index_moving_backwards_kills_nf_02() {
    kills("TX_PROD", |front| {
        let value = front.tx_req_prod().wrapping_sub(1);
        front.set_tx_req_prod(value);
    });
}

#[test]
fn scribbling_over_the_backends_indices_changes_nothing_nf_04() {
    let (mut rig, attacker, victim) = Rig::attacker_and_victim();
    for value in [0, 1, 0xffff_ffff, 0xdead_beef] {
        rig.fronts[attacker].frozen = true;
        let packet = frame(REMOTE, Rig::mac(attacker), 60, 0);
        rig.fronts[attacker].scribble_indices(value);
        rig.fronts[attacker].send(&packet);
        rig.fronts[attacker].notify_tx();
        rig.wire.inject(&frame(Rig::mac(attacker), REMOTE, 60, 0));
        rig.run(Duration::from_millis(5));
        // The responses have put the published indices right again.
        rig.fronts[attacker].frozen = false;
        rig.run(Duration::from_millis(5));
        assert_eq!(rig.fronts[attacker].take_answers().len(), 1);
        assert_eq!(rig.fronts[attacker].receive_all().len(), 1);
    }
    rig.assert_works(attacker);
    rig.assert_works(victim);
}

#[test]
fn indices_wrap_nf_06() {
    let mut rig = Rig::new();
    let guest = rig.guest_with(NetfrontOptions { start_index: 0xffff_ff00, ..NetfrontOptions::default() });
    for round in 0..40_u8 {
        for _ in 0..20 {
            rig.fronts[guest].send(&frame(REMOTE, Rig::mac(guest), 100, round));
            rig.wire.inject(&frame(Rig::mac(guest), REMOTE, 100, round));
        }
        rig.until("answered", |rig| rig.fronts[guest].tx_unanswered() == 0 && !rig.wire.has_interrupt());
        rig.run(Duration::from_millis(2));
        assert!(rig.fronts[guest].take_answers().iter().all(|answer| answer.status == 0));
        assert_eq!(rig.fronts[guest].receive_all().len(), 20);
    }
    assert_eq!(rig.wire.sent.len(), 800);
    assert!(rig.fronts[guest].tx_req_prod() < 1000);
}

#[test]
fn a_packet_posted_at_any_moment_is_served_nf_09() {
    let mut rig = Rig::new();
    let guest = rig.guest();
    for pause in (0..200).map(|round| round * 7 % 5) {
        rig.fronts[guest].send(&frame(REMOTE, Rig::mac(guest), 60, 0));
        rig.run(Duration::from_millis(pause));
    }
    rig.until("every packet is answered", |rig| rig.fronts[guest].tx_unanswered() == 0);
    assert_eq!(rig.wire.sent.len(), 200);
}

#[test]
fn the_frontend_decides_how_often_it_is_notified_nf_10() {
    let mut rig = Rig::new();
    let guest = rig.guest_with(NetfrontOptions { rx_buffers: 0, ..NetfrontOptions::default() });
    rig.run(Duration::from_millis(5));
    let before = rig.fronts[guest].notifications();
    rig.fronts[guest].frozen = true;
    let far = rig.fronts[guest].tx_req_prod().wrapping_sub(100);
    rig.fronts[guest].set_tx_rsp_event(far);
    for _ in 0..20 {
        rig.fronts[guest].send(&frame(REMOTE, Rig::mac(guest), 60, 0));
        rig.fronts[guest].notify_tx();
        rig.run(Duration::from_millis(1));
    }
    assert_eq!(rig.fronts[guest].notifications(), before, "nobody asked for one");
    for count in 1..=20 {
        let next = rig.fronts[guest].tx_req_prod().wrapping_add(1);
        rig.fronts[guest].set_tx_rsp_event(next);
        rig.fronts[guest].send(&frame(REMOTE, Rig::mac(guest), 60, 0));
        rig.run(Duration::from_millis(2));
        assert_eq!(rig.fronts[guest].notifications(), before + count, "one for each");
    }
}

#[test]
fn a_packet_without_a_whole_header_is_dropped_nf_11_12() {
    for size in [0, 1, 13] {
        drops("TX_SHORT", 1, |front| {
            slot(front, 0, size, 0);
            front.push_tx();
        });
    }
}

#[test]
fn a_slot_that_leaves_its_page_kills_nf_13_14() {
    for (offset, size) in [(0, 65535), (4095, 2), (65535, 1), (1, 4096), (32768, 32768)] {
        kills("TX_PAGE", |front| {
            slot(front, offset, size, 0);
            front.push_tx();
        });
    }
}

#[test]
fn a_later_slot_that_leaves_its_page_kills() {
    kills("TX_PAGE", |front| {
        slot(front, 0, 4000, MORE_DATA);
        slot(front, 4000, 97, 0);
        front.push_tx();
    });
}

#[test]
fn slots_larger_than_the_packet_drop_it_nf_15() {
    drops("TX_TOTAL", 3, |front| {
        slot(front, 0, 100, MORE_DATA);
        slot(front, 0, 60, MORE_DATA);
        slot(front, 0, 60, 0);
        front.push_tx();
    });
}

#[test]
fn a_packet_that_does_not_end_kills_nf_17() {
    kills("TX_CHAIN", |front| {
        slot(front, 0, 100, MORE_DATA);
        front.push_tx();
    });
}

#[test]
fn nineteen_and_twenty_slots_drop_the_packet_nf_18() {
    for count in [19, 20] {
        drops("TX_SLOTS", count, |front| chain(front, count));
    }
}

#[test]
fn more_than_twenty_slots_kill_nf_19_20() {
    for count in [21, 256] {
        kills("TX_SLOTS", |front| {
            // Room for all of them.
            assert_eq!(front.tx_free(), 256);
            chain(front, count);
        });
    }
}

fn chain(front: &mut Netfront, count: usize) {
    for index in 0..count {
        let size = if index == 0 { 60 * count } else { 60 };
        slot(front, 0, u16::try_from(size).unwrap(), if index + 1 < count { MORE_DATA } else { 0 });
    }
    front.push_tx();
}

#[test]
fn empty_slots_change_nothing_on_the_wire_nf_21() {
    let mut rig = Rig::new();
    let guest = rig.guest();
    let packet = frame(REMOTE, Rig::mac(guest), 300, 5);
    for lengths in
        [vec![300, 0], vec![300, 0, 0, 0], vec![100, 0, 200], vec![100, 200, 0], vec![0, 300], vec![14, 0, 286]]
    {
        rig.wire.sent.clear();
        rig.fronts[guest].send_in(&packet, &lengths);
        rig.until("answered", |rig| rig.fronts[guest].tx_unanswered() == 0);
        let sent: Vec<_> = rig.wire.sent.iter().map(|sent| &sent.bytes).collect();
        assert_eq!(sent, [&packet], "{lengths:?}");
        assert!(rig.fronts[guest].take_answers().iter().all(|answer| answer.status == 0));
    }
}

#[test]
fn eighteen_slots_with_fewer_bytes_than_headers_are_a_packet_nf_22() {
    let (mut rig, attacker, victim) = Rig::attacker_and_victim();
    for total in 20..128 {
        rig.wire.sent.clear();
        let packet = frame(REMOTE, Rig::mac(attacker), total, 7);
        let mut lengths = vec![1; 18];
        lengths[0] = total - 17;
        rig.fronts[attacker].send_in(&packet, &lengths);
        rig.until("answered", |rig| rig.fronts[attacker].tx_unanswered() == 0);
        assert_eq!(rig.wire.sent.iter().map(|sent| &sent.bytes).collect::<Vec<_>>(), [&packet]);
    }
    rig.assert_works(victim);
}

#[test]
fn headers_may_be_split_anywhere_and_arrive_in_one_piece_nf_23() {
    let mut rig = Rig::new();
    let (guest, other) = (rig.guest(), rig.guest());
    for to in [REMOTE, Rig::mac(other)] {
        let packet = frame(to, Rig::mac(guest), 400, 9);
        for split in 1..100 {
            rig.fronts[guest].send_in(&packet, &[split, 400 - split]);
            rig.until("answered", |rig| rig.fronts[guest].tx_unanswered() == 0);
        }
    }
    rig.run(Duration::from_millis(5));
    // Cards rely on the headers being in the first buffer.
    assert_eq!(rig.wire.sent.len(), 99);
    assert!(rig.wire.sent.iter().all(|sent| sent.head >= 128 && sent.bytes == frame(REMOTE, Rig::mac(guest), 400, 9)));
    let received = rig.fronts[other].receive_all();
    let expected = frame(Rig::mac(other), Rig::mac(guest), 400, 9);
    // Those for the unknown station were flooded.
    assert_eq!(received.iter().filter(|packet| packet.bytes == expected).count(), 99);
    assert_eq!(received.len(), 198);
}

#[test]
fn a_blank_checksum_where_there_is_none_harms_nobody_nf_26_27() {
    let (mut rig, attacker, victim) = Rig::attacker_and_victim();
    for flags in [CSUM_BLANK, CSUM_BLANK | DATA_VALIDATED, DATA_VALIDATED, 0xfff0] {
        for len in [14, 20, 33, 34, 35, 53, 54, 60] {
            let page = Page::new();
            let mut packet = frame(REMOTE, Rig::mac(attacker), len, 0);
            // IPv4 with TCP, as far as it goes.
            for (at, byte) in [(12, 0x08), (13, 0x00), (14, 0x4f), (23, 6)] {
                if let Some(place) = packet.get_mut(at) {
                    *place = byte;
                }
            }
            page.write(0, &packet);
            rig.fronts[attacker].put_request(&page, 0, u16::try_from(len).unwrap(), flags);
        }
        rig.fronts[attacker].push_tx();
        rig.until("answered", |rig| rig.fronts[attacker].tx_unanswered() == 0);
    }
    assert!(rig.is_connected(attacker));
    rig.assert_works(victim);
    rig.assert_works(attacker);
}

#[test]
fn an_announced_extra_that_is_missing_kills_nf_28() {
    kills("TX_EXTRA_MISSING", |front| {
        slot(front, 0, 100, EXTRA_INFO);
        front.push_tx();
    });
}

#[test]
fn an_extra_of_an_unknown_kind_kills_nf_29_36() {
    for kind in [0, 5, 6, 255] {
        kills("TX_EXTRA_TYPE", |front| {
            slot(front, 0, 100, EXTRA_INFO);
            front.put_extra([kind, 0]);
            front.push_tx();
        });
    }
}

#[test]
fn an_endless_chain_of_extras_kills_nf_30() {
    kills("TX_EXTRA_CHAIN", |front| {
        slot(front, 0, 100, EXTRA_INFO);
        for _ in 0..255 {
            front.put_extra(gso(1448, 1, true));
        }
        front.push_tx();
    });
}

#[test]
fn segmentation_into_nothing_kills_nf_32() {
    kills("GSO_SIZE", |front| {
        slot(front, 0, 100, EXTRA_INFO);
        front.put_extra(gso(0, 1, false));
        front.push_tx();
    });
}

#[test]
fn segmentation_of_an_unknown_kind_kills_nf_33() {
    for kind in [0, 3, 255] {
        kills("GSO_TYPE", |front| {
            slot(front, 0, 100, EXTRA_INFO);
            front.put_extra(gso(1448, kind, false));
            front.push_tx();
        });
    }
}

#[test]
fn a_grant_that_is_not_ours_drops_the_packet_nf_37() {
    for gref in [0, 1, 7, 0xffff_ffff] {
        drops("GRANT", 1, |front| {
            front.put_request_for(GrantRef::from_raw(gref), 0, 100, 0);
            front.push_tx();
        });
    }
}

#[test]
fn a_grant_to_a_third_domain_drops_the_packet_nf_37() {
    let (mut rig, attacker, victim) = Rig::attacker_and_victim();
    let (domid, third) = (rig.domid(attacker), Domid::from_raw(77));
    let gref = rig.xen.grant_to(domid, third, &Page::new(), Access::ReadOnly, None);
    rig.fronts[attacker].put_request_for(gref, 0, 100, 0);
    rig.fronts[attacker].push_tx();
    rig.assert_dropped(attacker, victim, "GRANT", 1);
}

#[test]
fn one_bad_slot_among_good_packets_spoils_only_its_own_nf_38() {
    for status in [
        GrantError::BadGntref,
        GrantError::General,
        GrantError::Again,
        GrantError::NoSpace,
        GrantError::PermissionDenied,
        GrantError::BadPage,
        GrantError::BadCopyArg,
        GrantError::BadDomain,
        GrantError::BadHandle,
        GrantError::BadAddress,
        GrantError::NoDeviceSpace,
        GrantError::AddressTooBig,
    ] {
        for bad in 0..5_usize {
            let (mut rig, attacker, victim) = Rig::attacker_and_victim();
            let mut grefs = Vec::new();
            let before = rig.wire.sent.len();
            for _ in 0..5 {
                let page = Page::new();
                page.write(0, &frame(REMOTE, Rig::mac(attacker), 200, 0));
                let gref = rig.xen.grant_for(rig.device(attacker), &page, Access::ReadOnly);
                rig.fronts[attacker].put_request_for(gref, 0, 200, 0);
                grefs.push(gref);
            }
            let (domid, victim_gref) = (rig.domid(attacker), grefs[bad]);
            rig.xen.faults().copy =
                Some(Box::new(move |op| (op.source == Some((domid, victim_gref))).then_some(status)));
            rig.fronts[attacker].push_tx();
            rig.until("answered", |rig| rig.fronts[attacker].tx_unanswered() == 0);
            let answers: Vec<i16> = rig.fronts[attacker].take_answers().iter().map(|answer| answer.status).collect();
            let expected: Vec<i16> = (0..5).map(|index| if index == bad { -1 } else { 0 }).collect();
            assert_eq!(answers, expected, "{status:?}");
            assert_eq!(rig.wire.sent.len() - before, 4);
            rig.xen.faults().copy = None;
            rig.assert_works(victim);
        }
    }
}

#[test]
fn a_bad_grant_in_any_slot_of_a_chain_drops_that_packet_only_nf_38() {
    for bad in 0..4 {
        let (mut rig, attacker, victim) = Rig::attacker_and_victim();
        let packet = frame(Rig::mac(victim), Rig::mac(attacker), 12000, 3);
        rig.fronts[victim].receive_all();
        for index in 0..4_usize {
            let page = Page::new();
            page.write(0, &packet[index * 3000..][..3000]);
            let size = if index == 0 { 12000 } else { 3000 };
            let flags = if index < 3 { MORE_DATA } else { 0 };
            if index == bad {
                rig.fronts[attacker].put_request_for(GrantRef::from_raw(1), 0, size, flags);
            } else {
                rig.fronts[attacker].put_request(&page, 0, size, flags);
            }
        }
        rig.fronts[attacker].push_tx();
        rig.assert_dropped(attacker, victim, "GRANT", 4);
        assert!(rig.fronts[victim].receive_all().is_empty(), "slot {bad}: the victim got a broken packet");
    }
}

#[test]
fn only_the_bytes_of_the_packet_are_read() {
    let mut rig = Rig::new();
    let (guest, other) = (rig.guest(), rig.guest());
    for to in [REMOTE, Rig::mac(other)] {
        let page = Page::new();
        page.write(1000, &frame(to, Rig::mac(guest), 333, 0));
        let gref = rig.xen.grant_for(rig.device(guest), &page, Access::ReadOnly);
        let domid = rig.domid(guest);
        rig.fronts[guest].frozen = true;
        rig.fronts[guest].put_request_for(gref, 1000, 333, 0);
        rig.fronts[guest].push_tx();
        rig.run(Duration::from_millis(5));
        let read = rig.xen.copied_from(domid, gref);
        assert!(!read.is_empty() && read.iter().all(|range| range.start >= 1000 && range.end <= 1333), "{read:?}");
        rig.fronts[guest].frozen = false;
        rig.run(Duration::from_millis(5));
    }
}

#[test]
fn a_flood_of_bad_packets_is_one_line_a_second() {
    let (mut rig, attacker, victim) = Rig::attacker_and_victim();
    let mut bad = 0;
    let started = rig.xen.now();
    while rig.xen.now().saturating_since(started) < Duration::from_secs(5) {
        for _ in 0..20 {
            slot(&mut rig.fronts[attacker], 0, 5, 0);
            bad += 1;
        }
        rig.fronts[attacker].push_tx();
        rig.run(Duration::from_millis(20));
    }
    rig.assert_works(victim);
    let lines = rig.lines(attacker, "TX_SHORT");
    assert!((2..=6).contains(&lines.len()), "{lines:?}");
    // Every line says how many it stands for.
    let counted: u64 = lines.iter().map(|line| 1 + line.split(" n=").nth(1).unwrap().parse::<u64>().unwrap()).sum();
    assert!(counted > bad / 2 && counted <= bad, "{counted} of {bad}");
}
