//! Features and configuration space of a block device. Virtio 1.2, sections 5.2.3 and 5.2.4.

use virtio_drivers::transport::Transport;

use super::chunk::OVERHEAD;
use crate::disk::describe::MAX_SPANS;
use crate::disk::layout::MAX_PIECES;
use crate::disk::{Capabilities, Disk, DiskName, Failure, Geometry, Medium};

bitflags::bitflags! {
    /// Features that this driver uses.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) struct Features: u64 {
        /// There is a most number of segments.
        const SEG_MAX = 1 << 2;
        /// Read-only.
        const RO = 1 << 5;
        /// There is a block size.
        const BLK_SIZE = 1 << 6;
        /// There is a cache, and a command to flush it.
        const FLUSH = 1 << 9;
        /// There is a topology.
        const TOPOLOGY = 1 << 10;
        /// There is more than one queue.
        const MQ = 1 << 12;
        /// Discard is offered.
        const DISCARD = 1 << 13;
        /// Writing zeros is offered.
        const WRITE_ZEROES = 1 << 14;
        /// Erasing so that nothing can be read again is offered.
        const SECURE_ERASE = 1 << 16;
        /// Tables of descriptors outside of the queue.
        const INDIRECT_DESC = 1 << 28;
        /// Notifications and interrupts by index.
        const EVENT_IDX = 1 << 29;
        /// Not a legacy device.
        const VERSION_1 = 1 << 32;
        /// The device's accesses go through the IOMMU.
        const ACCESS_PLATFORM = 1 << 33;
    }
}

/// Offsets in configuration space.
mod at {
    pub(super) const CAPACITY: usize = 0;
    pub(super) const SEG_MAX: usize = 12;
    pub(super) const BLK_SIZE: usize = 20;
    pub(super) const PHYSICAL_EXP: usize = 24;
    pub(super) const NUM_QUEUES: usize = 34;
    pub(super) const MAX_DISCARD: usize = 36;
    pub(super) const DISCARD_ALIGNMENT: usize = 44;
    pub(super) const MAX_WRITE_ZEROES: usize = 48;
    pub(super) const MAX_SECURE_ERASE: usize = 60;
}

/// What configuration space says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Config {
    /// Size in 512-byte sectors.
    pub(super) sectors: u64,
    pub(super) block_bytes: u32,
    physical_bytes: u32,
    /// Data segments of a request.
    pub(super) segments: usize,
    /// Data segments of a command, in all of its requests.
    spans: usize,
    pub(super) queues: u16,
    max_discard: u32,
    discard_sectors: u32,
    max_write_zeroes: u32,
    max_secure_erase: u32,
}

/// Reads a field that is there if `feature` was agreed on.
fn field<T, V>(transport: &T, agreed: bool, offset: usize) -> Result<Option<V>, Failure>
where
    T: Transport,
    V: zerocopy::FromBytes + zerocopy::IntoBytes,
{
    if !agreed {
        return Ok(None);
    }
    let value = transport.read_config_space(offset);
    value.map(Some).map_err(|_| Failure::Confused("length of configuration space"))
}

/// The size in 512-byte sectors, read twice as a 64-bit field may change between its halves.
pub(super) fn capacity<T: Transport>(transport: &T) -> Result<u64, Failure> {
    let read = |offset| field::<T, u32>(transport, true, offset).map(Option::unwrap_or_default);
    let both = || Ok::<_, Failure>((read(at::CAPACITY)?, read(at::CAPACITY.saturating_add(4))?));
    let mut last = both()?;
    // A device that changes all the time is asked again at the next occasion.
    for _ in 0..3 {
        let next = both()?;
        if next == last {
            break;
        }
        last = next;
    }
    Ok(crate::disk::words::join32(last.0, last.1))
}

impl Config {
    /// Reads what the agreed features say is there.
    ///
    /// # Errors
    /// [`Failure::Unsupported`] or [`Failure::Confused`].
    pub(super) fn read<T: Transport>(transport: &T, features: Features, most_segments: usize) -> Result<Self, Failure> {
        let has = |feature| features.contains(feature);
        let sectors = capacity(transport)?;
        let block_bytes = field::<T, u32>(transport, has(Features::BLK_SIZE), at::BLK_SIZE)?.unwrap_or(512);
        if !matches!(block_bytes, 512 | 4096) {
            return Err(Failure::Unsupported("blocks of 512 or 4096 bytes"));
        }
        let exponent = field::<T, u8>(transport, has(Features::TOPOLOGY), at::PHYSICAL_EXP)?.unwrap_or(0);
        let physical_bytes = block_bytes.checked_shl(exponent.into()).filter(|bytes| *bytes <= 1 << 20);
        let segments = field::<T, u32>(transport, has(Features::SEG_MAX), at::SEG_MAX)?.unwrap_or(1);
        let segments = usize::try_from(segments).unwrap_or(usize::MAX).clamp(1, most_segments);
        let queues = field::<T, u16>(transport, has(Features::MQ), at::NUM_QUEUES)?.unwrap_or(1).max(1);
        let max_discard = field::<T, u32>(transport, has(Features::DISCARD), at::MAX_DISCARD)?.unwrap_or(0);
        let unit = field::<T, u32>(transport, has(Features::DISCARD), at::DISCARD_ALIGNMENT)?.unwrap_or(0);
        let zeroes = field::<T, u32>(transport, has(Features::WRITE_ZEROES), at::MAX_WRITE_ZEROES)?.unwrap_or(0);
        Ok(Self {
            sectors,
            block_bytes,
            physical_bytes: physical_bytes.unwrap_or(block_bytes),
            segments,
            spans: segments,
            queues,
            max_discard,
            discard_sectors: unit.clamp(block_bytes >> 9, 1 << 20),
            max_write_zeroes: zeroes,
            max_secure_erase: field(transport, has(Features::SECURE_ERASE), at::MAX_SECURE_ERASE)?.unwrap_or(0),
        })
    }

    /// Adapts to queues of `size` descriptors. Whether they hold a request at all.
    ///
    /// A chain is no longer than its queue, indirect or not; without indirect tables, all chains of a command have
    /// to be in the queue at the same time.
    pub(super) fn fit(&mut self, size: usize, indirect: bool) -> bool {
        // One for a range besides the data.
        self.segments = self.segments.min(size.saturating_sub(OVERHEAD).saturating_sub(1));
        let chain = self.segments.saturating_add(OVERHEAD);
        let chains = if indirect { MAX_PIECES } else { size.saturating_sub(1).checked_div(chain).unwrap_or(0) };
        self.spans = chains.min(MAX_PIECES).saturating_mul(self.segments);
        self.spans > 0
    }

    /// Size rounded down to whole blocks.
    pub(super) fn whole_sectors(&self, sectors: u64) -> u64 {
        let per_block = u64::from(self.block_bytes >> 9);
        sectors.saturating_sub(sectors.checked_rem(per_block).unwrap_or(0))
    }

    pub(super) fn describe(&self, features: Features) -> Disk {
        let spans = u16::try_from(self.spans).unwrap_or(MAX_SPANS).min(MAX_SPANS);
        // If every segment were one page, which is what frontends send.
        let most = u32::from(spans).saturating_mul(4096);
        Disk {
            name: DiskName::Only,
            serial: heapless::String::new(),
            model: heapless::String::new(),
            geometry: Geometry {
                sectors: self.whole_sectors(self.sectors),
                logical_bytes: self.block_bytes,
                physical_bytes: self.physical_bytes,
                max_transfer_bytes: most,
                command_bytes: u32::try_from(self.segments).unwrap_or(u32::MAX).saturating_mul(4096),
                max_spans: spans,
            },
            capabilities: Capabilities {
                volatile_cache: features.contains(Features::FLUSH),
                fua: false,
                discard_granularity: if self.max_discard > 0 { self.discard_sectors } else { 0 },
                discard_alignment: 0,
                max_discard_sectors: self.max_discard.into(),
                max_secure_erase_sectors: self.max_secure_erase.into(),
                max_write_zeroes_sectors: self.max_write_zeroes.into(),
                shared_slots: 0,
                read_only: features.contains(Features::RO),
            },
            medium: Medium::Solid,
            present: true,
        }
    }
}
