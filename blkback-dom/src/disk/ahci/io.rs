//! The data path of a port: commands to slots, completions to answers.

use core::time::Duration;

use xen_pv_rt::hyp::{Instant, Mmio};

use super::command::{Mode, operation, trim_ranges};
use super::identify::TRIM_SECTORS;
use super::memory::{Direction, MAX_REGIONS};
use super::port::{After, Kind, Port, Stage};
use super::regs::{Port as Reg, Registers, is};
use super::slots::{Slot, of_mask};
use super::{Context, Done};
use crate::disk::layout::{self, Limits, Piece, Pieces};
use crate::disk::requests::{Extent, Request};
use crate::disk::{Command, DiskError, DiskId, Op, SubmitError};

/// Most bytes of a region, and far above what a command has.
const MAX_BYTES: u32 = 1 << 22;
/// How often a command by itself is tried.
const MAX_TRIES: u8 = 3;

/// Bits of the error field of the task file.
mod error {
    pub(super) const ABORTED: u32 = 1 << 2;
    pub(super) const NOT_FOUND: u32 = 1 << 4;
    pub(super) const UNCORRECTABLE: u32 = 1 << 6;
    pub(super) const INTERFACE_CRC: u32 = 1 << 7;
}

impl Port {
    /// Queues a command that was checked against the disk.
    pub(super) fn submit(
        &mut self,
        cx: &mut Context,
        disk: DiskId,
        block: u32,
        command: &Command<'_>,
    ) -> Result<(), SubmitError> {
        match self.stage {
            Stage::Running => {}
            Stage::Empty | Stage::Dead => return Err(SubmitError::Gone),
            _ => return Err(SubmitError::Full),
        }
        let limits = Limits { bytes: MAX_BYTES, block, pages: false, segments: MAX_REGIONS };
        let mut pieces = Pieces::new();
        layout::cut(command.spans, limits, &mut pieces)?;
        let count = pieces.len().max(1);
        if count > self.slots.depth() {
            return Err(SubmitError::Layout);
        }
        let change = Extent::changed(disk, command);
        if self.slots.free() < count || !cx.requests.admits(change.as_ref()) {
            return Err(SubmitError::Full);
        }
        let parts = u16::try_from(count).map_err(|_| SubmitError::Layout)?;
        let request = cx.requests.insert(Request::new(command.tag, change, parts)).ok_or(SubmitError::Full)?;
        let (first, sectors) = command.range();
        let lba = first.wrapping_shr(self.shift);
        if pieces.is_empty() {
            self.insert(request, command.op, lba, sectors.wrapping_shr(self.shift), None);
        }
        let mut at = lba;
        for piece in &pieces {
            let blocks = u64::from(piece.bytes >> 9).wrapping_shr(self.shift);
            self.insert(request, command.op, at, blocks, Some(piece));
            at = at.saturating_add(blocks);
        }
        Ok(())
    }

    fn insert(&mut self, request: u16, op: Op, lba: u64, blocks: u64, piece: Option<&Piece<'_>>) {
        let Some(index) = self.slots.next_free() else { return };
        let regions = match (op, piece) {
            (Op::Discard { .. }, _) => self.memory.describe_trim(index, trim_ranges(lba, blocks, TRIM_SECTORS)),
            (_, Some(piece)) => self.memory.describe(index, piece.fragments()),
            (_, None) => Some(0),
        };
        let (regions, blocks) = (regions.unwrap_or(0), u32::try_from(blocks).unwrap_or(0));
        let since = Instant::default();
        let slot = Slot { request: Some(request), op, lba, blocks, regions, alone: false, tries: 0, since };
        self.slots.insert(index, slot);
    }

    /// Gives the device what may start now: two register writes for queued commands, one for another.
    pub(super) fn start_waiting<R: Mmio>(&mut self, regs: &Registers<R>, now: Instant) {
        if self.stage != Stage::Running {
            return;
        }
        let mask = self.slots.start(self.kind == Kind::Disk { queue: true }, now);
        if mask == 0 {
            return;
        }
        for index in of_mask(mask) {
            let Some(slot) = self.slots.get(index) else { continue };
            let mode = match self.kind {
                Kind::Cd => Mode::Packet,
                Kind::Disk { .. } if self.slots.queued => Mode::Queued(index),
                Kind::Disk { .. } => Mode::Alone,
            };
            let direction = if slot.op.is_change() { Direction::Out } else { Direction::In };
            self.memory.prepare(index, &operation(slot.op, mode, slot.lba, slot.blocks), direction, slot.regions);
        }
        if self.slots.queued {
            regs.port_write(self.number, Reg::Sact, mask);
        }
        regs.port_write(self.number, Reg::Ci, mask);
    }

    /// Takes completions, if the device has reported any. `look`: also if it has not.
    pub(super) fn reap<R: Mmio>(&mut self, regs: &Registers<R>, cx: &mut Context, look: bool, done: Done<'_>) {
        if self.stage != Stage::Running || self.slots.active == 0 {
            return;
        }
        let report = self.memory.take_report();
        if report.is_none() && !look {
            return;
        }
        let failed = report == Some(Err(())) || look && regs.port_read(self.number, Reg::Is) & is::ERRORS != 0;
        if failed {
            return self.failed(regs, cx, done);
        }
        let reg = if self.slots.queued { Reg::Sact } else { Reg::Ci };
        let over = self.slots.active & !regs.port_read(self.number, reg);
        self.finish_mask(cx, over, done);
        self.start_waiting(regs, cx.now);
    }

    fn finish_mask(&mut self, cx: &mut Context, mask: u32, done: Done<'_>) {
        for slot in of_mask(mask) {
            self.attempts = 0;
            self.finish_slot(cx, slot, Ok(()), done);
        }
    }

    /// The device has ended a command with an error. Which one of queued commands it was shows when they are
    /// repeated one by one.
    fn failed<R: Mmio>(&mut self, regs: &Registers<R>, cx: &mut Context, done: Done<'_>) {
        let after = if self.slots.queued { After::Isolate } else { After::Restart };
        if self.slots.queued {
            let over = self.slots.active & !regs.port_read(self.number, Reg::Sact);
            self.finish_mask(cx, over, done);
        } else if let Some(index) = of_mask(self.slots.active).next() {
            let field = regs.port_read(self.number, Reg::Tfd) >> 8 & 0xff;
            if let Some(slot) = self.slots.get_mut(index) {
                slot.tries = slot.tries.saturating_add(1);
                // What a disk says of a failed flush it says once; after that it may forget what was lost.
                let hopeless = slot.op == Op::Flush || slot.tries >= MAX_TRIES || field & error::INTERFACE_CRC == 0;
                self.failed = hopeless.then_some((index, cause(field, self.kind)));
            }
        }
        // The device answers, so this does not count as an attempt to revive it.
        self.attempts = self.attempts.saturating_sub(1);
        self.stop(regs, cx.now, after);
    }

    /// The port has stopped: answers what has failed or exceeded its time.
    pub(super) fn settle(&mut self, cx: &mut Context, after: After, done: Done<'_>) {
        if let Some((slot, error)) = self.failed.take() {
            self.finish_slot(cx, slot, Err(error), done);
        }
        for index in of_mask(self.slots.active) {
            let Some(slot) = self.slots.get(index).copied() else { continue };
            let late = cx.now.saturating_since(slot.since) >= cx.time;
            if late && !matches!(after, After::Restart | After::Isolate) {
                self.finish_slot(cx, index, Err(DiskError::TimedOut), done);
            } else {
                cx.counters.retries = cx.counters.retries.wrapping_add(1);
            }
        }
        self.slots.requeue(after == After::Isolate);
    }

    /// Whether a command has exceeded its time.
    pub(super) fn is_late(&self, now: Instant, time: Duration) -> bool {
        let late = |index| self.slots.get(index).is_some_and(|slot| now.saturating_since(slot.since) >= time);
        of_mask(self.slots.active).any(late)
    }

    /// Answers whatever is in flight. The port no longer touches memory.
    pub(super) fn answer_all(&mut self, cx: &mut Context, error: DiskError, done: Done<'_>) {
        for slot in of_mask(u32::MAX) {
            self.finish_slot(cx, slot, Err(error), done);
        }
    }

    /// The device command in `slot` is over, and with the last one its request.
    pub(super) fn finish_slot(&mut self, cx: &mut Context, slot: u8, result: Result<(), DiskError>, done: Done<'_>) {
        let Some(request) = self.slots.release(slot) else { return };
        cx.finish(request, result, done);
    }
}

/// What the error field of the task file means.
fn cause(field: u32, kind: Kind) -> DiskError {
    let status = crate::disk::words::low16(field);
    match kind {
        // The upper half is a sense key: medium error, illegal request.
        Kind::Cd if field >> 4 == 3 => DiskError::Media,
        Kind::Cd if field >> 4 == 5 => DiskError::OutOfRange,
        Kind::Cd => DiskError::Device(status),
        Kind::Disk { .. } if field & error::UNCORRECTABLE != 0 => DiskError::Media,
        Kind::Disk { .. } if field & error::NOT_FOUND != 0 => DiskError::OutOfRange,
        Kind::Disk { .. } if field & error::ABORTED != 0 => DiskError::Device(status),
        Kind::Disk { .. } => DiskError::Device(status),
    }
}
