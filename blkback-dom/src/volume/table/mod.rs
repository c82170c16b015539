//! Partition tables.
//!
//! Read when the domain starts and when Dom0 asks, and not where a guest can write at that time. Whatever is read is
//! checked, and what does not pass is no partition.

mod gpt;
mod mbr;

use alloc::vec::Vec;
use core::fmt;

use super::sectors::{ReadError, Sectors};
use super::{NamedDisk, Partition, Piece};
use crate::disk::{DiskError, SECTOR_BYTES};

/// Why a disk has no partitions that can be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableError {
    /// The disk could not be read.
    Disk(DiskError),
    /// A guest may write where the table is.
    Guest,
    /// There is a GPT and neither of its copies is intact.
    BadGpt,
    /// Partitions overlap or leave the disk.
    BadBorders,
}

impl fmt::Display for TableError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disk(error) => write!(f, "partition table cannot be read: {error}"),
            Self::Guest => write!(f, "partition table: {}", ReadError::Guest),
            Self::BadGpt => f.write_str("neither copy of the GPT is intact"),
            Self::BadBorders => f.write_str("partitions overlap or leave the disk"),
        }
    }
}

impl From<ReadError> for TableError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Disk(error) => Self::Disk(error),
            ReadError::Guest => Self::Guest,
        }
    }
}

/// A disk that is being read.
struct Source<'a, S> {
    sectors: &'a mut S,
    disk: &'a NamedDisk,
    /// Sectors of 512 bytes in one of the disk's blocks.
    per_block: u64,
}

impl<S: Sectors> Source<'_, S> {
    /// Reads `blocks` of the disk's blocks.
    async fn read(&mut self, block: u64, blocks: u64) -> Result<Vec<u8>, TableError> {
        let sector = block.checked_mul(self.per_block).ok_or(TableError::BadBorders)?;
        let sectors = blocks.checked_mul(self.per_block).ok_or(TableError::BadBorders)?;
        let end = sector.checked_add(sectors).ok_or(TableError::BadBorders)?;
        if sectors == 0 || end > self.disk.about.geometry.sectors {
            return Err(TableError::BadBorders);
        }
        Ok(self.sectors.read(Piece { disk: self.disk.disk, sector, sectors }).await?)
    }

    /// Blocks of the disk.
    fn blocks(&self) -> u64 {
        self.disk.about.geometry.sectors.checked_div(self.per_block).unwrap_or(0)
    }
}

/// Reads the partitions of a disk; none if it has no table.
///
/// # Errors
/// Why a table that is there cannot be used.
pub async fn partitions(sectors: &mut impl Sectors, disk: &NamedDisk) -> Result<Vec<Partition>, TableError> {
    let per_block = u64::from(disk.about.geometry.logical_bytes.checked_div(SECTOR_BYTES).unwrap_or(1).max(1));
    let mut source = Source { sectors, disk, per_block };
    if source.blocks() < 2 {
        return Ok(Vec::new());
    }
    let first = source.read(0, 1).await?;
    let partitions = match mbr::kind(&first) {
        mbr::Kind::None => return Ok(Vec::new()),
        mbr::Kind::Protective => gpt::read(&mut source).await?,
        mbr::Kind::Mbr => mbr::read(&mut source, &first).await?,
    };
    check_borders(&partitions, disk.about.geometry.sectors)?;
    Ok(partitions)
}

/// No two partitions share a sector, and none leaves the disk.
fn check_borders(partitions: &[Partition], sectors: u64) -> Result<(), TableError> {
    let mut sorted: Vec<_> = partitions.iter().map(|partition| partition.piece).collect();
    sorted.sort_unstable_by_key(|piece| piece.sector);
    let mut free_from = 0;
    for piece in sorted {
        let end = piece.sector.checked_add(piece.sectors).ok_or(TableError::BadBorders)?;
        if piece.sector < free_from || piece.sectors == 0 || end > sectors {
            return Err(TableError::BadBorders);
        }
        free_from = end;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
