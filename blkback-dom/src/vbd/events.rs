//! When a vbd is looked at: events that its frontend sends, and is asked for.

use xen_pv_rt::hyp::Hypervisor;

use super::device::{BLK_PROD, Vbd};

/// Commands at the disks for each request that may wait for one of them to be answered.
const COMMANDS_PER_REQUEST: u32 = 4;
/// Requests that may wait at most.
const MOST_TO_WAIT_FOR: u32 = 8;

impl<H: Hypervisor> Vbd<H> {
    /// Looks at an idle vbd again if an event has come, or if `anyway`.
    pub(super) fn wake(&mut self, hyp: &H, anyway: bool) {
        if self.idle {
            let events = self.clear_pending(hyp);
            self.idle = events == 0 && !anyway;
        }
    }

    /// Clears the pending bits of its event channels, and counts them.
    fn clear_pending(&mut self, hyp: &H) -> u64 {
        let pending = self.queues.iter().map(|queue| u64::from(hyp.take_pending(&queue.port)));
        let events = pending.fold(0_u64, u64::wrapping_add);
        self.counters.events = self.counters.events.wrapping_add(events);
        events
    }

    /// How many requests the frontend is to publish before it wakes us. While its disks have many commands, their
    /// completions will: a wake-up for each request costs more than it gains.
    pub(super) fn requests_to_wait_for(&self) -> u32 {
        let busy = self.in_flight.checked_div(COMMANDS_PER_REQUEST).unwrap_or(0);
        // Commands that take long must not hold up what could be done beside them, so a few have to be new.
        busy.clamp(1, MOST_TO_WAIT_FOR)
    }

    /// Asks for events, unless that was done and none has come. Returns whether there is work already.
    pub(super) fn arm(&mut self, hyp: &H) -> bool {
        if self.idle {
            return false;
        }
        // Cleared first, so that an event that comes in between is not lost.
        self.clear_pending(hyp);
        let has_room = self.has_room();
        let more = self.requests_to_wait_for();
        let mut broken = None;
        let mut work = false;
        for (queue, number) in self.queues.iter().zip(0_u8..) {
            match queue.ring.arm(more) {
                Ok(ready) => work |= ready >= more && has_room,
                Err(_) => broken = Some(number),
            }
        }
        if let (Some(number), None) = (broken, &self.fault) {
            self.kill(number, BLK_PROD);
        }
        self.idle = !work && has_room && more == 1 && self.under_way() == 0;
        work
    }
}
