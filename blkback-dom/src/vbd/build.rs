//! From requests to commands for disks.

use alloc::boxed::Box;

use xen_pv_rt::hyp::{Hypervisor, PAGE_SIZE};

use super::cause::Cause;
use super::device::Vbd;
use super::in_place::InPlace;
use super::plane::Controllers;
use super::work::{Kind, PART_PAGES, Part, Stage, Work};
use crate::disk::{Capabilities, Geometry, SECTOR_BYTES};
use crate::volume::{DiskRef, Piece};

/// Sectors in a page.
const PAGE_SECTORS: u64 = 8;
/// A part waits for this many free buffers, even if none of its vbd's are under way, rather than be cut up more finely.
const MIN_PAGES: usize = 8;
/// A discard of many parts has this share of a vbd's parts under way, so that it holds nothing else up.
const DISCARD_SHARE: usize = 4;

/// What became of an attempt to hand out the next part of a request.
enum Built {
    /// There is a new part.
    Part,
    /// Everything of this stage was handed out, or the request has failed.
    Whole,
    /// It has its share under way; what comes after it may go on, unless it is about the same sectors.
    Passed,
    /// Nothing can be handed out until something else is back.
    Blocked,
}

/// The limits of a disk's commands.
struct Reach {
    geometry: Geometry,
    max_discard_sectors: u64,
    max_secure_erase_sectors: u64,
}

fn reach(controllers: &mut dyn Controllers, disk: DiskRef) -> Option<Reach> {
    let found = controllers.get(disk.controller)?.disks().get(usize::from(disk.disk.0))?;
    let Capabilities { max_discard_sectors, max_secure_erase_sectors, .. } = found.capabilities;
    Some(Reach { geometry: found.geometry, max_discard_sectors, max_secure_erase_sectors })
}

impl<H: Hypervisor> Vbd<H> {
    /// Hands out parts of requests, oldest request first, for as long as there is room. Returns whether any
    /// progress was made.
    pub(super) fn build(
        &mut self,
        number: u16,
        controllers: &mut dyn Controllers,
        now: xen_pv_rt::hyp::Instant,
    ) -> bool {
        let mut progress = false;
        let mut place = 0;
        while let Some(index) = self.todo.get(place).copied() {
            match self.build_next(number, index, place, controllers) {
                Built::Part => progress = true,
                Built::Passed => place = place.saturating_add(1),
                Built::Blocked => break,
                Built::Whole => {
                    progress = true;
                    self.todo.remove(place);
                    self.settle(index, now);
                }
            }
        }
        progress
    }

    /// Whether a request that was passed, before `place` in the list, is about sectors of this one: what is left of
    /// it comes first, or it would be carried out after a later change was answered.
    fn waits_for_passed(&self, work: &Work, place: usize) -> bool {
        self.todo.iter().take(place).filter_map(|index| self.work(*index)).any(|other| work.overlaps(other))
    }

    fn build_next(&mut self, number: u16, index: u16, place: usize, controllers: &mut dyn Controllers) -> Built {
        let alone = self.under_way() == 1;
        let disks = self.disks.len();
        let Some(work) = self.work(index) else { return Built::Whole };
        if work.is_built(disks) {
            return Built::Whole;
        }
        if (work.barrier && !alone) || self.free_parts.is_empty() || self.waits_for_passed(work, place) {
            return Built::Blocked;
        }
        if work.kind.is_discard() && usize::from(work.parts) >= self.part_count.div_ceil(DISCARD_SHARE) {
            return Built::Passed;
        }
        match work.stage {
            Stage::Fetch(_) => Built::Blocked,
            Stage::Before | Stage::After => self.build_flush(number, index),
            Stage::Data => self.build_data(number, index, controllers),
            Stage::Done => Built::Whole,
        }
    }

    fn build_flush(&mut self, number: u16, index: u16) -> Built {
        let Some(work) = self.work_mut(index) else { return Built::Whole };
        let next = work.flush_next;
        work.flush_next = next.saturating_add(1);
        let Some(disk) = self.disks.get(next).copied() else { return Built::Whole };
        self.stage(number, index, Kind::Flush, Piece { disk, sector: 0, sectors: 0 }, 0)
    }

    fn build_data(&mut self, number: u16, index: u16, controllers: &mut dyn Controllers) -> Built {
        let Some(work) = self.work(index) else { return Built::Whole };
        let kind = work.kind;
        let Some(mut piece) = self.map.piece(work.sector, work.left) else { return self.fail(index, Cause::Range) };
        let Some(reach) = reach(controllers, piece.disk) else { return self.fail(index, Cause::DiskGone) };
        if kind.is_discard() {
            let secure = kind == Kind::SecureErase;
            let most = if secure { reach.max_secure_erase_sectors } else { reach.max_discard_sectors };
            piece.sectors = piece.sectors.min(most);
            if piece.sectors == 0 {
                return self.fail(index, Cause::Op);
            }
            return self.stage(number, index, kind, piece, 0);
        }
        let most = most_pages(&reach.geometry);
        if let Some((spans, sectors)) = self.in_place(index, piece.sectors, most) {
            piece.sectors = sectors;
            return self.stage_in_place(number, index, kind, piece, &spans);
        }
        let wanted = usize::try_from(piece.sectors.div_ceil(PAGE_SECTORS)).unwrap_or(most).min(most);
        let available = self.buffers.available();
        // Cutting it up makes more commands of it, which is worse than to wait for buffers that will come back.
        let others = self.in_flight > 0 || !self.staged.is_empty();
        if available < if others { wanted } else { wanted.min(MIN_PAGES) } {
            return Built::Blocked;
        }
        let pages = wanted.min(available);
        piece.sectors = piece.sectors.min(u64::try_from(pages).unwrap_or(0).saturating_mul(PAGE_SECTORS));
        self.stage(number, index, kind, piece, pages)
    }

    fn fail(&mut self, index: u16, cause: Cause) -> Built {
        if let Some(work) = self.work_mut(index) {
            work.fail(cause);
        }
        Built::Whole
    }

    /// Makes a part of pages of the frontend's and queues it for its disk.
    fn stage_in_place(&mut self, number: u16, index: u16, kind: Kind, piece: Piece, spans: &InPlace) -> Built {
        let Some(mut part) = self.free_parts.pop() else { return Built::Blocked };
        self.pin_spans(&mut part, spans);
        let Some(work) = self.work_mut(index) else { return Built::Whole };
        fill(&mut part, number, index, kind, piece, work);
        part.ready = true;
        self.staged.push_back(part);
        Built::Part
    }

    /// Makes a part with `pages` buffers and queues it for its disk.
    fn stage(&mut self, number: u16, index: u16, kind: Kind, piece: Piece, pages: usize) -> Built {
        let Some(mut part) = self.free_parts.pop() else { return Built::Blocked };
        for _ in 0..pages {
            let Some(buffer) = self.buffers.take() else { break };
            // `pages` is at most the capacity.
            let _ = part.buffers.push(buffer);
        }
        let Some(work) = self.work_mut(index) else { return Built::Whole };
        fill(&mut part, number, index, kind, piece, work);
        self.staged.push_back(part);
        Built::Part
    }
}

fn fill(part: &mut Box<Part>, vbd: u16, index: u16, kind: Kind, piece: Piece, work: &mut Work) {
    (part.work, part.vbd, part.kind) = (index, vbd, kind);
    (part.disk, part.sector, part.sectors) = (piece.disk, piece.sector, piece.sectors);
    part.at = work.at;
    part.ready = kind != Kind::Write;
    work.parts = work.parts.saturating_add(1);
    if kind != Kind::Flush {
        work.advance(piece.sectors);
    }
}

/// Most pages of a command: what the disk takes, and what we do.
fn most_pages(geometry: &Geometry) -> usize {
    let page = u32::try_from(PAGE_SIZE).unwrap_or(SECTOR_BYTES);
    let by_bytes = usize::try_from(geometry.max_transfer_bytes.checked_div(page).unwrap_or(1)).unwrap_or(1);
    by_bytes.min(geometry.max_spans.into()).clamp(1, PART_PAGES)
}
