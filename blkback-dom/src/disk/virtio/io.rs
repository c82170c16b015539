//! The data path: commands to queues, completions to answers.

use virtio_drivers::transport::Transport;
use xen_pv_rt::hyp::Clock;

use super::chunk::{self, OVERHEAD};
use super::config::Features;
use super::{Done, VirtioBlk};
use crate::disk::layout::{self, Limits, Pieces};
use crate::disk::requests::{Extent, Request};
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
        let mut pieces = Pieces::new();
        layout::cut(command.spans, limits, &mut pieces)?;
        let number = usize::from(command.lane).checked_rem(self.queues.len()).ok_or(SubmitError::Gone)?;
        let queue = self.queues.get_mut(number).ok_or(SubmitError::Gone)?;
        let slots = pieces.len().max(1);
        // A range takes one descriptor more.
        let overhead = slots.saturating_mul(OVERHEAD).saturating_add(1);
        let descriptors = pieces.iter().fold(overhead, |sum, piece| sum.saturating_add(piece.parts));
        if !queue.could_hold(slots, descriptors) {
            return Err(SubmitError::Layout);
        }
        let change = Extent::changed(id, command);
        if !queue.has_room(slots, descriptors) || !self.requests.admits(change.as_ref()) {
            return Err(SubmitError::Full);
        }
        let parts = u16::try_from(slots).map_err(|_| SubmitError::Layout)?;
        let request = self.requests.insert(Request::new(command.tag, change, parts)).ok_or(SubmitError::Full)?;
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

    /// The device request in `slot` is over, and with the last one its command.
    pub(super) fn finish_slot(&mut self, queue: usize, slot: u16, result: Result<(), DiskError>, done: Done<'_>) {
        let Some(request) = self.queues.get_mut(queue).and_then(|queue| queue.release(slot)) else { return };
        let Some(request) = self.requests.complete_one(request, result) else { return };
        self.counters.answered = self.counters.answered.wrapping_add(1);
        let result = request.result();
        self.counters.errors = self.counters.errors.wrapping_add(result.is_err().into());
        done(request.tag, result);
    }
}
