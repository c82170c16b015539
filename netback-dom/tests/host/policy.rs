//! What options and the toolstack's keys make of the switch: bridges, anti-spoofing, VLANs, isolation, storm limits.

use std::time::Duration;

use crate::packets::{BROADCAST, REMOTE, completed, frame, is_intact, tcp};
use crate::rig::{Guest, Rig};

const MOMENT: Duration = Duration::from_millis(10);

/// What arrived at a guest.
fn received(rig: &mut Rig, guest: Guest) -> Vec<Vec<u8>> {
    rig.fronts[guest].receive_all().into_iter().map(|packet| packet.bytes).collect()
}

/// What card number `card` was given to send since the last time.
fn sent(rig: &mut Rig, card: usize) -> Vec<Vec<u8>> {
    let wire = if card == 0 { &mut rig.wire } else { &mut rig.more_wires[card - 1] };
    wire.sent.drain(..).map(|sent| sent.bytes).collect()
}

/// The frame with a tag for a VLAN.
fn tagged(frame: &[u8], vlan: u16) -> Vec<u8> {
    let tag = [[0x81, 0], vlan.to_be_bytes()].concat();
    [&frame[..12], &tag, &frame[12..]].concat()
}

/// An ARP request from a guest, with these sender addresses.
fn arp(from: [u8; 6], sender: [u8; 4]) -> Vec<u8> {
    let mut packet = frame(BROADCAST, from, 14, 0);
    packet[12..14].copy_from_slice(&[8, 6]);
    packet.extend([0, 1, 8, 0, 6, 4, 0, 1]);
    packet.extend(from);
    packet.extend(sender);
    packet.extend([0; 6]);
    packet.extend([10, 0, 0, 1]);
    packet
}

#[test]
fn several_cards_have_a_bridge_each() {
    let mut rig = Rig::with_options("", 2);
    let guests = ["xenbr0", "xenbr1", "xenbr1"].map(|bridge| rig.guest_keyed(&[("bridge", bridge)]));
    for (guest, card) in [(guests[0], 0), (guests[1], 1)] {
        let packet = frame(BROADCAST, Rig::mac(guest), 100, 1);
        rig.fronts[guest].send(&packet);
        rig.run(MOMENT);
        assert_eq!(sent(&mut rig, card), [packet]);
        assert!(sent(&mut rig, 1 - card).is_empty());
        let others: Vec<usize> = guests.iter().map(|guest| received(&mut rig, *guest).len()).collect();
        assert_eq!(others, if card == 0 { [0, 0, 0] } else { [0, 0, 1] });
    }
    let packet = frame(BROADCAST, REMOTE, 100, 2);
    rig.more_wires[0].inject(&packet);
    rig.run(MOMENT);
    assert_eq!(guests.map(|guest| received(&mut rig, guest).len()), [0, 1, 1]);
    assert!(sent(&mut rig, 0).is_empty());
}

#[test]
fn a_bridge_of_several_cards_reaches_both_lans_and_joins_them_not() {
    let mut rig = Rig::with_options("bridge=lan:0,1", 2);
    let guest = rig.guest_keyed(&[("bridge", "lan")]);
    let stations = [[0x02, 0, 0, 0, 0xee, 0], [0x02, 0, 0, 0, 0xee, 1]];
    for (card, station) in stations.iter().enumerate() {
        let hello = frame(BROADCAST, *station, 60, 1);
        if card == 0 {
            rig.wire.inject(&hello)
        } else {
            rig.more_wires[0].inject(&hello)
        }
        rig.run(MOMENT);
        assert_eq!(received(&mut rig, guest), [hello]);
        assert!(sent(&mut rig, 1 - card).is_empty());
    }
    for (card, station) in stations.iter().enumerate() {
        let packet = frame(*station, Rig::mac(guest), 300, 2);
        rig.fronts[guest].send(&packet);
        rig.run(MOMENT);
        assert_eq!(sent(&mut rig, card), [packet]);
        assert!(sent(&mut rig, 1 - card).is_empty());
    }
}

#[test]
fn two_cards_on_one_lan_make_no_loop_and_no_echo() {
    let mut rig = Rig::with_options("bridge=lan:0,1", 2);
    let guests = [rig.guest_keyed(&[("bridge", "lan")]), rig.guest_keyed(&[("bridge", "lan")])];
    rig.fronts[guests[0]].send(&frame(BROADCAST, Rig::mac(guests[0]), 60, 1));
    rig.run(MOMENT);
    assert_eq!(received(&mut rig, guests[1]).len(), 1);
    // The LAN carries what one card sends to the other.
    for _ in 0..5 {
        let (first, second) = (sent(&mut rig, 0), sent(&mut rig, 1));
        first.iter().for_each(|frame| rig.more_wires[0].inject(frame));
        second.iter().for_each(|frame| rig.wire.inject(frame));
        rig.run(MOMENT);
    }
    assert!(rig.wire.sent.is_empty() && rig.more_wires[0].sent.is_empty());
    assert!(guests.iter().all(|guest| received(&mut rig, *guest).is_empty()));
}

#[test]
fn an_unknown_bridge_refuses_that_vif_and_no_other() {
    let mut rig = Rig::with_options("", 2);
    let lost = rig.add_with_keys(&[("bridge", "xenbr7")]);
    let guest = rig.guest_keyed(&[("bridge", "xenbr0")]);
    rig.assert_refused(lost, "BRIDGE", "xenbr7");
    rig.assert_works(guest);
}

#[test]
fn a_guest_with_a_list_of_addresses_uses_those() {
    let mut rig = Rig::new();
    let guest = rig.guest_keyed(&[("ip", "10.0.0.5 fd00::5")]);
    let free = rig.guest();
    let own = Rig::mac(guest);
    let allowed = [arp(own, [10, 0, 0, 5]), arp(own, [0, 0, 0, 0])];
    for packet in &allowed {
        rig.fronts[guest].send(packet);
    }
    for packet in [arp(own, [10, 0, 0, 6]), arp(REMOTE, [10, 0, 0, 5]), frame(REMOTE, own, 100, 1)] {
        rig.fronts[guest].send(&packet);
    }
    rig.run(Duration::from_millis(1100));
    assert_eq!(sent(&mut rig, 0), allowed);
    assert_eq!(received(&mut rig, free), allowed);
    let answers: Vec<i16> = rig.fronts[guest].take_answers().iter().map(|answer| answer.status).collect();
    assert_eq!(answers, [0, 0, -2, -2, -2]);
    assert_eq!(rig.lines(guest, "SPOOF").len(), 1, "{}", rig.state());
    rig.assert_works(free);
}

#[test]
fn no_other_guest_claims_an_address_in_a_list() {
    let mut rig = Rig::new();
    let (owner, thief) = (rig.guest_keyed(&[("ip", "10.0.0.5 10.1.0.0/16")]), rig.guest());
    let own = Rig::mac(thief);
    // Alone in the list, in a network of the list, in no list.
    for (sender, passes) in [([10, 0, 0, 5], false), ([10, 1, 0, 5], true), ([10, 0, 0, 6], true)] {
        rig.fronts[thief].send(&arp(own, sender));
        rig.run(MOMENT);
        assert_eq!(received(&mut rig, owner).len(), usize::from(passes), "{sender:?}");
        assert_eq!(sent(&mut rig, 0).len(), usize::from(passes), "{sender:?}");
    }
    rig.wire.inject(&arp(REMOTE, [10, 0, 0, 5]));
    rig.run(MOMENT);
    assert_eq!(received(&mut rig, owner).len(), 1, "addresses move between hosts");
}

#[test]
fn nobody_else_uses_the_address_of_a_guarded_guest() {
    let mut rig = Rig::with_options("antispoof=mac", 1);
    let (first, second) = (rig.guest(), rig.guest());
    rig.fronts[first].send(&frame(BROADCAST, Rig::mac(second), 60, 1));
    rig.wire.inject(&frame(BROADCAST, Rig::mac(second), 60, 1));
    rig.run(MOMENT);
    assert!(received(&mut rig, second).is_empty() && sent(&mut rig, 0).is_empty());
    // Nor does it see what is for an unknown station.
    rig.wire.inject(&frame([2, 0, 0, 0, 9, 9], REMOTE, 60, 1));
    rig.run(MOMENT);
    assert!(received(&mut rig, first).is_empty() && received(&mut rig, second).is_empty());
    rig.assert_works(first);
    rig.assert_works(second);
}

#[test]
fn keys_that_make_no_sense_refuse_their_vif() {
    let mut rig = Rig::new();
    for (key, value, cause) in [("ip", "10.0.0.300", "IP"), ("vlan", "10/20", "VLAN"), ("vlan", "4095", "VLAN")] {
        let guest = rig.add_with_keys(&[(key, value)]);
        rig.assert_refused(guest, cause, value);
    }
    let guest = rig.guest();
    rig.assert_works(guest);
}

#[test]
fn a_tag_is_put_in_on_the_wire_and_taken_out_for_the_guest() {
    let mut rig = Rig::new();
    rig.wire.capabilities.max_frame = 1518;
    let guest = rig.guest_keyed(&[("vlan", "10")]);
    for len in [14, 60, 1514] {
        let packet = frame(REMOTE, Rig::mac(guest), len, 1);
        rig.fronts[guest].send(&packet);
        rig.run(MOMENT);
        assert_eq!(sent(&mut rig, 0), [tagged(&packet, 10)], "{len} bytes");
        let back = frame(Rig::mac(guest), REMOTE, len, 2);
        rig.wire.inject(&tagged(&back, 10));
        rig.wire.inject(&tagged(&back, 11));
        rig.wire.inject(&back);
        rig.run(MOMENT);
        assert_eq!(received(&mut rig, guest), [back], "{len} bytes");
    }
}

#[test]
fn a_guest_reaches_its_vlans_and_no_other() {
    let mut rig = Rig::new();
    let guests: Vec<_> = ["10", "20", "10p/20", "1"].map(|vlan| rig.guest_keyed(&[("vlan", vlan)])).to_vec();
    let seen = |rig: &mut Rig| -> Vec<_> { guests.iter().map(|guest| received(rig, *guest)).collect() };
    let plain = |guest: Guest| frame(BROADCAST, Rig::mac(guest), 200, guest as u8);
    let none: Vec<Vec<u8>> = Vec::new();
    let first = plain(guests[0]);
    rig.fronts[guests[0]].send(&first);
    rig.run(MOMENT);
    assert_eq!(seen(&mut rig), [none.clone(), none.clone(), vec![first.clone()], none.clone()]);
    let second = plain(guests[1]);
    rig.fronts[guests[1]].send(&second);
    rig.run(MOMENT);
    assert_eq!(seen(&mut rig), [none.clone(), none.clone(), vec![tagged(&second, 20)], none.clone()]);
    let third = plain(guests[2]);
    rig.fronts[guests[2]].send(&tagged(&third, 20));
    rig.fronts[guests[2]].send(&third);
    rig.run(MOMENT);
    assert_eq!(seen(&mut rig), [vec![third.clone()], vec![third.clone()], none.clone(), none.clone()]);
    assert_eq!(sent(&mut rig, 0), [tagged(&first, 10), tagged(&second, 20), tagged(&third, 20), tagged(&third, 10)]);
    // Tags that are not theirs, and a tag behind their own.
    for (guest, vlan) in [(0, 20), (0, 1), (1, 10), (2, 1), (2, 30), (3, 10)] {
        rig.fronts[guests[guest]].send(&tagged(&plain(guests[guest]), vlan));
    }
    rig.fronts[guests[0]].send(&tagged(&tagged(&plain(guests[0]), 20), 10));
    rig.fronts[guests[3]].send(&tagged(&tagged(&plain(guests[3]), 20), 1));
    rig.run(MOMENT);
    assert!(seen(&mut rig).iter().all(Vec::is_empty) && sent(&mut rig, 0).is_empty());
    assert_eq!(rig.lines(guests[0], "VLAN").len(), 1);
}

#[test]
fn a_flood_reaches_guests_with_and_without_tags() {
    let mut rig = Rig::new();
    let guests: Vec<_> = ["20p/10", "10", "20p/10", "10"].map(|vlan| rig.guest_keyed(&[("vlan", vlan)])).to_vec();
    let packet = frame(BROADCAST, REMOTE, 1000, 3);
    let free = rig.buffers.available();
    rig.wire.inject(&tagged(&packet, 10));
    rig.run(MOMENT);
    for (guest, with_tag) in guests.iter().zip([true, false, true, false]) {
        let wanted = if with_tag { tagged(&packet, 10) } else { packet.clone() };
        assert_eq!(received(&mut rig, *guest), [wanted]);
    }
    assert_eq!(rig.buffers.available(), free);
}

#[test]
fn checksums_and_segments_are_finished_where_a_tag_is_in_front() {
    for ipv6 in [false, true] {
        let mut rig = Rig::new();
        rig.wire.capabilities.max_frame = 1518;
        let sender = rig.guest_keyed(&[("vlan", "10")]);
        let trunk = rig.guest_keyed(&[("vlan", "20p/10")]);
        let packet = tcp(Rig::mac(trunk), Rig::mac(sender), ipv6, 700);
        rig.fronts[sender].send_blank(&packet);
        rig.run(MOMENT);
        assert_eq!(received(&mut rig, trunk), [tagged(&completed(&packet), 10)]);
        let packet = tcp(REMOTE, Rig::mac(sender), ipv6, 700);
        rig.fronts[sender].send_blank(&packet);
        rig.run(MOMENT);
        assert_eq!(sent(&mut rig, 0), [tagged(&completed(&packet), 10)]);
        assert!(is_intact(&completed(&packet)));
    }
}

#[test]
fn isolated_guests_reach_the_wire_and_not_each_other() {
    let mut rig = Rig::with_options("isolate=yes", 1);
    let (first, second) = (rig.guest(), rig.guest());
    rig.fronts[first].send(&frame(BROADCAST, Rig::mac(first), 60, 1));
    rig.fronts[first].send(&frame(Rig::mac(second), Rig::mac(first), 60, 2));
    rig.run(MOMENT);
    assert!(received(&mut rig, second).is_empty());
    assert_eq!(sent(&mut rig, 0).len(), 1);
    rig.assert_works(first);
    rig.assert_works(second);
}

#[test]
fn a_storm_ends_at_its_guest() {
    let mut rig = Rig::with_options("storm-broadcast=50", 1);
    let (noisy, quiet) = (rig.guest(), rig.guest());
    for _ in 0..200 {
        rig.fronts[noisy].send(&frame(BROADCAST, Rig::mac(noisy), 60, 1));
    }
    rig.run(Duration::from_millis(500));
    let arrived = received(&mut rig, quiet).len();
    assert!((50..=76).contains(&arrived), "{arrived}");
    assert_eq!(sent(&mut rig, 0).len(), arrived);
    rig.run(Duration::from_millis(1000));
    assert_eq!(rig.lines(noisy, "STORM").len(), 1);
    rig.assert_works(noisy);
    rig.assert_works(quiet);
}
