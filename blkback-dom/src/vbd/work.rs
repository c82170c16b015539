//! Requests under way.
//!
//! A request is carried out in stages, each of which becomes one or more commands for disks ([`Part`]). The
//! next stage begins when all parts of the last one are answered, and the request is answered when none is
//! left. A failure ends it as soon as its parts under way are back.

use alloc::boxed::Box;
use core::cell::Cell;

use ring::Ticket;
use ring::blkif::{Command, Direct, Direction, Discard, Indirect, Operation, Segment, Transfer, segment_at};
use xen_pv_rt::hyp::{DmaBuf, GrantError, GrantRef};

use super::cause::Cause;
use crate::disk::{SECTOR_BYTES, Span};
use crate::volume::DiskRef;

/// Most pages of a part.
pub(super) const PART_PAGES: usize = 32;

/// Where a request's data is.
pub(super) enum Segments {
    /// Nowhere.
    None,
    /// In these segments.
    Direct(Direct),
    /// In those listed in our private copy of an indirect page, which was validated as a whole: so many of them. What
    /// is in the buffer behind those is of an earlier list.
    Listed(DmaBuf, u16),
}

impl Segments {
    pub(super) fn get(&self, index: u16) -> Option<Segment> {
        match self {
            Self::None => None,
            Self::Direct(segments) => segments.as_slice().get(usize::from(index)).copied(),
            Self::Listed(list, count) if index < *count => segment_at(list.bytes(), index),
            Self::Listed(..) => None,
        }
    }
}

/// A place in a request's data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Position {
    /// The segment.
    pub(super) segment: u16,
    /// Byte in the segment.
    pub(super) byte: u16,
}

impl Position {
    /// The place `bytes` further on.
    pub(super) fn advance(mut self, segments: &Segments, mut bytes: u32) -> Self {
        while let Some(segment) = segments.get(self.segment) {
            let left = u32::from(segment.len_bytes().saturating_sub(self.byte));
            if bytes < left {
                self.byte = self.byte.saturating_add(u16::try_from(bytes).unwrap_or(0));
                break;
            }
            bytes = bytes.saturating_sub(left);
            self = Self { segment: self.segment.saturating_add(1), byte: 0 };
        }
        self
    }
}

/// What is being done for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Its list of segments is to be fetched.
    Fetch(Indirect),
    /// Everything answered so far goes to stable media, before the data.
    Before,
    /// The data is moved, or the range discarded.
    Data,
    /// The data itself goes to stable media.
    After,
    /// Nothing is left to do.
    Done,
}

/// What kind of request it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Read,
    Write,
    Discard,
    /// A discard after which nothing can be read again.
    SecureErase,
    Flush,
}

impl Kind {
    /// Whether it is about a range without data.
    pub(super) const fn is_discard(self) -> bool {
        matches!(self, Self::Discard | Self::SecureErase)
    }
}

/// A request under way.
pub(super) struct Work {
    /// Whose answer it is owed in.
    pub(super) queue: u8,
    pub(super) ticket: Ticket,
    pub(super) id: u64,
    pub(super) operation: Operation,
    pub(super) kind: Kind,
    /// Nothing else of the vbd is under way while this is.
    pub(super) barrier: bool,
    pub(super) stage: Stage,
    pub(super) segments: Segments,
    /// Next sector of the volume, and how many are left.
    pub(super) sector: u64,
    pub(super) left: u64,
    /// Where the data of `sector` is.
    pub(super) at: Position,
    /// Sectors in all.
    pub(super) sectors: u64,
    /// The next disk of the volume to flush.
    pub(super) flush_next: usize,
    /// Parts not answered yet.
    pub(super) parts: u16,
    pub(super) failed: Option<Cause>,
    /// What went wrong while the list was fetched.
    pub(super) fetch_error: Cell<Option<GrantError>>,
    /// The page that lists its segments.
    pub(super) list: Option<GrantRef>,
    /// Its pages have been considered for mapping.
    pub(super) considered: bool,
}

impl Work {
    pub(super) fn new(queue: u8, ticket: Ticket, id: u64, operation: Operation, command: Command) -> Self {
        let mut work = Self {
            queue,
            ticket,
            id,
            operation,
            kind: Kind::Flush,
            barrier: false,
            stage: Stage::Before,
            segments: Segments::None,
            sector: 0,
            left: 0,
            at: Position::default(),
            sectors: 0,
            flush_next: 0,
            parts: 0,
            failed: None,
            fetch_error: Cell::new(None),
            list: None,
            considered: false,
        };
        match command {
            Command::Transfer(transfer, direct) => {
                work.segments = Segments::Direct(direct);
                work.set_transfer(&transfer);
            }
            Command::Indirect(indirect) => {
                work.stage = Stage::Fetch(indirect);
                work.list = Some(indirect.gref());
            }
            Command::Flush => {}
            Command::Discard(Discard { sector, sectors, secure }) => {
                work.kind = if secure { Kind::SecureErase } else { Kind::Discard };
                work.stage = Stage::Data;
                (work.sector, work.left, work.sectors) = (sector, sectors, sectors);
            }
        }
        work
    }

    /// Takes over what is to be transferred.
    pub(super) fn set_transfer(&mut self, transfer: &Transfer) {
        self.kind = match transfer.direction {
            Direction::Read => Kind::Read,
            Direction::Write => Kind::Write,
        };
        self.barrier = transfer.barrier;
        self.stage = if transfer.barrier { Stage::Before } else { Stage::Data };
        (self.sector, self.left) = (transfer.sector, u64::from(transfer.sectors));
        self.sectors = self.left;
    }

    /// Fails it, for the first cause there is.
    pub(super) fn fail(&mut self, cause: Cause) {
        self.failed = self.failed.or(Some(cause));
    }

    /// Goes on when every part of a stage was built and answered.
    pub(super) fn next_stage(&mut self) -> Stage {
        self.stage = match self.stage {
            _ if self.failed.is_some() => Stage::Done,
            Stage::Fetch(_) => Stage::Data,
            Stage::Before if self.left > 0 => Stage::Data,
            Stage::Data if self.barrier => Stage::After,
            Stage::Before | Stage::Data | Stage::After | Stage::Done => Stage::Done,
        };
        self.flush_next = 0;
        self.stage
    }

    /// Whether the stage has nothing more to hand out.
    pub(super) fn is_built(&self, disks: usize) -> bool {
        self.failed.is_some()
            || match self.stage {
                Stage::Fetch(_) => false,
                Stage::Data => self.left == 0,
                Stage::Before | Stage::After => self.flush_next >= disks,
                Stage::Done => true,
            }
    }

    /// Whether what is left of the two has a sector in common.
    pub(super) fn overlaps(&self, other: &Self) -> bool {
        let end = |work: &Self| work.sector.saturating_add(work.left);
        self.left > 0 && other.left > 0 && self.sector < end(other) && other.sector < end(self)
    }

    /// Counts `sectors` sectors as handed out.
    pub(super) fn advance(&mut self, sectors: u64) {
        if !self.kind.is_discard() {
            let bytes = u32::try_from(sectors).unwrap_or(0).saturating_mul(SECTOR_BYTES);
            self.at = self.at.advance(&self.segments, bytes);
        }
        self.sector = self.sector.saturating_add(sectors);
        self.left = self.left.saturating_sub(sectors);
    }
}

/// A command for a disk: all or some of a stage.
pub(super) struct Part {
    /// The request, by its number in its vbd.
    pub(super) work: u16,
    /// Which vbd.
    pub(super) vbd: u16,
    pub(super) kind: Kind,
    pub(super) disk: DiskRef,
    /// First sector on the disk.
    pub(super) sector: u64,
    pub(super) sectors: u64,
    /// Where its data begins in the request's.
    pub(super) at: Position,
    /// Our copy of the data, packed.
    pub(super) buffers: heapless::Vec<DmaBuf, PART_PAGES>,
    /// Or the frontend's own pages, in place of buffers: where they are, and the grants to let go of.
    pub(super) spans: heapless::Vec<Span, PART_PAGES>,
    pub(super) pins: heapless::Vec<GrantRef, PART_PAGES>,
    /// The data is in `buffers`, or need not be.
    pub(super) ready: bool,
    /// The part that is next to it on the disk and in the same command.
    pub(super) joined: Option<Box<Part>>,
    /// Its command has no other part: the one that had failed.
    pub(super) alone: bool,
    /// What went wrong with a copy.
    pub(super) copy_error: Cell<Option<GrantError>>,
    /// What the disk answered.
    pub(super) failed: Option<Cause>,
}

impl Part {
    pub(super) const fn new() -> Self {
        Self {
            work: 0,
            vbd: 0,
            kind: Kind::Flush,
            disk: DiskRef { controller: 0, disk: crate::disk::DiskId(0) },
            sector: 0,
            sectors: 0,
            at: Position { segment: 0, byte: 0 },
            buffers: heapless::Vec::new(),
            spans: heapless::Vec::new(),
            pins: heapless::Vec::new(),
            ready: false,
            joined: None,
            alone: false,
            copy_error: Cell::new(None),
            failed: None,
        }
    }

    /// Length of its data in bytes; 0 for a flush or discard.
    pub(super) fn data_bytes(&self) -> u32 {
        match self.kind {
            Kind::Read | Kind::Write => u32::try_from(self.sectors).unwrap_or(0).saturating_mul(SECTOR_BYTES),
            Kind::Discard | Kind::SecureErase | Kind::Flush => 0,
        }
    }

    /// Why it failed, if it did.
    pub(super) fn failure(&self) -> Option<Cause> {
        self.failed.or(self.copy_error.get().map(Cause::from))
    }
}
