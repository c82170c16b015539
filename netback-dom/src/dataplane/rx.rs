//! Packets to frontends: queued until there are buffers for them, into jobs, and answered.
//!
//! What waits for a slow frontend is bounded three ways: frames per vif, 512 KiB per vif, and half of the pages
//! that are not held by others. So a guest that takes nothing cannot starve the rest, however many queues it has.

use alloc::vec::Vec;
use core::time::Duration;

use ring::netif::{MAX_SLOTS, RxFlags, RxResponse};
use xen_pv_rt::hyp::{Domid, Hypervisor, Instant};

use super::Plane;
use super::job::{RX_JOBS, RingOf, RxJob, RxSlot, RxSource, TxJob};
use super::layout::{self, Layout};
use super::port::{BACKLOG_FRAMES, Queue, VifPort};
use super::shared::SharedFrame;
use crate::frame::{Checksum, Frame};
use crate::vif::Cause;
use crate::wire::Ethernet;

/// Most bytes of frames that wait for one vif, as with Linux: several TCP windows of a guest that is slow to wake up.
const BACKLOG_BYTES: usize = 512 * 1024;
/// A queue that has taken nothing for this long is emptied.
pub(super) const STALL_TIMEOUT: Duration = Duration::from_secs(10);

impl<H: Hypervisor> Plane<H> {
    /// Queues a frame for a vif and makes a job of it as soon as there are buffers.
    pub(super) fn enqueue(&mut self, vif: u16, frame: SharedFrame, now: Instant) -> bool {
        let limit = self.memory.held_pages.saturating_sub(self.held) / 2;
        let Some(Some(port)) = self.vifs.get_mut(usize::from(vif)) else { return false };
        let Some(stored) = frame.get() else { return false };
        let (len, pages) = (stored.len(), stored.segment_count());
        if port.fault.is_some() {
            return false;
        }
        if !Ethernet::addresses(stored.head().bytes()).is_some_and(|(dest, _)| port.multicast.takes(dest)) {
            // The frontend has asked not to be bothered with it.
            return true;
        }
        let (number, within) = (port.queue_for(stored, len), port.is_within_mtu(stored, len));
        let (max_frame, need) = (port.max_frame(), port.layout().slots_for(stored));
        let waiting = port.waiting();
        let Some(queue) = port.queues.get_mut(number) else { return false };
        // A stalled frontend is back when it has posted buffers.
        queue.stalled &= queue.rx.unconsumed().is_ok_and(|posted| posted < need);
        let full = waiting.frames >= BACKLOG_FRAMES
            || waiting.bytes.saturating_add(len) > BACKLOG_BYTES
            || waiting.pages.saturating_add(pages) > limit;
        let cause = match (within, len > max_frame, queue.stalled, full) {
            (false, ..) => Some(Cause::Mtu),
            (_, true, ..) => Some(Cause::RxFit),
            (_, _, true, _) => Some(Cause::RxStall),
            (_, _, _, true) => Some(Cause::RxQueue),
            _ => None,
        };
        if let Some(cause) = cause {
            port.drop_rx(cause, now);
            return false;
        }
        queue.backlog.push_back(frame);
        queue.backlog_pages = queue.backlog_pages.saturating_add(pages);
        queue.backlog_bytes = queue.backlog_bytes.saturating_add(len);
        port.idle = false;
        self.held = self.held.saturating_add(pages);
        self.pull(usize::from(vif), now);
        true
    }

    /// Makes jobs of the frames that wait for a vif, as far as there are buffers and room for jobs.
    pub(super) fn pull(&mut self, vif: usize, now: Instant) {
        let Self { vifs, rx, held, .. } = self;
        let (Some(Some(port)), Ok(number)) = (vifs.get_mut(vif), u16::try_from(vif)) else { return };
        if port.fault.is_some() || port.idle {
            return;
        }
        let domid = port.frontend;
        let mut fault = None;
        let layout = Layout { headroom: port.headroom, hashing: &port.hashing };
        for (queue, index) in port.queues.iter_mut().zip(0_usize..) {
            let pages = queue.backlog_pages;
            let jobs = rx.len();
            if let Err(cause) = pull_queue(queue, RingOf { vif: number, queue: index }, domid, &layout, rx) {
                queue.drop_backlog();
                fault = Some((u8::try_from(index).unwrap_or(u8::MAX), cause));
            }
            *held = held.saturating_sub(pages.saturating_sub(queue.backlog_pages));
            queue.note_progress(rx.len() > jobs, now);
        }
        if let Some((index, cause)) = fault {
            port.kill(index, cause);
        }
    }

    /// Makes a job of a packet that goes straight from guest to guest. Returns whether there were buffers
    /// and no other packet waits for them.
    pub(super) fn pull_direct(&mut self, vif: u16, from: usize, frame_len: usize, flags: RxFlags) -> bool {
        let Some(Some(port)) = self.vifs.get_mut(usize::from(vif)) else { return false };
        let domid = port.frontend;
        // The queue is chosen as for a stored frame of the same flow.
        let Some(frame) = self.tx.get(from).and_then(|job| job.frame.as_ref()) else { return false };
        let (number, headroom) = (port.queue_for(frame, frame_len), port.headroom);
        let extras = port.layout().extras(frame, frame_len);
        let pieces = self.tx.get(from).into_iter().flat_map(TxJob::pieces);
        let parts = port.layout().parts(pieces, frame_len, extras.len());
        let need = layout::slots(&parts, extras.len());
        let Some(queue) = port.queues.get_mut(number) else { return false };
        if port.fault.is_some() || !queue.backlog.is_empty() || self.rx.len() >= RX_JOBS {
            return false;
        }
        match take_slots(queue, need) {
            Ok(Some(slots)) => {
                let ring = RingOf { vif, queue: number };
                let source = RxSource::Direct(from);
                let len = frame_len;
                port.idle = false;
                self.rx.push(RxJob { ring, domid, source, slots, parts, len, flags, extras, headroom, failed: false });
                true
            }
            Ok(None) => false,
            Err(cause) => {
                port.kill(u8::try_from(number).unwrap_or(u8::MAX), cause);
                false
            }
        }
    }

    /// Answers every receive job: the bytes have arrived.
    pub(super) fn finish_rx(&mut self, now: Instant) {
        let Self { vifs, rx, .. } = self;
        for job in rx.drain(..) {
            let Some(Some(port)) = vifs.get_mut(usize::from(job.ring.vif)) else { continue };
            if job.failed {
                port.drop_rx(Cause::Grant, now);
            } else {
                port.counters.rx.add(job.len);
            }
            respond(port, job);
        }
    }
}

/// Makes jobs of the frames that wait in one queue.
fn pull_queue<H: Hypervisor>(
    queue: &mut Queue<H>,
    ring: RingOf,
    domid: Domid,
    layout: &Layout<'_>,
    rx: &mut Vec<RxJob>,
) -> Result<(), Cause> {
    while rx.len() < RX_JOBS
        && let Some(stored) = queue.backlog.front().and_then(SharedFrame::get)
    {
        let (len, pages, flags) = (stored.len(), stored.segment_count(), flags_of(stored));
        let (extras, headroom) = (layout.extras(stored, len), layout.headroom);
        let parts = layout.parts_of(stored, len, extras.len());
        let Some(slots) = take_slots(queue, layout::slots(&parts, extras.len()))? else { break };
        let Some(frame) = queue.backlog.pop_front() else { break };
        queue.backlog_pages = queue.backlog_pages.saturating_sub(pages);
        queue.backlog_bytes = queue.backlog_bytes.saturating_sub(len);
        let source = RxSource::Stored(frame);
        rx.push(RxJob { ring, domid, source, slots, parts, len, flags, extras, headroom, failed: false });
    }
    Ok(())
}

/// Answers the buffers of a packet: data, the extra segments behind the first if there are any, more data.
fn respond<H: Hypervisor>(port: &mut VifPort<H>, job: RxJob) {
    let Some(queue) = port.queues.get_mut(job.ring.queue) else { return };
    let mut parts = job.parts.iter();
    let mut flags = if job.extras.is_empty() { job.flags } else { job.flags.with(RxFlags::EXTRA_INFO) };
    let offset = u16::try_from(job.headroom).unwrap_or(0);
    for (slot, position) in job.slots.into_iter().zip(0_usize..) {
        let extra = position.checked_sub(1).and_then(|number| job.extras.get(number));
        let response = if job.failed {
            RxResponse::Error { id: slot.id }
        } else if let Some(extra) = extra {
            RxResponse::Extra { extra: *extra, more: position < job.extras.len() }
        } else {
            let size = parts.next().copied().unwrap_or(0);
            let more = if parts.len() > 0 { RxFlags::MORE_DATA } else { RxFlags::empty() };
            let flags = core::mem::take(&mut flags).with(more);
            RxResponse::Data { id: slot.id, offset, flags, size }
        };
        queue.rx.respond(slot.ticket, &response);
    }
}

/// Takes `need` posted buffers, or none.
fn take_slots<H: Hypervisor>(
    queue: &mut Queue<H>,
    need: u32,
) -> Result<Option<heapless::Vec<RxSlot, MAX_SLOTS>>, Cause> {
    let mut slots = heapless::Vec::new();
    if queue.rx.unconsumed().map_err(|_| Cause::RxProd)? < need {
        return Ok(None);
    }
    let taken = queue.rx.take_requests(need, |request, ticket| {
        // `need` is at most the capacity: no frame is longer than 64 KiB.
        let _ = slots.push(RxSlot { gref: request.gref, id: request.id, ticket });
    });
    taken.map_err(|_| Cause::RxProd)?;
    Ok(Some(slots))
}

/// What a frontend is told about a frame's checksum.
pub(super) fn flags_of(frame: &Frame) -> RxFlags {
    match frame.checksum {
        Checksum::Unknown => RxFlags::empty(),
        Checksum::Good => RxFlags::DATA_VALIDATED,
        Checksum::Blank { .. } => RxFlags::CSUM_BLANK.with(RxFlags::DATA_VALIDATED),
    }
}

impl<H: Hypervisor> Queue<H> {
    fn note_progress(&mut self, progress: bool, now: Instant) {
        if progress {
            self.stalled = false;
        }
        self.waiting_since = match self.waiting_since {
            _ if self.backlog.is_empty() => None,
            Some(since) if !progress => Some(since),
            _ => Some(now),
        };
    }
}
