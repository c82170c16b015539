//! The control ring: hashes of the frontend's choice. Cases NF-49 and NF-50 of the catalogue of hostile inputs.

use std::time::Duration;

use fake_xen::{CtrlAnswer, NetfrontOptions};

use crate::packets::{REMOTE, completed, tcp, tcp_start};
use crate::rig::{Guest, Rig};

const GET_FLAGS: u16 = 1;
const SET_FLAGS: u16 = 2;
const SET_KEY: u16 = 3;
const GET_MAPPING_SIZE: u16 = 4;
const SET_MAPPING_SIZE: u16 = 5;
const SET_MAPPING: u16 = 6;
const SET_ALGORITHM: u16 = 7;

const SUCCESS: u32 = 0;
const NOT_SUPPORTED: u32 = 1;
const INVALID: u32 = 2;
const OVERFLOW: u32 = 3;

/// The key of the published vectors for receive-side scaling.
const KEY: [u8; 40] = [
    0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0, 0xd0, 0xca, 0x2b,
    0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42, 0xb7, 0x3b, 0xbe, 0xac,
    0x01, 0xfa,
];

fn options() -> NetfrontOptions {
    NetfrontOptions { queues: 4, control: true, ..NetfrontOptions::default() }
}

/// Sends a request and returns its status and data.
fn ask(rig: &mut Rig, guest: Guest, kind: u16, data: [u32; 3]) -> (u32, u32) {
    let id = rig.fronts[guest].send_control(kind, data);
    rig.run(Duration::from_millis(5));
    let answer = rig.fronts[guest].take_control_answer();
    let CtrlAnswer { status, data, .. } = answer.expect("no answer");
    assert_eq!(answer.map(|answer| (answer.id, answer.kind)), Some((id, kind)));
    (status, data)
}

fn set_key(rig: &mut Rig, guest: Guest, key: &[u8]) -> u32 {
    let gref = rig.fronts[guest].grant_bytes(key);
    ask(rig, guest, SET_KEY, [gref.into_raw(), key.len() as u32, 0]).0
}

fn set_mapping(rig: &mut Rig, guest: Guest, entries: &[u32], offset: u32) -> u32 {
    let bytes: Vec<u8> = entries.iter().flat_map(|entry| entry.to_le_bytes()).collect();
    let gref = rig.fronts[guest].grant_bytes(&bytes);
    ask(rig, guest, SET_MAPPING, [gref.into_raw(), entries.len() as u32, offset]).0
}

/// Toeplitz over IPv4 and TCP with the published key.
fn set_up(rig: &mut Rig, guest: Guest) {
    assert_eq!(ask(rig, guest, SET_ALGORITHM, [1, 0, 0]).0, SUCCESS);
    assert_eq!(ask(rig, guest, SET_FLAGS, [3, 0, 0]).0, SUCCESS);
    assert_eq!(set_key(rig, guest, &KEY), SUCCESS);
}

/// The TCP packet of the first published vector, whose hash is 0x51ccc178.
fn published(guest: Guest) -> Vec<u8> {
    let mut packet = tcp(Rig::mac(guest), REMOTE, false, 100);
    packet[26..34].copy_from_slice(&[66, 9, 149, 187, 161, 142, 100, 80]);
    let start = tcp_start(&packet);
    packet[start..start + 4].copy_from_slice(&[0x0a, 0xea, 0x06, 0xe6]);
    packet
}

#[test]
fn a_frontend_chooses_hash_and_mapping_and_is_told_the_hash() {
    let mut rig = Rig::new();
    let guest = rig.guest_with(options());
    assert_eq!(rig.backend_key(guest, "feature-ctrl-ring").as_deref(), Some("1"));
    assert_eq!((rig.usage().mapped, rig.usage().ports), (9, 9));
    assert_eq!(ask(&mut rig, guest, GET_FLAGS, [0; 3]).0, NOT_SUPPORTED, "no algorithm yet");
    set_up(&mut rig, guest);
    assert_eq!(ask(&mut rig, guest, GET_FLAGS, [0; 3]), (SUCCESS, 0xf));
    assert_eq!(ask(&mut rig, guest, GET_MAPPING_SIZE, [0; 3]), (SUCCESS, 128));
    assert_eq!(ask(&mut rig, guest, SET_MAPPING_SIZE, [128, 0, 0]).0, SUCCESS);
    for queue in [3, 1, 2, 0] {
        assert_eq!(set_mapping(&mut rig, guest, &[queue], 0x51cc_c178 % 128), SUCCESS);
        rig.wire.inject(&published(guest));
        rig.run(Duration::from_millis(5));
        let received = rig.fronts[guest].receive().unwrap();
        assert_eq!(received.bytes, published(guest));
        assert_eq!(received.queue, queue as usize);
        // Type HASH, no more; IPv4 with TCP ports by Toeplitz; the value, least significant byte first.
        assert_eq!(received.extras, [[0x0101_0004, 0x51cc_c178]]);
    }
    // Without ports there is the hash of the addresses, and without addresses none.
    let mut udp = published(guest);
    udp[23] = 17;
    rig.wire.inject(&udp);
    rig.wire.inject(&crate::packets::frame(Rig::mac(guest), REMOTE, 100, 0));
    rig.run(Duration::from_millis(5));
    let extras: Vec<_> = rig.fronts[guest].receive_all().into_iter().map(|packet| packet.extras).collect();
    assert_eq!(extras, [vec![[0x0100_0004, 0x323e_8fc2]], vec![]]);
}

#[test]
fn a_large_packet_carries_segment_size_and_hash() {
    let mut rig = Rig::new();
    let (sender, guest) = (rig.guest(), rig.guest_with(options()));
    set_up(&mut rig, guest);
    // The first is copied whole, the second goes straight from guest to guest.
    for _ in 0..2 {
        let packet = tcp(Rig::mac(guest), Rig::mac(sender), false, 60000);
        crate::offload::send_gso(&mut rig.fronts[sender], &packet, false, 1448);
        rig.run(Duration::from_millis(20));
        let received = rig.fronts[guest].receive().unwrap();
        assert!(received.bytes == packet);
        let [gso, hash] = received.extras[..] else { panic!("{:?}", received.extras) };
        assert_eq!(gso, [1 | 1 << 8 | 1448 << 16, 1]);
        assert_eq!(hash[0], 0x0101_0004);
    }
}

#[test]
fn turning_the_hash_off_gives_flows_a_queue_of_ours_again() {
    let mut rig = Rig::new();
    let guest = rig.guest_with(options());
    set_up(&mut rig, guest);
    assert_eq!(ask(&mut rig, guest, SET_FLAGS, [0; 3]).0, SUCCESS);
    rig.wire.inject(&completed(&published(guest)));
    rig.run(Duration::from_millis(5));
    assert_eq!(rig.fronts[guest].receive().unwrap().extras, Vec::<[u32; 2]>::new());
    assert_eq!(ask(&mut rig, guest, SET_ALGORITHM, [0; 3]).0, SUCCESS);
    assert_eq!(ask(&mut rig, guest, GET_FLAGS, [0; 3]).0, NOT_SUPPORTED);
}

#[test]
fn parameters_out_of_range_change_nothing_nf_49() {
    let mut rig = Rig::new();
    let guest = rig.guest_with(options());
    set_up(&mut rig, guest);
    assert_eq!(ask(&mut rig, guest, SET_MAPPING_SIZE, [16, 0, 0]).0, SUCCESS);
    assert_eq!(set_mapping(&mut rig, guest, &[3; 16], 0), SUCCESS);
    assert_eq!(set_key(&mut rig, guest, &[1; 41]), OVERFLOW);
    let wrong = [
        (SET_ALGORITHM, [2, 0, 0]),
        (SET_FLAGS, [16, 0, 0]),
        (SET_FLAGS, [u32::MAX, 0, 0]),
        (SET_MAPPING_SIZE, [129, 0, 0]),
        (SET_MAPPING_SIZE, [u32::MAX, 0, 0]),
    ];
    for (kind, data) in wrong {
        assert_eq!(ask(&mut rig, guest, kind, data).0, INVALID, "{kind} {data:?}");
    }
    assert_eq!(ask(&mut rig, guest, SET_KEY, [1, u32::MAX, 0]).0, OVERFLOW);
    assert_eq!(ask(&mut rig, guest, SET_KEY, [4_000_000, 40, 0]).0, INVALID, "no such grant");
    for (entries, offset) in [(17, 0), (16, 1), (1, 16), (1, u32::MAX), (2, u32::MAX), (0, 17)] {
        assert_eq!(set_mapping(&mut rig, guest, &vec![0; entries], offset), INVALID, "{entries} from {offset}");
    }
    for entry in [4, 255, 256, 259, u32::MAX] {
        assert_eq!(set_mapping(&mut rig, guest, &[0, entry], 0), INVALID, "queue {entry}");
    }
    rig.wire.inject(&published(guest));
    rig.run(Duration::from_secs(2));
    let received = rig.fronts[guest].receive().unwrap();
    assert_eq!((received.queue, received.extras.as_slice()), (3, [[0x0101_0004, 0x51cc_c178]].as_slice()));
    let lines = rig.lines(guest, "CTRL_PARAM");
    assert!(!lines.is_empty() && lines.len() <= 4, "{lines:?}");
    assert!(lines.iter().all(|line| line.contains("action=err")), "{lines:?}");
}

#[test]
fn requests_that_do_not_exist_are_answered_nf_50() {
    let mut rig = Rig::new();
    let guest = rig.guest_with(options());
    for kind in [0, 8, 255, 65535] {
        assert_eq!(ask(&mut rig, guest, kind, [1, 2, 3]).0, NOT_SUPPORTED);
    }
    rig.assert_works(guest);
}

#[test]
fn an_impossible_index_of_the_control_ring_is_fatal_nf_50() {
    for by in [128 + 1, 1 << 31, u32::MAX] {
        let mut rig = Rig::new();
        let (attacker, victim) = (rig.guest_with(options()), rig.guest());
        rig.fronts[attacker].set_control_req_prod(by);
        rig.until("closed", |rig| rig.fronts[attacker].backend_state() == 6);
        assert_eq!(rig.lines(attacker, "CTRL_PROD").len(), 1, "{:?}", rig.log());
        assert_eq!((rig.usage().mapped, rig.usage().ports), (2, 2));
        rig.assert_works(victim);
    }
}

#[test]
fn a_flood_of_requests_holds_nobody_up_nf_50() {
    let mut rig = Rig::new();
    let (attacker, victim) = (rig.guest_with(options()), rig.guest());
    let before = rig.buffers.available();
    for round in 0..300_u32 {
        while rig.fronts[attacker].control_free() > 0 {
            let kind = (rig.fronts[attacker].control_free() + round) as u16 % 9;
            rig.fronts[attacker].send_control(kind, [round, round % 50, round % 130]);
        }
        rig.step();
        while rig.fronts[attacker].take_control_answer().is_some() {}
        if round % 20 == 0 {
            rig.assert_works(victim);
        }
    }
    rig.run(Duration::from_millis(50));
    assert_eq!(rig.buffers.available(), before);
    assert!(rig.log().len() < 20, "{:?}", rig.log());
}

#[test]
fn half_a_control_ring_is_refused() {
    for (key, value, cause) in [
        ("event-channel-ctrl", "x", "EVTCHN"),
        ("event-channel-ctrl", "4000000", "EVTCHN"),
        ("ctrl-ring-ref", "x", "READ"),
        ("ctrl-ring-ref", "4000000", "RING_REF"),
    ] {
        let mut rig = Rig::new();
        let victim = rig.guest();
        let guest = rig.add(options());
        rig.fronts[guest].deaf = true;
        rig.until("the vif waits", |rig| rig.fronts[guest].backend_state() == 2);
        rig.fronts[guest].share_rings();
        rig.fronts[guest].publish();
        rig.fronts[guest].write(key, value);
        rig.fronts[guest].set_state(4);
        rig.until("the vif is refused", |rig| rig.fronts[guest].backend_state() >= 5);
        assert!(rig.error_node(guest).is_some_and(|text| text.contains(cause)), "{}", rig.state());
        assert_eq!((rig.usage().mapped, rig.usage().ports), (2, 2));
        rig.assert_works(victim);
    }
}
