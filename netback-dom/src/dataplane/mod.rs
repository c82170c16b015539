//! The data plane: packets between frontends, and between frontends and cards.
//!
//! Everything happens in [`Plane::poll`], which does a bounded amount of work and returns; it never waits,
//! never allocates and never logs. One turn:
//!
//! 1. take frames from the cards and queue them for their vifs,
//! 2. take packets off the transmit rings,
//! 3. copy all of that with one hypercall: packets in, frames out,
//! 4. decide where the packets from frontends go; those for cards are handed over,
//! 5. copy those for other vifs with a second hypercall, the payload of large ones straight from the sender's
//!    pages to the receiver's,
//! 6. answer everything, publish, notify each frontend at most once per event channel.
//!
//! Between turns nothing is outstanding: `[rsp_prod, req_prod)` of each ring is exactly what was not served.
//!
//! Xen: `public/io/netif.h`.

mod copies;
mod forward;
mod job;
mod memory;
mod port;
mod rx;
mod shared;
mod transfer;
mod tx;
mod uplink;

use alloc::vec::Vec;
use core::time::Duration;

use ring::netif::Status;
use xen_pv_rt::hyp::{Domid, Hypervisor, Instant};
use xen_pv_rt::task::Signal;
use xen_pv_rt::xenbus::backend::Fault;

pub use memory::Memory;
pub use uplink::Uplinks;

use crate::nic::MacAddress;
use crate::switch::{BridgeId, PortId, Switch, TableLimits};
use crate::vif::counters::VifCounters;
use crate::vif::{Cause, Features};
use copies::{CopyBatch, Failed, Owner};
use job::{RX_JOBS, RxJob, RxSource, Stage, TX_JOBS, TxJob};
use port::VifPort;
use shared::SharedPool;
use uplink::Uplink;

/// How often aged addresses are removed.
const EXPIRY_INTERVAL: Duration = Duration::from_secs(60);
/// How soon to look again when a card had no room for a frame.
const UPLINK_RETRY: Duration = Duration::from_millis(1);
/// How soon to look for buffers of a frontend that does not say when it posts some.
const RX_RETRY: Duration = Duration::from_millis(30);

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

/// What a vif is made of when it is handed over by the control plane.
pub(crate) struct VifParts<H: Hypervisor> {
    pub(crate) frontend: Domid,
    pub(crate) devid: u32,
    pub(crate) mac: Option<MacAddress>,
    pub(crate) bridge: BridgeId,
    pub(crate) features: Features,
    pub(crate) queues: Vec<QueueParts<H>>,
    /// Raised on a fault, or when drops are to be reported.
    pub(crate) signal: Signal,
}

/// Vifs, cards and the switch between them.
pub(crate) struct Plane<H: Hypervisor> {
    hyp: H,
    memory: Memory,
    shared: SharedPool,
    switch: Switch,
    vifs: Vec<Option<VifPort<H>>>,
    uplinks: Vec<Uplink>,
    tx: Vec<TxJob>,
    rx: Vec<RxJob>,
    /// Whose turn it is to send.
    next_vif: usize,
    /// Pages that wait for frontends.
    held: usize,
    next_expiry: Instant,
    /// Copy hypercalls since start.
    hypercalls: u64,
}

impl<H: Hypervisor> Plane<H> {
    pub(crate) fn new(hyp: H, memory: Memory, limits: TableLimits) -> Self {
        let seed = hyp.now().as_nanos();
        Self {
            shared: SharedPool::new(memory.held_pages.saturating_add(RX_JOBS)),
            switch: Switch::new(limits, seed),
            vifs: Vec::new(),
            uplinks: Vec::new(),
            tx: Vec::with_capacity(TX_JOBS),
            rx: Vec::with_capacity(RX_JOBS),
            next_vif: 0,
            held: 0,
            next_expiry: Instant::default(),
            hypercalls: 0,
            hyp,
            memory,
        }
    }

    /// Adds the next card to a bridge. Called once for each card, in their order.
    pub(crate) fn add_uplink(&mut self, bridge: BridgeId) {
        if let Ok(index) = u8::try_from(self.uplinks.len()) {
            self.uplinks.push(Uplink::new());
            self.switch.add_port(PortId::Uplink(index), bridge, None);
        }
    }

    /// Takes a vif into service.
    ///
    /// # Errors
    /// Why it cannot be; everything it was made of is released.
    pub(crate) fn attach(&mut self, parts: VifParts<H>) -> Result<PortId, Fault> {
        let port = VifPort::attach(parts)?;
        let (mac, bridge) = (port.mac, port.bridge);
        let free = self.vifs.iter().position(Option::is_none).unwrap_or(self.vifs.len());
        let id = PortId::Vif(u16::try_from(free).map_err(|_| Fault::QUOTA)?);
        match self.vifs.get_mut(free) {
            Some(slot) => *slot = Some(port),
            None => self.vifs.push(Some(port)),
        }
        self.switch.add_port(id, bridge, mac);
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
        port.into_pages()
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
        let PortId::Vif(vif) = id else { return Vec::new() };
        match self.vifs.get_mut(usize::from(vif)) {
            Some(Some(port)) => port.take_report(),
            _ => Vec::new(),
        }
    }

    /// The counters of every vif in service.
    pub(crate) fn counters(&self) -> impl Iterator<Item = (Domid, u32, VifCounters)> {
        self.vifs.iter().flatten().map(|port| (port.frontend, port.devid, port.counters))
    }

    /// Copy hypercalls since start.
    pub(crate) const fn hypercalls(&self) -> u64 {
        self.hypercalls
    }

    /// One turn at `now`. The clock is not read here: where Xen emulates it, that is a trap.
    pub(crate) fn poll(&mut self, uplinks: &mut dyn Uplinks, now: Instant) -> Turn {
        self.expire(now);
        let mut busy = self.retry_uplinks(uplinks);
        busy |= self.receive(uplinks, now);
        for vif in 0..self.vifs.len() {
            self.pull(vif, now);
        }
        self.collect_tx(now);
        busy |= !self.tx.is_empty() || !self.rx.is_empty();
        self.copy_in(now);
        self.finish_rx(now);
        if self.forward(uplinks, now) {
            self.copy_out(now);
            self.finish_rx(now);
            self.copy_rest(now);
            // Everything is whole now, so there is no third time.
            self.forward(uplinks, now);
        }
        self.copy_out(now);
        self.finish_rx(now);
        self.finish_tx();
        self.push();
        for (uplink, index) in self.uplinks.iter_mut().zip(0..) {
            uplink.flush(uplinks.nic(index));
        }
        if busy { Turn::Busy } else { Turn::Idle }
    }

    /// Gets ready to sleep: asks every frontend for an event on new work, and looks for the last time.
    ///
    /// [`Turn::Busy`] means that there is work already. Pending event channels are cleared first, so an event
    /// that comes in between ends the sleep at once.
    pub(crate) fn arm(&mut self) -> Turn {
        let low = self.memory.is_low();
        let Self { vifs, uplinks, hyp, .. } = self;
        let mut turn = Turn::Idle;
        for port in vifs.iter_mut().flatten().filter(|port| port.fault.is_none()) {
            let blocked = low || tx::is_blocked(port, uplinks);
            let mut fault = None;
            for (queue, number) in port.queues.iter_mut().zip(0_u8..) {
                queue.clear_pending(hyp);
                match queue.arm(blocked) {
                    Ok(Turn::Idle) => {}
                    Ok(Turn::Busy) => turn = Turn::Busy,
                    Err(cause) => fault = Some((number, cause)),
                }
            }
            if let Some((number, cause)) = fault {
                port.kill(number, cause);
            }
        }
        turn
    }

    /// When to call [`Self::poll`] at the latest, whatever happens.
    pub(crate) fn next_deadline(&self, now: Instant) -> Option<Instant> {
        let waiting = self.memory.is_low() || self.uplinks.iter().any(Uplink::is_waiting);
        let uplink = waiting.then(|| now.saturating_add(UPLINK_RETRY));
        let vifs = self.vifs.iter().flatten().filter_map(|port| {
            let since = port.queues.iter().filter_map(|queue| queue.waiting_since).min()?;
            let stall = since.saturating_add(rx::STALL_TIMEOUT);
            Some(if port.features.rx_notify { stall } else { stall.min(now.saturating_add(RX_RETRY)) })
        });
        vifs.chain(uplink).min()
    }

    /// Empties the queues of frontends that have stalled, and forgets aged addresses.
    fn expire(&mut self, now: Instant) {
        let Self { vifs, held, .. } = self;
        for port in vifs.iter_mut().flatten() {
            let mut stalled = false;
            for queue in &mut port.queues {
                if queue.waiting_since.is_some_and(|since| now.saturating_since(since) >= rx::STALL_TIMEOUT) {
                    *held = held.saturating_sub(queue.drop_backlog());
                    queue.waiting_since = None;
                    queue.stalled = true;
                    stalled = true;
                }
            }
            if stalled {
                port.drop_rx(Cause::RxStall, now);
            }
        }
        if now >= self.next_expiry {
            self.next_expiry = now.saturating_add(EXPIRY_INTERVAL);
            self.switch.expire(now);
        }
    }

    fn retry_uplinks(&mut self, uplinks: &mut dyn Uplinks) -> bool {
        let mut progress = false;
        let low = self.memory.is_low();
        for (uplink, index) in self.uplinks.iter_mut().zip(0..) {
            if (low || uplink.is_waiting())
                && let Some(nic) = uplinks.nic(index)
            {
                // Gives back the buffers of what was sent. If the card has failed, the loop finds out by itself.
                let _ = nic.poll();
            }
            if uplink.is_waiting() {
                progress |= uplink.retry(uplinks.nic(index));
            }
        }
        progress
    }

    /// Packets in and frames out, together.
    fn copy_in(&mut self, now: Instant) {
        let mut batch = CopyBatch::new(&self.hyp);
        for (at, job) in self.tx.iter_mut().enumerate() {
            transfer::gather(&mut batch, at, job, 0);
        }
        for (at, job) in self.rx.iter().enumerate() {
            transfer::scatter(&mut batch, at, job, &[]);
        }
        let (failed, hypercalls) = batch.finish();
        self.settle(&failed, hypercalls, now);
    }

    /// Packets to other vifs.
    fn copy_out(&mut self, now: Instant) {
        let mut batch = CopyBatch::new(&self.hyp);
        for (at, job) in self.rx.iter().enumerate() {
            transfer::scatter(&mut batch, at, job, &self.tx);
        }
        let (failed, hypercalls) = batch.finish();
        self.settle(&failed, hypercalls, now);
    }

    /// The rest of packets of which only the headers were copied, but could not be handed on like that.
    fn copy_rest(&mut self, now: Instant) {
        let mut batch = CopyBatch::new(&self.hyp);
        for (at, job) in self.tx.iter_mut().enumerate().filter(|(_, job)| job.stage == Stage::NeedsWhole) {
            let len = job.len();
            let from = core::mem::replace(&mut job.copied, len);
            job.stage = Stage::Pending;
            let grown = job.frame.as_mut().is_some_and(|frame| self.memory.grow(frame, len).is_some());
            if !grown {
                job.fail(Status::Dropped);
                if let Some(Some(port)) = self.vifs.get_mut(usize::from(job.ring.vif)) {
                    port.drop_tx(Cause::NoBuffer, now);
                }
            }
            transfer::gather(&mut batch, at, job, from);
        }
        let (failed, hypercalls) = batch.finish();
        self.settle(&failed, hypercalls, now);
    }

    /// Marks the jobs that failed in a batch.
    fn settle(&mut self, failed: &Failed, hypercalls: u32, now: Instant) {
        self.hypercalls = self.hypercalls.wrapping_add(u64::from(hypercalls));
        for owner in failed {
            let sender = match *owner {
                Owner::Tx(at) => Some(at),
                Owner::Rx(at) => self.rx.get_mut(at).and_then(|job| {
                    job.failed = true;
                    match job.source {
                        RxSource::Direct(from) => Some(from),
                        RxSource::Stored(_) => None,
                    }
                }),
            };
            let Some(job) = sender.and_then(|at| self.tx.get_mut(at)) else { continue };
            let Some(Some(port)) = self.vifs.get_mut(usize::from(job.ring.vif)) else { continue };
            match owner {
                Owner::Tx(_) => {
                    job.fail(Status::Error);
                    port.drop_tx(Cause::Grant, now);
                }
                // Whose grant was bad is not known.
                Owner::Rx(_) => {
                    job.status = Status::Dropped;
                    port.direct = false;
                }
            }
        }
    }

    /// Publishes responses and notifies.
    fn push(&mut self) {
        let Self { vifs, hyp, .. } = self;
        for port in vifs.iter_mut().flatten().filter(|port| port.fault.is_none()) {
            for queue in &mut port.queues {
                let sent = queue.push(hyp);
                port.counters.notifications = port.counters.notifications.wrapping_add(sent);
            }
        }
    }
}

impl<H: Hypervisor> port::Queue<H> {
    /// Asks for events. `blocked`: the packets in its transmit ring cannot be served now.
    fn arm(&self, blocked: bool) -> Result<Turn, Cause> {
        let tx = if blocked { 0 } else { self.tx.final_check_for_requests().map_err(|_| Cause::TxProd)? };
        let rx = match self.backlog.front().and_then(shared::SharedFrame::get) {
            Some(frame) => {
                let need = rx::slots_for(frame.len(), frame.gso);
                self.rx.arm(need).map_err(|_| Cause::RxProd)? >= need
            }
            None => false,
        };
        Ok(if tx > 0 || rx { Turn::Busy } else { Turn::Idle })
    }
}
