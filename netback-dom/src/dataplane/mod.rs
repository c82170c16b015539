//! The data plane: packets between frontends, and between frontends and cards.
//!
//! Everything happens in [`Netback::poll`](crate::netback::Netback::poll), which does a bounded amount of work
//! and returns; it never waits, never allocates and never logs. One turn:
//!
//! 1. take frames from the cards and queue them for their vifs,
//! 2. take packets off the transmit rings,
//! 3. copy all of that with one hypercall: packets in, frames out,
//! 4. decide where the packets from frontends go; those for cards are handed over, with one doorbell for each card,
//! 5. copy those for other vifs with a second hypercall, the payload of large ones straight from the sender's
//!    pages to the receiver's,
//! 6. answer everything, publish, notify each frontend at most once per event channel.
//!
//! A vif that was asked for an event before the domain slept is left alone until that comes, however often others wake us.
//!
//! Between turns nothing is outstanding: `[rsp_prod, req_prod)` of each ring is exactly what was not served.
//!
//! Xen: `public/io/netif.h`.

mod control;
mod copies;
mod exchange;
mod forward;
mod hashing;
mod job;
mod layout;
mod memory;
mod multicast;
mod port;
mod receive;
mod rx;
mod share;
mod shared;
mod transfer;
mod turn;
mod tx;
mod uplink;

use alloc::vec::Vec;

use xen_pv_rt::hyp::{Copied, Domid, Hypervisor, Instant};
use xen_pv_rt::task::Signal;
use xen_pv_rt::xenbus::backend::Fault;

pub use memory::Memory;
pub(crate) use share::Rate;
pub use uplink::Uplinks;

use crate::switch::{BridgeId, PortConfig, PortId, Switch, SwitchOptions};
use crate::vif::counters::VifCounters;
use crate::vif::{Cause, Features};
use copies::Owner;
use job::{RX_JOBS, RxJob, TX_JOBS, TxJob};
use port::VifPort;
use receive::Joiner;
use shared::SharedPool;
use uplink::Uplink;

/// Whether a turn found anything to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "nobody wakes us for work that was left"]
pub enum Turn {
    /// It did; there may be more.
    Busy,
    /// It did not.
    Idle,
}

/// The rings and event channels of one queue, mapped and bound.
pub(crate) struct QueueParts<H: Hypervisor> {
    pub(crate) tx: H::Page,
    pub(crate) rx: H::Page,
    pub(crate) tx_port: H::Port,
    /// `None`: one event channel for both.
    pub(crate) rx_port: Option<H::Port>,
}

/// A control ring and its event channel, mapped and bound.
pub(crate) struct ControlParts<H: Hypervisor> {
    pub(crate) ring: H::Page,
    pub(crate) port: H::Port,
}

/// What a vif is made of when it is handed over by the control plane.
pub(crate) struct VifParts<H: Hypervisor> {
    pub(crate) frontend: Domid,
    pub(crate) devid: u32,
    pub(crate) config: PortConfig,
    pub(crate) rate: Rate,
    pub(crate) features: Features,
    /// Longest frame in either direction, in bytes; `None`: as long as frontends and cards take.
    pub(crate) max_frame: Option<usize>,
    /// `xdp-headroom`, at most 256.
    pub(crate) headroom: u16,
    /// `request-multicast-control`.
    pub(crate) multicast_control: bool,
    pub(crate) queues: Vec<QueueParts<H>>,
    /// `None` if the frontend has none.
    pub(crate) control: Option<ControlParts<H>>,
    /// Raised on a fault, or when drops are to be reported.
    pub(crate) signal: Signal,
}

/// Vifs, cards and the switch between them.
pub(crate) struct Plane<H: Hypervisor> {
    hyp: H,
    memory: Memory,
    shared: SharedPool,
    switch: Switch,
    /// Of hashes.
    seed: u64,
    vifs: Vec<Option<VifPort<H>>>,
    uplinks: Vec<Uplink>,
    /// Segments from a card that are being joined.
    joiner: Joiner,
    tx: Vec<TxJob>,
    rx: Vec<RxJob>,
    /// Whose turn it is to send.
    next_vif: usize,
    /// Rounds in which guests have had their share.
    round: u64,
    /// Pages that wait for frontends.
    held: usize,
    next_expiry: Instant,
    /// When every vif is looked at, event or not.
    next_scan: Instant,
    /// The jobs that failed in the last batch of copies.
    failed: Vec<Owner>,
    /// Copies since start.
    copied: Copied,
}

impl<H: Hypervisor> Plane<H> {
    pub(crate) fn new(hyp: H, memory: Memory, options: SwitchOptions) -> Self {
        let seed = hyp.now().as_nanos();
        Self {
            shared: SharedPool::new(memory.held_pages.saturating_add(RX_JOBS)),
            switch: Switch::new(options, seed),
            seed,
            vifs: Vec::new(),
            uplinks: Vec::new(),
            joiner: Joiner::new(),
            tx: Vec::with_capacity(TX_JOBS),
            rx: Vec::with_capacity(RX_JOBS),
            next_vif: 0,
            round: 0,
            held: 0,
            next_expiry: Instant::default(),
            next_scan: Instant::default(),
            failed: Vec::with_capacity(TX_JOBS.saturating_add(RX_JOBS)),
            copied: Copied { calls: 0, operations: 0 },
            hyp,
            memory,
        }
    }

    /// Adds the next card to a bridge. Called once for each card, in their order.
    pub(crate) fn add_uplink(&mut self, bridge: BridgeId) {
        self.add_interface(PortConfig::uplink(bridge));
    }

    /// Adds the domain's own interface, after the cards.
    pub(crate) fn add_local(&mut self, bridge: BridgeId) {
        self.add_interface(PortConfig::local(bridge));
    }

    fn add_interface(&mut self, config: PortConfig) {
        if let Ok(index) = u8::try_from(self.uplinks.len()) {
            self.uplinks.push(Uplink::new());
            self.switch.add_port(PortId::Uplink(index), config);
        }
    }

    /// Takes a vif into service.
    ///
    /// # Errors
    /// Why it cannot be; everything it was made of is released.
    pub(crate) fn attach(&mut self, parts: VifParts<H>) -> Result<PortId, Fault> {
        let config = parts.config.clone();
        let port = VifPort::attach(parts, self.seed)?;
        let free = self.vifs.iter().position(Option::is_none).unwrap_or(self.vifs.len());
        let id = PortId::Vif(u16::try_from(free).map_err(|_| Fault::QUOTA)?);
        match self.vifs.get_mut(free) {
            Some(slot) => *slot = Some(port),
            None => self.vifs.push(Some(port)),
        }
        self.switch.add_port(id, config);
        self.share_out();
        Ok(id)
    }

    /// Takes a vif out of service. Its event channels are closed; its rings are to be unmapped.
    pub(crate) fn detach(&mut self, id: PortId) -> Vec<H::Page> {
        self.switch.remove_port(id);
        let PortId::Vif(vif) = id else { return Vec::new() };
        let Some(mut port) = self.vifs.get_mut(usize::from(vif)).and_then(Option::take) else { return Vec::new() };
        for queue in &mut port.queues {
            self.held = self.held.saturating_sub(queue.drop_backlog());
        }
        self.share_out();
        port.into_pages()
    }

    fn port_mut(&mut self, id: PortId) -> Option<&mut VifPort<H>> {
        match id {
            PortId::Vif(vif) => self.vifs.get_mut(usize::from(vif))?.as_mut(),
            PortId::Uplink(_) => None,
        }
    }

    /// The frontend wants its multicast filter to be applied, or not any more.
    pub(crate) fn set_multicast_control(&mut self, id: PortId, on: bool) {
        if let Some(port) = self.port_mut(id) {
            port.multicast.on = on;
        }
    }

    /// The frontend wants this many bytes left free at the start of each buffer, at most 256.
    pub(crate) fn set_headroom(&mut self, id: PortId, headroom: u16) {
        if let Some(port) = self.port_mut(id) {
            port.headroom = usize::from(headroom);
        }
    }

    /// Changes what a vif may send.
    pub(crate) fn set_rate(&mut self, id: PortId, rate: Rate, now: Instant) {
        if let Some(port) = self.port_mut(id) {
            port.allowance.change(rate, now);
        }
    }

    fn port(&self, id: PortId) -> Option<&VifPort<H>> {
        match id {
            PortId::Vif(vif) => self.vifs.get(usize::from(vif))?.as_ref(),
            PortId::Uplink(_) => None,
        }
    }

    /// Why a vif has to be taken out of service, and in which queue that showed.
    pub(crate) fn fault(&self, id: PortId) -> Option<(u8, Cause)> {
        self.port(id)?.fault
    }

    /// Packets of a vif that were dropped since the last call and are to be reported.
    pub(crate) fn take_report(&mut self, id: PortId) -> Vec<(Cause, u64)> {
        self.port_mut(id).map(VifPort::take_report).unwrap_or_default()
    }

    /// The counters of every vif in service.
    pub(crate) fn counters(&self) -> impl Iterator<Item = (Domid, u32, VifCounters)> {
        self.vifs.iter().flatten().map(|port| (port.frontend, port.devid, port.counters))
    }

    /// Copies since start.
    pub(crate) const fn copied(&self) -> Copied {
        self.copied
    }
}
