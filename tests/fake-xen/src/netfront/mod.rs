//! A network frontend: by itself an honest one, with setters to lie in every field.
//!
//! It also judges: every response must answer a request that is under way, every received packet must keep
//! to what frontends rely on.
//!
//! Xen: `public/io/netif.h`. Behaviour: Linux's xen-netfront.

mod control;
mod receive;
mod ring;
mod transmit;

pub use control::CtrlAnswer;
pub use receive::RxPacket;
pub use transmit::TxAnswer;

use std::collections::{BTreeMap, VecDeque};

use xen_pv_rt::hyp::{Access, GrantRef, RemotePort};

use crate::machine::FakeXen;
use crate::page::Page;
use crate::toolstack::{DeviceId, Toolstack};

use control::ControlLink;
use ring::FrontRing;

/// How a frontend connects.
#[derive(Clone, Debug)]
pub struct NetfrontOptions {
    /// Separate event channels for the two rings.
    pub split: bool,
    /// The state published with the keys: 4 as Linux does, or 3.
    pub ready_state: u32,
    /// Where the ring indices start.
    pub start_index: u32,
    /// Keys beside those of the rings.
    pub features: Vec<(&'static str, &'static str)>,
    /// Receive buffers kept posted in each queue; 0 posts none.
    pub rx_buffers: u32,
    /// Queues, whatever the backend offers.
    pub queues: usize,
    /// A control ring.
    pub control: bool,
}

impl Default for NetfrontOptions {
    fn default() -> Self {
        Self {
            split: true,
            ready_state: 4,
            start_index: 0,
            features: vec![
                ("request-rx-copy", "1"),
                ("feature-rx-notify", "1"),
                ("feature-sg", "1"),
                ("feature-gso-tcpv4", "1"),
                ("feature-gso-tcpv6", "1"),
                ("feature-ipv6-csum-offload", "1"),
            ],
            rx_buffers: 64,
            queues: 1,
            control: false,
        }
    }
}

/// One vif's frontend.
pub struct Netfront {
    xen: FakeXen,
    device: DeviceId,
    options: NetfrontOptions,
    /// Set while [`step`](Self::step) is to do nothing: a guest that is paused, or whose test acts for it.
    pub frozen: bool,
    /// Set while the frontend ignores the backend's state, but not the rings.
    pub deaf: bool,
    /// Set for a frontend whose requests are lies: what it gets in return means nothing, and is not judged.
    pub liar: bool,
    /// The queue that methods about a ring are about; what is received is taken from all.
    pub queue: usize,
    links: Vec<Link>,
    control: Option<ControlLink>,
    /// Complete packets that were received.
    received: VecDeque<RxPacket>,
    /// Responses on the TX ring.
    answers: VecDeque<TxAnswer>,
}

/// The rings of one queue.
struct Link {
    tx: FrontRing<3>,
    rx: FrontRing<2>,
    rings: [GrantRef; 2],
    tx_port: RemotePort,
    rx_port: Option<RemotePort>,
    /// TX requests under way: id to the page's grant.
    sent: BTreeMap<u16, GrantRef>,
    next_id: u16,
    /// Extra segments under way.
    extras: u32,
    /// RX requests under way in ring order.
    posted: VecDeque<(u16, GrantRef, Page)>,
    partial: Option<RxPacket>,
}

impl Netfront {
    /// A frontend for a device whose directories exist. It connects as it is stepped.
    pub fn new(xen: &FakeXen, device: DeviceId, options: NetfrontOptions) -> Self {
        let (received, answers) = (VecDeque::new(), VecDeque::new());
        Self {
            xen: xen.clone(),
            device,
            options,
            frozen: false,
            deaf: false,
            liar: false,
            queue: 0,
            links: Vec::new(),
            control: None,
            received,
            answers,
        }
    }

    /// The device.
    pub fn device(&self) -> DeviceId {
        self.device
    }

    /// Whether it has rings.
    pub fn is_connected(&self) -> bool {
        !self.links.is_empty()
    }

    /// The frontend's state as published.
    pub fn state(&self) -> u32 {
        self.xen.read_store(&self.key("state")).and_then(|state| state.parse().ok()).unwrap_or(0)
    }

    /// The backend's state as published.
    pub fn backend_state(&self) -> u32 {
        let path = format!("/local/domain/{}/{}/state", self.xen.backend(), self.device);
        self.xen.read_store(&path).and_then(|state| state.parse().ok()).unwrap_or(0)
    }

    fn key(&self, key: &str) -> String {
        format!("{}/{key}", Toolstack::frontend_path(&self.device))
    }

    /// Writes a key of the frontend's directory.
    pub fn write(&self, key: &str, value: &str) {
        self.xen.write_store_as(self.device.frontend, &self.key(key), value);
    }

    /// Publishes a state, legal or not.
    pub fn set_state(&self, state: u32) {
        self.write("state", &state.to_string());
    }

    /// Reacts to the backend's state and to what is on the rings.
    pub fn step(&mut self) {
        if self.frozen {
            return;
        }
        if !self.deaf {
            match (self.backend_state(), self.state()) {
                (2, 1) => self.connect(),
                (4, 3) => self.set_state(4),
                // The backend wants to close. Who asked for it (5) waits until it has.
                (5, 1..=4) => self.set_state(6),
                (6, 2..=6) => self.finish_close(),
                _ => {}
            }
        }
        if self.liar {
            self.forget_responses();
        } else {
            self.collect_answers();
            self.collect_packets();
        }
        let selected = self.queue;
        for queue in 0..self.links.len() {
            self.queue = queue;
            self.post_up_to(self.options.rx_buffers);
        }
        self.queue = selected;
    }

    fn forget_responses(&mut self) {
        for link in &mut self.links {
            link.tx.forget();
            link.rx.forget();
            link.posted.clear();
        }
    }

    /// Creates rings and event channels and publishes them.
    pub fn connect(&mut self) {
        self.share_rings();
        self.publish();
        self.set_state(self.options.ready_state);
    }

    /// Creates rings and event channels, without a word to the backend.
    pub fn share_rings(&mut self) {
        self.links = (0..self.options.queues).map(|_| self.new_link()).collect();
        self.control = self.options.control.then(|| self.new_control());
        self.queue = 0;
    }

    fn new_link(&self) -> Link {
        let (tx, rx) = (FrontRing::new(self.options.start_index), FrontRing::new(self.options.start_index));
        let rings = [&tx.page, &rx.page].map(|page| self.xen.grant_for(self.device, page, Access::ReadWrite));
        let tx_port = self.xen.offer_port(self.device);
        let rx_port = self.options.split.then(|| self.xen.offer_port(self.device));
        Link {
            tx,
            rx,
            rings,
            tx_port,
            rx_port,
            sent: BTreeMap::new(),
            next_id: 0,
            extras: 0,
            posted: VecDeque::new(),
            partial: None,
        }
    }

    /// Writes the keys that say where the rings are, for several queues in directories of their own.
    pub fn publish(&self) {
        for (number, link) in self.links.iter().enumerate() {
            let prefix = if self.links.len() == 1 { String::new() } else { format!("queue-{number}/") };
            let write = |key: &str, value: &dyn std::fmt::Display| {
                self.write(&format!("{prefix}{key}"), &value.to_string());
            };
            write("tx-ring-ref", &link.rings[0]);
            write("rx-ring-ref", &link.rings[1]);
            match link.rx_port {
                Some(rx_port) => {
                    write("event-channel-tx", &link.tx_port);
                    write("event-channel-rx", &rx_port);
                }
                None => write("event-channel", &link.tx_port),
            }
        }
        if let Some(control) = &self.control {
            self.write("ctrl-ring-ref", &control.gref.to_string());
            self.write("event-channel-ctrl", &control.port.to_string());
        }
        if self.links.len() != 1 {
            self.write("multi-queue-num-queues", &self.links.len().to_string());
        }
        for (key, value) in &self.options.features {
            self.write(key, value);
        }
    }

    /// Asks the backend to close; [`step`](Self::step) finishes when it has.
    pub fn close(&self) {
        self.set_state(5);
    }

    /// Starts over after a close.
    pub fn reopen(&mut self) {
        assert!(self.links.is_empty(), "the frontend still has rings");
        self.set_state(1);
    }

    /// The backend says `Closed`, so it has let go of everything.
    fn finish_close(&mut self) {
        self.reclaim();
        if self.state() != 6 {
            self.set_state(6);
        }
    }

    /// Takes every page and port back.
    pub fn reclaim(&mut self) {
        for link in std::mem::take(&mut self.links) {
            self.reclaim_link(link);
        }
        if let Some(control) = self.control.take() {
            assert!(!self.xen.revoke(self.device.frontend, control.gref), "rule 2: the control ring is still mapped");
            self.xen.close_port(self.device.frontend, control.port);
        }
        self.queue = 0;
    }

    fn reclaim_link(&self, link: Link) {
        for gref in link.rings {
            assert!(
                !self.xen.revoke(self.device.frontend, gref),
                "rule 2: {} let the frontend have its ring back while it is mapped",
                self.device
            );
        }
        let pages = link.sent.into_values().chain(link.posted.into_iter().map(|(_, gref, _)| gref));
        for gref in pages {
            self.xen.revoke(self.device.frontend, gref);
        }
        for port in [Some(link.tx_port), link.rx_port].into_iter().flatten() {
            self.xen.close_port(self.device.frontend, port);
        }
    }

    fn link(&self) -> &Link {
        self.links.get(self.queue).expect("the frontend has no rings")
    }
    fn link_mut(&mut self) -> &mut Link {
        self.links.get_mut(self.queue).expect("the frontend has no rings")
    }

    /// The page of the TX ring.
    pub fn tx_page(&self) -> &Page {
        &self.link().tx.page
    }
    /// The page of the RX ring.
    pub fn rx_page(&self) -> &Page {
        &self.link().rx.page
    }
    /// Grants of the TX and the RX ring.
    pub fn ring_grefs(&self) -> [GrantRef; 2] {
        self.link().rings
    }
    /// The event channel of the TX ring.
    pub fn tx_port(&self) -> RemotePort {
        self.link().tx_port
    }
    /// The event channel of the RX ring, which may be that of the TX ring.
    pub fn rx_port(&self) -> RemotePort {
        self.link().rx_port.unwrap_or(self.link().tx_port)
    }

    /// Notifies the backend of the TX ring.
    pub fn notify_tx(&self) {
        self.xen.notify_from(self.device.frontend, self.tx_port());
    }
    /// Notifies the backend of the RX ring.
    pub fn notify_rx(&self) {
        self.xen.notify_from(self.device.frontend, self.rx_port());
    }
    /// Notifications received so far, all rings.
    pub fn notifications(&self) -> u64 {
        let ports = self.links.iter().flat_map(|link| [Some(link.tx_port), link.rx_port]).flatten();
        ports.map(|port| self.xen.received_by(self.device.frontend, port)).sum()
    }
}
