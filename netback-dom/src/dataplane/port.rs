//! A connected vif as the data plane keeps it.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::time::Duration;

use ring::netif;
use ring::{BackRing, Notify};
use xen_pv_rt::hyp::{Domid, Hypervisor, Instant};
use xen_pv_rt::task::Signal;

use super::VifParts;
use super::control::Control;
use super::hashing::Hashing;
use super::layout::{self, Layout};
use super::multicast::Multicast;
use super::share::{Allowance, Share};
use super::shared::SharedFrame;
use crate::frame::{Checksum, Frame, Gso};
use crate::segmentation;
use crate::switch::PortId;
use crate::vif::counters::VifCounters;
use crate::vif::{Cause, Features};
use crate::wire::Transport;

/// Most frames that wait for a frontend to post buffers, per vif.
pub(super) const BACKLOG_FRAMES: usize = 384;
/// Least time between two wake-ups of the control plane by one vif's drops.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// The rings of one queue.
pub(super) struct Queue<H: Hypervisor> {
    pub(super) tx: BackRing<netif::Tx, H::Page>,
    pub(super) rx: BackRing<netif::Rx, H::Page>,
    tx_port: H::Port,
    /// `None` if the frontend has one event channel for both rings.
    rx_port: Option<H::Port>,
    /// Frames that wait for the frontend to post buffers.
    pub(super) backlog: VecDeque<SharedFrame>,
    /// Segments of those, each of which holds up a page.
    pub(super) backlog_pages: usize,
    /// Bytes of those.
    pub(super) backlog_bytes: usize,
    /// Since when frames have waited without any being taken.
    pub(super) waiting_since: Option<Instant>,
    /// The frontend has taken nothing for so long that frames for it are dropped at once.
    pub(super) stalled: bool,
}

impl<H: Hypervisor> Queue<H> {
    /// Publishes responses and notifies the frontend if it asked for it. Returns the notifications sent.
    pub(super) fn push(&mut self, hyp: &H) -> u64 {
        let tx = self.tx.push_responses() == Notify::Needed;
        let rx = self.rx.push_responses() == Notify::Needed;
        match &self.rx_port {
            Some(rx_port) => {
                if tx {
                    hyp.notify(&self.tx_port);
                }
                if rx {
                    hyp.notify(rx_port);
                }
                u64::from(tx).wrapping_add(u64::from(rx))
            }
            None => {
                if tx || rx {
                    hyp.notify(&self.tx_port);
                }
                u64::from(tx || rx)
            }
        }
    }

    /// Clears the pending bits of its event channels. Returns how many were set.
    pub(super) fn clear_pending(&self, hyp: &H) -> u64 {
        let tx = hyp.take_pending(&self.tx_port);
        let rx = self.rx_port.as_ref().is_some_and(|rx_port| hyp.take_pending(rx_port));
        u64::from(tx).wrapping_add(u64::from(rx))
    }

    /// Drops what waits for the frontend. Returns how many pages that frees.
    pub(super) fn drop_backlog(&mut self) -> usize {
        self.backlog.clear();
        self.backlog_bytes = 0;
        core::mem::take(&mut self.backlog_pages)
    }
}

/// What waits for a frontend to post buffers.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Waiting {
    pub(super) frames: usize,
    pub(super) pages: usize,
    pub(super) bytes: usize,
}

/// A connected vif.
pub(super) struct VifPort<H: Hypervisor> {
    pub(super) frontend: Domid,
    pub(super) devid: u32,
    pub(super) features: Features,
    pub(super) queues: Vec<Queue<H>>,
    pub(super) counters: VifCounters,
    /// Where its last packet to a single port went: the next one is expected to go there too.
    pub(super) last_dest: Option<PortId>,
    /// The queue that is looked at first when packets are taken: each in turn.
    pub(super) next_queue: usize,
    /// Packets taken in a turn. The vifs of a guest share what a guest may have.
    pub(super) quantum: usize,
    /// How packets are spread over its queues.
    pub(super) hashing: Hashing,
    /// Bytes left free at the start of each receive buffer (`xdp-headroom`).
    pub(super) headroom: usize,
    pub(super) control: Option<Control<H>>,
    pub(super) multicast: Multicast,
    /// Longest frame in either direction, in bytes, as the toolstack wants it.
    limit: usize,
    /// What its guest may send, from all its vifs.
    pub(super) share: Share,
    /// What `rate` allows.
    pub(super) allowance: Allowance,
    /// Whether packets were left when it was looked at last.
    pub(super) has_more: bool,
    /// It has been asked for an event on all that it can do, and nothing of it waits: until one comes, its rings are
    /// not looked at. With many vifs most are, and each ring is a cache line or two of somebody else's.
    pub(super) idle: bool,
    /// Packets may be copied straight from its pages to another guest's. Off for good once that has failed:
    /// the receiver cannot know whose grant was bad.
    pub(super) direct: bool,
    /// Set when its rings cannot be believed any more: which queue, and why. They are not touched again.
    pub(super) fault: Option<(u8, Cause)>,
    signal: Signal,
    report_due: bool,
    /// What was reported already.
    reported: VifCounters,
    next_report: Instant,
}

impl<H: Hypervisor> VifPort<H> {
    /// Attaches to the rings.
    ///
    /// # Errors
    /// The producer index of a ring is impossible from the start; everything is unmapped and unbound.
    pub(super) fn attach(parts: VifParts<H>, seed: u64) -> Result<Self, Cause> {
        let mut queues = Vec::with_capacity(parts.queues.len());
        for queue in parts.queues {
            queues.push(Queue {
                tx: BackRing::attach(queue.tx).map_err(|_| Cause::TxProd)?,
                rx: BackRing::attach(queue.rx).map_err(|_| Cause::RxProd)?,
                tx_port: queue.tx_port,
                rx_port: queue.rx_port,
                backlog: VecDeque::with_capacity(BACKLOG_FRAMES),
                backlog_pages: 0,
                backlog_bytes: 0,
                waiting_since: None,
                stalled: false,
            });
        }
        let control = parts.control.map(Control::attach).transpose()?;
        Ok(Self {
            frontend: parts.frontend,
            devid: parts.devid,
            features: parts.features,
            queues,
            counters: VifCounters::default(),
            last_dest: None,
            next_queue: 0,
            quantum: 1,
            hashing: Hashing::new(seed),
            headroom: usize::from(parts.headroom),
            multicast: Multicast::new(parts.multicast_control),
            limit: parts.max_frame.unwrap_or(usize::MAX),
            control,
            share: Share::default(),
            allowance: Allowance::new(parts.rate),
            has_more: false,
            idle: false,
            direct: true,
            fault: None,
            signal: parts.signal,
            report_due: false,
            reported: VifCounters::default(),
            next_report: Instant::default(),
        })
    }

    /// Looks at an idle vif again if an event has come, or if `anyway`.
    pub(super) fn wake(&mut self, hyp: &H, anyway: bool) {
        if self.idle {
            let events = self.queues.iter().fold(0_u64, |sum, queue| sum.wrapping_add(queue.clear_pending(hyp)));
            let control = self.control.as_ref().is_some_and(|control| control.clear_pending(hyp));
            self.counters.events = self.counters.events.wrapping_add(events);
            self.idle = events == 0 && !control && !anyway;
        }
    }

    /// Takes the vif out of service; the control plane does the rest.
    pub(super) fn kill(&mut self, queue: u8, cause: Cause) {
        if self.fault.is_none() {
            self.fault = Some((queue, cause));
            self.signal.raise();
        }
    }

    /// Counts a packet of the frontend's that goes nowhere.
    pub(super) fn drop_tx(&mut self, cause: Cause, now: Instant) {
        self.counters.tx_drops.add(cause);
        self.report(cause, now);
    }

    /// Counts a packet that does not reach the frontend.
    pub(super) fn drop_rx(&mut self, cause: Cause, now: Instant) {
        self.counters.rx_drops.add(cause);
        self.report(cause, now);
    }

    fn report(&mut self, cause: Cause, now: Instant) {
        if cause.is_fault() && now >= self.next_report {
            self.next_report = now.saturating_add(REPORT_INTERVAL);
            self.report_due = true;
            self.signal.raise();
        }
    }

    /// Packets dropped since the last call, by causes that are somebody's fault.
    pub(super) fn take_report(&mut self) -> Vec<(Cause, u64)> {
        if !core::mem::take(&mut self.report_due) {
            return Vec::new();
        }
        let last = core::mem::replace(&mut self.reported, self.counters);
        let dropped =
            |counters: &VifCounters, cause| counters.tx_drops.of(cause).wrapping_add(counters.rx_drops.of(cause));
        let faults = Cause::ALL.iter().copied().filter(|cause| cause.is_fault());
        faults
            .map(|cause| (cause, dropped(&self.counters, cause).wrapping_sub(dropped(&last, cause))))
            .filter(|(_, count)| *count > 0)
            .collect()
    }

    /// The longest frame the frontend can take, in bytes.
    pub(super) const fn max_frame(&self) -> usize {
        if self.features.sg { layout::longest(self.headroom) } else { layout::room(self.headroom) }
    }

    /// Whether a frame of `len` bytes that starts with `frame` is within the vif's MTU; what it is to be cut into, if
    /// it is.
    pub(super) fn is_within_mtu(&self, frame: &Frame, len: usize) -> bool {
        let longest = frame.gso.map_or(len, |gso| segmentation::longest(frame, len, gso));
        longest <= self.limit
    }

    /// Whether the frontend takes a frame of `len` bytes that starts with `frame` with its checksum as it is.
    pub(super) fn takes_checksum(&self, frame: &Frame, len: usize) -> bool {
        match frame.checksum {
            Checksum::Blank { .. } => match Transport::find(frame.head().bytes(), len) {
                Some(transport) if transport.ipv6 => self.features.csum_ipv6,
                Some(_) => self.features.csum_ipv4,
                None => false,
            },
            Checksum::Good | Checksum::Unknown => true,
        }
    }

    /// Whether the frontend takes a frame that was not cut into segments.
    pub(super) const fn takes_gso(&self, gso: Option<Gso>) -> bool {
        match gso {
            // A program that looks at packets wants each in one buffer.
            Some(_) if self.headroom > 0 => false,
            Some(Gso { ipv6: true, .. }) => self.features.gso_ipv6,
            Some(Gso { ipv6: false, .. }) => self.features.gso_ipv4,
            None => true,
        }
    }

    /// The queue for a frame of `len` bytes that starts with `frame`. The same flow always gets the same one.
    pub(super) fn queue_for(&self, frame: &Frame, len: usize) -> usize {
        self.hashing.queue(frame.head().bytes(), len, self.queues.len())
    }

    /// How packets lie in its receive buffers.
    pub(super) const fn layout(&self) -> Layout<'_> {
        Layout { headroom: self.headroom, hashing: &self.hashing }
    }

    /// What waits for the frontend, in all queues.
    pub(super) fn waiting(&self) -> Waiting {
        self.queues.iter().fold(Waiting::default(), |sum, queue| Waiting {
            frames: sum.frames.saturating_add(queue.backlog.len()),
            pages: sum.pages.saturating_add(queue.backlog_pages),
            bytes: sum.bytes.saturating_add(queue.backlog_bytes),
        })
    }

    /// The rings, to be unmapped; the event channels are closed.
    pub(super) fn into_pages(self) -> Vec<H::Page> {
        let rings = self.queues.into_iter().flat_map(|queue| [queue.tx.into_mem(), queue.rx.into_mem()]);
        rings.chain(self.control.map(Control::into_page)).collect()
    }
}
