//! Several queues per vif: how they connect, which frames they carry, and that they buy nobody a larger share.
//! Cases NF-53 of the catalogue of hostile inputs.

use std::collections::BTreeSet;
use std::time::Duration;

use fake_xen::{FakeXen, Netfront, NetfrontOptions};

use crate::packets::{BROADCAST, REMOTE, completed, frame, tcp, tcp_start};
use crate::rig::{Guest, Rig};

fn queues(queues: usize) -> NetfrontOptions {
    NetfrontOptions { queues, ..NetfrontOptions::default() }
}

/// A TCP packet for a guest, from port `port`.
fn from_port(guest: Guest, port: u16) -> Vec<u8> {
    let mut packet = tcp(Rig::mac(guest), REMOTE, false, 100);
    let start = tcp_start(&packet);
    packet[start..start + 2].copy_from_slice(&port.to_be_bytes());
    completed(&packet)
}

#[test]
fn a_guest_with_four_queues_connects_with_one_channel_for_each_or_two() {
    for split in [true, false] {
        let mut rig = Rig::new();
        let guest = rig.guest_with(NetfrontOptions { split, ..queues(4) });
        assert_eq!(rig.backend_key(guest, "multi-queue-max-queues").as_deref(), Some("4"));
        assert_eq!((rig.usage().mapped, rig.usage().ports), (8, if split { 8 } else { 4 }));
        rig.fronts[guest].close();
        rig.until("closed", |rig| rig.fronts[guest].state() == 6);
        assert_eq!((rig.usage().mapped, rig.usage().ports), (0, 0));
        rig.fronts[guest].reopen();
        rig.until("connected again", |rig| rig.is_connected(guest));
        rig.assert_works(guest);
    }
}

#[test]
fn packets_from_every_queue_reach_the_wire() {
    let mut rig = Rig::new();
    let guest = rig.guest_with(queues(4));
    for queue in 0..4 {
        rig.fronts[guest].queue = queue;
        let packet = frame(REMOTE, Rig::mac(guest), 700, queue as u8);
        let id = rig.fronts[guest].send(&packet);
        rig.until("answered", |rig| rig.fronts[guest].tx_unanswered() == 0);
        assert_eq!(rig.fronts[guest].take_answer().map(|answer| (answer.id, answer.status)), Some((id, 0)));
        assert_eq!(rig.wire.sent.pop().map(|sent| sent.bytes), Some(packet));
    }
}

#[test]
fn a_flow_stays_on_its_queue_and_flows_use_all_of_them() {
    let mut rig = Rig::new();
    let guest = rig.guest_with(queues(4));
    let mut used = BTreeSet::new();
    for port in 0..40 {
        let packet = from_port(guest, port);
        (0..5).for_each(|_| rig.wire.inject(&packet));
        rig.run(Duration::from_millis(10));
        let received = rig.fronts[guest].receive_all();
        assert_eq!(received.len(), 5);
        assert!(received.iter().all(|received| received.bytes == packet));
        let queues: BTreeSet<usize> = received.iter().map(|received| received.queue).collect();
        assert_eq!(queues.len(), 1, "a flow was spread over queues");
        used.extend(queues);
    }
    assert_eq!(used.len(), 4);
}

#[test]
fn large_packets_between_guests_take_the_queue_of_their_flow_too() {
    let mut rig = Rig::new();
    let (first, second) = (rig.guest(), rig.guest_with(queues(4)));
    for port in 0..8_u16 {
        let mut seen = BTreeSet::new();
        // The first is copied whole, the second goes straight from guest to guest.
        for payload in [100, 8000, 8001] {
            let mut packet = tcp(Rig::mac(second), Rig::mac(first), false, payload);
            let start = tcp_start(&packet);
            packet[start..start + 2].copy_from_slice(&port.to_be_bytes());
            rig.fronts[first].send_blank(&packet);
            rig.run(Duration::from_millis(5));
            let received = rig.fronts[second].receive_all();
            assert_eq!(received.len(), 1);
            assert!(received[0].bytes == packet);
            seen.insert(received[0].queue);
        }
        assert_eq!(seen.len(), 1);
    }
}

#[test]
fn more_queues_are_no_larger_share() {
    let mut rig = Rig::new();
    let guests = [rig.guest_with(queues(4)), rig.guest(), rig.guest()];
    rig.wire.inject(&frame(BROADCAST, REMOTE, 60, 0));
    rig.run(Duration::from_millis(5));
    rig.wire.room = 0;
    for _ in 0..300 {
        for guest in guests {
            let packet = frame(REMOTE, Rig::mac(guest), 1000, 0);
            for queue in 0..if guest == guests[0] { 4 } else { 1 } {
                rig.fronts[guest].queue = queue;
                while rig.fronts[guest].tx_free() > 0 {
                    rig.fronts[guest].send(&packet);
                }
            }
        }
        rig.wire.room = 10;
        rig.step();
    }
    assert_equal_shares(&rig, &guests);
}

#[test]
fn more_vifs_are_no_larger_share() {
    let mut rig = Rig::new();
    // The first three belong to one domain.
    rig.add_domain_of(3);
    rig.until("connected", |rig| (0..3).all(|vif| rig.is_connected(vif)));
    let other = rig.guest();
    rig.wire.inject(&frame(BROADCAST, REMOTE, 60, 0));
    rig.run(Duration::from_millis(5));
    rig.wire.room = 0;
    for _ in 0..300 {
        for vif in 0..4 {
            let packet = frame(REMOTE, Rig::mac(vif), 1000, 0);
            while rig.fronts[vif].tx_free() > 0 {
                rig.fronts[vif].send(&packet);
            }
        }
        rig.wire.room = 10;
        rig.step();
    }
    let sent = |vif| rig.wire.sent.iter().filter(|sent| sent.bytes[6..12] == Rig::mac(vif)).count();
    let (three, one) = (sent(0) + sent(1) + sent(2), sent(other));
    assert!(three * 10 <= one * 13 && one * 10 <= three * 13, "{three} packets against {one}");
    assert!((0..3).all(|vif| sent(vif) * 5 >= three), "one vif of a guest starves another");
}

fn assert_equal_shares(rig: &Rig, guests: &[Guest]) {
    let sent = |guest: &Guest| rig.wire.sent.iter().filter(|sent| sent.bytes[6..12] == Rig::mac(*guest)).count();
    let shares: Vec<_> = guests.iter().map(sent).collect();
    let (least, most) = (*shares.iter().min().unwrap(), *shares.iter().max().unwrap());
    assert!(least * 10 >= most * 8, "{shares:?}");
}

#[test]
fn no_queue_of_a_guest_starves_another() {
    let mut rig = Rig::new();
    let guest = rig.guest_with(queues(4));
    rig.wire.inject(&frame(BROADCAST, REMOTE, 60, 0));
    rig.run(Duration::from_millis(5));
    rig.wire.room = 0;
    for _ in 0..200 {
        for queue in 0..4 {
            rig.fronts[guest].queue = queue;
            let packet = frame(REMOTE, Rig::mac(guest), 1000, queue as u8);
            while rig.fronts[guest].tx_free() > 0 {
                rig.fronts[guest].send(&packet);
            }
        }
        rig.wire.room = 10;
        rig.step();
    }
    for queue in 0..4 {
        let payload = &frame(REMOTE, Rig::mac(guest), 1000, queue)[14..];
        let sent = rig.wire.sent.iter().filter(|sent| &sent.bytes[14..] == payload).count();
        assert!(sent * 5 >= rig.wire.sent.len(), "queue {queue}: {sent} of {}", rig.wire.sent.len());
    }
}

#[test]
fn what_waits_for_a_guest_is_bounded_whatever_its_queues() {
    for count in [1, 4] {
        let mut rig = Rig::new();
        let guest = rig.guest_with(NetfrontOptions { rx_buffers: 0, ..queues(count) });
        let sender = rig.guest();
        let free = rig.buffers.available();
        for port in 0..600 {
            let mut packet = from_port(guest, port);
            packet[6..12].copy_from_slice(&Rig::mac(sender));
            rig.fronts[sender].send(&packet);
            rig.run(Duration::from_millis(1));
        }
        rig.run(Duration::from_millis(20));
        assert!(free - rig.buffers.available() <= 128, "{count} queues hold {}", free - rig.buffers.available());
    }
}

#[test]
fn later_vifs_are_offered_fewer_queues_and_the_last_ones_none() {
    let mut rig = Rig::new();
    // Frontends that are slow to connect: what they were offered is kept for them.
    let guests: Vec<Guest> = (0..40)
        .map(|_| {
            let guest = rig.add(NetfrontOptions::default());
            rig.fronts[guest].frozen = true;
            guest
        })
        .collect();
    rig.run(Duration::from_secs(5));
    let offer = |rig: &Rig, guest| {
        let queues = rig.backend_key(guest, "multi-queue-max-queues").and_then(|queues| queues.parse().ok());
        queues.unwrap_or(0_usize)
    };
    let offers: Vec<usize> = guests.iter().map(|guest| offer(&rig, *guest)).collect();
    assert!(offers[..32].iter().all(|queues| (1..=4).contains(queues)), "{offers:?}");
    assert!(offers.iter().sum::<usize>() * 2 <= 112, "{offers:?}");
    let last = *guests.last().unwrap();
    assert!(rig.error_node(last).is_some_and(|text| text.contains("QUOTA")), "{}", rig.state());
    // Those that were offered a queue do connect, with one each; then there is room for more.
    for guest in guests.iter().filter(|guest| offers[**guest] > 0) {
        rig.fronts[*guest].frozen = false;
    }
    rig.until("connected", |rig| guests.iter().all(|guest| offers[*guest] == 0 || rig.is_connected(*guest)));
    let another = rig.guest();
    rig.assert_works(another);
    rig.assert_works(guests[0]);
}

/// A frontend with four queues whose keys are `change`d is refused, and nothing is left of the attempt.
fn refuses(count: usize, cause: &str, change: impl Fn(&FakeXen, &Netfront)) {
    let mut rig = Rig::new();
    let victim = rig.guest();
    let guest = rig.add(queues(count));
    rig.fronts[guest].deaf = true;
    rig.until("the vif waits", |rig| rig.fronts[guest].backend_state() == 2);
    rig.fronts[guest].share_rings();
    rig.fronts[guest].publish();
    change(&rig.xen, &rig.fronts[guest]);
    rig.fronts[guest].set_state(4);
    rig.until("the vif is refused", |rig| rig.fronts[guest].backend_state() >= 5);
    assert!(rig.error_node(guest).is_some_and(|text| text.contains(cause)), "{}", rig.state());
    assert_eq!(rig.lines(guest, cause).len(), 1, "{:?}", rig.log());
    assert_eq!((rig.usage().mapped, rig.usage().ports), (2, 2), "what the victim has");
    rig.assert_works(victim);
}

#[test]
fn a_number_of_queues_that_was_not_offered_is_refused_nf_53() {
    for count in ["0", "5", "4294967296", "18446744073709551616", "-1", "x", ""] {
        refuses(4, "QUEUES", |_, front| front.write("multi-queue-num-queues", count));
    }
}

#[test]
fn a_queue_that_is_missing_is_refused_nf_53() {
    for key in ["queue-0/tx-ring-ref", "queue-2/rx-ring-ref", "queue-3/event-channel-tx", "queue-3"] {
        refuses(4, "QUEUES", |xen, front| {
            xen.remove_store(&format!("{}/{key}", fake_xen::Toolstack::frontend_path(&front.device())));
        });
    }
}

#[test]
fn queues_that_share_a_ring_or_a_channel_are_refused_nf_53() {
    for (key, from) in [
        ("queue-1/tx-ring-ref", "queue-0/tx-ring-ref"),
        ("queue-3/rx-ring-ref", "queue-0/tx-ring-ref"),
        ("queue-2/tx-ring-ref", "queue-2/rx-ring-ref"),
        ("queue-1/event-channel-tx", "queue-0/event-channel-tx"),
        ("queue-1/event-channel-rx", "queue-1/event-channel-tx"),
    ] {
        refuses(4, "QUEUES", |xen, front| {
            let directory = fake_xen::Toolstack::frontend_path(&front.device());
            let value = xen.read_store(&format!("{directory}/{from}")).unwrap();
            front.write(key, &value);
        });
    }
}

#[test]
fn one_bad_queue_is_the_end_of_the_attempt() {
    refuses(4, "RING_REF", |_, front| front.write("queue-3/rx-ring-ref", "4000000"));
    refuses(4, "EVTCHN", |_, front| front.write("queue-3/event-channel-rx", "4000000"));
}

#[test]
fn a_fault_of_one_queue_closes_the_vif_and_names_the_queue() {
    let mut rig = Rig::new();
    let (attacker, victim) = (rig.guest_with(queues(4)), rig.guest());
    rig.fronts[attacker].queue = 2;
    let value = rig.fronts[attacker].tx_req_prod().wrapping_add(1000);
    rig.fronts[attacker].set_tx_req_prod(value);
    rig.until("the attacker is closed", |rig| rig.fronts[attacker].backend_state() == 6);
    let lines = rig.lines(attacker, "TX_PROD");
    assert_eq!(lines.len(), 1);
    assert!(lines[0].contains(" q=2 "), "{lines:?}");
    assert_eq!((rig.usage().mapped, rig.usage().ports), (2, 2));
    rig.assert_works(victim);
}
