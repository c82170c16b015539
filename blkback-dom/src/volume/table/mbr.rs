//! MBR partition tables: four primary partitions, and logical ones from 5 on.

use alloc::vec::Vec;

use super::super::sectors::{Sectors, u32_at};
use super::{Source, TableError};
use crate::volume::{Partition, Piece};

/// Most logical partitions; each costs a read.
const MAX_LOGICAL: u32 = 64;

/// What the first block of a disk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// No table.
    None,
    /// A table of partitions.
    Mbr,
    /// A table that says that a GPT follows.
    Protective,
}

struct Entry {
    kind: u8,
    /// In blocks; relative to what depends on where it is.
    start: u32,
    blocks: u32,
}

impl Entry {
    const fn is_used(&self) -> bool {
        self.kind != 0 && self.blocks != 0
    }

    const fn is_extended(&self) -> bool {
        matches!(self.kind, 0x05 | 0x0f | 0x85)
    }
}

fn entries(block: &[u8]) -> Option<[Entry; 4]> {
    let signed = block.get(510..512)? == [0x55, 0xaa];
    signed.then(|| {
        [446, 462, 478, 494].map(|at: usize| Entry {
            kind: block.get(at.saturating_add(4)).copied().unwrap_or(0),
            start: u32_at(block, at.saturating_add(8)),
            blocks: u32_at(block, at.saturating_add(12)),
        })
    })
}

/// What the first block of a disk is. File systems have the signature too, and something else in place of the
/// entries: a table has sane status bytes and at least one entry.
pub(super) fn kind(block: &[u8]) -> Kind {
    let Some(entries) = entries(block) else { return Kind::None };
    let sane = [446, 462, 478, 494].iter().all(|at| matches!(block.get(*at), Some(0 | 0x80)));
    if !sane || !entries.iter().any(Entry::is_used) {
        Kind::None
    } else if entries.iter().any(|entry| entry.kind == 0xee) {
        Kind::Protective
    } else {
        Kind::Mbr
    }
}

/// Reads the table in the first block, and the logical partitions that it leads to.
pub(super) async fn read(source: &mut Source<'_, impl Sectors>, first: &[u8]) -> Result<Vec<Partition>, TableError> {
    let mut partitions = Vec::new();
    let mut extended = None;
    for (entry, number) in entries(first).into_iter().flatten().zip(1..) {
        if entry.is_extended() && entry.is_used() {
            extended = Some(u64::from(entry.start));
        } else if entry.is_used() {
            partitions.push(partition(source, number, u64::from(entry.start), entry.blocks)?);
        }
    }
    if let Some(base) = extended {
        read_logical(source, base, &mut partitions).await?;
    }
    Ok(partitions)
}

/// Follows the chain of extended boot records.
async fn read_logical(
    source: &mut Source<'_, impl Sectors>,
    base: u64,
    partitions: &mut Vec<Partition>,
) -> Result<(), TableError> {
    let mut record = base;
    for number in 5..MAX_LOGICAL.saturating_add(5) {
        let block = source.read(record, 1).await?;
        let Some([this, next, ..]) = entries(&block) else { return Err(TableError::BadBorders) };
        if this.is_used() && !this.is_extended() {
            partitions.push(partition(source, number, record.saturating_add(this.start.into()), this.blocks)?);
        }
        if !next.is_used() || !next.is_extended() {
            return Ok(());
        }
        let following = base.saturating_add(next.start.into());
        // A chain that does not go forward would go round for ever.
        if following <= record {
            return Err(TableError::BadBorders);
        }
        record = following;
    }
    Err(TableError::BadBorders)
}

fn partition<S>(source: &Source<'_, S>, number: u32, start: u64, blocks: u32) -> Result<Partition, TableError> {
    let sector = start.checked_mul(source.per_block).ok_or(TableError::BadBorders)?;
    let sectors = u64::from(blocks).checked_mul(source.per_block).ok_or(TableError::BadBorders)?;
    Ok(Partition { number, label: None, uuid: None, piece: Piece { disk: source.disk.disk, sector, sectors } })
}
