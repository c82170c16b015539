//! The virtio-net driver, its transport and its queues against a model of the device, well behaved and not.

use std::time::Duration;

use crate::model::virtio::{
    ACCESS_PLATFORM, CSUM, Device, EVENT_IDX, GUEST_CSUM, HOST_TSO4, MAC, MRG_RXBUF, RX, TX, USUAL, VERSION_1,
};
use crate::model::{Frames, TestClock, bytes_of, checksum, payload};
use netback_dom::frame::{Checksum, Gso};
use netback_dom::nic::virtio::{Quiet, VirtioNet};
use netback_dom::nic::{Link, MacAddress, Nic, NicError, Settings};
use proptest::prelude::*;
use virtio_pci::VirtioPci;
use xen_pv_rt::hyp::HostMemory;

pub type Driver = VirtioNet<VirtioPci<Device>, TestClock>;

/// Received frames that may be on their way.
pub const SPARE: usize = 40;
/// A header of a frame in one buffer.
pub const PLAIN: [u8; 12] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0];

pub struct Bench {
    pub memory: HostMemory,
    pub clock: TestClock,
    pub device: Device,
    pub frames: Frames,
    pub msix: bool,
    pub max_frame: usize,
}

impl Bench {
    pub fn new() -> Self {
        Self::with(USUAL)
    }
    pub fn with(features: u64) -> Self {
        Self::with_pairs(features, 1)
    }
    pub fn with_pairs(features: u64, pairs: u16) -> Self {
        let memory = HostMemory::new();
        Self {
            clock: TestClock::default(),
            device: Device::new(&memory, features, pairs),
            frames: Frames::new(&memory),
            memory,
            msix: true,
            max_frame: 1518,
        }
    }
    pub fn start(&self) -> Result<Driver, NicError> {
        let settings = Settings { spare: SPARE, max_frame: self.max_frame };
        Quiet::reset(self.device.transport(self.msix), self.clock.clone())?.start(&self.memory, settings)
    }
    pub fn running(&self) -> Driver {
        let driver = self.start().unwrap();
        self.device.accesses();
        driver
    }
    pub fn send(&self, driver: &mut Driver, bytes: &[u8]) {
        driver.transmit(self.frames.whole(bytes)).map_err(drop).unwrap();
    }
}

#[test]
fn a_device_left_running_is_reset_before_it_is_given_memory() {
    let bench = Bench::new();
    bench.device.state.borrow_mut().status = 0xf;
    let _driver = bench.start().unwrap();
    let writes: Vec<_> = bench.device.accesses().into_iter().filter_map(|(at, value)| Some((at, value?))).collect();
    assert_eq!(writes[0], (20, 0));
    let enabled = writes.iter().position(|write| *write == (28, 1)).unwrap();
    let serving = writes.iter().position(|(at, value)| *at == 20 && value & 4 != 0).unwrap();
    assert!(enabled < serving);
}

#[test]
fn what_is_offered_and_known_is_accepted_and_nothing_else() {
    let bench = Bench::with(USUAL | CSUM);
    let driver = bench.running();
    let accepted = bench.device.state.borrow().accepted;
    assert_eq!(accepted & (VERSION_1 | ACCESS_PLATFORM | CSUM), VERSION_1 | ACCESS_PLATFORM | CSUM);
    assert_eq!(accepted & 1 << 22, 0);
    assert!(driver.capabilities().tx_checksum && !driver.capabilities().tso4);
    assert_eq!((driver.mac(), driver.link()), (MacAddress(MAC), Link::Up(0)));
}

#[test]
fn a_device_that_refuses_the_features_or_is_not_modern_is_not_used() {
    let bench = Bench::new();
    bench.device.manners(|manners| manners.refuses_features = true);
    assert!(matches!(bench.start().err(), Some(NicError::Unsupported(_))));
    let bench = Bench::with(USUAL & !VERSION_1);
    assert_eq!(bench.start().err(), Some(NicError::Unsupported("virtio 1.0")));
}

#[test]
fn queues_of_any_usable_size_work() {
    for max in [32, 64, 100, 256, 1024] {
        let bench = Bench::new();
        bench.device.state.borrow_mut().queues.iter_mut().for_each(|queue| queue.max = max);
        let mut driver = bench.running();
        for number in 0..500 {
            bench.send(&mut driver, &payload(number, 100));
            driver.flush();
            driver.poll().unwrap();
            assert!(bench.device.receive(&payload(number, 100)));
            assert_eq!(bytes_of(&driver.receive().unwrap()), payload(number, 100));
            assert!(driver.receive().is_none());
        }
        assert_eq!(bench.device.sent().len(), 500, "size {max}");
    }
    for max in [0, 1, 16] {
        let bench = Bench::new();
        bench.device.state.borrow_mut().queues.iter_mut().for_each(|queue| queue.max = max);
        assert!(matches!(bench.start().err(), Some(NicError::Unsupported(_))), "size {max}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// The device sleeps after every batch. A lost notification leaves frames behind for ever.
    #[test]
    fn no_notification_is_lost_whatever_the_batches(
        batches in prop::collection::vec((1_u32..40, any::<bool>()), 200..400),
        event_idx in any::<bool>(),
    ) {
        let bench = Bench::with(if event_idx { USUAL } else { USUAL & !EVENT_IDX });
        let mut driver = bench.running();
        let mut number = 0;
        for (batch, poll) in batches {
            for _ in 0..batch {
                bench.send(&mut driver, &payload(number, 64));
                number += 1;
            }
            driver.flush();
            prop_assert_eq!(bench.device.state.borrow().sent.len(), number as usize);
            if poll {
                driver.poll().unwrap();
            }
        }
        driver.poll().unwrap();
        prop_assert_eq!(bench.frames.outstanding(), 0);
    }
}

#[test]
fn a_received_frame_shows_without_an_access_to_the_device() {
    let bench = Bench::new();
    let mut driver = bench.running();
    bench.device.accesses();
    assert!(!driver.has_received());
    assert!(bench.device.receive(&payload(1, 100)));
    assert!(driver.has_received());
    assert_eq!(bench.device.accesses(), []);
    driver.receive().unwrap();
    assert!(!driver.has_received());
}

#[test]
fn no_notification_is_lost_where_the_index_wraps() {
    let bench = Bench::new();
    let mut driver = bench.running();
    // Batches of 13 pass 65536 with an index that is never just there.
    for batch in 0..5100_u32 {
        for _ in 0..13 {
            bench.send(&mut driver, &[0x11; 60]);
        }
        driver.flush();
        assert_eq!(bench.device.sent().len(), 13, "batch {batch}");
        driver.poll().unwrap();
    }
}

#[test]
fn one_notification_per_batch_and_no_other_access_on_the_hot_path() {
    let bench = Bench::new();
    let mut driver = bench.running();
    for number in 0..20 {
        bench.send(&mut driver, &payload(number, 100));
        assert!(bench.device.receive(&payload(number, 100)));
        driver.receive().unwrap();
    }
    driver.flush();
    driver.flush();
    driver.poll().unwrap();
    assert!(!driver.enable_interrupts());
    let accesses = bench.device.accesses();
    assert_eq!(accesses, [(0x3000 + 4, Some(TX as u64))]);
}

#[test]
fn frames_arrive_in_order_over_many_laps_of_the_ring() {
    let bench = Bench::new();
    let mut driver = bench.running();
    for number in 0..2000 {
        let len = 60 + number as usize % 1400;
        assert!(bench.device.receive(&payload(number, len)), "no buffer at {number}");
        assert_eq!(bytes_of(&driver.receive().unwrap()), payload(number, len));
        if number % 9 == 0 {
            assert!(driver.receive().is_none());
        }
    }
    assert_eq!(driver.counters().rx_frames, 2000);
}

#[test]
fn a_frame_in_several_segments_is_sent_whole() {
    let bench = Bench::new();
    let mut driver = bench.running();
    let parts: Vec<Vec<u8>> = (0..18).map(|number| payload(number, 80)).collect();
    let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
    driver.transmit(bench.frames.scattered(&parts)).map_err(drop).unwrap();
    driver.flush();
    assert_eq!(bench.device.sent(), [parts.concat()]);
}

#[test]
fn a_short_frame_is_padded_with_zeros() {
    let bench = Bench::new();
    let mut driver = bench.running();
    bench.send(&mut driver, &payload(1, 42));
    driver.flush();
    let mut expected = payload(1, 42);
    expected.resize(60, 0);
    assert_eq!(bench.device.sent(), [expected]);
}

#[test]
fn a_blank_checksum_is_filled_in_by_a_device_that_offered_it() {
    let bench = Bench::with(USUAL | CSUM);
    let mut driver = bench.running();
    let mut bytes = payload(1, 200);
    bytes[50..52].copy_from_slice(&[0x12, 0x34]);
    let mut frame = bench.frames.whole(&bytes);
    frame.checksum = Checksum::Blank { start: 34, field: 16 };
    driver.transmit(frame).map_err(drop).unwrap();
    driver.flush();
    let value = checksum(&bytes[34..]);
    bytes[50..52].copy_from_slice(&value.to_be_bytes());
    assert_eq!(bench.device.sent(), [bytes]);

    let bench = Bench::new();
    let mut driver = bench.running();
    let mut frame = bench.frames.whole(&payload(1, 200));
    frame.checksum = Checksum::Blank { start: 34, field: 16 };
    driver.transmit(frame).map_err(drop).unwrap();
    driver.flush();
    assert_eq!((bench.device.sent().len(), driver.counters().tx_dropped), (0, 1));
}

#[test]
fn a_large_packet_tells_the_device_where_its_headers_end() {
    let bench = Bench::with(USUAL | CSUM | HOST_TSO4);
    let mut driver = bench.running();
    let mut bytes = payload(1, 3000);
    bytes[34 + 12] = 0x80;
    let mut frame = bench.frames.whole(&bytes);
    frame.checksum = Checksum::Blank { start: 34, field: 16 };
    frame.gso = Some(Gso { ipv6: false, size: 1400 });
    driver.transmit(frame).map_err(drop).unwrap();
    driver.flush();
    // NEEDS_CSUM, TCPV4, header length 66, segment size, checksum start and offset.
    assert_eq!(bench.device.state.borrow().headers, [[1, 1, 66, 0, 0x78, 0x05, 34, 0, 16, 0, 0, 0]]);
    assert_eq!(bench.device.sent(), [bytes]);
}

#[test]
fn a_frame_in_several_buffers_arrives_whole() {
    let bench = Bench { max_frame: 9018, ..Bench::new() };
    let mut driver = bench.running();
    for number in 0..300 {
        let mut header = PLAIN;
        header[10] = 3;
        assert!(bench.device.receive_as(header, &payload(number, 5000), 2048));
        let frame = driver.receive().unwrap();
        assert_eq!((bytes_of(&frame), frame.segment_count()), (payload(number, 5000), 3));
        assert!(driver.receive().is_none());
    }
}

#[test]
fn a_frame_in_several_buffers_with_a_bad_one_is_dropped_whole() {
    let bench = Bench::new();
    let mut driver = bench.running();
    let chains: Vec<_> = (0..3).map(|_| bench.device.take(RX).unwrap()).collect();
    let mut header = PLAIN;
    header[10] = 3;
    bench.memory.write(xen_pv_rt::hyp::Maddr::from_raw(chains[0].buffers[0].0), &header).unwrap();
    for (chain, len) in chains.iter().zip([2048, 5000, 100]) {
        bench.device.complete(RX, chain.head.into(), len);
    }
    assert!(bench.device.receive(&payload(7, 100)));
    assert_eq!(bytes_of(&driver.receive().unwrap()), payload(7, 100));
    assert_eq!(driver.counters().rx_dropped, 1);
}

#[test]
fn a_frame_of_more_buffers_than_a_frame_may_have_is_dropped_whole() {
    let bench = Bench::new();
    let mut driver = bench.running();
    let mut header = PLAIN;
    header[10] = 30;
    assert!(bench.device.receive_as(header, &payload(1, 30 * 2048 - 12), 2048));
    assert!(driver.receive().is_none());
    assert!(bench.device.receive(&payload(7, 100)));
    assert_eq!(bytes_of(&driver.receive().unwrap()), payload(7, 100));
    assert_eq!(driver.counters().rx_dropped, 1);
}

#[test]
fn dv_01_a_length_beyond_the_buffer_is_dropped() {
    let bench = Bench::new();
    let mut driver = bench.running();
    for len in [2049, 4097, u32::MAX] {
        let chain = bench.device.take(RX).unwrap();
        bench.memory.write(xen_pv_rt::hyp::Maddr::from_raw(chain.buffers[0].0), &PLAIN).unwrap();
        bench.device.complete(RX, chain.head.into(), len);
        assert!(driver.receive().is_none());
    }
    assert!(bench.device.receive(&payload(5, 100)));
    assert_eq!(bytes_of(&driver.receive().unwrap()), payload(5, 100));
    assert_eq!(driver.counters().rx_dropped, 3);
}

#[test]
fn dv_02_lengths_that_make_no_frame_are_dropped() {
    let bench = Bench::new();
    let mut driver = bench.running();
    for len in [0, 1, 11, 12, 25] {
        let chain = bench.device.take(RX).unwrap();
        bench.memory.write(xen_pv_rt::hyp::Maddr::from_raw(chain.buffers[0].0), &PLAIN).unwrap();
        bench.device.complete(RX, chain.head.into(), len);
        assert!(driver.receive().is_none(), "{len}");
    }
    assert!(bench.device.receive(&payload(5, 14)));
    assert_eq!(driver.receive().unwrap().len(), 14);
}

#[test]
fn dv_02_a_frame_of_no_buffers_or_of_65535_does_not_hold_the_caller() {
    let bench = Bench::new();
    let mut driver = bench.running();
    let mut header = PLAIN;
    header[10] = 0;
    assert!(bench.device.receive_as(header, &payload(1, 100), 2048));
    assert!(driver.receive().is_none());
    assert!(bench.device.receive(&payload(2, 100)));
    assert!(driver.receive().is_some());
    header[10..].fill(0xff);
    assert!(bench.device.receive_as(header, &payload(3, 100), 2048));
    for _ in 0..1000 {
        assert!(driver.receive().is_none());
        assert!(bench.device.receive(&payload(4, 100)));
    }
}

#[test]
fn dv_03_a_frame_that_is_reported_but_not_written_shows_zeros() {
    let bench = Bench::with(USUAL & !MRG_RXBUF);
    let mut driver = bench.running();
    for number in 0..1000 {
        assert!(bench.device.receive(&[0x5e; 1500]));
        drop(driver.receive().unwrap());
        assert!(driver.receive().is_none());
        if number >= 300 {
            let chain = bench.device.take(RX).unwrap();
            bench.device.complete(RX, chain.head.into(), 1500);
            let frame = driver.receive().unwrap();
            assert!(bytes_of(&frame).iter().all(|byte| *byte == 0), "what another frame left, at {number}");
        }
    }
}

#[test]
fn dv_05_a_descriptor_that_is_not_the_devices_is_not_believed() {
    for queue in [RX, TX] {
        for id in [254, 256, 0xffff, 0x1_0000, u32::MAX] {
            let bench = Bench::new();
            let mut driver = bench.running();
            bench.device.manners(|manners| manners.tx_hangs = true);
            bench.send(&mut driver, &payload(1, 100));
            driver.flush();
            // Descriptor 254 of the receive queue is the device's, but not once it has given it back.
            bench.device.complete(queue, id, 100);
            bench.device.complete(queue, 255, 100);
            bench.device.complete(queue, id, 100);
            bench.device.complete(queue, id, 100);
            driver.receive();
            assert_eq!(driver.poll(), Err(NicError::Confused("descriptor id")), "queue {queue}, id {id}");
            assert_eq!(bench.frames.outstanding(), 1, "the frame that is on its way is kept");
        }
    }
}

#[test]
fn a_used_index_that_jumps_is_not_believed() {
    for jump in [257, 0x8000, 0xffff] {
        let bench = Bench::new();
        let mut driver = bench.running();
        bench.device.set_used_index(RX, jump);
        assert!(driver.receive().is_none());
        assert_eq!(driver.poll(), Err(NicError::Confused("used index")));
    }
}

#[test]
fn dv_06_a_device_that_stops_sending_is_reset_and_goes_on() {
    let bench = Bench::new();
    let mut driver = bench.running();
    bench.device.manners(|manners| manners.tx_hangs = true);
    bench.send(&mut driver, &payload(1, 100));
    driver.flush();
    driver.poll().unwrap();
    bench.clock.advance(Duration::from_secs(4));
    driver.poll().unwrap();
    assert_eq!((driver.counters().resets, bench.frames.outstanding()), (0, 1));
    bench.clock.advance(Duration::from_secs(2));
    bench.device.manners(|manners| manners.tx_hangs = false);
    driver.poll().unwrap();
    let counters = driver.counters();
    assert_eq!((counters.resets, counters.tx_dropped, bench.frames.outstanding()), (1, 1, 0));
    bench.send(&mut driver, &payload(2, 100));
    driver.flush();
    assert!(bench.device.receive(&payload(3, 100)));
    assert_eq!(bench.device.sent(), [payload(2, 100)]);
    assert_eq!(bytes_of(&driver.receive().unwrap()), payload(3, 100));
}

#[test]
fn a_device_that_asks_for_a_reset_gets_it() {
    let bench = Bench::new();
    let mut driver = bench.running();
    bench.device.state.borrow_mut().status |= 0x40;
    bench.clock.advance(Duration::from_secs(2));
    driver.poll().unwrap();
    assert_eq!((driver.counters().resets, bench.device.state.borrow().status), (1, 0xf));
}

#[test]
fn dv_08_what_the_device_says_of_checksums_counts_only_if_agreed_and_possible() {
    let blank = |start: u16, field: u16| {
        let ([a, b], [c, d]) = (start.to_le_bytes(), field.to_le_bytes());
        [1, 0, 0, 0, 0, 0, a, b, c, d, 1, 0]
    };
    let mut valid = PLAIN;
    valid[0] = 2;
    for (features, header, expected) in [
        (GUEST_CSUM, valid, Checksum::Good),
        (0, valid, Checksum::Unknown),
        (GUEST_CSUM, blank(34, 16), Checksum::Blank { start: 34, field: 16 }),
        (GUEST_CSUM, blank(34, 65), Checksum::Unknown),
        (GUEST_CSUM, blank(u16::MAX, u16::MAX), Checksum::Unknown),
        (0, blank(34, 16), Checksum::Unknown),
    ] {
        let bench = Bench::with(USUAL | features);
        let mut driver = bench.running();
        assert!(bench.device.receive_as(header, &payload(1, 100), 2048));
        assert_eq!(driver.receive().unwrap().checksum, expected, "{features} {header:?}");
    }
}

#[test]
fn dv_12_a_frame_without_an_interrupt_is_found_by_polling() {
    let bench = Bench::new();
    let mut driver = bench.running();
    // The driver has asked for no interrupts yet.
    assert!(bench.device.receive(&payload(1, 100)));
    assert_eq!(bench.device.queue(RX).interrupts, 0);
    driver.poll().unwrap();
    assert!(driver.receive().is_some());
}

#[test]
fn interrupts_come_when_asked_for_and_a_frame_just_before_is_not_missed() {
    for features in [USUAL, USUAL & !EVENT_IDX] {
        let bench = Bench::with(features);
        let mut driver = bench.running();
        for number in 1..300 {
            assert!(!driver.enable_interrupts());
            assert!(bench.device.receive(&payload(number, 100)));
            assert_eq!(bench.device.queue(RX).interrupts, number, "the next frame interrupts");
            assert!(driver.enable_interrupts(), "work was there already");
            assert!(driver.receive().is_some());
            assert!(driver.receive().is_none());
        }
    }
}

#[test]
fn msix_vectors_are_set_and_an_interrupt_line_is_acknowledged() {
    let bench = Bench::new();
    bench.device.state.borrow_mut().queues.iter_mut().for_each(|queue| queue.vector = 0xffff);
    let mut driver = bench.start().unwrap();
    assert_eq!((bench.device.queue(RX).vector, bench.device.queue(TX).vector), (0, 0));
    bench.device.accesses();
    driver.enable_interrupts();
    assert_eq!(bench.device.accesses(), []);

    let bench = Bench { msix: false, ..Bench::new() };
    let mut driver = bench.running();
    driver.enable_interrupts();
    assert!(bench.device.receive(&payload(1, 100)));
    assert_eq!(bench.device.state.borrow().isr, 1);
    driver.enable_interrupts();
    assert_eq!(bench.device.state.borrow().isr, 0);
}

#[test]
fn a_link_change_is_seen_within_seconds() {
    let bench = Bench::new();
    let mut driver = bench.running();
    bench.device.state.borrow_mut().config[6] = 0;
    bench.clock.advance(Duration::from_secs(1));
    driver.poll().unwrap();
    assert_eq!(driver.link(), Link::Down);
}

#[test]
fn dv_14_a_device_that_is_gone_is_noticed_and_holds_nobody() {
    let bench = Bench::new();
    let mut driver = bench.running();
    bench.device.manners(|manners| manners.gone = true);
    bench.clock.advance(Duration::from_secs(1));
    assert_eq!(driver.poll(), Err(NicError::Gone));
    assert!(driver.transmit(bench.frames.whole(&payload(1, 100))).is_err());
    assert!(driver.receive().is_none());
    driver.quiesce();
    assert_eq!(driver.poll(), Err(NicError::Gone));
    assert_eq!(bench.start().err(), Some(NicError::Gone));
}

#[test]
fn dv_15_no_wait_for_the_device_is_endless() {
    let bench = Bench::new();
    bench.device.state.borrow_mut().status = 0xf;
    bench.device.manners(|manners| manners.reset_hangs = true);
    assert_eq!(bench.start().err(), Some(NicError::TimedOut("reset")));
}

#[test]
fn dv_16_an_impossible_address_is_not_used() {
    for mac in [[0; 6], [0xff; 6], [1, 0, 0x5e, 1, 2, 3]] {
        let bench = Bench::new();
        bench.device.state.borrow_mut().config[..6].copy_from_slice(&mac);
        assert_eq!(bench.start().err(), Some(NicError::Unsupported("a station address")));
    }
}

#[test]
fn dv_18_memory_of_a_device_that_does_not_stop_is_never_given_back() {
    let bench = Bench::new();
    let driver = bench.running();
    let running = bench.memory.pages_in_use();
    bench.device.manners(|manners| manners.reset_hangs = true);
    drop(driver);
    assert_eq!(bench.memory.pages_in_use(), running);
    bench.device.manners(|manners| manners.reset_hangs = false);
    drop(bench.running());
    assert_eq!(bench.memory.pages_in_use(), running, "a device that stops gives its memory back");
}

#[test]
fn a_received_frame_is_dropped_while_no_buffer_is_free_and_the_device_goes_on() {
    let bench = Bench::new();
    let mut driver = bench.running();
    let mut held = Vec::new();
    for number in 0..SPARE {
        assert!(bench.device.receive(&payload(number as u32, 100)));
        held.push(driver.receive().unwrap());
    }
    assert!(bench.device.receive(&payload(1, 100)));
    assert!(driver.receive().is_none());
    held.pop();
    assert!(bench.device.receive(&payload(2, 100)));
    assert_eq!(bytes_of(&driver.receive().unwrap()), payload(2, 100));
}
