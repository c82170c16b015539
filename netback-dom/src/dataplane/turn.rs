//! One turn of the data plane, and getting ready to sleep.

use core::time::Duration;

use xen_pv_rt::hyp::{Hypervisor, Instant};

use super::layout::Layout;
use super::port::Queue;
use super::shared::SharedFrame;
use super::uplink::Uplink;
use super::{Plane, Turn, Uplinks, rx, tx};
use crate::vif::Cause;

/// How often aged addresses are removed.
const EXPIRY_INTERVAL: Duration = Duration::from_secs(60);
/// How often every vif is looked at at most, event or not: finds what an event was lost for, or not sent for.
const SCAN_INTERVAL: Duration = Duration::from_millis(10);
/// How soon to look again when a card had no room for a frame, or frames hold too many buffers.
const UPLINK_RETRY: Duration = Duration::from_millis(1);
/// How soon to look for buffers of a frontend that does not say when it posts some.
const RX_RETRY: Duration = Duration::from_millis(30);

impl<H: Hypervisor> Plane<H> {
    /// One turn at `now`. The clock is not read here: where Xen emulates it, that is a trap.
    pub(crate) fn poll(&mut self, uplinks: &mut dyn Uplinks, now: Instant) -> Turn {
        self.wake(now);
        self.expire(now);
        let mut busy = self.retry_uplinks(uplinks);
        busy |= self.serve_control(now);
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
        // Before the answers: the wire is slower than any guest.
        for (uplink, index) in self.uplinks.iter_mut().zip(0..) {
            uplink.flush(uplinks.nic(index));
        }
        self.copy_out(now);
        self.finish_rx(now);
        self.finish_tx();
        self.push();
        if busy { Turn::Busy } else { Turn::Idle }
    }

    /// Looks at vifs again that have sent an event and, now and then, at all.
    fn wake(&mut self, now: Instant) {
        let scan = now >= self.next_scan;
        if scan {
            self.next_scan = now.saturating_add(SCAN_INTERVAL);
        }
        let Self { vifs, hyp, .. } = self;
        vifs.iter_mut().flatten().for_each(|port| port.wake(hyp, scan));
    }

    /// Gets ready to sleep: asks every frontend that was not yet for an event on new work, and looks for the last time.
    ///
    /// [`Turn::Busy`] means that there is work already. Pending event channels are cleared first, so an event
    /// that comes in between ends the sleep at once.
    pub(crate) fn arm(&mut self) -> Turn {
        let low = self.memory.is_low();
        let Self { vifs, uplinks, hyp, .. } = self;
        let mut turn = Turn::Idle;
        for port in vifs.iter_mut().flatten().filter(|port| port.fault.is_none() && !port.idle) {
            let blocked = low || port.allowance.waits_until().is_some() || tx::is_blocked(port, uplinks);
            let (mut fault, mut idle) = (None, !blocked);
            match port.control.as_ref().map(|control| control.arm(hyp)) {
                None | Some(Ok(Turn::Idle)) => {}
                Some(Ok(Turn::Busy)) => (turn, idle) = (Turn::Busy, false),
                Some(Err(cause)) => fault = Some((0, cause)),
            }
            let layout = Layout { headroom: port.headroom, hashing: &port.hashing };
            for (queue, number) in port.queues.iter_mut().zip(0_u8..) {
                port.counters.events = port.counters.events.wrapping_add(queue.clear_pending(hyp));
                match queue.arm(blocked, &layout) {
                    // Frames that wait have a deadline.
                    Ok(Turn::Idle) => idle &= queue.backlog.is_empty(),
                    Ok(Turn::Busy) => (turn, idle) = (Turn::Busy, false),
                    Err(cause) => fault = Some((number, cause)),
                }
            }
            port.idle = idle;
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
        let rates = self.vifs.iter().flatten().filter_map(|port| port.allowance.waits_until());
        vifs.chain(uplink).chain(rates).min()
    }

    /// Empties the queues of frontends that have stalled, and forgets aged addresses.
    fn expire(&mut self, now: Instant) {
        let Self { vifs, held, .. } = self;
        for port in vifs.iter_mut().flatten().filter(|port| !port.idle) {
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

    /// Publishes responses and notifies.
    fn push(&mut self) {
        let Self { vifs, hyp, .. } = self;
        for port in vifs.iter_mut().flatten().filter(|port| port.fault.is_none() && !port.idle) {
            for queue in &mut port.queues {
                let sent = queue.push(hyp);
                port.counters.notifications = port.counters.notifications.wrapping_add(sent);
            }
        }
    }
}

impl<H: Hypervisor> Queue<H> {
    /// Asks for events. `blocked`: the packets in its transmit ring cannot be served now.
    fn arm(&self, blocked: bool, layout: &Layout<'_>) -> Result<Turn, Cause> {
        let tx = if blocked { 0 } else { self.tx.final_check_for_requests().map_err(|_| Cause::TxProd)? };
        let rx = match self.backlog.front().and_then(SharedFrame::get) {
            Some(frame) => {
                let need = layout.slots_for(frame);
                self.rx.arm(need).map_err(|_| Cause::RxProd)? >= need
            }
            None => false,
        };
        Ok(if tx > 0 || rx { Turn::Busy } else { Turn::Idle })
    }
}
