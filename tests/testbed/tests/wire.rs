//! The wire against a client that speaks QEMU's framing, without QEMU.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    missing_docs,
    reason = "a test fails by panicking"
)]

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};
use smoltcp::iface::{Config, Interface, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp;
use smoltcp::wire::{EthernetAddress, IpCidr, IpEndpoint, Ipv4Address, Ipv6Address};
use testbed::wire::services::DIGEST_PORT;
use testbed::wire::{Wire, WireConfig, pattern};

const MAC: EthernetAddress = EthernetAddress([0x00, 0x16, 0x3E, 0, 0, 1]);
const LIMIT: Duration = Duration::from_secs(60);

/// The NIC's end of the cable.
struct Client {
    stream: UnixStream,
    bytes: VecDeque<u8>,
}

impl Client {
    fn connect(wire: &Wire) -> Self {
        let stream = UnixStream::connect(&wire.config.socket).unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
        Self { stream, bytes: VecDeque::new() }
    }

    fn send(&mut self, frame: &[u8]) {
        self.stream.write_all(&(frame.len() as u32).to_be_bytes()).unwrap();
        self.stream.write_all(frame).unwrap();
    }

    fn receive(&mut self) -> Option<Vec<u8>> {
        let mut chunk = [0; 1 << 16];
        if self.bytes.len() < 4
            && let Ok(length) = self.stream.read(&mut chunk)
        {
            self.bytes.extend(&chunk[..length]);
        }
        let length: Vec<u8> = self.bytes.iter().take(4).copied().collect();
        let length = u32::from_be_bytes(length.try_into().ok()?) as usize;
        while self.bytes.len() < 4 + length {
            let got = self.stream.read(&mut chunk).ok()?;
            self.bytes.extend(&chunk[..got]);
        }
        Some(self.bytes.drain(..4 + length).skip(4).collect())
    }
}

struct Rx(Vec<u8>);
struct Tx<'a>(&'a UnixStream);

impl RxToken for Rx {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl TxToken for Tx<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(mut self, len: usize, f: F) -> R {
        let mut frame = vec![0; len + 4];
        let result = f(&mut frame[4..]);
        frame[..4].copy_from_slice(&(len as u32).to_be_bytes());
        self.0.write_all(&frame).unwrap();
        result
    }
}

impl Device for Client {
    type RxToken<'a> = Rx;
    type TxToken<'a> = Tx<'a>;

    fn receive(&mut self, _: smoltcp::time::Instant) -> Option<(Rx, Tx<'_>)> {
        let frame = Client::receive(self)?;
        Some((Rx(frame), Tx(&self.stream)))
    }

    fn transmit(&mut self, _: smoltcp::time::Instant) -> Option<Tx<'_>> {
        Some(Tx(&self.stream))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = 1514;
        capabilities
    }
}

fn start(name: &str) -> Wire {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::create_dir_all(&folder).unwrap();
    Wire::start(WireConfig::numbered(7, &folder)).unwrap()
}

/// Sends a request over TCP and reads until the wire closes.
fn talk(client: &mut Client, wire: &Wire, port: u16, request: &[u8]) -> Vec<u8> {
    talk_to(client, wire.endpoint(port), request)
}

fn talk_to(client: &mut Client, remote: IpEndpoint, request: &[u8]) -> Vec<u8> {
    // A port of its own for each conversation: the wire may still hold the one before.
    static LOCAL_PORT: AtomicU16 = AtomicU16::new(40_000);
    let local_port = LOCAL_PORT.fetch_add(1, Ordering::Relaxed);
    let mut interface = Interface::new(Config::new(MAC.into()), client, smoltcp::time::Instant::now());
    interface.update_ip_addrs(|addresses| {
        addresses.push(IpCidr::new(Ipv4Address::new(10, 0, 7, 50).into(), 24)).unwrap();
        addresses.push(IpCidr::new(Ipv6Address::new(0xfd00, 7, 0, 0, 0, 0, 0, 0x50).into(), 64)).unwrap();
    });
    let buffer = || tcp::SocketBuffer::new(vec![0; 1 << 17]);
    let mut sockets = SocketSet::new(Vec::new());
    let handle = sockets.add(tcp::Socket::new(buffer(), buffer()));
    sockets.get_mut::<tcp::Socket<'_>>(handle).connect(interface.context(), remote, local_port).unwrap();
    let (mut sent, mut answer, started) = (0, Vec::new(), Instant::now());
    while started.elapsed() < LIMIT {
        interface.poll(smoltcp::time::Instant::now(), client, &mut sockets);
        let socket = sockets.get_mut::<tcp::Socket<'_>>(handle);
        if socket.can_send() && sent < request.len() {
            sent += socket.send_slice(&request[sent..]).unwrap();
            if sent == request.len() && remote.port == DIGEST_PORT {
                socket.close();
            }
        }
        if socket.can_recv() {
            socket.recv(|bytes| (bytes.len(), answer.extend_from_slice(bytes))).unwrap();
        }
        let whole = remote.port == 7 && answer.len() == request.len();
        if whole
            || (!socket.may_recv()
                && sent == request.len()
                && !socket.can_recv()
                && socket.state() != tcp::State::SynSent)
        {
            return answer;
        }
    }
    panic!("no end of the answer within {LIMIT:?}, {} bytes so far", answer.len());
}

#[test]
fn a_file_fetched_over_http_has_the_promised_hash_and_no_frame_is_faulty() {
    let wire = start("http");
    let mut client = Client::connect(&wire);
    let answer = talk(&mut client, &wire, 80, b"GET /bytes/300001 HTTP/1.0\r\n\r\n");
    let body = answer.windows(4).position(|end| end == b"\r\n\r\n").unwrap() + 4;
    let hash: String = Sha256::digest(&answer[body..]).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hash, pattern::sha256(300_001));
    let seen = wire.counters();
    assert_eq!(seen.files_served, 1);
    assert_eq!(seen.faults(), 0, "{seen:?}");
    assert!(seen.frames_in > 5 && seen.frames_out > 200, "{seen:?}");
}

#[test]
fn an_unknown_page_is_404_and_the_next_request_is_served() {
    let wire = start("404");
    let mut client = Client::connect(&wire);
    let answer = talk(&mut client, &wire, 80, b"GET /nothing HTTP/1.0\r\n\r\n");
    assert!(answer.starts_with(b"HTTP/1.0 404"), "{}", String::from_utf8_lossy(&answer));
    let echo = talk(&mut client, &wire, 7, b"over and over");
    assert_eq!(echo, b"over and over");
}

#[test]
fn what_is_sent_to_the_digest_service_is_answered_with_its_hash() {
    let wire = start("digest");
    let mut client = Client::connect(&wire);
    let mut sent = vec![0; 200_001];
    pattern::fill(0, &mut sent);
    for _ in 0..2 {
        let answer = talk(&mut client, &wire, DIGEST_PORT, &sent);
        assert_eq!(String::from_utf8_lossy(&answer), pattern::sha256(200_001));
    }
    sent[100_000] ^= 1;
    let answer = talk(&mut client, &wire, DIGEST_PORT, &sent);
    assert_ne!(String::from_utf8_lossy(&answer), pattern::sha256(200_001));
}

#[test]
fn the_same_services_answer_over_ipv6() {
    let wire = start("ipv6");
    let mut client = Client::connect(&wire);
    let mut sent = vec![0; 100_001];
    pattern::fill(0, &mut sent);
    let remote = IpEndpoint::new(wire.config.address_v6().into(), DIGEST_PORT);
    let answer = talk_to(&mut client, remote, &sent);
    assert_eq!(String::from_utf8_lossy(&answer), pattern::sha256(100_001));
    assert_eq!(wire.counters().faults(), 0);
}

#[test]
fn every_bad_frame_is_counted_by_its_kind() {
    let wire = start("faults");
    let mut client = Client::connect(&wire);
    let mut frame = vec![0_u8; 60];
    frame[..6].copy_from_slice(&wire.config.mac.0);
    frame[6..12].copy_from_slice(&MAC.0);
    frame[12..14].copy_from_slice(&0x0800_u16.to_be_bytes());
    client.send(&frame[..10]);
    let mut oversize = frame.clone();
    oversize.resize(1515, 0);
    client.send(&oversize);
    // An IPv4 header of 20 bytes and a wrong checksum.
    frame[14..18].copy_from_slice(&[0x45, 0, 0, 20]);
    client.send(&frame);
    let started = Instant::now();
    while wire.counters().frames_in < 3 && started.elapsed() < LIMIT {
        std::thread::yield_now();
    }
    let seen = wire.counters();
    assert_eq!((seen.truncated, seen.oversize, seen.bad_ipv4), (1, 1, 1), "{seen:?}");
}

#[test]
fn a_cable_that_is_unplugged_and_plugged_in_again_works() {
    let wire = start("replug");
    for _ in 0..3 {
        let mut client = Client::connect(&wire);
        assert_eq!(talk(&mut client, &wire, 7, b"hello"), b"hello");
    }
}
