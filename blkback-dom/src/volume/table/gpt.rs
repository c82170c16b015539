//! GUID partition tables.
//!
//! UEFI specification 2.10, 5.3 "GUID Partition Table Disk Layout".

use alloc::string::String;
use alloc::vec::Vec;

use super::super::sectors::{Sectors, crc32, u32_at, u64_at};
use super::{Source, TableError};
use crate::volume::{Partition, Piece};

/// Most entries that are looked at; 128 is usual.
const MAX_ENTRIES: u32 = 1024;
/// Most bytes of the array of entries.
const MAX_ARRAY: u64 = 256 * 1024;

/// What a header says, with its checksum verified.
struct Header {
    entries_block: u64,
    count: u32,
    entry_bytes: usize,
    entries_crc: u32,
    first_usable: u64,
    last_usable: u64,
}

fn checksum(bytes: &[u8]) -> u32 {
    !crc32(!0, bytes)
}

impl Header {
    /// Reads the header in a block; `None` unless everything about it is right.
    fn parse(block: &[u8], number: u64) -> Option<Self> {
        let size = usize::try_from(u32_at(block, 12)).ok()?;
        let header = block.get(..size).filter(|header| header.len() >= 92)?;
        let mut zeroed = header.to_vec();
        zeroed.get_mut(16..20)?.fill(0);
        let right = header.starts_with(b"EFI PART")
            && u32_at(header, 8) >> 16 == 1
            && checksum(&zeroed) == u32_at(header, 16)
            && u64_at(header, 24) == number;
        let entry_bytes = u32_at(header, 84);
        let count = u32_at(header, 80);
        let array = u64::from(entry_bytes).checked_mul(u64::from(count))?;
        let sensible = (128..=4096).contains(&entry_bytes)
            && entry_bytes.is_power_of_two()
            && (1..=MAX_ENTRIES).contains(&count)
            && array <= MAX_ARRAY;
        (right && sensible).then_some(Self {
            entries_block: u64_at(header, 72),
            count,
            entry_bytes: usize::try_from(entry_bytes).ok()?,
            entries_crc: u32_at(header, 88),
            first_usable: u64_at(header, 40),
            last_usable: u64_at(header, 48),
        })
    }

    fn array_bytes(&self) -> usize {
        self.entry_bytes.saturating_mul(usize::try_from(self.count).unwrap_or(0))
    }
}

/// Reads the table, from its second copy if the first one is damaged.
pub(super) async fn read(source: &mut Source<'_, impl Sectors>) -> Result<Vec<Partition>, TableError> {
    let last = source.blocks().saturating_sub(1);
    for block in [1, last] {
        match read_copy(source, block).await {
            Err(TableError::BadGpt | TableError::BadBorders) => {}
            other => return other,
        }
    }
    Err(TableError::BadGpt)
}

async fn read_copy(source: &mut Source<'_, impl Sectors>, block: u64) -> Result<Vec<Partition>, TableError> {
    let header = Header::parse(&source.read(block, 1).await?, block).ok_or(TableError::BadGpt)?;
    let block_bytes = source.per_block.saturating_mul(512);
    let array_bytes = header.array_bytes();
    let blocks = u64::try_from(array_bytes).unwrap_or(0).div_ceil(block_bytes);
    let bytes = source.read(header.entries_block, blocks).await?;
    let array = bytes.get(..array_bytes).ok_or(TableError::BadGpt)?;
    if checksum(array) != header.entries_crc {
        return Err(TableError::BadGpt);
    }
    let mut partitions = Vec::new();
    for (entry, number) in array.chunks_exact(header.entry_bytes).zip(1..) {
        if entry.iter().take(16).any(|byte| *byte != 0) {
            partitions.push(partition(source, &header, entry, number).ok_or(TableError::BadBorders)?);
        }
    }
    Ok(partitions)
}

fn partition<S>(source: &Source<'_, S>, header: &Header, entry: &[u8], number: u32) -> Option<Partition> {
    let (first, last) = (u64_at(entry, 32), u64_at(entry, 40));
    if first < header.first_usable || last > header.last_usable {
        return None;
    }
    let blocks = last.checked_sub(first)?.checked_add(1)?;
    let sector = first.checked_mul(source.per_block)?;
    let sectors = blocks.checked_mul(source.per_block)?;
    Some(Partition {
        number,
        label: Some(label(entry.get(56..128)?)),
        uuid: Some(text_order(entry.get(16..)?.first_chunk()?)),
        piece: Piece { disk: source.disk.disk, sector, sectors },
    })
}

/// The first three groups of a GUID are stored with their bytes reversed.
const fn text_order(stored: &[u8; 16]) -> [u8; 16] {
    let [a, b, c, d, e, f, g, h, rest @ ..] = *stored;
    let [i, j, k, l, m, n, o, p] = rest;
    [d, c, b, a, f, e, h, g, i, j, k, l, m, n, o, p]
}

fn label(bytes: &[u8]) -> String {
    let units = bytes.chunks_exact(2).map(|pair| match pair {
        [low, high] => u16::from_le_bytes([*low, *high]),
        _ => 0,
    });
    char::decode_utf16(units.take_while(|unit| *unit != 0)).map(|unit| unit.unwrap_or('\u{fffd}')).collect()
}
