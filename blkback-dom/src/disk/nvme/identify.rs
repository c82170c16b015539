//! What a controller and its namespaces say about themselves. NVM Express Base 1.4, section 5.15.

use core::time::Duration;

use crate::disk::describe::printable;
use crate::disk::words::{byte_at, u16_at, u32_at, u64_at};

/// The controller, from `IDENTIFY` with CNS 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ControllerData {
    pub(super) serial: heapless::String<40>,
    pub(super) model: heapless::String<40>,
    /// Most bytes of a transfer; `None` if it does not care.
    pub(super) max_transfer: Option<u32>,
    /// How long a shutdown may take.
    pub(super) shutdown_time: Duration,
    /// Whether it can tell about changed namespaces.
    pub(super) namespace_events: bool,
    /// Number of namespace ids.
    pub(super) namespaces: u32,
    /// Whether `DATASET MANAGEMENT` is supported.
    pub(super) deallocate: bool,
    /// Whether `WRITE ZEROES` is supported.
    pub(super) write_zeroes: bool,
    /// Whether it has a volatile write cache, or might have.
    pub(super) volatile_cache: bool,
    /// Whether SGLs are supported for reads and writes, with any alignment that spans have.
    pub(super) sgl: bool,
}

/// Offsets in the controller data structure.
mod at {
    pub(super) const SERIAL: core::ops::Range<usize> = 4..24;
    pub(super) const MODEL: core::ops::Range<usize> = 24..64;
    pub(super) const MDTS: usize = 77;
    pub(super) const RTD3E: usize = 88;
    pub(super) const OAES: usize = 92;
    pub(super) const SQES: usize = 512;
    pub(super) const CQES: usize = 513;
    pub(super) const NN: usize = 516;
    pub(super) const ONCS: usize = 520;
    pub(super) const VWC: usize = 525;
    pub(super) const SGLS: usize = 536;
}
/// Bytes of a memory page, which `MDTS` counts in; `Capability` made sure that it is the minimum.
const PAGE: u32 = 4096;

impl ControllerData {
    /// Decodes the structure. Nothing in it can be wrong enough to be refused, except the sizes of queue entries.
    ///
    /// # Errors
    /// What the controller lacks.
    pub(super) fn decode(data: &[u8]) -> Result<Self, &'static str> {
        // The low nibble of each is the required size, the high one the maximum.
        let sizes = (byte_at(data, at::SQES), byte_at(data, at::CQES));
        let fits = |sizes: u8, log: u8| sizes & 0xf <= log && sizes >> 4 >= log;
        if !fits(sizes.0, 6) || !fits(sizes.1, 4) {
            return Err("queue entries of 64 and 16 bytes");
        }
        let mdts = byte_at(data, at::MDTS);
        let oncs = u16_at(data, at::ONCS);
        let text = |range| data.get(range).map_or_else(heapless::String::new, printable);
        Ok(Self {
            serial: text(at::SERIAL),
            model: text(at::MODEL),
            max_transfer: (mdts != 0).then(|| PAGE.checked_shl(mdts.into()).unwrap_or(0)).filter(|bytes| *bytes > 0),
            shutdown_time: Duration::from_micros(u32_at(data, at::RTD3E).into()),
            namespace_events: u32_at(data, at::OAES) & 1 << 8 != 0,
            namespaces: u32_at(data, at::NN),
            deallocate: oncs & 1 << 2 != 0,
            write_zeroes: oncs & 1 << 3 != 0,
            volatile_cache: byte_at(data, at::VWC) & 1 != 0,
            sgl: matches!(u32_at(data, at::SGLS) & 0b11, 0b01 | 0b10),
        })
    }
}

/// A namespace, from `IDENTIFY` with CNS 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NamespaceData {
    /// Size in logical blocks.
    pub(super) blocks: u64,
    /// Bytes of a logical block: 512 or 4096.
    pub(super) block_bytes: u32,
    /// Unit that is preferred for writes, in blocks; at least 1.
    pub(super) preferred_write: u32,
    /// Unit that is preferred for deallocation, in blocks; at least 1.
    pub(super) preferred_deallocate: u32,
    /// Write protected.
    pub(super) read_only: bool,
}

impl NamespaceData {
    /// Decodes the structure. `Ok(None)`: the namespace is not active.
    ///
    /// # Errors
    /// Why the namespace cannot be served; the end of a sentence.
    pub(super) fn decode(data: &[u8]) -> Result<Option<Self>, &'static str> {
        let blocks = u64_at(data, 0);
        if blocks == 0 {
            return Ok(None);
        }
        let (features, formats, format) = (byte_at(data, 24), byte_at(data, 25), byte_at(data, 26));
        // Four low bits, and since 2.0 two more above the metadata bit.
        let index = format & 0xf | format >> 1 & 0x30;
        if index > formats {
            return Err("has a format that it does not list");
        }
        let lbaf = u32_at(data, usize::from(index).saturating_mul(4).saturating_add(128));
        if lbaf & 0xffff != 0 {
            return Err("is formatted with metadata");
        }
        let block_bytes = match lbaf >> 16 & 0xff {
            9 => 512,
            12 => 4096,
            _ => return Err("has logical blocks of neither 512 nor 4096 bytes"),
        };
        if blocks.checked_mul(u64::from(block_bytes / 512)).is_none() {
            return Err("is larger than 2^64 sectors");
        }
        // NPWG and NPDG count from 0 and mean something only if "OPTPERF" is set.
        let preferred =
            |offset| if features & 1 << 4 != 0 { u32::from(u16_at(data, offset)).saturating_add(1) } else { 1 };
        Ok(Some(Self {
            blocks,
            block_bytes,
            preferred_write: preferred(64),
            preferred_deallocate: preferred(68),
            read_only: byte_at(data, 99) & 1 != 0,
        }))
    }
}

/// Most namespaces of a controller that become disks.
pub(super) const MAX_NAMESPACES: usize = 64;

/// The ids in a list of active namespaces: ascending, ended by 0. What is out of order ends it too.
pub(super) fn namespace_ids(data: &[u8]) -> impl Iterator<Item = u32> {
    let mut last = 0;
    data.chunks_exact(4).map(|bytes| u32_at(bytes, 0)).take_while(move |id| {
        let ascending = *id > last && *id < 0xffff_fffe;
        last = *id;
        ascending
    })
}
