//! What a request consists of besides its data: header, status, range, table of descriptors, in one chunk of
//! memory for each slot. Virtio 1.2, section 5.2.6.
//!
//! | Word (64 bits) | |
//! |---|---|
//! | 0, 1 | header: type, reserved; sector |
//! | 2 | status, one byte |
//! | 4, 5 | range to discard or zero: sector; number of sectors, flags (none) |
//! | 6 and up | descriptors |

use virtio_pci::{Buffer, Writer};
use xen_pv_rt::hyp::Maddr;

use crate::disk::lists::{ListId, Lists, PAGE_WORDS};
use crate::disk::words::{high32, join32, low32};
use crate::disk::{DiskError, Op};

const STATUS: usize = 2;
const RANGE: usize = 4;
const TABLE: usize = 6;
/// Descriptors of a chunk.
pub(super) const MAX_DESCRIPTORS: usize = (PAGE_WORDS - TABLE) / 2;
/// Those for header and status.
pub(super) const OVERHEAD: usize = 2;
/// Length of header and range in bytes.
const HEADER_BYTES: u32 = 16;

/// Types of requests.
mod kind {
    pub(super) const IN: u32 = 0;
    pub(super) const OUT: u32 = 1;
    pub(super) const FLUSH: u32 = 4;
    pub(super) const DISCARD: u32 = 11;
    pub(super) const WRITE_ZEROES: u32 = 13;
    pub(super) const SECURE_ERASE: u32 = 14;
}

/// A status that no device writes.
const PENDING: u64 = 0xff;

/// What a device may write into the status.
pub(super) fn decode_status(status: u64) -> Result<(), DiskError> {
    match status & 0xff {
        0 => Ok(()),
        1 => Err(DiskError::Media),
        2 => Err(DiskError::Unsupported),
        other => Err(DiskError::Device(u16::try_from(other).unwrap_or(u16::MAX))),
    }
}

fn word(index: usize) -> u64 {
    u64::try_from(index.saturating_mul(8)).unwrap_or(0)
}

/// Fills a chunk for a request; how many descriptors it has. `None` if they do not fit.
pub(super) fn fill(
    lists: &Lists,
    chunk: ListId,
    op: Op,
    sector: u64,
    data: impl Iterator<Item = (Maddr, u32)>,
) -> Option<u16> {
    let base = lists.maddr(chunk);
    let (kind, range) = match op {
        Op::Read => (kind::IN, None),
        Op::Write | Op::WriteFua => (kind::OUT, None),
        Op::Flush => (kind::FLUSH, None),
        Op::Discard { sectors } => (kind::DISCARD, Some(sectors)),
        Op::SecureErase { sectors } => (kind::SECURE_ERASE, Some(sectors)),
        Op::WriteZeroes { sectors } => (kind::WRITE_ZEROES, Some(sectors)),
    };
    let in_header = if op.has_data() { sector } else { 0 };
    lists.store(chunk, 0, kind.into());
    lists.store(chunk, 1, in_header);
    lists.store(chunk, STATUS, PENDING);
    let mut table = Table { lists, chunk, count: 0 };
    table.push(Buffer::to_device(base, HEADER_BYTES), false)?;
    if let Some(sectors) = range {
        lists.store(chunk, RANGE, sector);
        lists.store(chunk, RANGE.wrapping_add(1), u32::try_from(sectors).ok()?.into());
        table.push(Buffer::to_device(base.wrapping_add(word(RANGE)), HEADER_BYTES), false)?;
    }
    let writer = if op == Op::Read { Writer::Device } else { Writer::Driver };
    for (maddr, len) in data {
        table.push(Buffer { maddr, len, writer }, false)?;
    }
    table.push(Buffer::from_device(base.wrapping_add(word(STATUS)), 1), true)?;
    Some(table.count)
}

/// The descriptors of a chunk, as they are written.
struct Table<'a> {
    lists: &'a Lists,
    chunk: ListId,
    count: u16,
}

impl Table<'_> {
    /// Appends a descriptor. `None` if there is no room.
    fn push(&mut self, buffer: Buffer, is_last: bool) -> Option<()> {
        let (index, next) = (usize::from(self.count), self.count.wrapping_add(1));
        if index >= MAX_DESCRIPTORS {
            return None;
        }
        let [a, b, c, d] = buffer.descriptor((!is_last).then_some(next));
        let at = index.saturating_mul(2).saturating_add(TABLE);
        self.lists.store(self.chunk, at, join32(a, b));
        self.lists.store(self.chunk, at.wrapping_add(1), join32(c, d));
        self.count = next;
        Some(())
    }
}

/// Where the table of descriptors is.
pub(super) fn table(lists: &Lists, chunk: ListId) -> Maddr {
    lists.maddr(chunk).wrapping_add(word(TABLE))
}

/// The first `count` descriptors of the table, for a chain in the queue itself.
pub(super) fn descriptors(lists: &Lists, chunk: ListId, count: u16) -> heapless::Vec<Buffer, MAX_DESCRIPTORS> {
    /// `VIRTQ_DESC_F_WRITE`.
    const WRITE: u32 = 2;
    (0..usize::from(count))
        .map(|index| {
            let at = index.saturating_mul(2).saturating_add(TABLE);
            let (address, rest) = (lists.load(chunk, at), lists.load(chunk, at.wrapping_add(1)));
            let writer = if high32(rest) & WRITE == 0 { Writer::Driver } else { Writer::Device };
            Buffer { maddr: Maddr::from_raw(address), len: low32(rest), writer }
        })
        .collect()
}

/// What the device wrote into the status.
pub(super) fn status(lists: &Lists, chunk: ListId) -> u64 {
    lists.load(chunk, STATUS)
}

/// Readies the status of a request that is repeated.
pub(super) fn rearm(lists: &Lists, chunk: ListId) {
    lists.store(chunk, STATUS, PENDING);
}
