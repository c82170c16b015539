//! The domain's own network address: ping, and counters as a Prometheus page over HTTP.
//!
//! [`Management`] is a card like any other to the data plane: the switch gives it frames and takes frames from it, so
//! that neither knows of it. Behind it is smoltcp, with a few TCP connections of small, fixed buffers. What arrives is
//! handled in [`Management::poll`], a bounded number of frames per turn; what is too much is dropped, never held against
//! the sender. IPv4 only. Nothing can be changed through it: every request but `GET /metrics` is refused.

mod address;
mod device;
mod http;
mod metrics;
mod nic;

pub use address::Address;
pub use metrics::page;

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::time::Duration;

use smoltcp::iface::{Config, Interface, PollIngressSingleResult, SocketHandle, SocketSet};
use smoltcp::socket::{dhcpv4, tcp};
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpCidr, Ipv4Address, Ipv4Cidr};
use xen_pv_rt::hyp::{DmaPool, Instant, MemoryUse};

use crate::nic::{MacAddress, NicCounters};
use crate::publish::Board;
use device::Queues;
use http::Connection;

/// Buffers for frames of ours that are under way, and most frames that wait for us.
pub const BUFFERS: usize = 32;
/// Connections at a time; further ones are refused.
const CONNECTIONS: usize = 4;
/// Bytes of a connection's receive buffer: a request has at most so many.
const RECEIVE_BYTES: usize = 1024;
/// Bytes of its send buffer.
const SEND_BYTES: usize = 4096;
/// Frames handled in one turn.
const BATCH: usize = 8;
/// How soon to look again while somebody is connected, so that limits of time are kept.
const BUSY_POLL: Duration = Duration::from_millis(100);

/// What is wanted of the management address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManagementOptions {
    /// Where its address comes from.
    pub address: Address,
    /// TCP port of the page.
    pub port: u16,
}

/// The management address in service.
pub struct Management {
    mac: MacAddress,
    queues: Queues,
    counters: NicCounters,
    interface: Interface,
    sockets: SocketSet<'static>,
    connections: Vec<Connection>,
    dhcp: Option<SocketHandle>,
    board: Rc<Board>,
    memory_use: fn() -> MemoryUse,
    /// When [`poll`](Self::poll) has something to do without a frame.
    due: Instant,
}

impl Management {
    /// Sets up the address. `buffers` are for frames that we send, `mac` is [`own_mac`] of the first card.
    pub fn new(
        options: &ManagementOptions,
        mac: MacAddress,
        buffers: DmaPool,
        board: Rc<Board>,
        memory_use: fn() -> MemoryUse,
        now: Instant,
    ) -> Self {
        let mut queues = Queues::new(buffers);
        let mut config = Config::new(HardwareAddress::Ethernet(EthernetAddress(mac.0)));
        config.random_seed = now.as_nanos();
        let interface = Interface::new(config, &mut queues, at(now));
        let mut sockets = SocketSet::new(Vec::new());
        let connections = (0..CONNECTIONS).map(|_| Connection::new(sockets.add(socket()), options.port)).collect();
        let dhcp = (options.address == Address::Dhcp).then(|| sockets.add(dhcpv4::Socket::new()));
        let counters = NicCounters::default();
        let mut management =
            Self { mac, queues, counters, interface, sockets, connections, dhcp, board, memory_use, due: now };
        if let Address::Static { address, prefix, gateway } = options.address {
            management.configure(Ipv4Cidr::new(address, prefix), gateway);
        }
        management
    }

    /// Handles what has arrived and what is due: a bounded amount of work.
    pub fn poll(&mut self, now: Instant) {
        if now < self.due && !self.queues.has_received() {
            return;
        }
        let time = at(now);
        for _ in 0..BATCH {
            let result = self.interface.poll_ingress_single(time, &mut self.queues, &mut self.sockets);
            if result == PollIngressSingleResult::None {
                break;
            }
        }
        self.follow_dhcp();
        let mut active = false;
        for connection in &mut self.connections {
            let socket = self.sockets.get_mut::<tcp::Socket<'_>>(connection.handle);
            active |= connection.serve(socket, &self.board, self.memory_use, now);
        }
        self.interface.poll_egress(time, &mut self.queues, &mut self.sockets);
        let delay =
            self.interface.poll_delay(time, &self.sockets).map(|delay| Duration::from_micros(delay.total_micros()));
        let most = if active { BUSY_POLL } else { Duration::from_secs(10) };
        self.due = now.saturating_add(delay.unwrap_or(most).min(most).max(Duration::from_millis(1)));
    }

    /// Whether the loop must not sleep: frames wait for us or from us.
    pub fn has_work(&self) -> bool {
        self.queues.has_received() || self.queues.has_outgoing()
    }

    /// When [`poll`](Self::poll) is due at the latest.
    pub fn deadline(&self) -> Instant {
        self.due
    }

    /// Our address, once there is one.
    pub fn address(&self) -> Option<Ipv4Address> {
        self.interface.ipv4_addr()
    }

    fn follow_dhcp(&mut self) {
        let Some(handle) = self.dhcp else { return };
        match self.sockets.get_mut::<dhcpv4::Socket<'_>>(handle).poll() {
            Some(dhcpv4::Event::Configured(lease)) => {
                let (address, router) = (lease.address, lease.router);
                self.configure(address, router);
            }
            Some(dhcpv4::Event::Deconfigured) => {
                self.interface.update_ip_addrs(|addresses| addresses.clear());
                self.interface.routes_mut().remove_default_ipv4_route();
            }
            None => {}
        }
    }

    fn configure(&mut self, address: Ipv4Cidr, gateway: Option<Ipv4Address>) {
        let known = self.interface.ipv4_addr() == Some(address.address());
        self.interface.update_ip_addrs(|addresses| {
            addresses.clear();
            // There is room for one.
            let _ = addresses.push(IpCidr::Ipv4(address));
        });
        self.interface.routes_mut().remove_default_ipv4_route();
        if let Some(gateway) = gateway {
            let _ = self.interface.routes_mut().add_default_ipv4_route(gateway);
        }
        if !known {
            log::info!("management address {address}, {}", self.mac);
        }
    }
}

/// The address of the management interface, from that of the first card: locally administered, and another than the
/// card's own even if that is locally administered too.
pub fn own_mac(card: MacAddress) -> MacAddress {
    let [first, rest @ ..] = card.0;
    let [b, c, d, e, f] = rest;
    MacAddress([(first | 0x02) ^ 0x08, b, c, d, e, f])
}

fn socket() -> tcp::Socket<'static> {
    let buffer = |bytes| tcp::SocketBuffer::new(alloc::vec![0; bytes]);
    let mut socket = tcp::Socket::new(buffer(RECEIVE_BYTES), buffer(SEND_BYTES));
    socket.set_ack_delay(None);
    socket
}

fn at(now: Instant) -> smoltcp::time::Instant {
    smoltcp::time::Instant::from_micros(i64::try_from(now.as_nanos() / 1000).unwrap_or(i64::MAX))
}
