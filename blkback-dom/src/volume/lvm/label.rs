//! Physical volumes: label, header, metadata areas.

use alloc::vec::Vec;
use core::fmt;

use super::super::sectors::{ReadError, Sectors, crc32, u32_at, u64_at};
use super::{PhysicalId, Piece};

/// Where the checksums of LVM2 start.
const INITIAL_CRC: u32 = 0xf597_a6cf;
/// Sectors in which the label may be.
const LABEL_SECTORS: u64 = 8;
const SECTOR: usize = 512;
const SECTOR_BYTES: u64 = 512;
/// Most metadata areas of a physical volume.
const MAX_AREAS: usize = 4;
/// Largest text of a volume group.
const MAX_TEXT: u64 = 1 << 20;
/// Sectors of one read.
const READ: u64 = 256;
/// Starts the header of a metadata area, after its checksum.
const AREA_MAGIC: &[u8; 16] = b" LVM2 x[5A%r0N*>";

/// A physical volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Physical {
    pub(super) id: PhysicalId,
    /// The disk or partition.
    pub(super) piece: Piece,
}

/// Why a physical volume cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BadPhysical {
    Read(ReadError),
    Label,
    NoMetadata,
}

impl fmt::Display for BadPhysical {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(error) => write!(f, "{error}"),
            Self::Label => f.write_str("damaged label"),
            Self::NoMetadata => f.write_str("no intact metadata"),
        }
    }
}

/// Reads `len` bytes at byte `offset` of a piece; both multiples of 4096 reach any disk.
async fn read_bytes(sectors: &mut impl Sectors, piece: Piece, offset: u64, len: u64) -> Result<Vec<u8>, BadPhysical> {
    let bad = BadPhysical::NoMetadata;
    let end = offset.checked_add(len).ok_or(bad)?;
    let (first, last) = (offset / 4096, end.div_ceil(4096));
    let mut sector = first.checked_mul(8).ok_or(bad)?;
    let until = last.checked_mul(8).ok_or(bad)?;
    if len > MAX_TEXT || until > piece.sectors {
        return Err(bad);
    }
    let mut bytes = Vec::new();
    while sector < until {
        let count = until.saturating_sub(sector).min(READ);
        let part = Piece { disk: piece.disk, sector: piece.sector.saturating_add(sector), sectors: count };
        bytes.extend(sectors.read(part).await.map_err(BadPhysical::Read)?);
        sector = sector.saturating_add(count);
    }
    let skip = usize::try_from(offset % 4096).map_err(|_| bad)?;
    let len = usize::try_from(len).map_err(|_| bad)?;
    Ok(bytes.get(skip..).and_then(|rest| rest.get(..len)).ok_or(bad)?.to_vec())
}

/// Reads a physical volume and the texts in its metadata areas; `None` if it is none.
pub(super) async fn read(
    sectors: &mut impl Sectors,
    piece: Piece,
) -> Result<Option<(Physical, Vec<Vec<u8>>)>, BadPhysical> {
    if piece.sectors < LABEL_SECTORS {
        return Ok(None);
    }
    let start = read_bytes(sectors, piece, 0, LABEL_SECTORS.saturating_mul(SECTOR_BYTES)).await?;
    let mut labels = start.chunks_exact(SECTOR).zip(0_u64..).take(4).filter(|(sector, _)| is_label(sector));
    let Some((sector, number)) = labels.next() else { return Ok(None) };
    let (id, areas) = header(sector, number).ok_or(BadPhysical::Label)?;
    let mut texts = Vec::new();
    for (offset, size) in &areas {
        if let Some(text) = read_area(sectors, piece, *offset, *size).await? {
            texts.push(text);
        }
    }
    // A physical volume may leave its metadata to others; an area that is there must be intact.
    if texts.is_empty() && !areas.is_empty() {
        return Err(BadPhysical::NoMetadata);
    }
    Ok(Some((Physical { id, piece }, texts)))
}

fn is_label(sector: &[u8]) -> bool {
    sector.starts_with(b"LABELONE") && sector.get(24..32) == Some(b"LVM2 001")
}

/// Offsets and sizes in bytes.
type Locations = Vec<(u64, u64)>;

/// A list of (offset, size) pairs that ends with an offset of zero, and what comes after it.
fn locations(mut bytes: &[u8]) -> Option<(Locations, &[u8])> {
    let mut list = Vec::new();
    loop {
        let (entry, rest) = bytes.split_at_checked(16)?;
        bytes = rest;
        let (offset, size) = (u64_at(entry, 0), u64_at(entry, 8));
        if offset == 0 {
            return Some((list, bytes));
        }
        list.push((offset, size));
    }
}

/// The id and the metadata areas (offset and size in bytes) that a label leads to.
fn header(sector: &[u8], number: u64) -> Option<(PhysicalId, Locations)> {
    let checked = sector.get(20..)?;
    if u64_at(sector, 8) != number || u32_at(sector, 16) != crc32(INITIAL_CRC, checked) {
        return None;
    }
    let header = sector.get(usize::try_from(u32_at(sector, 20)).ok()?..)?;
    let id = *header.first_chunk::<32>()?;
    // After the id: the size of the device, the data areas, the metadata areas.
    let (_data, rest) = locations(header.get(40..)?)?;
    let (areas, _) = locations(rest)?;
    (areas.len() <= MAX_AREAS).then_some((id, areas))
}

/// The text in a metadata area; `None` if it is damaged or empty.
async fn read_area(
    sectors: &mut impl Sectors,
    piece: Piece,
    offset: u64,
    size: u64,
) -> Result<Option<Vec<u8>>, BadPhysical> {
    let header = match read_bytes(sectors, piece, offset, SECTOR_BYTES).await {
        Ok(header) => header,
        Err(BadPhysical::NoMetadata) => return Ok(None),
        Err(error) => return Err(error),
    };
    let intact = header.get(4..).is_some_and(|checked| crc32(INITIAL_CRC, checked) == u32_at(&header, 0))
        && header.get(4..20) == Some(AREA_MAGIC)
        && u32_at(&header, 20) == 1
        && u64_at(&header, 24) == offset
        && u64_at(&header, 32) == size;
    let (text, len, crc, flags) = (u64_at(&header, 40), u64_at(&header, 48), u32_at(&header, 56), u32_at(&header, 60));
    /// The area is to be ignored (`RAW_LOCN_IGNORED`).
    const IGNORED: u32 = 1;
    if !intact || text == 0 || len == 0 || len > MAX_TEXT || text >= size || flags & IGNORED != 0 {
        return Ok(None);
    }
    // The text goes round the end of the area, to just after its header.
    let first = len.min(size.saturating_sub(text));
    let mut bytes = match read_bytes(sectors, piece, offset.saturating_add(text), first).await {
        Err(BadPhysical::NoMetadata) => return Ok(None),
        other => other?,
    };
    if first < len {
        let rest = read_bytes(sectors, piece, offset.saturating_add(SECTOR_BYTES), len.saturating_sub(first)).await;
        match rest {
            Err(BadPhysical::NoMetadata) => return Ok(None),
            other => bytes.extend(other?),
        }
    }
    Ok((crc32(INITIAL_CRC, &bytes) == crc).then_some(bytes))
}
