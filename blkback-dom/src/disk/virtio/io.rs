//! The data path: commands to queues, completions to answers.

use virtio_drivers::transport::Transport;
use xen_pv_rt::hyp::Clock;

use super::chunk::{self, OVERHEAD};
use super::config::Features;
use super::{Done, VirtioBlk};
use crate::disk::journal::Extent;
use crate::disk::layout::{self, Limits};
use crate::disk::requests::Request;
use crate::disk::{Command, DiskError, DiskId, Health, Op, SubmitError};

/// Most bytes of a device request: far above what a command has, and a multiple of any block.
const MAX_BYTES: u32 = 1 << 24;

impl<T: Transport, C: Clock> VirtioBlk<T, C> {
    pub(super) fn submit_command(&mut self, id: DiskId, command: &Command<'_>) -> Result<(), SubmitError> {
        match self.health {
            Health::Running => {}
            Health::Recovering => return Err(SubmitError::Full),
            Health::Failed(_) | Health::Stuck(_) | Health::Stopped => return Err(SubmitError::Gone),
        }
        let disk = self.disks.get(usize::from(id.0)).ok_or(SubmitError::Gone)?;
        disk.check(command)?;
        if command.op == Op::Flush && !self.features.contains(Features::FLUSH) {
            // Without the feature the device writes through: what it has answered is stable.
            return self.instant.push_back(command.tag).map_err(|_| SubmitError::Full);
        }
        let segments = self.config.as_ref().map_or(1, |config| config.segments);
        let limits = Limits { bytes: MAX_BYTES, block: disk.geometry.logical_bytes, pages: false, segments };
        let pieces = layout::cut(command.spans, limits).ok_or(SubmitError::Layout)?;
        let number = usize::from(command.lane).checked_rem(self.queues.len()).ok_or(SubmitError::Gone)?;
        let queue = self.queues.get_mut(number).ok_or(SubmitError::Gone)?;
        let slots = pieces.len().max(1);
        // A range takes one descriptor more.
        let overhead = slots.saturating_mul(OVERHEAD).saturating_add(1);
        let descriptors = pieces.iter().fold(overhead, |sum, piece| sum.saturating_add(piece.parts));
        if !queue.could_hold(slots, descriptors) {
            return Err(SubmitError::Layout);
        }
        if !queue.has_room(slots, descriptors) || !self.requests.has_room() {
            return Err(SubmitError::Full);
        }
        let (first, count) = command.range();
        let change = command.op.is_change().then_some(Extent { disk: id.0, first, count });
        let remaining = u16::try_from(slots).map_err(|_| SubmitError::Layout)?;
        let request = Request { tag: command.tag, change, sequence: self.sequence, remaining, error: None };
        self.sequence = self.sequence.wrapping_add(1);
        let request = self.requests.insert(request).ok_or(SubmitError::Full)?;
        let mut sector = command.sector;
        if pieces.is_empty() {
            queue.push(request, command.op, sector, core::iter::empty(), self.now);
        }
        for piece in &pieces {
            // There is room: that was seen above.
            queue.push(request, command.op, sector, piece.fragments(), self.now);
            sector = sector.saturating_add(u64::from(piece.bytes >> 9));
        }
        Ok(())
    }

    /// Takes all completions.
    pub(super) fn reap(&mut self, done: Done<'_>) {
        for queue in 0..self.queues.len() {
            loop {
                match self.queues.get_mut(queue).map_or(Ok(None), |queue| queue.pop()) {
                    Ok(Some((slot, status))) => {
                        self.attempts = 0;
                        self.finish_slot(queue, slot, chunk::decode_status(status), done);
                    }
                    Ok(None) => break,
                    Err(failure) => {
                        self.counters.confusions = self.counters.confusions.wrapping_add(1);
                        return self.recover(failure);
                    }
                }
            }
        }
    }

    /// Whether executing the request again cannot undo anything that was answered since.
    pub(super) fn may_repeat(&self, request: u16) -> bool {
        self.requests
            .get(request)
            .is_some_and(|request| request.change.is_none_or(|change| self.journal.allows(request.sequence, &change)))
    }

    /// The device request in `slot` is over, and with the last one its command.
    pub(super) fn finish_slot(&mut self, queue: usize, slot: u16, result: Result<(), DiskError>, done: Done<'_>) {
        let Some(request) = self.queues.get_mut(queue).and_then(|queue| queue.release(slot)) else { return };
        let Some(request) = self.requests.complete_one(request, result) else { return };
        if let Some(change) = request.change {
            self.journal.answered(request.sequence, change);
        }
        self.counters.answered = self.counters.answered.wrapping_add(1);
        let result = match request.error {
            Some(error) => {
                self.counters.errors = self.counters.errors.wrapping_add(1);
                Err(error)
            }
            None => Ok(()),
        };
        done(request.tag, result);
    }
}
