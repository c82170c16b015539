//! One turn of the data plane: takes completions, copies what was read to the guests, takes new requests, copies what is to be
//! written from the guests, and hands commands to the disks.
//!
//! The steps of all vbds go together, so that a turn costs a few hypercalls however many vbds there are. A vbd that was asked
//! for an event before the domain slept is left alone until that comes. Vbds take turns in being first, and none of them takes
//! more than [`TAKE`] requests per turn or holds more than its [`Budget`](super::Budget).

use core::sync::atomic::{AtomicU32, Ordering};
use core::time::Duration;

use xen_pv_rt::hyp::{CopyDest, CopySource, Hypervisor, Instant, PeerSpan};

use super::cause::Cause;
use super::copies::{CopyBatch, gather, scatter};
use super::plane::{Controllers, Plane, Turn};
use super::work::{Kind, Segments, Stage};
use crate::disk::{DiskError, SubmitError, Tag};

/// Requests that a vbd may have taken in one turn.
const TAKE: usize = 32;
/// How often every vbd is looked at at most, event or not: finds what an event was lost for, or not sent for.
const SCAN_INTERVAL: Duration = Duration::from_millis(10);

impl<H: Hypervisor> Plane<H> {
    /// One turn.
    pub(crate) fn poll(&mut self, now: Instant, controllers: &mut dyn Controllers) -> Turn {
        self.wake(now);
        let mut busy = self.collect(controllers, now);
        self.copy_out();
        self.settle(now);
        busy |= self.take(now);
        busy |= self.fetch(now);
        self.map(now);
        for (vbd, number) in self.vbds.iter_mut().zip(0_u16..) {
            if let Some(vbd) = vbd {
                busy |= vbd.build(number, controllers, now);
            }
        }
        self.copy_in();
        busy |= self.submit(controllers);
        self.settle(now);
        self.push();
        if busy { Turn::Busy } else { Turn::Idle }
    }

    /// Looks at vbds again that have sent an event and, now and then, at all.
    fn wake(&mut self, now: Instant) {
        let scan = now >= self.next_scan;
        if scan {
            self.next_scan = now.saturating_add(SCAN_INTERVAL);
        }
        let Self { vbds, hyp, .. } = self;
        vbds.iter_mut().flatten().for_each(|vbd| vbd.wake(hyp, scan));
    }

    /// Takes completions.
    fn collect(&mut self, controllers: &mut dyn Controllers, now: Instant) -> bool {
        let Self { vbds, in_flight, tags, finished, .. } = self;
        let mut any = false;
        let mut done = |tag: Tag, outcome: Result<(), DiskError>| {
            let Ok(index) = u32::try_from(tag.0) else { return };
            let slot = usize::try_from(index).ok().and_then(|index| in_flight.get_mut(index));
            let Some(part) = slot.and_then(Option::take) else { return };
            tags.push(index);
            any = true;
            // A vbd stays until all its parts are back.
            if let Some(Some(vbd)) = vbds.get_mut(usize::from(part.vbd)) {
                vbd.returned(part, outcome, finished);
            }
        };
        // Also when nothing is in flight: deadlines of what comes next count from here.
        controllers.poll(now, &mut done);
        any
    }

    /// Copies what was read to the frontends.
    fn copy_out(&mut self) {
        let mut noted = ();
        let mut batch = CopyBatch::new(&self.hyp, &mut noted);
        for part in self
            .finished
            .iter()
            .filter(|part| part.kind == Kind::Read && part.failed.is_none() && part.spans.is_empty())
        {
            let Some(Some(vbd)) = self.vbds.get(usize::from(part.vbd)) else { continue };
            if let Some(work) = vbd.work(part.work) {
                scatter(&mut batch, vbd.frontend, part, &work.segments);
            }
        }
        let copied = batch.finish();
        self.copied.add(copied);
    }

    /// Gives finished parts back to their requests, and answers those that are whole.
    fn settle(&mut self, now: Instant) {
        while let Some(part) = self.finished.pop() {
            if let Some(Some(vbd)) = self.vbds.get_mut(usize::from(part.vbd)) {
                vbd.part_done(part, now);
            }
        }
    }

    /// Takes new requests.
    fn take(&mut self, now: Instant) -> bool {
        self.vbds.iter_mut().flatten().fold(false, |busy, vbd| (vbd.take(TAKE, now) > 0) | busy)
    }

    /// Fetches the lists of indirect requests.
    fn fetch(&mut self, now: Instant) -> bool {
        let any = self.fetch_lists();
        if any {
            self.vbds.iter_mut().flatten().for_each(|vbd| vbd.fetched(now));
        }
        any
    }

    fn fetch_lists(&mut self) -> bool {
        let mut noted = ();
        let mut batch = CopyBatch::new(&self.hyp, &mut noted);
        let mut any = false;
        for vbd in self.vbds.iter_mut().flatten().filter(|vbd| vbd.has_lists_to_fetch()) {
            let (domid, buffers) = (vbd.frontend, vbd.buffers.clone());
            let (mappings, fetching) = vbd.mappings_and_fetching();
            for work in fetching {
                let (Stage::Fetch(indirect), Some(buffer)) = (work.stage, buffers.take()) else { break };
                work.segments = Segments::Listed(buffer, indirect.nr_segments());
                let super::work::Work { segments: Segments::Listed(list, _), fetch_error, .. } = work else { break };
                let Some(dest) = list.bytes_mut().get_mut(..usize::from(indirect.list_bytes())) else { break };
                any = true;
                if let Some(page) = mappings.page(indirect.gref()) {
                    read_words(page, dest);
                    continue;
                }
                let source = CopySource::Peer(PeerSpan { domid, gref: indirect.gref(), offset: 0 });
                batch.push(fetch_error, source, CopyDest::Local(dest), indirect.list_bytes().into());
            }
        }
        let copied = batch.finish();
        self.copied.add(copied);
        any
    }

    /// Maps pages of frontends that use them again, and lets go of those that they do not use any more.
    fn map(&mut self, now: Instant) {
        let Self { vbds, hyp, .. } = self;
        for vbd in vbds.iter_mut().flatten().filter(|vbd| vbd.mappings.is_used()) {
            vbd.map_new(hyp, now);
            vbd.mappings.release_idle(hyp, now);
        }
    }

    /// Copies what is to be written from the frontends.
    fn copy_in(&mut self) {
        let mut noted = ();
        let mut batch = CopyBatch::new(&self.hyp, &mut noted);
        for vbd in self.vbds.iter_mut().flatten() {
            let domid = vbd.frontend;
            let (works, staged) = vbd.works_and_staged();
            for part in staged.iter_mut().filter(|part| !part.ready) {
                part.ready = true;
                if let Some(Some(work)) = works.get(usize::from(part.work)) {
                    gather(&mut batch, domid, part, &work.segments);
                }
            }
        }
        let copied = batch.finish();
        self.copied.add(copied);
    }

    /// Hands parts to the disks, each vbd one at a time, until nobody gets any further.
    fn submit(&mut self, controllers: &mut dyn Controllers) -> bool {
        let count = self.vbds.len();
        self.first = self.first.saturating_add(1).checked_rem(count).unwrap_or(0);
        let mut any = false;
        loop {
            let mut progress = false;
            for step in 0..count {
                let index = self.first.saturating_add(step).checked_rem(count).unwrap_or(0);
                progress |= self.submit_one(index, controllers);
            }
            if !progress {
                break;
            }
            any = true;
        }
        for number in 0..controllers.count() {
            if let Some(controller) = controllers.get(number) {
                controller.kick();
            }
        }
        any
    }

    /// How many commands a vbd may have at the disk that its next part is for, if all vbds share the disk's slots:
    /// slow commands of one of them would leave the others none.
    fn share(&self, index: usize, controllers: &mut dyn Controllers) -> Option<u32> {
        let disk = self.vbds.get(index)?.as_ref()?.staged.front()?.disk;
        let about = controllers.get(disk.controller)?.disks().get(usize::from(disk.disk.0))?;
        let slots = Some(about.capabilities.shared_slots).filter(|slots| *slots > 0)?;
        let users = self.vbds.iter().flatten().filter(|vbd| vbd.disks.contains(&disk)).count();
        let share = usize::from(slots).checked_div(users).unwrap_or(1).max(1);
        u32::try_from(share).ok()
    }

    /// Hands the next part of a vbd, with its neighbours, to its disk. Returns whether it is gone from the vbd's list.
    fn submit_one(&mut self, index: usize, controllers: &mut dyn Controllers) -> bool {
        let share = self.share(index, controllers);
        let Self { vbds, in_flight, tags, finished, .. } = self;
        let Some(Some(vbd)) = vbds.get_mut(index) else { return false };
        let Some(part) = vbd.staged.front() else { return false };
        if share.is_some_and(|share| vbd.held(part.disk) >= share) {
            return false;
        }
        let outcome = match (part.copy_error.get(), tags.last().copied()) {
            // Settled like a part that a disk has answered.
            (Some(error), _) => Err(Cause::from(error)),
            (None, None) => return false,
            (None, Some(tag)) => match vbd.submit(tag, controllers) {
                Ok(count) => Ok((tag, count)),
                Err(SubmitError::Full) => return false,
                Err(error) => Err(Cause::from(error)),
            },
        };
        match outcome {
            Ok((tag, count)) => {
                tags.pop();
                if let Some(slot) = usize::try_from(tag).ok().and_then(|tag| in_flight.get_mut(tag)) {
                    *slot = vbd.give(count);
                }
            }
            Err(cause) => {
                let Some(mut part) = vbd.staged.pop_front() else { return false };
                part.failed = Some(cause);
                finished.push(part);
            }
        }
        true
    }

    /// Publishes answers and notifies.
    fn push(&mut self) {
        let Self { vbds, hyp, .. } = self;
        for vbd in vbds.iter_mut().flatten().filter(|vbd| vbd.fault.is_none()) {
            for queue in &mut vbd.queues {
                if queue.push(hyp) {
                    vbd.counters.notifications = vbd.counters.notifications.wrapping_add(1);
                }
            }
        }
    }

    /// Whether a frontend has published a request that can be taken.
    pub(crate) fn has_requests(&mut self) -> bool {
        let Self { vbds, hyp, .. } = self;
        vbds.iter_mut().flatten().any(|vbd| {
            vbd.wake(hyp, false);
            vbd.has_requests()
        })
    }

    /// Whether a frontend may publish a request without waking us, because answers of its disks are about to.
    pub(crate) fn is_patient(&self) -> bool {
        self.vbds.iter().flatten().any(|vbd| vbd.requests_to_wait_for() > 1)
    }

    /// Gets ready to sleep: asks every frontend for an event on new work, and looks for the last time.
    pub(crate) fn arm(&mut self) -> Turn {
        let Self { vbds, hyp, .. } = self;
        let armed = vbds.iter_mut().flatten().filter(|vbd| vbd.fault.is_none());
        if armed.fold(false, |work, vbd| vbd.arm(hyp) | work) { Turn::Busy } else { Turn::Idle }
    }
}

/// Copies from a page that its owner may be writing: each word is loaded once.
fn read_words(page: &[AtomicU32], dest: &mut [u8]) {
    for (bytes, word) in dest.chunks_mut(4).zip(page) {
        let word = word.load(Ordering::Relaxed).to_le_bytes();
        bytes.iter_mut().zip(word).for_each(|(byte, value)| *byte = value);
    }
}
