//! The network beyond a NIC: a small host that answers, serves, measures and judges.
//!
//! [`Wire`] listens on a unix socket for QEMU's `-netdev stream` and runs in one thread of the harness, so that
//! tests can ask what it saw while traffic flows. It is a host with an address of its own (ARP, ping, TCP and
//! UDP through smoltcp, see [`services`]), a DHCP server ([`dhcp`]), a strict judge of every frame received
//! ([`verify`]) and a capture file ([`capture`]). No root is needed.

pub mod capture;
pub mod counters;
pub mod dhcp;
pub mod link;
pub mod pattern;
pub mod services;
mod streams;
pub mod verify;

use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use smoltcp::iface::{Config, Interface, PollIngressSingleResult};
use smoltcp::wire::{EthernetAddress, IpCidr, IpEndpoint, Ipv4Address, Ipv6Address};

use crate::failure::{Doing, Result};
use capture::Capture;
use counters::{Counters, Snapshot};
use dhcp::{Lease, Server};
use link::Link;
use services::{Burst, Services};

/// Frames handled before the sockets and the cable are looked at again.
const BATCH: usize = 64;

/// Who the wire is.
#[derive(Debug, Clone)]
pub struct WireConfig {
    /// Where QEMU connects.
    pub socket: PathBuf,
    /// The capture file, if one is wanted.
    pub capture: Option<PathBuf>,
    /// The wire's MAC address.
    pub mac: EthernetAddress,
    /// Its IPv4 address; DHCP serves the /24 around it.
    pub address: Ipv4Address,
    /// IP MTU in bytes at first; frames above it are a fault.
    pub mtu: usize,
}

impl WireConfig {
    /// The usual wire number `index`: 10.0.`index`.1, MTU 1500, its files in `folder`.
    #[must_use]
    pub fn numbered(index: u8, folder: &Path) -> Self {
        Self {
            socket: folder.join(format!("wire{index}.sock")),
            capture: Some(folder.join(format!("wire{index}.pcap"))),
            mac: EthernetAddress([0x02, 0, 0, 0, 0xEE, index]),
            address: Ipv4Address::new(10, 0, index, 1),
            mtu: 1500,
        }
    }

    /// Its IPv6 address: fd00:N::1 if the IPv4 address is 10.0.N.1; guests may take others of the same /64.
    #[must_use]
    pub fn address_v6(&self) -> Ipv6Address {
        let network = self.address.octets().get(2).copied().unwrap_or_default();
        Ipv6Address::new(0xfd00, u16::from(network), 0, 0, 0, 0, 0, 1)
    }
}

/// A running wire; dropping it ends its thread.
#[derive(Debug)]
pub struct Wire {
    /// How it was configured.
    pub config: WireConfig,
    shared: Arc<Shared>,
    wake: UnixStream,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    counters: Arc<Counters>,
    vlan: Arc<AtomicU16>,
    mtu: AtomicUsize,
    stop: AtomicBool,
    leases: Mutex<Vec<Lease>>,
    bursts: Mutex<Vec<Burst>>,
    frames: Mutex<Vec<Vec<u8>>>,
    seen: Mutex<Vec<EthernetAddress>>,
}

impl Wire {
    /// Starts listening.
    ///
    /// # Errors
    /// The socket or the capture file cannot be made.
    pub fn start(config: WireConfig) -> Result<Self> {
        let _ = std::fs::remove_file(&config.socket);
        let listener = UnixListener::bind(&config.socket).doing(config.socket.display())?;
        listener.set_nonblocking(true)?;
        let (wake, woken) = UnixStream::pair()?;
        woken.set_nonblocking(true)?;
        let shared = Arc::new(Shared { mtu: config.mtu.into(), ..Shared::default() });
        let capture = config.capture.as_deref().map(Capture::create).transpose()?;
        let mut host = Host::new(config.clone(), Arc::clone(&shared), capture);
        let thread = thread::Builder::new().name("wire".into()).spawn(move || host.run(&listener, &woken))?;
        Ok(Self { config, shared, wake, thread: Some(thread) })
    }

    /// What has been counted so far.
    #[must_use]
    pub fn counters(&self) -> Snapshot {
        self.shared.counters.snapshot()
    }

    /// Every DHCP lease acknowledged so far.
    #[must_use]
    pub fn leases(&self) -> Vec<Lease> {
        lock(&self.shared.leases).clone()
    }

    /// The source addresses of all frames received since [`Self::forget_sources`].
    #[must_use]
    pub fn sources(&self) -> Vec<EthernetAddress> {
        lock(&self.shared.seen).clone()
    }

    /// Starts [`Self::sources`] anew.
    pub fn forget_sources(&self) {
        lock(&self.shared.seen).clear();
    }

    /// Starts sending datagrams, each with its number in its first 8 payload bytes.
    pub fn send_datagrams(&self, burst: Burst) {
        lock(&self.shared.bursts).push(burst);
        self.wake();
    }

    /// Sends one frame as it is.
    pub fn send_frame(&self, frame: Vec<u8>) {
        lock(&self.shared.frames).push(frame);
        self.wake();
    }

    /// From now on, the wire's host is in a VLAN: it sends with its tag and hears nothing without; 0: in none.
    pub fn speak_vlan(&self, vlan: u16) {
        self.shared.vlan.store(vlan, Ordering::Release);
    }

    /// From now on, the wire's IP MTU is `mtu` bytes.
    pub fn set_mtu(&self, mtu: usize) {
        self.shared.mtu.store(mtu, Ordering::Release);
        self.wake();
    }

    /// An endpoint on the wire itself.
    #[must_use]
    pub fn endpoint(&self, port: u16) -> IpEndpoint {
        IpEndpoint::new(self.config.address.into(), port)
    }

    fn wake(&self) {
        let _ = (&self.wake).write_all(&[1]);
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        self.wake();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        let _ = std::fs::remove_file(&self.config.socket);
    }
}

/// The wire's thread.
#[derive(Debug)]
struct Host {
    config: WireConfig,
    shared: Arc<Shared>,
    capture: Option<Capture>,
    server: Server,
    services: Services,
    epoch: Instant,
}

impl Host {
    fn new(config: WireConfig, shared: Arc<Shared>, capture: Option<Capture>) -> Self {
        let server = Server::new(config.mac, config.address);
        Self { config, shared, capture, server, services: Services::new(), epoch: Instant::now() }
    }

    fn run(&mut self, listener: &UnixListener, woken: &UnixStream) {
        while !self.shared.stop.load(Ordering::Acquire) {
            wait(&mut [PollFd::new(listener, PollFlags::IN), PollFd::new(woken, PollFlags::IN)], None);
            drain(woken);
            let Ok((stream, _)) = listener.accept() else { continue };
            let counters = Arc::clone(&self.shared.counters);
            let vlan = Arc::clone(&self.shared.vlan);
            let Ok(mut link) = Link::new(stream, self.config.mtu, vlan, counters, self.capture.take(), self.epoch)
            else {
                continue;
            };
            self.serve_connection(&mut link, woken);
            self.capture = link.into_capture();
        }
    }

    fn serve_connection(&mut self, link: &mut Link, woken: &UnixStream) {
        let mut interface = self.interface(link);
        while !self.shared.stop.load(Ordering::Acquire) {
            self.take_orders(link);
            if link.set_mtu(self.shared.mtu.load(Ordering::Acquire)) {
                // The stack asks a device for its MTU once.
                interface = self.interface(link);
            }
            self.handle_frames(link, &mut interface);
            let now_us = self.now_us();
            self.services.serve(&self.shared.counters, now_us);
            interface.poll_egress(self.now(), link, self.services.sockets());
            if !link.flush() {
                return;
            }
            if link.frame().is_none() {
                self.sleep(link, woken, &mut interface);
                if !link.fill() {
                    return;
                }
            }
        }
    }

    fn interface(&self, link: &mut Link) -> Interface {
        let mut config = Config::new(self.config.mac.into());
        config.random_seed = 1;
        let mut interface = Interface::new(config, link, self.now());
        let local = self.config.address_v6();
        interface.update_ip_addrs(|addresses| {
            // Two addresses are what the stack is built for.
            let _ = addresses.push(IpCidr::new(self.config.address.into(), 24));
            let _ = addresses.push(IpCidr::new(local.into(), 64));
        });
        interface
    }

    /// Does what tests asked for since the last turn.
    fn take_orders(&mut self, link: &mut Link) {
        for burst in lock(&self.shared.bursts).drain(..) {
            let now_us = u64::try_from(self.epoch.elapsed().as_micros()).unwrap_or(u64::MAX);
            self.services.start_burst(burst, now_us);
        }
        for frame in lock(&self.shared.frames).drain(..) {
            link.queue(&frame);
        }
    }

    fn handle_frames(&mut self, link: &mut Link, interface: &mut Interface) {
        let now = self.now();
        for _ in 0..BATCH {
            let Some(frame) = link.frame() else { return };
            self.remember_source(frame);
            link.examine();
            if !link.enter_vlan() {
                link.skip();
                continue;
            }
            let Some(frame) = link.frame() else { return };
            let answer = self.server.answer(frame);
            if let Some(answer) = answer {
                link.skip();
                link.queue(&answer.frame);
                if let Some(lease) = answer.acknowledged {
                    Counters::add(&self.shared.counters.dhcp_acks, 1);
                    lock(&self.shared.leases).push(lease);
                }
            } else if interface.poll_ingress_single(now, link, self.services.sockets()) == PollIngressSingleResult::None
            {
                return;
            }
        }
    }

    fn remember_source(&self, frame: &[u8]) {
        let Some(source) = verify::source(frame) else { return };
        let mut seen = lock(&self.shared.seen);
        if seen.last() != Some(&source) && !seen.contains(&source) {
            seen.push(source);
        }
    }

    fn sleep(&mut self, link: &Link, woken: &UnixStream, interface: &mut Interface) {
        let wanted = interface.poll_delay(self.now(), self.services.sockets()).map(|delay| delay.total_micros());
        let (limit_us, events) = if link.has_backlog() {
            // The stack may want to send, but the NIC takes nothing: it will say when it does.
            (Some(10_000), PollFlags::IN | PollFlags::OUT)
        } else if self.services.is_bursting() {
            (Some(wanted.unwrap_or(500).min(500)), PollFlags::IN)
        } else {
            (wanted, PollFlags::IN)
        };
        wait(&mut [PollFd::new(link.stream(), events), PollFd::new(woken, PollFlags::IN)], limit_us);
        drain(woken);
    }

    fn now_us(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    fn now(&self) -> smoltcp::time::Instant {
        smoltcp::time::Instant::from_micros(i64::try_from(self.now_us()).unwrap_or(i64::MAX))
    }
}

/// Sleeps until one of the sockets is ready or the limit has passed.
fn wait(sockets: &mut [PollFd<'_>], limit_us: Option<u64>) {
    let limit = limit_us.map(|us| Timespec {
        tv_sec: i64::try_from(us / 1_000_000).unwrap_or(i64::MAX),
        tv_nsec: i64::try_from((us % 1_000_000).saturating_mul(1000)).unwrap_or(0),
    });
    // An interrupted wait is a short one.
    let _ = poll(sockets, limit.as_ref());
}

/// Empties the wake-up socket.
fn drain(mut woken: &UnixStream) {
    let mut bytes = [0; 64];
    loop {
        match woken.read(&mut bytes) {
            Ok(length) if length > 0 => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            _ => return,
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
