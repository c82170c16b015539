//! The way back of a request: its parts return, its stages follow each other, and it is answered and counted.

use alloc::boxed::Box;
use alloc::vec::Vec;

use ring::blkif::{Response, Status};
use xen_pv_rt::hyp::{Hypervisor, Instant};

use super::REPORT_INTERVAL;
use super::cause::Cause;
use super::device::Vbd;
use super::work::{Kind, Part, Stage, Work};

impl<H: Hypervisor> Vbd<H> {
    /// Notes that a part of a request is back, and goes on with the request.
    pub(super) fn part_done(&mut self, mut part: Box<Part>, now: Instant) {
        let (index, failure) = (part.work, part.failure());
        part.buffers.clear();
        part.spans.clear();
        part.pins.iter().for_each(|gref| self.mappings.unpin(*gref, now));
        part.pins.clear();
        part.failed = None;
        part.copy_error.set(None);
        part.ready = false;
        part.alone = false;
        self.free_parts.push(part);
        if let Some(work) = self.work_mut(index) {
            work.parts = work.parts.saturating_sub(1);
            if let Some(cause) = failure {
                work.fail(cause);
            }
        }
        self.settle(index, now);
    }

    /// Begins the next stage of a request if the last one is over, or answers it.
    pub(super) fn settle(&mut self, index: u16, now: Instant) {
        let disks = self.disks.len();
        let Some(work) = self.work_mut(index) else { return };
        if work.parts > 0 || !work.is_built(disks) {
            return;
        }
        if work.next_stage() == Stage::Done {
            self.finish(index, now);
        } else {
            self.todo.push_back(index);
        }
    }

    fn finish(&mut self, index: u16, now: Instant) {
        let Some(work) = self.works.get_mut(usize::from(index)).and_then(Option::take) else { return };
        self.free_works.push(index);
        self.todo.retain(|other| *other != index);
        self.barrier &= !work.barrier;
        let status = work.failed.map_or(Status::Okay, Cause::status);
        match work.failed {
            Some(cause) => self.error(cause, now),
            None => self.count(&work),
        }
        if self.fault.is_none()
            && let Some(queue) = self.queues.get_mut(usize::from(work.queue))
        {
            queue.respond(work.ticket, &Response { id: work.id, operation: work.operation, status });
        }
        if self.closing && self.under_way() == 0 {
            self.signal.raise();
        }
    }

    fn count(&mut self, work: &Work) {
        let counters = &mut self.counters;
        let (count, sectors) = match work.kind {
            Kind::Read => (&mut counters.reads, Some(&mut counters.sectors_read)),
            Kind::Write => (&mut counters.writes, Some(&mut counters.sectors_written)),
            Kind::Discard | Kind::SecureErase => (&mut counters.discards, None),
            Kind::Flush => (&mut counters.flushes, None),
        };
        *count = count.wrapping_add(1);
        if let Some(sum) = sectors {
            *sum = sum.wrapping_add(work.sectors);
        }
    }

    /// Counts an error, and has it reported if the last report is a while ago.
    pub(super) fn error(&mut self, cause: Cause, now: Instant) {
        self.counters.errors.add(cause);
        if now >= self.next_report && !self.closing {
            self.next_report = now.saturating_add(REPORT_INTERVAL);
            self.signal.raise();
        }
    }

    /// Errors since the last call, by cause.
    pub(super) fn take_report(&mut self) -> Vec<(Cause, u64)> {
        let (new, old) = (self.counters.errors, self.reported.errors);
        self.reported = self.counters;
        let since = |cause: &Cause| (*cause, new.of(*cause).wrapping_sub(old.of(*cause)));
        Cause::ALL.iter().map(since).filter(|(_, count)| *count > 0).collect()
    }
}
