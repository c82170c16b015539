//! A block frontend: by itself an honest one, with setters to lie in every field.
//!
//! It also judges: every response must answer a request that is under way, with its padding zero.
//!
//! Xen: `public/io/blkif.h`. Behaviour: Linux's xen-blkfront.

mod request;
mod ring;

pub use request::{BlkRequest, BlkSegment};

use std::collections::VecDeque;

use xen_pv_rt::hyp::{Access, GrantRef, RemotePort};

use crate::machine::FakeXen;
use crate::page::Page;
use crate::toolstack::{DeviceId, Toolstack};

use ring::BlkRing;

/// How a frontend connects.
#[derive(Clone, Debug)]
pub struct BlkfrontOptions {
    /// Whether the ring has the 32-bit layout.
    pub x86_32: bool,
    /// The `protocol` key; `None`: none is written.
    pub protocol: Option<&'static str>,
    /// Number of queues; with one, its keys are in the directory itself.
    pub queues: u32,
    /// Pages of each ring, as a power of two.
    pub order: u32,
    /// A single page is published as `ring-ref0`, as some frontends do.
    pub numbered: bool,
    /// The state published with the keys: 3 as Linux does, or 4.
    pub ready_state: u32,
}

impl Default for BlkfrontOptions {
    fn default() -> Self {
        let protocol = Some("x86_64-abi");
        Self { x86_32: false, protocol, queues: 1, order: 0, numbered: false, ready_state: 3 }
    }
}

/// What a request was answered with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlkAnswer {
    /// The queue.
    pub queue: usize,
    /// The request's id.
    pub id: u64,
    /// The request's operation.
    pub operation: u8,
    /// `BLKIF_RSP_*`.
    pub status: i16,
}

/// One vbd's frontend.
pub struct Blkfront {
    xen: FakeXen,
    device: DeviceId,
    options: BlkfrontOptions,
    /// Set while [`step`](Self::step) is not to react to the backend's state.
    pub frozen: bool,
    /// Set while it reads no answers and asks for no events.
    pub deaf: bool,
    queues: Vec<Link>,
    answers: VecDeque<BlkAnswer>,
}

/// A queue's ring and event channel.
struct Link {
    ring: BlkRing,
    grefs: Vec<GrantRef>,
    port: RemotePort,
    /// Ids and operations of requests under way.
    pending: Vec<(u64, u8)>,
}

impl Blkfront {
    /// A frontend for a device whose directories exist. It connects as it is stepped.
    pub fn new(xen: &FakeXen, device: DeviceId, options: BlkfrontOptions) -> Self {
        Self {
            xen: xen.clone(),
            device,
            options,
            frozen: false,
            deaf: false,
            queues: Vec::new(),
            answers: VecDeque::new(),
        }
    }

    /// The device.
    pub fn device(&self) -> DeviceId {
        self.device
    }

    /// Whether it has rings.
    pub fn is_connected(&self) -> bool {
        !self.queues.is_empty()
    }

    /// How it connects, from the next time on.
    pub fn options_mut(&mut self) -> &mut BlkfrontOptions {
        &mut self.options
    }

    /// The frontend's state as published.
    pub fn state(&self) -> u32 {
        self.xen.read_store(&self.key("state")).and_then(|state| state.parse().ok()).unwrap_or(0)
    }

    /// A key of the backend's directory.
    pub fn backend_key(&self, key: &str) -> Option<String> {
        self.xen.read_store(&format!("/local/domain/{}/{}/{key}", self.xen.backend(), self.device))
    }

    /// The backend's state as published.
    pub fn backend_state(&self) -> u32 {
        self.backend_key("state").and_then(|state| state.parse().ok()).unwrap_or(0)
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
        if !self.frozen {
            match (self.backend_state(), self.state()) {
                (2, 1) => self.connect(),
                (4, 3) => self.set_state(4),
                (5, 1..=4) => self.set_state(6),
                (6, 2..=6) => self.finish_close(),
                _ => {}
            }
        }
        self.collect();
    }

    /// Creates rings and event channels and publishes them.
    pub fn connect(&mut self) {
        self.share_rings();
        self.publish();
        self.set_state(self.options.ready_state);
    }

    /// Creates rings and event channels, without a word to the backend.
    pub fn share_rings(&mut self) {
        for _ in 0..self.options.queues {
            let ring = BlkRing::new(self.options.x86_32, self.options.order);
            let grefs =
                ring.pages.iter().map(|page| self.xen.grant_for(self.device, page, Access::ReadWrite)).collect();
            let port = self.xen.offer_port(self.device);
            self.queues.push(Link { ring, grefs, port, pending: Vec::new() });
        }
    }

    /// Writes the keys that say where the rings are.
    pub fn publish(&self) {
        if let Some(protocol) = self.options.protocol {
            self.write("protocol", protocol);
        }
        let many = self.queues.len() > 1;
        if many {
            self.write("multi-queue-num-queues", &self.queues.len().to_string());
        }
        if self.options.order > 0 {
            self.write("ring-page-order", &self.options.order.to_string());
        }
        for (number, link) in self.queues.iter().enumerate() {
            let prefix = if many { format!("queue-{number}/") } else { String::new() };
            for (page, gref) in link.grefs.iter().enumerate() {
                let plain = link.grefs.len() == 1 && !self.options.numbered;
                let key = if plain { "ring-ref".to_string() } else { format!("ring-ref{page}") };
                self.write(&format!("{prefix}{key}"), &gref.to_string());
            }
            self.write(&format!("{prefix}event-channel"), &link.port.to_string());
        }
    }

    /// Asks the backend to close; [`step`](Self::step) finishes when it has.
    pub fn close(&self) {
        self.set_state(5);
    }

    /// Starts over after a close.
    pub fn reopen(&mut self) {
        assert!(self.queues.is_empty(), "the frontend still has rings");
        self.set_state(1);
    }

    fn finish_close(&mut self) {
        self.reclaim();
        if self.state() != 6 {
            self.set_state(6);
        }
    }

    /// Takes every ring and port back.
    pub fn reclaim(&mut self) {
        for link in self.queues.drain(..) {
            for gref in link.grefs {
                assert!(
                    !self.xen.revoke(self.device.frontend, gref),
                    "rule 2: {} let the frontend have its ring back while it is mapped",
                    self.device
                );
            }
            self.xen.close_port(self.device.frontend, link.port);
        }
    }

    /// A page of the frontend's that the backend may use.
    pub fn page(&self, access: Access) -> (GrantRef, Page) {
        let page = Page::new();
        (self.xen.grant_for(self.device, &page, access), page)
    }

    /// Puts requests into a queue's ring, publishes them and notifies.
    pub fn submit_to(&mut self, queue: usize, requests: &[BlkRequest]) {
        if self.publish_to(queue, requests) {
            self.notify(queue);
        }
    }

    /// Puts requests into a queue's ring and publishes them. Returns whether the backend asked for a notification.
    pub fn publish_to(&mut self, queue: usize, requests: &[BlkRequest]) -> bool {
        let link = &mut self.queues[queue];
        for request in requests {
            link.pending.push((request.id(), request.operation()));
            link.ring.put(request.words());
        }
        link.ring.push()
    }

    /// The same for the first queue.
    pub fn submit(&mut self, requests: &[BlkRequest]) {
        self.submit_to(0, requests);
    }

    /// Requests that still fit into a queue's ring.
    pub fn free(&self, queue: usize) -> u32 {
        self.queues[queue].ring.free()
    }

    /// Requests not answered yet.
    pub fn unanswered(&self) -> usize {
        self.queues.iter().map(|link| link.pending.len()).sum()
    }

    /// The answers so far, in order.
    pub fn take_answers(&mut self) -> Vec<BlkAnswer> {
        self.collect();
        self.answers.drain(..).collect()
    }

    fn collect(&mut self) {
        if self.deaf {
            return;
        }
        for (queue, link) in self.queues.iter_mut().enumerate() {
            while let Some((id, operation, status)) = link.ring.take() {
                let at = link.pending.iter().position(|pending| *pending == (id, operation));
                let at = at
                    .unwrap_or_else(|| panic!("a response to {id:#x}, operation {operation}, which is not under way"));
                link.pending.swap_remove(at);
                self.answers.push_back(BlkAnswer { queue, id, operation, status });
            }
            link.ring.want_response_event();
        }
    }

    /// Notifies the backend.
    pub fn notify(&self, queue: usize) {
        self.xen.notify_from(self.device.frontend, self.queues[queue].port);
    }

    /// Notifications received so far.
    pub fn notifications(&self) -> u64 {
        self.queues.iter().map(|link| self.xen.received_by(self.device.frontend, link.port)).sum()
    }

    /// Publishes an arbitrary producer index.
    pub fn set_req_prod(&self, queue: usize, value: u32) {
        self.queues[queue].ring.set_req_prod(value);
    }

    /// The producer index as published.
    pub fn req_prod(&self, queue: usize) -> u32 {
        self.queues[queue].ring.req_prod()
    }

    /// The grants of a queue's ring.
    pub fn ring_grefs(&self, queue: usize) -> &[GrantRef] {
        &self.queues[queue].grefs
    }

    /// The event channel of a queue.
    pub fn port(&self, queue: usize) -> RemotePort {
        self.queues[queue].port
    }
}
