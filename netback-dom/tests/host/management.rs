//! The management address, from a peer on the same network and from attackers.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use fake_xen::FakeXen;
use netback_dom::frame::{Frame, Segment};
use netback_dom::management::{Address, BUFFERS, Management, ManagementOptions, own_mac};
use netback_dom::nic::{MacAddress, Nic};
use netback_dom::publish::{Board, VifReport, Work};
use netback_dom::vif::counters::{Traffic, VifCounters};
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::{icmp, tcp};
use smoltcp::wire::{EthernetAddress, Icmpv4Packet, Icmpv4Repr, IpCidr, Ipv4Address};
use xen_pv_rt::hyp::{Dma, DmaPool, Domid, Instant, MemoryUse};

const CARD: MacAddress = MacAddress([0x52, 0x54, 0, 0xB0, 0, 3]);
const OURS: Ipv4Address = Ipv4Address::new(10, 0, 0, 9);
const PORT: u16 = 9100;
const MTU_FRAME: usize = 1514;

/// What the peer sends and has received.
#[derive(Default)]
struct Cable {
    to_us: VecDeque<Vec<u8>>,
    to_peer: VecDeque<Vec<u8>>,
}

struct Rx(Vec<u8>);
struct Tx<'a>(&'a mut VecDeque<Vec<u8>>);

impl RxToken for Rx {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl TxToken for Tx<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut bytes = vec![0; len];
        let result = f(&mut bytes);
        self.0.push_back(bytes);
        result
    }
}

impl Device for Cable {
    type RxToken<'a> = Rx;
    type TxToken<'a> = Tx<'a>;

    fn receive(&mut self, _: smoltcp::time::Instant) -> Option<(Rx, Tx<'_>)> {
        Some((Rx(self.to_peer.pop_front()?), Tx(&mut self.to_us)))
    }
    fn transmit(&mut self, _: smoltcp::time::Instant) -> Option<Tx<'_>> {
        Some(Tx(&mut self.to_us))
    }
    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = MTU_FRAME;
        capabilities
    }
}

/// The management address, a peer, and the time.
struct Net {
    management: Management,
    board: Rc<Board>,
    buffers: DmaPool,
    now: Instant,
    cable: Cable,
    interface: Interface,
    sockets: SocketSet<'static>,
}

impl Net {
    fn new() -> Self {
        let xen = FakeXen::new();
        let hyp = xen.hyp();
        let board = Rc::new(Board::default());
        let options =
            ManagementOptions { address: Address::Static { address: OURS, prefix: 24, gateway: None }, port: PORT };
        let own = hyp.dma_pool(BUFFERS).unwrap();
        let memory = || MemoryUse { total: 4096, used: 1024, heap_bytes: 5000 };
        let management = Management::new(&options, own_mac(CARD), own, board.clone(), memory, Instant::default());
        let mut cable = Cable::default();
        let mac = EthernetAddress([2, 0, 0, 0, 0, 7]);
        let mut interface = Interface::new(Config::new(mac.into()), &mut cable, smoltcp::time::Instant::from_micros(0));
        interface.update_ip_addrs(|addresses| {
            addresses.push(IpCidr::new(Ipv4Address::new(10, 0, 0, 1).into(), 24)).unwrap();
        });
        let sockets = SocketSet::new(Vec::new());
        let buffers = hyp.dma_pool(4).unwrap();
        Self { management, board, buffers, now: Instant::default(), cable, interface, sockets }
    }

    /// A frame reaches the management address as the switch hands it over.
    fn deliver(&mut self, bytes: &[u8]) {
        let mut buf = self.buffers.take().unwrap();
        let len = bytes.len().min(4096);
        buf.bytes_mut()[..len].copy_from_slice(&bytes[..len]);
        let frame = Frame::new(Segment { buf, offset: 0, len: u16::try_from(len).unwrap() });
        assert!(self.management.transmit(frame).is_ok(), "a sender must never wait for the management address");
    }

    /// Both sides for a millisecond.
    fn step(&mut self) {
        let time = smoltcp::time::Instant::from_micros(i64::try_from(self.now.as_nanos() / 1000).unwrap());
        self.interface.poll(time, &mut self.cable, &mut self.sockets);
        while let Some(bytes) = self.cable.to_us.pop_front() {
            self.deliver(&bytes);
        }
        if self.board.is_asked() {
            let counters = VifCounters { tx: Traffic { packets: 42, bytes: 4242 }, ..VifCounters::default() };
            self.board.post(
                Work::default(),
                Vec::new(),
                vec![VifReport { frontend: Domid::from_raw(7), devid: 0, counters }],
            );
        }
        self.management.poll(self.now);
        while let Some(frame) = self.management.receive() {
            self.cable.to_peer.push_back(frame.segments().flat_map(|segment| segment.bytes().to_vec()).collect());
        }
        self.now = self.now.saturating_add(Duration::from_millis(1));
    }

    fn run(&mut self, time: Duration) {
        let end = self.now.saturating_add(time);
        while self.now < end {
            self.step();
        }
    }

    fn connect(&mut self, local: u16) -> SocketHandle {
        let buffer = || tcp::SocketBuffer::new(vec![0; 65536]);
        let handle = self.sockets.add(tcp::Socket::new(buffer(), buffer()));
        let socket = self.sockets.get_mut::<tcp::Socket<'_>>(handle);
        socket.connect(self.interface.context(), (OURS, PORT), local).unwrap();
        handle
    }

    fn socket(&mut self, handle: SocketHandle) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut::<tcp::Socket<'_>>(handle)
    }

    /// Sends a request and reads to the end.
    fn ask(&mut self, local: u16, request: &[u8]) -> String {
        let handle = self.connect(local);
        self.run(Duration::from_millis(50));
        assert_eq!(self.socket(handle).state(), tcp::State::Established);
        self.socket(handle).send_slice(request).unwrap();
        let mut answer = Vec::new();
        for _ in 0..2000 {
            self.step();
            let socket = self.socket(handle);
            if socket.can_recv() {
                socket.recv(|bytes| (bytes.len(), answer.extend_from_slice(bytes))).unwrap();
            }
            if !socket.may_recv() && !socket.can_recv() {
                socket.close();
                break;
            }
        }
        self.run(Duration::from_millis(50));
        String::from_utf8(answer).unwrap()
    }

    fn assert_serves(&mut self, local: u16) {
        let answer = self.ask(local, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer:?}");
        assert!(answer.contains("\nbulkhead_vif_tx_packets_total{domid=\"7\",devid=\"0\"} 42\n"), "{answer}");
    }
}

#[test]
fn the_page_is_served_again_and_again() {
    let mut net = Net::new();
    for local in 50_000..50_012 {
        net.assert_serves(local);
    }
    let answer = net.ask(50_100, b"GET /metrics?x=1 HTTP/1.0\r\n\r\n");
    let (head, page) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains(&format!("Content-Length: {}", page.len())), "{head}");
    // Prometheus' format: a comment, or a name with labels and a number.
    for line in page.lines() {
        let sample = line.rsplit_once(' ').is_some_and(|(name, value)| {
            name.starts_with("bulkhead_") && name.ends_with('}') && value.parse::<u64>().is_ok()
        });
        assert!(sample || line.starts_with("# TYPE bulkhead_"), "{line:?}");
    }
}

#[test]
fn ping_is_answered() {
    let mut net = Net::new();
    let buffer = || icmp::PacketBuffer::new(vec![icmp::PacketMetadata::EMPTY; 4], vec![0; 4096]);
    let handle = net.sockets.add(icmp::Socket::new(buffer(), buffer()));
    let socket = net.sockets.get_mut::<icmp::Socket<'_>>(handle);
    socket.bind(icmp::Endpoint::Ident(9)).unwrap();
    let echo = Icmpv4Repr::EchoRequest { ident: 9, seq_no: 1, data: &[7; 1400] };
    let bytes = socket.send(echo.buffer_len(), OURS.into()).unwrap();
    echo.emit(&mut Icmpv4Packet::new_unchecked(bytes), &smoltcp::phy::ChecksumCapabilities::default());
    net.run(Duration::from_millis(50));
    let socket = net.sockets.get_mut::<icmp::Socket<'_>>(handle);
    let (answer, from) = socket.recv().unwrap();
    assert_eq!((from, answer.len()), (OURS.into(), echo.buffer_len()));
}

#[test]
fn whatever_is_not_the_page_is_refused() {
    let mut net = Net::new();
    for (local, request, status) in [
        (50_000, &b"GET / HTTP/1.1\r\n\r\n"[..], "404"),
        (50_001, b"POST /metrics HTTP/1.1\r\n\r\n", "405"),
        (50_002, b"GET /metrics\r\n\r\n", "400"),
        (50_003, b"GET /metrics HTTP/1.1 x\r\n\r\n", "400"),
        (50_004, b"\r\n\r\n", "400"),
        (50_005, b"\xff\xfe \0 \r\n\r\n", "400"),
        (50_006, b"GET /metrics HTTP/2.0\r\n\r\n", "400"),
    ] {
        let answer = net.ask(local, request);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer:?}");
    }
    net.assert_serves(50_100);
}

#[test]
fn a_request_without_an_end_is_refused() {
    let mut net = Net::new();
    let answer = net.ask(50_000, &[b'a'; 3000]);
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer:?}");
    net.assert_serves(50_001);
}

#[test]
fn slow_and_silent_connections_are_ended_and_more_than_four_refused() {
    let mut net = Net::new();
    let slow: Vec<_> = (50_000..50_004).map(|local| net.connect(local)).collect();
    net.run(Duration::from_millis(100));
    net.socket(slow[0]).send_slice(b"GET /metr").unwrap();
    let late = net.connect(50_010);
    net.run(Duration::from_millis(100));
    assert_eq!(net.socket(late).state(), tcp::State::Closed, "a fifth connection is refused");
    assert!(slow.iter().all(|handle| net.sockets.get::<tcp::Socket<'_>>(*handle).is_active()));
    net.run(Duration::from_secs(11));
    for handle in &slow {
        assert!(!net.socket(*handle).may_recv(), "ended after ten seconds");
    }
    net.assert_serves(50_100);
}

#[test]
fn a_reader_that_takes_nothing_is_ended() {
    let mut net = Net::new();
    let handle =
        net.sockets.add(tcp::Socket::new(tcp::SocketBuffer::new(vec![0; 64]), tcp::SocketBuffer::new(vec![0; 1024])));
    let socket = net.sockets.get_mut::<tcp::Socket<'_>>(handle);
    socket.connect(net.interface.context(), (OURS, PORT), 50_000_u16).unwrap();
    net.run(Duration::from_millis(50));
    net.socket(handle).send_slice(b"GET /metrics HTTP/1.1\r\n\r\n").unwrap();
    net.run(Duration::from_secs(11));
    assert_ne!(net.socket(handle).state(), tcp::State::Established);
    net.assert_serves(50_100);
}

#[test]
fn a_flood_is_dropped_and_answers_are_bounded() {
    let mut net = Net::new();
    let mut ping = vec![0; 60];
    ping[..6].copy_from_slice(&own_mac(CARD).0);
    ping[12] = 8;
    for _ in 0..10_000 {
        net.deliver(&ping);
    }
    assert_eq!(net.management.counters().tx_dropped, 10_000 - BUFFERS as u64);
    // Nobody takes our frames, and we do not pile them up.
    net.run(Duration::from_millis(20));
    net.assert_serves(50_000);
}

#[test]
fn random_frames_reach_no_panic() {
    let mut net = Net::new();
    net.assert_serves(50_000);
    let mut seed = 1_u64;
    let mut random = move || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize
    };
    // A frame of each kind that belongs to a conversation, broken at random.
    let mut seen = Vec::new();
    let handle = net.connect(50_001);
    for step in 0..6_000 {
        if step % 8 == 0 {
            let time = smoltcp::time::Instant::from_micros(i64::from(step) * 1000);
            net.interface.poll(time, &mut net.cable, &mut net.sockets);
            let _ = net.socket(handle).send_slice(b"GET /metrics HTTP/1.1\r\n");
            seen.extend(net.cable.to_us.iter().cloned());
        }
        if let Some(mut bytes) = seen.get(random() % seen.len().max(1)).cloned() {
            for _ in 0..=random() % 4 {
                let at = random() % bytes.len();
                bytes[at] = random() as u8;
            }
            bytes.truncate(1 + random() % bytes.len().max(1) + 13);
            bytes.resize(bytes.len().max(14), 0);
            bytes[..6].copy_from_slice(&own_mac(CARD).0);
            net.deliver(&bytes);
        }
        net.step();
    }
    net.run(Duration::from_secs(12));
    net.assert_serves(50_100);
}
