//! From requests to commands: what a backend may act on.

use super::abi::{Operation, Request};
use super::indirect::Indirect;
use super::{BlkReject, MAX_DIRECT_SEGMENTS, Segment};
use crate::netif::FixedVec;

/// What a device allows, decided when its frontend connects. Numbers of sectors are in units of 512 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Size of the disk.
    pub sectors: u64,
    /// Sectors of the wire in one sector of the disk: 1 for 512-byte disks, 8 for 4096-byte ones.
    pub granularity: u32,
    /// Writes are refused.
    pub read_only: bool,
    /// `feature-flush-cache` was offered.
    pub flush: bool,
    /// `feature-barrier` was offered.
    pub barrier: bool,
    /// `feature-discard` was offered.
    pub discard: bool,
    /// `discard-secure` was offered.
    pub secure_discard: bool,
    /// `feature-max-indirect-segments`, at most [`MAX_INDIRECT_SEGMENTS`](super::MAX_INDIRECT_SEGMENTS); 0 if it
    /// was not offered.
    pub indirect_segments: u16,
}

/// Which way the data goes, seen from the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the disk into the frontend's pages.
    Read,
    /// From the frontend's pages to the disk.
    Write,
}

/// A read or write: `sectors` is the sum of its segments, and the range lies within the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// Which way.
    pub direction: Direction,
    /// Whether it is to be ordered after everything before and before everything after, and to be on stable
    /// media when it is answered.
    pub barrier: bool,
    /// First sector.
    pub sector: u64,
    /// Number of sectors. Only a barrier may have none.
    pub sectors: u32,
}

/// A range that is not needed any more, within the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Discard {
    /// First sector.
    pub sector: u64,
    /// Number of sectors, at least 1.
    pub sectors: u64,
    /// The old contents must not be readable afterwards.
    pub secure: bool,
}

/// The segments of a direct request.
pub type Direct = FixedVec<Segment, MAX_DIRECT_SEGMENTS>;

/// A request that makes sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// A read or write and where its data is.
    Transfer(Transfer, Direct),
    /// A read or write whose segments must be fetched first.
    Indirect(Indirect),
    /// Everything answered before to stable media.
    Flush,
    /// A hint that a range is free.
    Discard(Discard),
}

impl Request {
    /// Checks the request against what the device allows.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn validate(&self, limits: &Limits) -> Result<Command, BlkReject> {
        match self.operation() {
            Operation::Read => self.transfer(limits, Direction::Read, false),
            Operation::Write => self.transfer(limits, Direction::Write, false),
            Operation::WriteBarrier if limits.barrier => self.transfer(limits, Direction::Write, true),
            Operation::FlushDiskcache if limits.flush => {
                let (nr_segments, _) = self.head();
                // A flush with data is what Linux makes of it: ordered, and stable. A barrier is both.
                if nr_segments == 0 { Ok(Command::Flush) } else { self.transfer(limits, Direction::Write, true) }
            }
            Operation::Discard if limits.discard => self.discard(limits),
            Operation::Indirect if limits.indirect_segments > 0 => self.indirect(limits),
            _ => Err(BlkReject::Op),
        }
    }

    fn transfer(&self, limits: &Limits, direction: Direction, barrier: bool) -> Result<Command, BlkReject> {
        let (nr_segments, _handle) = self.head();
        let nr_segments = usize::from(nr_segments);
        if nr_segments > MAX_DIRECT_SEGMENTS || (nr_segments == 0 && !barrier) {
            return Err(BlkReject::Segs);
        }
        let mut segments = Direct::default();
        for index in 0..nr_segments {
            let word = index.saturating_mul(2).saturating_add(6);
            let segment = Segment::parse([self.word(word), self.word(word.saturating_add(1))])?;
            if !segments.push(segment) {
                return Err(BlkReject::Segs);
            }
        }
        let sectors = segments.as_slice().iter().map(Segment::sectors).fold(0, u32::saturating_add);
        let transfer = Transfer { direction, barrier, sector: self.u64_at(4), sectors };
        transfer.check(limits)?;
        Ok(Command::Transfer(transfer, segments))
    }

    fn discard(&self, limits: &Limits) -> Result<Command, BlkReject> {
        /// `BLKIF_DISCARD_SECURE`.
        const SECURE: u8 = 1;
        if limits.read_only {
            return Err(BlkReject::ReadOnly);
        }
        let (flags, _handle) = self.head();
        let secure = flags & SECURE != 0;
        if secure && !limits.secure_discard {
            return Err(BlkReject::Op);
        }
        let discard = Discard { sector: self.u64_at(4), sectors: self.u64_at(6), secure };
        if discard.sectors == 0 {
            return Err(BlkReject::Range);
        }
        check_range(limits, discard.sector, discard.sectors)?;
        Ok(Command::Discard(discard))
    }

    fn indirect(&self, limits: &Limits) -> Result<Command, BlkReject> {
        let (operation, nr_segments) = self.head();
        let direction = match Operation::from_raw(operation) {
            Operation::Read => Direction::Read,
            Operation::Write => Direction::Write,
            _ => return Err(BlkReject::Op),
        };
        if nr_segments == 0 || nr_segments > limits.indirect_segments {
            return Err(BlkReject::Segs);
        }
        if direction == Direction::Write && limits.read_only {
            return Err(BlkReject::ReadOnly);
        }
        Ok(Command::Indirect(Indirect::new(direction, self.u64_at(4), nr_segments, self.word(7))))
    }
}

impl Transfer {
    pub(super) fn check(&self, limits: &Limits) -> Result<(), BlkReject> {
        if self.direction == Direction::Write && limits.read_only {
            return Err(BlkReject::ReadOnly);
        }
        if self.sectors == 0 {
            // A bare barrier has no place.
            return Ok(());
        }
        check_range(limits, self.sector, u64::from(self.sectors))
    }
}

fn check_range(limits: &Limits, sector: u64, sectors: u64) -> Result<(), BlkReject> {
    let end = sector.checked_add(sectors).ok_or(BlkReject::Range)?;
    if end > limits.sectors {
        return Err(BlkReject::Range);
    }
    let granularity = u64::from(limits.granularity);
    let aligned = |n: u64| n.checked_rem(granularity).is_none_or(|rest| rest == 0);
    if aligned(sector) && aligned(sectors) { Ok(()) } else { Err(BlkReject::Align) }
}
