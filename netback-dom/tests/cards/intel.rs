//! The driver of Intel's cards against a model of each of them, well behaved and not.

use std::time::Duration;

use crate::model::intel::{Card, MAC, reg};
use crate::model::{Frames, TestClock, bytes_of, checksum, payload, sum, tcp};
use netback_dom::frame::{Checksum, Gso};
use netback_dom::nic::intel::{Intel, Model, Quiet};
use netback_dom::nic::{Link, MacAddress, Nic, NicError, Settings};
use pciback::InterruptKind;
use xen_pv_rt::hyp::HostMemory;

type Driver = Intel<Card, TestClock>;

/// Received frames that may be on their way.
const SPARE: usize = 40;

/// A card, and how it interrupts.
#[derive(Clone, Copy)]
pub struct Kind {
    pub model: Model,
    pub interrupts: (InterruptKind, u16),
    /// Longest frame.
    pub max_frame: usize,
}

const fn kind(model: Model, kind: InterruptKind, vectors: u16) -> Kind {
    Kind { model, interrupts: (kind, vectors), max_frame: 1518 }
}

pub const I8254X: Kind = kind(Model::I8254x, InterruptKind::Intx, 1);
pub const I82574: Kind = kind(Model::I82574, InterruptKind::MsiX, 1);
pub const I82576: Kind = kind(Model::I82576, InterruptKind::MsiX, 5);
pub const I82576_MSI: Kind = kind(Model::I82576, InterruptKind::Msi, 1);

pub struct Bench {
    kind: Kind,
    memory: HostMemory,
    pub clock: TestClock,
    pub card: Card,
    pub frames: Frames,
}

impl Bench {
    pub fn new(kind: Kind) -> Self {
        let memory = HostMemory::new();
        let (card, frames) = (Card::new(&memory, kind.model), Frames::new(&memory));
        Self { kind, clock: TestClock::default(), card, frames, memory }
    }
    pub fn start(&self) -> Result<Driver, NicError> {
        let settings = Settings { spare: SPARE, max_frame: self.kind.max_frame };
        let quiet = Quiet::reset(self.kind.model, self.card.clone(), self.clock.clone())?;
        quiet.start(&self.memory, settings, self.kind.interrupts)
    }
    pub fn running(&self) -> Driver {
        let driver = self.start().unwrap();
        self.card.accesses();
        driver
    }
}

/// Runs tests on every kind of card.
macro_rules! on_every_card {
    ($($name:ident)*) => {
        on_every_card!(i8254x I8254X: $($name)*);
        on_every_card!(i82574 I82574: $($name)*);
        on_every_card!(i82576 I82576: $($name)*);
        on_every_card!(i82576_msi I82576_MSI: $($name)*);
    };
    ($module:ident $kind:ident: $($name:ident)*) => {
        mod $module {
            $(#[test]
            fn $name() {
                super::$name(super::$kind);
            })*
        }
    };
}

on_every_card! {
    a_card_left_running_is_reset_before_it_is_given_memory
    frames_leave_in_order_over_many_laps_of_the_ring
    frames_arrive_in_order_over_many_laps_of_the_ring
    a_frame_in_several_segments_is_sent_whole
    a_short_frame_is_padded_with_zeros
    a_blank_checksum_is_filled_in_and_the_context_is_sent_once
    a_short_frame_has_its_checksum_filled_in_before_it_is_padded
    a_large_packet_is_cut_into_segments_with_good_checksums
    a_segmentation_request_without_a_tcp_header_is_dropped
    the_hot_path_reads_no_register_and_rings_once_per_batch
    a_receive_ring_that_was_full_gets_back_more_slots_than_qemu_has_frames_queued
    a_full_ring_gives_the_frame_back_and_takes_it_once_there_is_room
    dv_01_a_length_beyond_the_buffer_is_dropped
    dv_02_lengths_that_make_no_frame_are_dropped
    dv_02_a_frame_without_end_neither_holds_the_caller_nor_leaks_a_buffer
    a_damaged_frame_is_dropped
    dv_03_a_frame_that_is_reported_but_not_written_shows_zeros
    dv_05_a_completion_of_a_descriptor_that_is_not_the_cards_frees_nothing
    dv_06_a_card_that_stops_sending_is_reset_and_goes_on
    an_idle_card_is_not_reset
    frames_wait_for_the_link_without_a_reset
    dv_08_a_checksum_is_good_only_if_the_card_checked_it_and_found_it_good
    dv_12_a_frame_without_an_interrupt_is_found_by_polling
    a_frame_just_before_going_to_sleep_is_not_missed
    dv_12_a_lost_interrupt_is_asked_for_again
    a_received_frame_shows_without_reading_a_register
    a_card_that_has_not_interrupted_is_not_asked_why
    sent_frames_interrupt_only_when_the_ring_is_crowded
    a_link_change_is_seen_after_its_interrupt
    dv_14_a_card_that_is_gone_is_noticed_and_holds_nobody
    dv_15_no_wait_for_the_card_is_endless
    dv_16_an_impossible_address_is_not_used
    dv_18_memory_of_a_card_that_does_not_stop_is_never_given_back
    a_quiesced_card_no_longer_touches_memory
    a_received_frame_is_dropped_while_no_buffer_is_free_and_the_card_goes_on
}

fn a_card_left_running_is_reset_before_it_is_given_memory(kind: Kind) {
    let bench = Bench::new(kind);
    for (register, value) in [(reg::RCTL, 2), (reg::TCTL, 2), (reg::IMS, 0xff), (reg::RDT, 7), (reg::RDBAL, 0x6000)] {
        bench.card.set(register, value);
    }
    let _driver = bench.start().unwrap();
    let writes: Vec<_> = bench.card.accesses().into_iter().filter_map(|(at, value)| Some((at, value?))).collect();
    let first =
        |wanted: &dyn Fn(usize, u32) -> bool| writes.iter().position(|(at, value)| wanted(*at, *value)).unwrap();
    let reset = first(&|at, value| at == reg::CTRL && value & 1 << 26 != 0);
    let memory = first(&|at, _| matches!(at, reg::RDBAL | reg::TDBAL));
    let enabled = first(&|at, value| matches!(at, reg::RCTL | reg::TCTL) && value & 2 != 0);
    assert!(first(&|at, value| at == reg::RCTL && value == 0) < reset);
    assert!(reset < memory && memory < enabled);
}

fn frames_leave_in_order_over_many_laps_of_the_ring(kind: Kind) {
    let bench = Bench::new(kind);
    let mut driver = bench.running();
    for number in 0..2000_u32 {
        driver.transmit(bench.frames.whole(&payload(number, 60 + number as usize % 1400))).map_err(drop).unwrap();
        if number % 7 == 0 {
            driver.flush();
            driver.poll().unwrap();
        }
    }
    driver.flush();
    driver.poll().unwrap();
    let sent = bench.card.sent();
    assert_eq!(sent.len(), 2000);
    for (number, frame) in (0..).zip(sent) {
        assert_eq!(frame, payload(number, 60 + number as usize % 1400));
    }
    assert_eq!((driver.counters().tx_frames, bench.frames.outstanding()), (2000, 0));
}

fn frames_arrive_in_order_over_many_laps_of_the_ring(kind: Kind) {
    let bench = Bench::new(kind);
    let mut driver = bench.running();
    for number in 0..2000 {
        let frame = payload(number, 60 + number as usize % 1400);
        assert!(bench.card.receive(&frame));
        if number % 5 == 4 {
            for expected in number - 4..=number {
                assert_eq!(bytes_of(&driver.receive().unwrap()), payload(expected, 60 + expected as usize % 1400));
            }
            assert!(driver.receive().is_none());
        }
    }
    assert_eq!(driver.counters().rx_frames, 2000);
}

fn a_frame_in_several_segments_is_sent_whole(kind: Kind) {
    let bench = Bench::new(kind);
    let mut driver = bench.running();
    let parts: Vec<Vec<u8>> = (0..18).map(|number| payload(number, 80)).collect();
    let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
    driver.transmit(bench.frames.scattered(&parts)).map_err(drop).unwrap();
    driver.flush();
    assert_eq!(bench.card.sent(), [parts.concat()]);
}

fn a_short_frame_is_padded_with_zeros(kind: Kind) {
    let bench = Bench::new(kind);
    let mut driver = bench.running();
    driver.transmit(bench.frames.whole(&payload(1, 42))).map_err(drop).unwrap();
    driver.transmit(bench.frames.scattered(&[&payload(2, 20), &payload(3, 10)])).map_err(drop).unwrap();
    driver.flush();
    let expected = |parts: &[Vec<u8>]| {
        let mut bytes = parts.concat();
        bytes.resize(60, 0);
        bytes
    };
    assert_eq!(bench.card.sent(), [expected(&[payload(1, 42)]), expected(&[payload(2, 20), payload(3, 10)])]);
}

fn a_blank_checksum_is_filled_in_and_the_context_is_sent_once(kind: Kind) {
    let bench = Bench::new(kind);
    let mut driver = bench.running();
    for number in 0..3 {
        let mut bytes = payload(number, 200);
        // The field holds a pseudo-header sum.
        bytes[50..52].copy_from_slice(&[0x12, 0x34]);
        let mut frame = bench.frames.whole(&bytes);
        frame.checksum = Checksum::Blank { start: 34, field: 16 };
        driver.transmit(frame).map_err(drop).unwrap();
        let plain = bench.frames.whole(&payload(number, 100));
        driver.transmit(plain).map_err(drop).unwrap();
        driver.flush();
        let value = checksum(&bytes[34..]);
        bytes[50..52].copy_from_slice(&value.to_be_bytes());
        assert_eq!(bench.card.sent(), [bytes, payload(number, 100)]);
    }
    assert_eq!(bench.card.state.borrow().contexts, 1);
}

/// QEMU's models take the padding for a part of the packet: seen as acknowledgements that no peer accepted.
fn a_short_frame_has_its_checksum_filled_in_before_it_is_padded(kind: Kind) {
    let bench = Bench::new(kind);
    let mut driver = bench.running();
    let (bytes, start) = tcp(false, 0);
    let mut frame = bench.frames.whole(&bytes);
    frame.checksum = Checksum::Blank { start: start as u16, field: 16 };
    driver.transmit(frame).map_err(drop).unwrap();
    driver.flush();
    let sent = bench.card.sent().remove(0);
    assert_eq!((bytes.len(), sent.len(), &sent[54..]), (54, 60, &[0; 6][..]));
    let total = sum(&[&sent[26..34], &[0, 6, 0, 20], &sent[34..54]].concat());
    assert_eq!((total, bench.card.state.borrow().contexts), (0xffff, 0));
}

fn a_large_packet_is_cut_into_segments_with_good_checksums(kind: Kind) {
    for ipv6 in [false, true] {
        let bench = Bench::new(kind);
        let mut driver = bench.running();
        assert_eq!(driver.capabilities().tso6, kind.model != Model::I8254x, "see Model::cuts_ipv6");
        if ipv6 && !driver.capabilities().tso6 {
            continue;
        }
        let (bytes, start) = tcp(ipv6, 5000);
        let parts: Vec<&[u8]> = bytes.chunks(2000).collect();
        let mut frame = bench.frames.scattered(&parts);
        frame.checksum = Checksum::Blank { start: start as u16, field: 16 };
        frame.gso = Some(Gso { ipv6, size: 1400 });
        driver.transmit(frame).map_err(drop).unwrap();
        driver.flush();
        let sent = bench.card.sent();
        assert_eq!(sent.iter().map(|frame| frame.len() - start - 20).collect::<Vec<_>>(), [1400, 1400, 1400, 800]);
        for (number, frame) in sent.iter().enumerate() {
            let at = 1400 * number + start + 20;
            assert_eq!(frame[start + 20..], bytes[at..at + frame.len() - start - 20]);
            let len = if ipv6 {
                40 + usize::from(frame[18]) * 256 + usize::from(frame[19])
            } else {
                usize::from(frame[16]) * 256 + usize::from(frame[17])
            };
            assert_eq!(14 + len, frame.len(), "length in the header of segment {number}");
            let addresses = if ipv6 { &frame[22..54] } else { &frame[26..34] };
            let len = u16::try_from(frame.len() - start).unwrap();
            let total = sum(&[addresses, &[0, 6], &len.to_be_bytes(), &frame[start..]].concat());
            assert_eq!(total, 0xffff, "checksum of segment {number}");
        }
    }
}

#[test]
fn after_a_cut_packet_the_next_frame_takes_two_descriptors() {
    let bench = Bench::new(I8254X);
    let mut driver = bench.running();
    let (bytes, start) = tcp(false, 3000);
    let mut frame = bench.frames.whole(&bytes);
    frame.checksum = Checksum::Blank { start: start as u16, field: 16 };
    frame.gso = Some(Gso { ipv6: false, size: 1400 });
    driver.transmit(frame).map_err(drop).unwrap();
    driver.flush();
    let before = bench.card.get(reg::TDT);
    driver.transmit(bench.frames.whole(&payload(1, 100))).map_err(drop).unwrap();
    driver.transmit(bench.frames.whole(&payload(2, 100))).map_err(drop).unwrap();
    driver.flush();
    assert_eq!(bench.card.get(reg::TDT) - before, 3);
    assert_eq!(bench.card.sent()[3..], [payload(1, 100), payload(2, 100)]);
}

fn a_segmentation_request_without_a_tcp_header_is_dropped(kind: Kind) {
    let bench = Bench::new(kind);
    let mut driver = bench.running();
    for start in [0, 13, 60, 99, 2000, u16::MAX] {
        let mut frame = bench.frames.whole(&payload(1, 100));
        frame.checksum = Checksum::Blank { start, field: 16 };
        frame.gso = Some(Gso { ipv6: false, size: 10 });
        driver.transmit(frame).map_err(drop).unwrap();
    }
    driver.flush();
    driver.poll().unwrap();
    assert_eq!((bench.frames.outstanding(), bench.card.get(reg::TDH)), (0, bench.card.get(reg::TDT)));
}

fn the_hot_path_reads_no_register_and_rings_once_per_batch(kind: Kind) {
    let bench = Bench::new(kind);
    let mut driver = bench.running();
    for number in 0..20 {
        driver.transmit(bench.frames.whole(&payload(number, 100))).map_err(drop).unwrap();
        assert!(bench.card.receive(&payload(number, 100)));
        driver.receive().unwrap();
    }
    driver.flush();
    driver.flush();
    driver.poll().unwrap();
    let accesses = bench.card.accesses();
    // The first look at the link, after start, is due in the same turn.
    let counts =
        |at| matches!(at, reg::MPC | reg::CRCERRS) || at >= 0xc000 && at & 0x3f == 0x30 || at == reg::RDBAL + 0x30;
    let hot: Vec<_> = accesses.iter().filter(|(at, _)| *at != reg::STATUS && !counts(*at)).collect();
    assert_eq!(hot, [&(reg::TDT, Some(20))]);
}

/// QEMU's cards drop what they have queued, up to 45 full frames, and finds no slot when the tail moves.
fn a_receive_ring_that_was_full_gets_back_more_slots_than_qemu_has_frames_queued(kind: Kind) {
    let bench = Bench::new(kind);
    let mut driver = bench.running();
    while bench.card.receive(&payload(1, 1000)) {}
    let mut taken = 0;
    while !bench.card.receive(&payload(2, 1000)) {
        drop(driver.receive().unwrap());
        taken += 1;
    }
    let more = core::iter::from_fn(|| bench.card.receive(&payload(2, 1000)).then_some(())).count();
    assert!(taken <= 64 && more + 1 > 45, "{taken} taken, {more} more");
}

fn a_full_ring_gives_the_frame_back_and_takes_it_once_there_is_room(kind: Kind) {
    let bench = Bench::new(kind);
    let mut driver = bench.running();
    bench.card.manners(|manners| manners.tx_hangs = true);
    let mut queued = 0;
    let refused = loop {
        match driver.transmit(bench.frames.whole(&payload(queued, 100))) {
            Ok(()) => queued += 1,
            Err(frame) => break frame,
        }
    };
    assert!((200..256).contains(&queued));
    bench.card.manners(|manners| manners.tx_hangs = false);
    bench.card.transmit();
    driver.transmit(refused).map_err(drop).unwrap();
    driver.flush();
    driver.poll().unwrap();
    assert_eq!((bench.card.sent().len(), bench.frames.outstanding()), (queued as usize + 1, 0));
}

fn dv_01_a_length_beyond_the_buffer_is_dropped(kind: Kind) {
    let bench = Bench::new(kind);
    let mut driver = bench.running();
    for len in [2049, 4096, 4097, u16::MAX] {
        assert!(bench.card.complete_rx(&[1; 64], len, 0b11, 0));
        assert!(driver.receive().is_none());
    }
    assert!(bench.card.receive(&payload(5, 100)));
    assert_eq!(bytes_of(&driver.receive().unwrap()), payload(5, 100));
    assert_eq!((driver.counters().rx_dropped, driver.counters().rx_frames), (4, 1));
}

fn dv_02_lengths_that_make_no_frame_are_dropped(kind: Kind) {
    let bench = Bench::new(kind);
    let mut driver = bench.running();
    for len in [0, 1, 13] {
        assert!(bench.card.complete_rx(&[1; 64], len, 0b11, 0));
        assert!(driver.receive().is_none());
    }
    assert!(bench.card.complete_rx(&[1; 64], 14, 0b11, 0));
    assert_eq!(driver.receive().unwrap().len(), 14);
}

fn dv_02_a_frame_without_end_neither_holds_the_caller_nor_leaks_a_buffer(kind: Kind) {
    let bench = Bench::new(kind);
    let mut driver = bench.running();
    for _ in 0..10 {
        while bench.card.complete_rx(&[1; 64], 64, 0b01, 0) {}
        assert!(driver.receive().is_none());
    }
    // The end of the endless frame, then a good one.
    assert!(bench.card.receive(&payload(1, 100)));
    assert!(bench.card.receive(&payload(2, 100)));
    assert_eq!(bytes_of(&driver.receive().unwrap()), payload(2, 100));
}

fn a_damaged_frame_is_dropped(kind: Kind) {
    let bench = Bench::new(kind);
    let mut driver = bench.running();
    assert!(bench.card.complete_rx(&payload(1, 100), 100, 0b11, 1));
    assert!(driver.receive().is_none());
    assert_eq!(driver.counters().rx_dropped, 1);
}

fn dv_03_a_frame_that_is_reported_but_not_written_shows_zeros(kind: Kind) {
    let bench = Bench::new(kind);
    let mut driver = bench.running();
    // Every buffer of the pool has held somebody's frame.
    for number in 0..1000 {
        assert!(bench.card.receive(&[0x5e; 1500]));
        drop(driver.receive().unwrap());
        if number >= 300 {
            assert!(bench.card.complete_rx(&[], 1500, 0b11, 0));
            let frame = driver.receive().unwrap();
            assert!(bytes_of(&frame).iter().all(|byte| *byte == 0), "what another frame left, at {number}");
        }
    }
}

fn dv_05_a_completion_of_a_descriptor_that_is_not_the_cards_frees_nothing(kind: Kind) {
    let bench = Bench::new(kind);
    let mut driver = bench.running();
    // Every descriptor of the transmit ring says that it is done.
    let ring = u64::from(bench.card.get(reg::TDBAL)) | u64::from(bench.card.get(reg::TDBAH)) << 32;
    let all_done = |bench: &Bench| {
        for index in 0..256 {
            let at = xen_pv_rt::hyp::Maddr::from_raw(ring + index * 16 + 12);
            bench.memory.write(at, &[1]).unwrap();
        }
    };
    all_done(&bench);
    bench.card.manners(|manners| manners.tx_hangs = true);
    driver.transmit(bench.frames.whole(&payload(1, 100))).map_err(drop).unwrap();
    driver.flush();
    driver.poll().unwrap();
    assert_eq!((bench.frames.outstanding(), driver.counters().tx_frames), (1, 0));
    // And once more when it really is.
    bench.card.manners(|manners| manners.tx_hangs = false);
    bench.card.transmit();
    all_done(&bench);
    driver.poll().unwrap();
    driver.poll().unwrap();
    assert_eq!((bench.frames.outstanding(), driver.counters().tx_frames), (0, 1));
}

fn dv_06_a_card_that_stops_sending_is_reset_and_goes_on(kind: Kind) {
    let bench = Bench::new(kind);
    let mut driver = bench.running();
    bench.card.manners(|manners| manners.tx_hangs = true);
    driver.transmit(bench.frames.whole(&payload(1, 100))).map_err(drop).unwrap();
    driver.flush();
    driver.poll().unwrap();
    bench.clock.advance(Duration::from_secs(4));
    driver.poll().unwrap();
    assert_eq!((driver.counters().resets, bench.frames.outstanding()), (0, 1));
    bench.clock.advance(Duration::from_secs(2));
    bench.card.manners(|manners| manners.tx_hangs = false);
    driver.poll().unwrap();
    let counters = driver.counters();
    assert_eq!((counters.resets, counters.tx_dropped, bench.frames.outstanding()), (1, 1, 0));
    driver.transmit(bench.frames.whole(&payload(2, 100))).map_err(drop).unwrap();
    driver.flush();
    assert!(bench.card.receive(&payload(3, 100)));
    assert_eq!(bench.card.sent(), [payload(2, 100)]);
    assert_eq!(bytes_of(&driver.receive().unwrap()), payload(3, 100));
}

fn an_idle_card_is_not_reset(kind: Kind) {
    let bench = Bench::new(kind);
    let mut driver = bench.running();
    for _ in 0..10 {
        bench.clock.advance(Duration::from_secs(10));
        driver.poll().unwrap();
        driver.transmit(bench.frames.whole(&payload(1, 100))).map_err(drop).unwrap();
        driver.flush();
        driver.poll().unwrap();
    }
    assert_eq!(driver.counters().resets, 0);
}

fn frames_wait_for_the_link_without_a_reset(kind: Kind) {
    let bench = Bench::new(kind);
    let mut driver = bench.running();
    bench.card.manners(|manners| manners.tx_hangs = true);
    bench.card.set_link(false);
    driver.transmit(bench.frames.whole(&payload(1, 100))).map_err(drop).unwrap();
    driver.flush();
    for _ in 0..20 {
        bench.clock.advance(Duration::from_secs(1));
        driver.poll().unwrap();
    }
    assert_eq!((driver.link(), driver.counters().resets), (Link::Down, 0));
}

fn dv_08_a_checksum_is_good_only_if_the_card_checked_it_and_found_it_good(kind: Kind) {
    let bench = Bench::new(kind);
    let mut driver = bench.running();
    const CHECKED: u8 = 0x20;
    const IGNORE: u8 = 0x04;
    for (status, errors, expected) in [
        (CHECKED, 0, Checksum::Good),
        (0, 0, Checksum::Unknown),
        (CHECKED | IGNORE, 0, Checksum::Unknown),
        (CHECKED, 0x20, Checksum::Unknown),
        (CHECKED, 0x40, Checksum::Unknown),
    ] {
        assert!(bench.card.complete_rx(&payload(1, 100), 100, 0b11 | status, errors));
        assert_eq!(driver.receive().unwrap().checksum, expected, "{status:#x} {errors:#x}");
    }
}

fn dv_12_a_frame_without_an_interrupt_is_found_by_polling(kind: Kind) {
    let bench = Bench::new(kind);
    let mut driver = bench.running();
    assert!(!driver.enable_interrupts());
    assert!(bench.card.receive(&payload(1, 100)));
    bench.card.set(reg::ICR, 0);
    driver.poll().unwrap();
    assert!(driver.receive().is_some());
}

fn dv_12_a_lost_interrupt_is_asked_for_again(kind: Kind) {
    let bench = Bench::new(kind);
    let mut driver = bench.running();
    driver.enable_interrupts();
    assert!(bench.card.receive(&payload(1, 100)));
    assert!(driver.receive().is_some());
    // The domain has not seen it, so it goes to sleep as if there had been none; the slow timer is not so sure.
    bench.card.take_messages();
    driver.enable_interrupts();
    driver.note_interrupts(u32::MAX);
    driver.enable_interrupts();
    assert!(!bench.card.asserts());
    assert!(bench.card.receive(&payload(2, 100)));
    assert!(bench.card.asserts(), "the card interrupts again");
}

fn a_received_frame_shows_without_reading_a_register(kind: Kind) {
    let bench = Bench::new(kind);
    let mut driver = bench.running();
    bench.card.accesses();
    assert!(!driver.has_received());
    assert!(bench.card.receive(&payload(1, 100)));
    assert!(driver.has_received());
    assert_eq!(bench.card.accesses(), []);
    driver.receive().unwrap();
    assert!(!driver.has_received());
}

fn a_card_that_has_not_interrupted_is_not_asked_why(kind: Kind) {
    let bench = Bench::new(kind);
    let mut driver = bench.running();
    driver.poll().unwrap();
    driver.enable_interrupts();
    bench.card.accesses();
    driver.transmit(bench.frames.whole(&payload(1, 100))).map_err(drop).unwrap();
    driver.flush();
    driver.enable_interrupts();
    let read: Vec<_> = bench.card.accesses().into_iter().filter(|(_, written)| written.is_none()).collect();
    assert_eq!(read, []);
}

fn a_frame_just_before_going_to_sleep_is_not_missed(kind: Kind) {
    let bench = Bench::new(kind);
    let mut driver = bench.running();
    driver.poll().unwrap();
    assert!(!driver.enable_interrupts());
    assert!(!bench.card.asserts());
    assert!(bench.card.receive(&payload(1, 100)));
    assert!(bench.card.asserts(), "the next frame interrupts");
    driver.note_interrupts(bench.card.take_messages());
    assert!(driver.enable_interrupts(), "work was there already");
    assert!(!bench.card.asserts(), "and the line is quiet again");
}

fn sent_frames_interrupt_only_when_the_ring_is_crowded(kind: Kind) {
    let bench = Bench::new(kind);
    let mut driver = bench.running();
    driver.poll().unwrap();
    bench.card.manners(|manners| manners.tx_hangs = true);
    driver.enable_interrupts();
    driver.transmit(bench.frames.whole(&payload(1, 100))).map_err(drop).unwrap();
    driver.flush();
    let resume = |bench: &Bench| {
        bench.card.manners(|manners| manners.tx_hangs = false);
        bench.card.transmit();
    };
    resume(&bench);
    assert!(!bench.card.asserts());
    bench.card.manners(|manners| manners.tx_hangs = true);
    for number in 0..200 {
        driver.transmit(bench.frames.whole(&payload(number, 100))).map_err(drop).unwrap();
    }
    driver.flush();
    driver.enable_interrupts();
    assert!(!bench.card.asserts());
    resume(&bench);
    assert!(bench.card.asserts());
    driver.note_interrupts(bench.card.take_messages());
    driver.enable_interrupts();
    driver.enable_interrupts();
    assert_eq!(bench.frames.outstanding(), 0);
    driver.transmit(bench.frames.whole(&payload(1, 100))).map_err(drop).unwrap();
    driver.flush();
    assert!(!bench.card.asserts());
}

fn a_link_change_is_seen_after_its_interrupt(kind: Kind) {
    let bench = Bench::new(kind);
    let mut driver = bench.running();
    driver.poll().unwrap();
    assert_eq!(driver.link(), Link::Up(1000));
    driver.enable_interrupts();
    bench.card.set_link(false);
    assert!(bench.card.asserts());
    driver.note_interrupts(bench.card.take_messages());
    assert!(driver.enable_interrupts());
    driver.poll().unwrap();
    assert_eq!(driver.link(), Link::Down);
    // And so is the next.
    driver.enable_interrupts();
    bench.card.set_link(true);
    assert!(bench.card.asserts());
    driver.note_interrupts(bench.card.take_messages());
    driver.enable_interrupts();
    driver.poll().unwrap();
    assert_eq!(driver.link(), Link::Up(1000));
}

fn dv_14_a_card_that_is_gone_is_noticed_and_holds_nobody(kind: Kind) {
    let bench = Bench::new(kind);
    let mut driver = bench.running();
    driver.poll().unwrap();
    bench.card.manners(|manners| manners.gone = true);
    // A card with vectors is not read before the domain sleeps; its next look at the link finds out.
    if !driver.enable_interrupts() {
        bench.clock.advance(Duration::from_secs(1));
    }
    assert_eq!(driver.poll(), Err(NicError::Gone));
    assert!(driver.transmit(bench.frames.whole(&payload(1, 100))).is_err());
    assert!(driver.receive().is_none());
    driver.quiesce();
    assert_eq!(driver.poll(), Err(NicError::Gone));

    let bench = Bench::new(kind);
    let mut driver = bench.running();
    bench.card.manners(|manners| manners.gone = true);
    bench.clock.advance(Duration::from_secs(1));
    assert_eq!(driver.poll(), Err(NicError::Gone), "found without an interrupt");
    assert_eq!(bench.start().err(), Some(NicError::Gone));
}

fn dv_15_no_wait_for_the_card_is_endless(kind: Kind) {
    let bench = Bench::new(kind);
    bench.card.manners(|manners| manners.reset_hangs = true);
    assert_eq!(bench.start().err(), Some(NicError::TimedOut("reset")));
    let bench = Bench::new(kind);
    bench.card.set_mac([0; 6]);
    bench.card.manners(|manners| manners.eeprom_hangs = true);
    assert_eq!(bench.start().err(), Some(NicError::TimedOut("EEPROM")));
}

fn dv_16_an_impossible_address_is_not_used(kind: Kind) {
    for mac in [[0; 6], [0xff; 6], [1, 0, 0x5e, 1, 2, 3]] {
        let bench = Bench::new(kind);
        bench.card.set_mac(mac);
        bench.card.state.borrow_mut().eeprom = [0x5452, 0x1200, 0x5634];
        assert_eq!(bench.start().unwrap().mac(), MacAddress(MAC), "the EEPROM has a good one");
        let bench = Bench::new(kind);
        bench.card.set_mac(mac);
        assert!(matches!(bench.start().err(), Some(NicError::Unsupported(_))));
    }
}

fn dv_18_memory_of_a_card_that_does_not_stop_is_never_given_back(kind: Kind) {
    let bench = Bench::new(kind);
    let before = bench.memory.pages_in_use();
    let driver = bench.running();
    let running = bench.memory.pages_in_use();
    assert!(running > before + 256);
    bench.card.manners(|manners| manners.reset_hangs = true);
    drop(driver);
    assert_eq!(bench.memory.pages_in_use(), running);

    let driver = {
        bench.card.manners(|manners| manners.reset_hangs = false);
        bench.running()
    };
    drop(driver);
    assert_eq!(bench.memory.pages_in_use(), running, "a card that stops gives its memory back");
}

fn a_quiesced_card_no_longer_touches_memory(kind: Kind) {
    let bench = Bench::new(kind);
    let mut driver = bench.running();
    driver.quiesce();
    assert!(!bench.card.receive(&payload(1, 100)));
    assert_eq!((bench.card.get(reg::IMS), bench.card.get(reg::TCTL) & 2), (0, 0));
    assert_eq!(driver.poll(), Ok(()));
}

fn a_received_frame_is_dropped_while_no_buffer_is_free_and_the_card_goes_on(kind: Kind) {
    let bench = Bench::new(kind);
    let mut driver = bench.running();
    let mut held = Vec::new();
    for number in 0..SPARE {
        assert!(bench.card.receive(&payload(number as u32, 100)));
        held.push(driver.receive().unwrap());
    }
    assert!(bench.card.receive(&payload(1, 100)));
    assert!(driver.receive().is_none());
    held.pop();
    assert!(bench.card.receive(&payload(2, 100)));
    assert_eq!(bytes_of(&driver.receive().unwrap()), payload(2, 100));
}
