//! The data path: commands to queues, completions to answers.

use xen_pv_rt::hyp::{Clock, Maddr, Mmio};

use super::command::{self, Transfer};
use super::pointer::{self, LIST_WORDS, needs_list};
use super::queue::{Cqe, Sqe};
use super::slots::Slots;
use super::status::Status;
use super::{Done, Namespace, Nvme, recover};
use crate::disk::layout::{self, Limits, Piece, Pieces};
use crate::disk::lists::ListId;
use crate::disk::requests::{Extent, Request};
use crate::disk::words::low32;
use crate::disk::{Command, DiskError, DiskId, Failure, Health, Op, SubmitError};

/// Most blocks of a device command.
pub(super) const MAX_BLOCKS: u64 = 1 << 16;
/// Ranges of a device command that deallocates: each takes two words of a list.
const MAX_RANGES: u64 = 64;
const _: () = assert!(LIST_WORDS >= 128);

/// Most sectors that one command deallocates, for blocks of so many sectors: whole ranges, each as long as its
/// 32-bit length allows.
pub(super) fn max_discard(sectors_per_block: u32) -> u64 {
    MAX_RANGES.saturating_mul(u32::MAX.into()).saturating_mul(sectors_per_block.into())
}

/// The ranges that deallocate `count` blocks from `first` on, as the words of a list.
fn ranges(first: u64, count: u64) -> impl Iterator<Item = u64> {
    let most = u64::from(u32::MAX);
    (0..count.div_ceil(most)).flat_map(move |index| {
        let done = index.saturating_mul(most);
        let len = count.saturating_sub(done).min(most);
        // Context attributes in the low half: none.
        [len << 32, first.saturating_add(done)]
    })
}

impl<R: Mmio, C: Clock> Nvme<R, C> {
    pub(super) fn submit_command(&mut self, id: DiskId, command: &Command<'_>) -> Result<(), SubmitError> {
        match self.health {
            Health::Running => {}
            Health::Recovering => return Err(SubmitError::Full),
            Health::Failed(_) | Health::Stuck(_) | Health::Stopped => return Err(SubmitError::Gone),
        }
        let index = usize::from(id.0);
        let disk = self.disks.get(index).ok_or(SubmitError::Gone)?;
        disk.check(command)?;
        let block = disk.geometry.logical_bytes;
        let namespace = *self.namespaces.get(index).ok_or(SubmitError::Gone)?;
        let queue = usize::from(command.lane).checked_rem(self.io.len()).ok_or(SubmitError::Gone)?;
        let segments = if self.data.as_ref().is_some_and(|data| data.sgl) { pointer::MAX_SEGMENTS } else { 0 };
        let limits = Limits { bytes: self.piece_bytes(), block, pages: true, segments };
        let mut pieces = Pieces::new();
        layout::cut(command.spans, limits, &mut pieces)?;
        let lists = match command.op {
            Op::Discard { .. } => 1,
            _ => pieces.iter().filter(|piece| needs_list(piece)).count(),
        };
        let slots = pieces.len().max(1);
        let free = self.io.get(queue).map_or(0, |queue| queue.slots.free());
        let change = Extent::changed(id, command);
        if free < slots || self.lists.free() < lists || !self.requests.admits(change.as_ref()) {
            return Err(SubmitError::Full);
        }
        let parts = u16::try_from(slots).map_err(|_| SubmitError::Layout)?;
        let request = self.requests.insert(Request::new(command.tag, change, parts)).ok_or(SubmitError::Full)?;
        if command.op.has_data() {
            self.queue_transfer(queue, request, namespace, command, &pieces);
        } else {
            self.queue_other(queue, request, namespace, command);
        }
        Ok(())
    }

    fn queue_transfer(
        &mut self,
        queue: usize,
        request: u16,
        namespace: Namespace,
        command: &Command<'_>,
        pieces: &[Piece<'_>],
    ) {
        let what = match command.op {
            Op::Write => Transfer::Write,
            Op::WriteFua => Transfer::WriteFua,
            _ => Transfer::Read,
        };
        let block_shift = namespace.shift.saturating_add(9);
        let mut lba = command.sector.wrapping_shr(namespace.shift);
        for piece in pieces {
            let list = if needs_list(piece) { self.lists.take() } else { None };
            if let Some(list) = list {
                self.lists.fill(list, pointer::list(piece));
            }
            let at = list.map_or(Maddr::from_raw(0), |list| self.lists.maddr(list));
            let blocks = piece.bytes.wrapping_shr(block_shift);
            let sqe = command::transfer(what, namespace.nsid, lba, blocks, pointer::pointer(piece, at));
            self.push(queue, request, list, sqe);
            lba = lba.saturating_add(blocks.into());
        }
    }

    fn queue_other(&mut self, queue: usize, request: u16, namespace: Namespace, command: &Command<'_>) {
        let (first, count) = command.range();
        let (first, count) = (first.wrapping_shr(namespace.shift), count.wrapping_shr(namespace.shift));
        let (list, sqe) = match command.op {
            Op::Discard { .. } => {
                let list = self.lists.take();
                let at = list.map_or(Maddr::from_raw(0), |list| self.lists.maddr(list));
                if let Some(list) = list {
                    self.lists.fill(list, ranges(first, count));
                }
                let number = low32(count.div_ceil(u32::MAX.into()));
                (list, command::deallocate(namespace.nsid, number, at))
            }
            Op::WriteZeroes { .. } => (None, command::write_zeroes(namespace.nsid, first, low32(count))),
            _ => (None, command::flush(namespace.nsid)),
        };
        self.push(queue, request, list, sqe);
    }

    fn push(&mut self, queue: usize, request: u16, list: Option<ListId>, sqe: Sqe) {
        let Some(queue) = self.io.get_mut(queue) else { return };
        if let Some(sqe) = queue.slots.insert(request, list, sqe, self.now) {
            queue.pair.push(&sqe);
        }
    }

    /// Takes all completions.
    pub(super) fn reap(&mut self, done: Done<'_>) {
        for queue in 0..self.io.len() {
            while let Some((cqe, slot)) = self.next_completion(queue) {
                match slot {
                    Some(slot) => self.completed(queue, slot, Status::new(cqe.status), done),
                    None => {
                        self.counters.confusions = self.counters.confusions.wrapping_add(1);
                        return self.recover(Failure::Confused("completion"));
                    }
                }
            }
            if let Some(queue) = self.io.get_mut(queue) {
                queue.pair.acknowledge_if_due(&self.regs);
            }
        }
    }

    /// A completion and the slot it is for, if it is for any.
    fn next_completion(&mut self, queue: usize) -> Option<(Cqe, Option<u16>)> {
        let queue = self.io.get_mut(queue)?;
        let cqe = queue.pair.take()?;
        let slot = if cqe.sqid == queue.pair.id() { queue.slots.find(cqe.cid) } else { None };
        Some((cqe, slot))
    }

    fn slots(&mut self, queue: usize) -> Option<&mut Slots> {
        self.io.get_mut(queue).map(|queue| &mut queue.slots)
    }

    fn completed(&mut self, queue: usize, slot: u16, status: Status, done: Done<'_>) {
        if status.is_success() {
            self.attempts = 0;
            return self.finish_slot(queue, slot, Ok(()), done);
        }
        let Some(entry) = self.io.get(queue).and_then(|queue| queue.slots.get(slot)) else { return };
        let retries = entry.retries;
        // What a device says of a failed flush it says once; after that it may forget what was lost.
        let retry = status.may_retry() && !command::is_flush(&entry.sqe);
        if retry && retries < recover::MAX_RETRIES && !entry.aborting {
            let until = self.now.saturating_add(recover::RETRY_DELAY);
            self.next_retry = Some(self.next_retry.map_or(until, |at| at.min(until)));
            self.counters.retries = self.counters.retries.wrapping_add(1);
            if let Some(slots) = self.slots(queue) {
                slots.wait(slot, until);
            }
            return;
        }
        let aborted = entry.aborting;
        self.finish_slot(queue, slot, Err(if aborted { DiskError::TimedOut } else { status.error() }), done);
    }

    /// The device command in `slot` is over, and with the last one its request.
    pub(super) fn finish_slot(&mut self, queue: usize, slot: u16, result: Result<(), DiskError>, done: Done<'_>) {
        let Some(slots) = self.slots(queue) else { return };
        let Some(entry) = slots.get(slot) else { return };
        let (request, list) = (entry.request, entry.list);
        slots.release(slot);
        if let Some(list) = list {
            self.lists.give_back(list);
        }
        let Some(request) = self.requests.complete_one(request, result) else { return };
        self.counters.answered = self.counters.answered.wrapping_add(1);
        let result = request.result();
        self.counters.errors = self.counters.errors.wrapping_add(result.is_err().into());
        done(request.tag, result);
    }
}
