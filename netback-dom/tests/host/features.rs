//! Multicast filters, headroom, MTU: what a frontend or the toolstack asks for beyond queues. Cases NF-35, NF-36
//! and NF-48 of the catalogue of hostile inputs.

use std::time::Duration;

use fake_xen::{Netfront, NetfrontOptions, Page};

use crate::offload::send_gso;
use crate::packets::{BROADCAST, EXTRA_INFO, MORE_DATA, REMOTE, frame, tcp};
use crate::rig::{Guest, Rig};

const GROUP: [u8; 6] = [1, 0, 94, 0, 0, 9];
const OTHER_GROUP: [u8; 6] = [1, 0, 94, 0, 0, 10];

fn with(features: &[(&'static str, &'static str)]) -> NetfrontOptions {
    let features = [NetfrontOptions::default().features, features.to_vec()].concat();
    NetfrontOptions { features, ..NetfrontOptions::default() }
}

/// Asks to add (2) or remove (3) an address. Returns the status of the request.
fn change_filter(rig: &mut Rig, guest: Guest, kind: u32, [a, b, c, d, e, f]: [u8; 6]) -> i16 {
    let front = &mut rig.fronts[guest];
    front.put_request(&Page::new(), 0, 0, EXTRA_INFO);
    let high = u32::from_le_bytes([0, 0, a, b]);
    front.put_extra([kind | high, u32::from_le_bytes([c, d, e, f])]);
    front.push_tx();
    rig.until("answered", |rig| rig.fronts[guest].tx_unanswered() == 0);
    rig.fronts[guest].take_answer().expect("no answer").status
}

/// Which of these destinations reach a guest from the wire.
fn reached(rig: &mut Rig, guest: Guest, dests: &[[u8; 6]]) -> Vec<[u8; 6]> {
    rig.fronts[guest].receive_all();
    dests.iter().for_each(|dest| rig.wire.inject(&frame(*dest, REMOTE, 100, 0)));
    rig.run(Duration::from_millis(20));
    rig.fronts[guest].receive_all().iter().map(|packet| packet.bytes[..6].try_into().unwrap()).collect()
}

#[test]
fn a_frontend_that_asks_for_it_gets_the_groups_it_has_joined() {
    let mut rig = Rig::new();
    let guest = rig.guest_with(with(&[("request-multicast-control", "1")]));
    let other = rig.guest();
    let own = Rig::mac(guest);
    let all = [GROUP, OTHER_GROUP, BROADCAST, own];
    assert_eq!(reached(&mut rig, guest, &all), [BROADCAST, own]);
    assert_eq!(reached(&mut rig, other, &[GROUP, BROADCAST]), [GROUP, BROADCAST], "its neighbour is not filtered");
    assert_eq!(change_filter(&mut rig, guest, 2, GROUP), 0);
    assert_eq!(reached(&mut rig, guest, &all), [GROUP, BROADCAST, own]);
    // From another guest, large enough to go straight from guest to guest if it were for one only.
    rig.fronts[other].send(&frame(OTHER_GROUP, Rig::mac(other), 5000, 0));
    rig.run(Duration::from_millis(10));
    assert_eq!(rig.fronts[guest].receive(), None);
    assert_eq!(change_filter(&mut rig, guest, 3, GROUP), 0);
    assert_eq!(reached(&mut rig, guest, &all), [BROADCAST, own]);
}

#[test]
fn a_frontend_may_change_its_mind_about_the_filter_while_it_is_connected() {
    let mut rig = Rig::new();
    let guest = rig.guest();
    // The list may be filled before it is used.
    assert_eq!(change_filter(&mut rig, guest, 2, GROUP), 0);
    assert_eq!(reached(&mut rig, guest, &[GROUP, OTHER_GROUP]), [GROUP, OTHER_GROUP]);
    for (value, expected) in
        [("1", &[GROUP][..]), ("0", &[GROUP, OTHER_GROUP]), ("1", &[GROUP]), ("x", &[GROUP, OTHER_GROUP])]
    {
        rig.fronts[guest].write("request-multicast-control", value);
        rig.run(Duration::from_millis(100));
        assert_eq!(reached(&mut rig, guest, &[GROUP, OTHER_GROUP]), expected, "{value}");
    }
}

#[test]
fn a_filter_is_gone_with_its_vif() {
    let mut rig = Rig::new();
    let guest = rig.guest_with(with(&[("request-multicast-control", "1")]));
    let before = rig.usage();
    rig.fronts[guest].close();
    rig.until("closed", |rig| rig.fronts[guest].state() == 6);
    rig.run(Duration::from_millis(100));
    assert_eq!(rig.usage().watches, before.watches - 1);
    rig.fronts[guest].write("request-multicast-control", "0");
    rig.fronts[guest].reopen();
    rig.until("connected again", |rig| rig.is_connected(guest));
    rig.run(Duration::from_millis(100));
    assert_eq!(rig.usage(), before);
    rig.assert_works(guest);
}

#[test]
fn a_filter_takes_64_addresses_nf_35() {
    let mut rig = Rig::new();
    let victim = rig.guest();
    let guest = rig.guest_with(with(&[("request-multicast-control", "1")]));
    for number in 0..64 {
        assert_eq!(change_filter(&mut rig, guest, 2, [1, 0, 94, 1, 1, number]), 0);
    }
    assert_eq!(change_filter(&mut rig, guest, 2, GROUP), -1);
    assert_eq!(change_filter(&mut rig, guest, 2, [1, 0, 94, 1, 1, 7]), 0, "this one is there already");
    assert_eq!(change_filter(&mut rig, guest, 3, OTHER_GROUP), 0, "an unknown one is not there, as wanted");
    assert_eq!(change_filter(&mut rig, guest, 3, [1, 0, 94, 1, 1, 7]), 0);
    assert_eq!(change_filter(&mut rig, guest, 2, GROUP), 0);
    assert_eq!(
        reached(&mut rig, guest, &[GROUP, [1, 0, 94, 1, 1, 7], [1, 0, 94, 1, 1, 8]]),
        [GROUP, [1, 0, 94, 1, 1, 8]]
    );
    rig.assert_works(guest);
    rig.assert_works(victim);
}

#[test]
fn data_behind_a_change_of_the_filter_is_no_packet_nf_35() {
    let mut rig = Rig::new();
    let (attacker, victim) = (rig.guest(), rig.guest());
    let before = rig.wire.sent.len();
    let front = &mut rig.fronts[attacker];
    let page = Page::new();
    page.write(0, &frame(REMOTE, Rig::mac(attacker), 200, 0));
    front.put_request(&page, 0, 200, EXTRA_INFO | MORE_DATA);
    front.put_extra([2 | 1 << 16, 0]);
    front.put_request(&page, 0, 100, 0);
    front.push_tx();
    rig.until("answered", |rig| rig.fronts[attacker].tx_unanswered() == 0);
    assert_eq!(rig.wire.sent.len(), before);
    rig.assert_works(attacker);
    rig.assert_works(victim);
}

#[test]
fn the_hash_of_a_frontends_packet_is_taken_and_not_believed_nf_36() {
    let (mut rig, guest, victim) = Rig::attacker_and_victim();
    let packet = frame(REMOTE, Rig::mac(guest), 200, 0);
    let page = Page::new();
    page.write(0, &packet);
    let front = &mut rig.fronts[guest];
    front.put_request(&page, 0, 200, EXTRA_INFO);
    front.put_extra([4 | 0xffff << 16, u32::MAX]);
    front.push_tx();
    rig.until("answered", |rig| rig.fronts[guest].tx_unanswered() == 0);
    assert_eq!(rig.wire.sent.pop().map(|sent| sent.bytes), Some(packet));
    rig.assert_works(guest);
    rig.assert_works(victim);
}

/// Goes to state 7 with a new headroom, as Linux does, and back to 4.
fn reconfigure(rig: &mut Rig, guest: Guest, headroom: &str) {
    rig.fronts[guest].set_state(7);
    rig.fronts[guest].write("xdp-headroom", headroom);
    rig.until("reconfigured", |rig| rig.fronts[guest].backend_state() == 8);
    rig.fronts[guest].set_state(4);
    rig.until("connected again", |rig| rig.fronts[guest].backend_state() == 4);
}

#[test]
fn headroom_is_left_in_every_buffer_and_told() {
    let mut rig = Rig::new();
    let sender = rig.guest();
    let guest = rig.guest_with(with(&[("xdp-headroom", "256")]));
    for len in [60, 1514, 3840, 3841, 9014] {
        // Larger ones go straight from guest to guest.
        let packet = frame(Rig::mac(guest), Rig::mac(sender), len, len as u8);
        rig.fronts[sender].send(&packet);
        rig.run(Duration::from_millis(5));
        let received = rig.fronts[guest].receive().unwrap();
        assert!(received.bytes == packet, "{len}");
        assert_eq!(received.extras, [[5 | 256 << 16, 0]]);
        assert_eq!(received.slots, len.div_ceil(3840));
        assert!(received.offsets.iter().all(|offset| *offset == 256), "{:?}", received.offsets);
    }
}

#[test]
fn headroom_may_change_while_connected() {
    let mut rig = Rig::new();
    let guest = rig.guest();
    for round in 0..3 {
        for headroom in [256, 0, 128] {
            reconfigure(&mut rig, guest, &headroom.to_string());
            rig.wire.inject(&frame(Rig::mac(guest), REMOTE, 300, round));
            rig.run(Duration::from_millis(5));
            let received = rig.fronts[guest].receive().unwrap();
            assert_eq!(received.offsets, [headroom]);
            assert_eq!(received.extras.is_empty(), headroom == 0);
        }
    }
    assert!(rig.log().iter().all(|line| !line.contains("cause=")), "{:?}", rig.log());
    rig.assert_works(guest);
}

#[test]
fn with_headroom_packets_arrive_in_one_buffer_each() {
    let mut rig = Rig::new();
    let sender = rig.guest();
    let guest = rig.guest_with(with(&[("xdp-headroom", "256")]));
    let packet = tcp(Rig::mac(guest), Rig::mac(sender), false, 30000);
    send_gso(&mut rig.fronts[sender], &packet, false, 1448);
    rig.run(Duration::from_millis(20));
    let received = rig.fronts[guest].receive_all();
    assert_eq!(received.len(), 30000_usize.div_ceil(1448));
    assert!(received.iter().all(|packet| packet.slots == 1));
}

#[test]
fn headroom_of_any_value_leaves_room_for_data_nf_48() {
    let expected = [
        ("257", 256),
        ("4095", 256),
        ("4096", 256),
        ("32767", 256),
        ("65535", 256),
        ("65536", 256),
        ("4294967295", 256),
        ("-1", 0),
        ("4294967296", 0),
        ("x", 0),
        ("", 0),
        ("255", 255),
    ];
    for (value, headroom) in expected {
        let mut rig = Rig::new();
        let guest = rig.guest_with(with(&[("xdp-headroom", value)]));
        rig.wire.inject(&frame(Rig::mac(guest), REMOTE, 1514, 0));
        rig.run(Duration::from_millis(5));
        let received = rig.fronts[guest].receive().unwrap();
        assert_eq!(received.offsets, [headroom], "{value}");
        assert_eq!(received.bytes.len(), 1514);
    }
}

#[test]
fn a_frontend_that_reconfigures_all_the_time_is_followed_slowly() {
    let mut rig = Rig::new();
    let (attacker, victim) = (rig.guest(), rig.guest());
    for round in 0..3000_u32 {
        rig.fronts[attacker].set_state([7, 4, 8, 7][round as usize % 4]);
        rig.fronts[attacker].write("xdp-headroom", &(round % 400).to_string());
        rig.step();
    }
    rig.assert_works(victim);
    rig.fronts[attacker].set_state(4);
    rig.until("connected", |rig| rig.fronts[attacker].backend_state() == 4);
    let state = format!("{}/state", rig.toolstack.backend_path(&rig.device(attacker)));
    assert!(rig.xen.written(&state).len() <= 40, "{:?}", rig.xen.written(&state));
    rig.fronts[attacker].close();
    rig.until("closed", |rig| rig.fronts[attacker].backend_state() == 6);
}

#[test]
fn an_mtu_holds_in_both_directions() {
    let mut rig = Rig::new();
    let neighbour = rig.guest();
    let guest = rig.guest_with_keys(NetfrontOptions::default(), &[("mtu", "1400")]);
    // 14 bytes of header, 4 of a VLAN tag.
    for (len, fits) in [(1414, true), (1418, true), (1419, false), (5000, false)] {
        let packet = frame(Rig::mac(neighbour), Rig::mac(guest), len, 1);
        rig.fronts[guest].send(&packet);
        rig.run(Duration::from_millis(5));
        assert_eq!(rig.fronts[guest].take_answer().map(|answer| answer.status), Some(if fits { 0 } else { -2 }));
        assert_eq!(rig.fronts[neighbour].receive().map(|packet| packet.bytes), fits.then_some(packet), "{len}");
        let packet = frame(Rig::mac(guest), Rig::mac(neighbour), len, 2);
        rig.fronts[neighbour].send(&packet);
        rig.run(Duration::from_millis(5));
        assert_eq!(rig.fronts[guest].receive().map(|packet| packet.bytes), fits.then_some(packet), "{len}");
    }
    let reports = rig.netback.reports();
    let counters = reports.iter().find(|report| report.frontend == rig.domid(guest)).unwrap().counters;
    assert_eq!(counters.tx_drops.of(netback_dom::vif::Cause::Mtu), 2);
    assert_eq!(counters.rx_drops.of(netback_dom::vif::Cause::Mtu), 2);
}

#[test]
fn the_segments_of_a_large_packet_count_against_the_mtu() {
    let mut rig = Rig::new();
    let neighbour = rig.guest();
    let guest = rig.guest_with_keys(NetfrontOptions::default(), &[("mtu", "1500")]);
    for (mss, fits) in [(1448, true), (1464, true), (1465, false), (8948, false)] {
        for (from, to) in [(guest, neighbour), (neighbour, guest)] {
            let packet = tcp(Rig::mac(to), Rig::mac(from), false, 20000);
            send_gso(&mut rig.fronts[from], &packet, false, mss);
            rig.run(Duration::from_millis(20));
            assert_eq!(rig.fronts[to].receive_all().len(), usize::from(fits), "{mss}");
        }
    }
}

#[test]
fn jumbo_frames_go_between_guests_and_to_a_card_that_takes_them() {
    let mut rig = Rig::new();
    rig.wire.capabilities.max_frame = 9018;
    let guests = [0, 1].map(|_| rig.guest_with_keys(NetfrontOptions::default(), &[("mtu", "9000")]));
    let packet = frame(Rig::mac(guests[1]), Rig::mac(guests[0]), 9014, 1);
    rig.fronts[guests[0]].send(&packet);
    rig.run(Duration::from_millis(5));
    assert!(rig.fronts[guests[1]].receive().map(|packet| packet.bytes) == Some(packet));
    let packet = frame(REMOTE, Rig::mac(guests[0]), 9014, 1);
    rig.fronts[guests[0]].send(&packet);
    rig.run(Duration::from_millis(5));
    assert!(rig.wire.sent.pop().map(|sent| sent.bytes) == Some(packet));
}

#[test]
fn an_mtu_that_makes_no_sense_refuses_that_vif() {
    for mtu in ["67", "9001", "0", "-1", "+1500", "x", "1500 ", "99999999999999999999"] {
        let mut rig = Rig::new();
        let victim = rig.guest();
        let domid = rig.toolstack.create_domain("wrong");
        let config = fake_xen::VifConfig { more: vec![("mtu".into(), mtu.into())], ..Rig::vif_config(1) };
        let device = rig.toolstack.create_vif(domid, 0, &config);
        rig.fronts.push(Netfront::new(&rig.xen, device, NetfrontOptions::default()));
        rig.until("refused", |rig| rig.fronts[1].backend_state() >= 5);
        assert!(rig.error_node(1).is_some_and(|text| text.starts_with("MTU ")), "{:?}", rig.error_node(1));
        rig.assert_works(victim);
    }
    let mut rig = Rig::new();
    let guest = rig.guest_with_keys(NetfrontOptions::default(), &[("mtu", "68")]);
    assert!(rig.is_connected(guest));
}

#[test]
fn keys_that_mean_nothing_to_us_change_nothing() {
    let mut rig = Rig::new();
    let keys = [("vifname", "vif-web"), ("script", "/bin/false"), ("gatewaydev", "eth7"), ("trusted", "x")];
    let guest = rig.guest_with_keys(with(&[("trusted", "0")]), &keys);
    rig.assert_works(guest);
}
