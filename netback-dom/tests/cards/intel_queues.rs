//! What only some of Intel's cards have: several receive queues with vectors of their own, long frames, and a
//! bus that is told to stop first.

use super::intel::{Bench, I8254X, I82574, I82576, I82576_MSI, Kind};
use crate::model::intel::reg;
use crate::model::{bytes_of, payload};
use netback_dom::frame::Checksum;
use netback_dom::nic::{Nic, NicError};
use pciback::InterruptKind;

const QUEUES: usize = 4;
/// Vectors that an interrupt asks for.
const REST: u32 = 1;

fn vector_of(queue: usize) -> u32 {
    1 << (queue + 1)
}

#[test]
fn flows_are_spread_over_all_queues() {
    let bench = Bench::new(I82576);
    let _driver = bench.running();
    assert_eq!(bench.card.get(reg::MRQC) & 7, 2, "queues by hash");
    let table: Vec<u8> = (0..32).flat_map(|word| bench.card.get(reg::RETA + 4 * word).to_le_bytes()).collect();
    for queue in 0..QUEUES {
        assert_eq!(table.iter().filter(|entry| usize::from(**entry) == queue).count(), 32, "queue {queue}");
    }
}

#[test]
fn a_queue_that_is_flooded_delays_the_others_by_one_frame_each() {
    let bench = Bench::new(I82576);
    let mut driver = bench.running();
    for number in 0..100 {
        assert!(bench.card.receive_on(1, &payload(number, 100)));
    }
    assert!(bench.card.receive_on(3, &payload(1000, 100)));
    let first: Vec<_> = (0..2).map(|_| bytes_of(&driver.receive().unwrap())).collect();
    assert!(first.contains(&payload(1000, 100)));
    // And a flow stays in order.
    let rest: Vec<_> = core::iter::from_fn(|| driver.receive().as_ref().map(bytes_of)).collect();
    assert_eq!(rest, (1..100).map(|number| payload(number, 100)).collect::<Vec<_>>());
}

#[test]
fn a_queue_without_room_takes_none_from_the_others() {
    let bench = Bench::new(I82576);
    let mut driver = bench.running();
    while bench.card.receive_on(2, &payload(1, 100)) {}
    assert!(bench.card.get(0xc000 + 0x40 * 2 + 0xc) & 1 << 31 != 0, "it drops rather than wait");
    for queue in [0, 1, 3] {
        assert!(bench.card.receive_on(queue, &payload(2, 100)), "queue {queue}");
    }
    let frames = core::iter::from_fn(|| driver.receive()).filter(|frame| bytes_of(frame) == payload(2, 100)).count();
    assert_eq!(frames, 3);
}

#[test]
fn each_queue_has_a_vector_and_is_masked_by_it_until_it_is_asked_for_again() {
    let bench = Bench::new(I82576);
    let mut driver = bench.running();
    assert!(!driver.enable_interrupts());
    for queue in 0..QUEUES {
        assert!(bench.card.receive_on(queue, &payload(1, 100)));
        assert_eq!(bench.card.take_messages(), vector_of(queue));
        assert!(bench.card.receive_on(queue, &payload(2, 100)));
        assert_eq!(bench.card.take_messages(), 0, "queue {queue} is masked");
    }
    while driver.receive().is_some() {}
    driver.enable_interrupts();
    // What came while it was masked is said now.
    assert_eq!(bench.card.take_messages(), (0..QUEUES).map(vector_of).sum::<u32>());
    bench.card.set_link(false);
    assert_eq!(bench.card.take_messages(), REST);
}

#[test]
fn going_to_sleep_reads_no_register_of_a_card_with_vectors() {
    let bench = Bench::new(I82576);
    let mut driver = bench.running();
    driver.poll().unwrap();
    bench.card.accesses();
    driver.note_interrupts(vector_of(1));
    driver.enable_interrupts();
    assert_eq!(bench.card.accesses(), [(reg::EIMS, Some(0x1f))]);
}

#[test]
fn one_vector_is_enough_for_every_card() {
    for model in [I82574, I82576] {
        for (kind, vectors) in [(InterruptKind::MsiX, 1), (InterruptKind::Msi, 1), (InterruptKind::Intx, 1)] {
            let bench = Bench::new(Kind { interrupts: (kind, vectors), ..model });
            let mut driver = bench.running();
            assert!(!driver.enable_interrupts());
            assert!(bench.card.receive(&payload(1, 100)));
            assert!(bench.card.asserts(), "{kind}");
            driver.note_interrupts(bench.card.take_messages());
            assert!(driver.enable_interrupts());
            assert!(!bench.card.asserts(), "{kind}");
        }
    }
}

#[test]
fn dv_15_a_queue_that_is_never_on_is_not_waited_for_forever() {
    let bench = Bench::new(I82576);
    bench.card.manners(|manners| manners.queue_hangs = true);
    assert_eq!(bench.start().err(), Some(NicError::TimedOut("queue")));
}

#[test]
fn the_bus_is_told_to_stop_before_a_reset_and_not_waited_for_forever() {
    for kind in [I82574, I82576] {
        let bench = Bench::new(kind);
        bench.card.manners(|manners| manners.bus_hangs = true);
        bench.start().unwrap();
        let accesses = bench.card.accesses();
        let at = |bit: u32| {
            let is =
                |(at, value): &(usize, Option<u32>)| *at == reg::CTRL && value.is_some_and(|value| value & bit != 0);
            accesses.iter().position(is).unwrap()
        };
        assert!(at(1 << 2) < at(1 << 26));
        assert_eq!(bench.card.get(reg::CTRL) & 1 << 2, 0, "and may go on afterwards");
    }
}

fn long(kind: Kind) -> Bench {
    Bench::new(Kind { max_frame: 9018, ..kind })
}

#[test]
fn frames_of_9018_bytes_are_sent_and_received_by_every_card() {
    for kind in [I8254X, I82574, I82576, I82576_MSI] {
        let bench = long(kind);
        let mut driver = bench.running();
        assert_eq!(driver.capabilities().max_frame, 9018);
        for (number, len) in (0..).zip([60, 1518, 2048, 2049, 4096, 4097, 8192, 8193, 9018].repeat(60)) {
            let bytes = payload(number, len);
            assert!(bench.card.receive(&bytes));
            let frame = driver.receive().unwrap();
            assert_eq!(bytes_of(&frame), bytes);
            driver.transmit(frame).map_err(drop).unwrap();
            driver.flush();
            assert_eq!(bench.card.sent(), [bytes]);
        }
        assert_eq!(driver.counters().rx_dropped, 0);
    }
}

#[test]
fn long_frames_are_not_asked_for_unless_they_are_wanted() {
    for kind in [I8254X, I82574, I82576] {
        let bench = Bench::new(kind);
        let driver = bench.running();
        assert_eq!((bench.card.get(reg::RCTL) & 1 << 5, driver.capabilities().max_frame), (0, 1518));
        let bench = long(kind);
        let _driver = bench.running();
        assert_ne!(bench.card.get(reg::RCTL) & 1 << 5, 0);
    }
}

#[test]
fn the_length_of_frames_is_bounded_whatever_is_asked_for() {
    for (asked, got) in [(0, 1518), (68, 1518), (4000, 4000), (9018, 9018), (65_535, 9018)] {
        let bench = Bench::new(Kind { max_frame: asked, ..I82574 });
        assert_eq!(bench.start().unwrap().capabilities().max_frame, got);
    }
}

#[test]
fn dv_01_a_long_frame_that_is_too_long_is_dropped_whole() {
    let bench = long(I82574);
    let mut driver = bench.running();
    for pieces in [3, 4, 10, 40] {
        for _ in 0..pieces {
            assert!(bench.card.complete_rx(&[1; 64], 4096, 0b01, 0));
        }
        assert!(bench.card.complete_rx(&[1; 64], 64, 0b11, 0));
        assert!(driver.receive().is_none());
    }
    assert!(bench.card.receive(&payload(1, 9018)));
    assert_eq!(bytes_of(&driver.receive().unwrap()), payload(1, 9018));
    assert_eq!((driver.counters().rx_dropped, driver.counters().rx_frames), (4, 1));
}

#[test]
fn dv_02_a_part_that_does_not_fill_its_buffer_ends_the_frame() {
    let bench = long(I82574);
    let mut driver = bench.running();
    for len in [0, 1, 4095] {
        assert!(bench.card.complete_rx(&[1; 64], 4096, 0b01, 0));
        assert!(bench.card.complete_rx(&[1; 64], len, 0b01, 0));
        assert!(bench.card.complete_rx(&[1; 64], 64, 0b11, 0));
        assert!(driver.receive().is_none());
    }
    assert!(bench.card.receive(&payload(1, 5000)));
    assert_eq!(bytes_of(&driver.receive().unwrap()), payload(1, 5000));
}

#[test]
fn dv_02_an_end_without_bytes_makes_no_frame() {
    let bench = long(I82576);
    let mut driver = bench.running();
    assert!(bench.card.complete_rx(&[1; 64], 4096, 0b01, 0));
    assert!(bench.card.complete_rx(&[], 0, 0b11, 0));
    assert!(driver.receive().is_none());
}

#[test]
fn dv_03_what_a_long_frame_left_reaches_nobody() {
    let bench = long(I82574);
    let mut driver = bench.running();
    for number in 0..600 {
        assert!(bench.card.receive(&[0x5e; 9018]));
        drop(driver.receive().unwrap());
        if number >= 300 {
            for (len, status) in [(4096, 0b01), (4096, 0b01), (800, 0b11)] {
                assert!(bench.card.complete_rx(&[], len, status, 0));
            }
            let frame = driver.receive().unwrap();
            assert!(bytes_of(&frame).iter().all(|byte| *byte == 0), "what another frame left, at {number}");
        }
    }
}

#[test]
fn frames_on_their_way_are_bounded_and_come_again() {
    let bench = long(I82576);
    let mut driver = bench.running();
    let mut held = Vec::new();
    for number in 0..200 {
        assert!(bench.card.receive(&payload(number, 9018)));
        held.extend(driver.receive());
    }
    assert!((10..=13).contains(&held.len()), "{}", held.len());
    held.clear();
    assert!(bench.card.receive(&payload(1, 9018)));
    assert_eq!(bytes_of(&driver.receive().unwrap()), payload(1, 9018));
}

#[test]
fn the_checksum_of_a_long_frame_is_what_its_end_says() {
    let bench = long(I82576);
    let mut driver = bench.running();
    assert!(bench.card.complete_rx(&[1; 64], 4096, 0b01, 0));
    assert!(bench.card.complete_rx(&[1; 64], 64, 0b11 | 0x20, 0));
    assert_eq!(driver.receive().unwrap().checksum, Checksum::Good);
    assert!(bench.card.complete_rx(&[1; 64], 4096, 0b01 | 0x20, 0));
    assert!(bench.card.complete_rx(&[1; 64], 64, 0b11 | 0x20, 0x20));
    assert_eq!(driver.receive().unwrap().checksum, Checksum::Unknown);
}

#[test]
fn a_link_that_is_down_is_negotiated_and_one_that_is_up_is_left_alone() {
    for up in [true, false] {
        let bench = Bench::new(I82576);
        bench.card.set_link(up);
        bench.card.manners(|manners| manners.link_is_down_after_reset = !up);
        let _driver = bench.start().unwrap();
        let restarted =
            |(at, value): &(usize, Option<u32>)| *at == reg::MDIC && value.is_some_and(|value| value & 1 << 9 != 0);
        assert_eq!(bench.card.accesses().iter().any(restarted), !up);
    }
}

#[test]
fn frames_that_the_card_dropped_are_counted() {
    let bench = Bench::new(I82576);
    let mut driver = bench.running();
    bench.card.set(reg::MPC, 3);
    bench.card.set(reg::CRCERRS, 2);
    bench.card.set(0xc000 + 0x40 + 0x30, 4);
    bench.clock.advance(core::time::Duration::from_secs(1));
    driver.poll().unwrap();
    assert_eq!((driver.counters().rx_missed, driver.counters().rx_dropped), (7, 2));
}
