//! Frames of more than 1518 bytes: long ones, and TCP packets that the device has not cut up; and the control queue.

use crate::model::virtio::{
    CONTROL, CSUM, CTRL_RX, CTRL_VQ, GUEST_CSUM, GUEST_TSO4, GUEST_TSO6, MRG_RXBUF, MTU, USUAL,
};
use crate::model::{bytes_of, payload, tcp};
use crate::virtio::{Bench, PLAIN};
use netback_dom::frame::{Checksum, Gso};
use netback_dom::nic::{Nic, NicError};

const LARGE: u64 = USUAL | CSUM | GUEST_CSUM | GUEST_TSO4 | GUEST_TSO6;

fn long(features: u64) -> Bench {
    Bench { max_frame: 9018, ..Bench::with(features) }
}

/// A header of a packet that is to be cut into segments of `size` bytes.
fn cut(ipv6: bool, size: u16, start: usize, buffers: u8) -> [u8; 12] {
    let ([a, b], [c, d]) = (size.to_le_bytes(), (start as u16).to_le_bytes());
    [1, if ipv6 { 4 } else { 1 }, 0, 0, a, b, c, d, 16, 0, buffers, 0]
}

#[test]
fn frames_of_9018_bytes_are_sent_and_received() {
    let bench = long(USUAL);
    let mut driver = bench.running();
    assert_eq!(driver.capabilities().max_frame, 9018);
    for (number, len) in (0..).zip([60_usize, 1518, 4084, 4085, 9018].repeat(100)) {
        let mut header = PLAIN;
        header[10] = (len + 12).div_ceil(4096) as u8;
        assert!(bench.device.receive_as(header, &payload(number, len), 4096));
        let frame = driver.receive().unwrap();
        assert_eq!(bytes_of(&frame), payload(number, len));
        driver.transmit(frame).map_err(drop).unwrap();
        driver.flush();
        assert_eq!(bench.device.sent(), [payload(number, len)]);
        driver.poll().unwrap();
    }
    let mut header = PLAIN;
    header[10] = 3;
    assert!(bench.device.receive_as(header, &payload(1, 9019), 4096));
    assert!(driver.receive().is_none(), "a frame that is too long");
}

#[test]
fn the_length_of_frames_is_what_the_device_says_its_network_takes() {
    for (mtu, asked, got) in [(1500_u16, 9018, 1518), (9000, 9018, 9018), (9000, 1518, 1518), (65535, 9018, 9018)] {
        let bench = Bench { max_frame: asked, ..Bench::with(USUAL | MTU) };
        bench.device.state.borrow_mut().config[10..12].copy_from_slice(&mtu.to_le_bytes());
        assert_eq!(bench.running().capabilities().max_frame, got, "{mtu}");
    }
    // Not an MTU.
    let bench = long(USUAL | MTU);
    bench.device.state.borrow_mut().config[10..12].copy_from_slice(&[67, 0]);
    assert_eq!(bench.running().capabilities().max_frame, 9018);
}

#[test]
fn without_mergeable_buffers_a_frame_fits_in_one() {
    let bench = long((LARGE & !MRG_RXBUF) | MTU);
    bench.device.state.borrow_mut().config[10..12].copy_from_slice(&9000_u16.to_le_bytes());
    let mut driver = bench.running();
    assert_eq!(driver.capabilities().max_frame, 4084);
    assert_eq!(bench.device.state.borrow().accepted & (GUEST_TSO4 | GUEST_TSO6), 0);
    assert!(bench.device.receive_as(PLAIN, &payload(1, 4084), 4096));
    assert_eq!(bytes_of(&driver.receive().unwrap()), payload(1, 4084));
}

#[test]
fn a_packet_that_is_not_cut_up_is_handed_on_whole() {
    for ipv6 in [false, true] {
        for len in [3000, 20_000, 65_000] {
            let bench = Bench::with(LARGE);
            let mut driver = bench.running();
            let (bytes, start) = tcp(ipv6, len);
            let buffers = (bytes.len() + 12).div_ceil(4096) as u8;
            assert!(bench.device.receive_as(cut(ipv6, 1448, start, buffers), &bytes, 4096));
            let frame = driver.receive().unwrap();
            assert_eq!(frame.gso, Some(Gso { ipv6, size: 1448 }));
            assert_eq!(frame.checksum, Checksum::Blank { start: start as u16, field: 16 });
            assert_eq!(bytes_of(&frame), bytes);
        }
    }
}

#[test]
fn a_packet_that_fits_in_one_segment_is_an_ordinary_frame() {
    let bench = Bench::with(LARGE);
    let mut driver = bench.running();
    let (bytes, start) = tcp(false, 1000);
    assert!(bench.device.receive_as(cut(false, 1448, start, 1), &bytes, 4096));
    let frame = driver.receive().unwrap();
    assert_eq!((frame.gso, frame.len()), (None, bytes.len()));
}

#[test]
fn dv_08_a_packet_to_be_cut_up_that_was_not_agreed_or_makes_no_sense_is_dropped() {
    let (bytes, start) = tcp(false, 3000);
    let refused = |features, change: &dyn Fn(&mut [u8; 12], &mut Vec<u8>)| {
        let bench = Bench::with(features);
        let mut driver = bench.running();
        let (mut header, mut bytes) = (cut(false, 1448, start, 1), bytes.clone());
        change(&mut header, &mut bytes);
        header[10] = (bytes.len() + 12).div_ceil(2048) as u8;
        assert!(bench.device.receive_as(header, &bytes, 2048));
        assert!(driver.receive().is_none());
        assert_eq!(driver.counters().rx_dropped, 1);
        assert!(bench.device.receive(&payload(7, 100)));
        assert_eq!(bytes_of(&driver.receive().unwrap()), payload(7, 100));
    };
    refused(USUAL, &|_, _| {});
    refused(LARGE & !GUEST_TSO4, &|_, _| {});
    refused(LARGE & !GUEST_CSUM, &|_, _| {});
    refused(LARGE, &|header, _| header[1] = 4);
    refused(LARGE, &|header, _| header[1] = 3);
    refused(LARGE, &|header, _| header[1] = 0x81);
    refused(LARGE, &|header, _| header[4..6].fill(0));
    // More segments than anybody makes of a packet.
    refused(LARGE, &|header, _| header[4..6].copy_from_slice(&[1, 0]));
    refused(LARGE, &|_, bytes| bytes[12] = 0);
    refused(LARGE, &|_, bytes| bytes[23] = 17);
    refused(LARGE, &|_, bytes| bytes[46] = 0x40);
    refused(LARGE, &|_, bytes| bytes.truncate(40));
    refused(LARGE, &|_, bytes| bytes.push(0));
}

#[test]
fn headers_in_several_buffers_are_not_believed() {
    let bench = Bench::with(LARGE);
    let mut driver = bench.running();
    let (bytes, start) = tcp(false, 2000);
    let pieces = (bytes.len() + 12).div_ceil(40) as u8;
    assert!(pieces > 18);
    assert!(bench.device.receive_as(cut(false, 1448, start, pieces), &bytes, 40));
    assert!(driver.receive().is_none());
    assert!(bench.device.receive_as(cut(false, 1448, start, 18), &bytes, 119));
    assert!(driver.receive().is_some(), "headers in the first of many buffers are fine");
}

#[test]
fn a_device_with_a_control_queue_is_told_to_receive_everything() {
    let bench = Bench::with(USUAL | CTRL_RX);
    let _driver = bench.running();
    assert_eq!(bench.device.state.borrow().commands, [[0, 0, 1], [0, 1, 1]]);
    // Without the queue the feature means nothing.
    let bench = Bench::with((USUAL | CTRL_RX) & !CTRL_VQ);
    let _driver = bench.running();
    assert_eq!((bench.device.state.borrow().commands.len(), bench.device.queue(CONTROL).kicks), (0, 0));
}

#[test]
fn a_device_that_refuses_a_command_is_used_all_the_same() {
    let bench = Bench::with(USUAL | CTRL_RX);
    bench.device.manners(|manners| manners.refuses_commands = true);
    let mut driver = bench.running();
    assert!(bench.device.receive(&payload(7, 100)));
    assert!(driver.receive().is_some());
}

#[test]
fn dv_15_a_command_is_not_waited_for_forever() {
    let bench = Bench::with(USUAL | CTRL_RX);
    bench.device.manners(|manners| manners.control_hangs = true);
    assert_eq!(bench.start().err(), Some(NicError::TimedOut("control queue")));
}
