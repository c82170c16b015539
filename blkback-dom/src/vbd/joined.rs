//! Parts that are side by side on a disk go to it as one command, as an operating system's block layer has it: a command
//! costs its device, its interrupt and this domain more than the pages in it do.
//!
//! Only neighbours in a vbd's list are joined, so nothing changes its order, and nothing waits for a neighbour to come.
//! If the command fails for what is on the disk, each of its parts is tried by itself before anything else of the
//! vbd, so that an error is answered to the request that it is about.

use alloc::boxed::Box;
use alloc::vec::Vec;

use xen_pv_rt::hyp::Hypervisor;

use super::cause::Cause;
use super::device::Vbd;
use super::plane::Controllers;
use super::work::{Kind, Part};
use crate::disk::{Command, DiskError, Geometry, Op, Span, SubmitError, Tag};

/// Most bytes of a command of several parts: what a command costs no longer shows at that length, and a longer one
/// would hold up more of its neighbours for nothing.
const MOST_BYTES: u32 = 512 << 10;
/// Most spans of any command: [`MOST_BYTES`] in pages.
const MOST_SPANS: usize = 128;
/// Bytes of a buffer.
const PAGE: u32 = 4096;
/// Most parts of a command.
const MOST_PARTS: usize = 32;

/// Whether an error says something about the sectors of a command, and not of the disk as a whole.
const fn is_about_sectors(error: DiskError) -> bool {
    !matches!(error, DiskError::Gone | DiskError::TimedOut | DiskError::Reset)
}

impl<H: Hypervisor> Vbd<H> {
    /// Whether a part may be in a command with others.
    fn may_join(&self, part: &Part) -> bool {
        // A write that is tried again could undo one of another vbd's that was answered in between.
        let kind = part.kind == Kind::Read || part.kind == Kind::Write && !self.shared;
        kind && !part.alone && part.copy_error.get().is_none()
    }

    /// How many of the staged parts, from the first on, can be one command.
    fn joinable(&self, geometry: &Geometry) -> usize {
        let Some(first) = self.staged.front().filter(|part| self.may_join(part)) else { return 1 };
        let most_bytes = geometry.command_bytes.min(geometry.max_transfer_bytes).min(MOST_BYTES);
        let most_spans = MOST_SPANS.min(geometry.max_spans.into());
        let (mut bytes, mut spans) = (first.data_bytes(), first.span_count());
        let mut end = first.sector.saturating_add(first.sectors);
        let rest = self.staged.iter().skip(1).take(MOST_PARTS.saturating_sub(1));
        let neighbours = rest.take_while(|part| {
            let follows = part.kind == first.kind && part.disk == first.disk && part.sector == end;
            bytes = bytes.saturating_add(part.data_bytes());
            spans = spans.saturating_add(part.span_count());
            end = end.saturating_add(part.sectors);
            follows && self.may_join(part) && bytes <= most_bytes && spans <= most_spans
        });
        neighbours.count().saturating_add(1)
    }

    /// Gives the first staged part to its disk, and those that can be in the same command. Returns how many.
    pub(super) fn submit(&self, tag: u32, controllers: &mut dyn Controllers) -> Result<usize, SubmitError> {
        let Some(first) = self.staged.front() else { return Ok(0) };
        let controller = controllers.get(first.disk.controller).ok_or(SubmitError::Gone)?;
        let disk = controller.disks().get(usize::from(first.disk.disk.0)).ok_or(SubmitError::Gone)?;
        let count = self.joinable(&disk.geometry);
        let mut submit = |count: usize| {
            let mut spans: heapless::Vec<Span, MOST_SPANS> = heapless::Vec::new();
            let parts = self.staged.iter().take(count);
            let sectors = parts.clone().fold(0_u64, |sum, part| sum.saturating_add(part.sectors));
            spans.extend(parts.flat_map(|part| part.spans()).take(MOST_SPANS));
            let op = first.op(sectors);
            let command = Command { tag: Tag(tag.into()), op, sector: first.sector, spans: &spans, lane: first.vbd };
            controller.submit(first.disk.disk, &command)
        };
        // What is too much, or lies too badly in memory, for one command may be right for several.
        if count > 1 && submit(count).is_ok() {
            return Ok(count);
        }
        submit(1).map(|()| 1)
    }

    /// Takes the first `count` staged parts, which a disk has as one command.
    pub(super) fn give(&mut self, count: usize) -> Option<Box<Part>> {
        let mut parts: heapless::Vec<Box<Part>, MOST_PARTS> = heapless::Vec::new();
        parts.extend((0..count.min(MOST_PARTS)).map_while(|_| self.staged.pop_front()));
        self.in_flight = self.in_flight.saturating_add(u32::try_from(parts.len()).unwrap_or(0));
        let mut first: Option<Box<Part>> = None;
        while let Some(mut part) = parts.pop() {
            part.joined = first.take();
            first = Some(part);
        }
        if let Some(first) = &first {
            self.hold(first.disk, 1);
        }
        first
    }

    /// Takes back what a disk has answered: one part, or several that were one command.
    #[expect(clippy::vec_box, reason = "parts are large and move from list to list")]
    pub(super) fn returned(&mut self, first: Box<Part>, outcome: Result<(), DiskError>, finished: &mut Vec<Box<Part>>) {
        self.hold(first.disk, -1);
        let again = first.joined.is_some() && outcome.is_err_and(is_about_sectors);
        let mut alone: heapless::Vec<Box<Part>, MOST_PARTS> = heapless::Vec::new();
        let mut next = Some(first);
        while let Some(mut part) = next {
            next = part.joined.take();
            self.in_flight = self.in_flight.saturating_sub(1);
            if !again {
                part.failed = outcome.err().map(Cause::from);
                finished.push(part);
                continue;
            }
            part.alone = true;
            if let Err(mut part) = alone.push(part) {
                part.failed = outcome.err().map(Cause::from);
                finished.push(part);
            }
        }
        while let Some(part) = alone.pop() {
            self.staged.push_front(part);
        }
    }
}

impl Part {
    fn span_count(&self) -> usize {
        self.spans.len().saturating_add(self.buffers.len())
    }

    /// Where its data is.
    fn spans(&self) -> impl Iterator<Item = Span> {
        let mut left = self.data_bytes();
        let in_buffers = self.buffers.iter().map(move |buffer| {
            let len = left.min(PAGE);
            left = left.saturating_sub(len);
            Span { maddr: buffer.maddr(), len }
        });
        self.spans.iter().copied().chain(in_buffers)
    }

    /// The operation of a command for it and its neighbours, which are so many sectors.
    const fn op(&self, sectors: u64) -> Op {
        match self.kind {
            Kind::Read => Op::Read,
            Kind::Write => Op::Write,
            Kind::Discard => Op::Discard { sectors },
            Kind::SecureErase => Op::SecureErase { sectors },
            Kind::Flush => Op::Flush,
        }
    }
}
