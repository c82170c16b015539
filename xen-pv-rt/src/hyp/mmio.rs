//! Device registers in memory space.

use core::fmt;

use super::Maddr;

/// A mapped window of device registers. Offsets are in bytes from its start and naturally aligned.
///
/// An access that does not fit in the window reads as all ones and writes nothing, which is what a device
/// that has gone away looks like too.
pub trait Mmio {
    /// Length of the window in bytes.
    fn len(&self) -> usize;
    /// Whether the window is empty.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Reads one byte.
    fn read8(&self, offset: usize) -> u8;
    /// Reads 16 bits.
    fn read16(&self, offset: usize) -> u16;
    /// Reads 32 bits.
    fn read32(&self, offset: usize) -> u32;
    /// Reads 64 bits in one access.
    fn read64(&self, offset: usize) -> u64;
    /// Writes one byte.
    fn write8(&self, offset: usize, value: u8);
    /// Writes 16 bits.
    fn write16(&self, offset: usize, value: u16);
    /// Writes 32 bits. Ordered after every earlier store to memory.
    fn write32(&self, offset: usize, value: u32);
    /// Writes 64 bits in one access. Ordered after every earlier store to memory.
    fn write64(&self, offset: usize, value: u64);
}

/// Why a window could not be mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MmioError {
    /// The range is empty, not page aligned or wraps.
    BadRange,
    /// No address space is left for it.
    NoSpace,
    /// Xen refused: the range does not belong to a device of this domain.
    Denied,
}

impl fmt::Display for MmioError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BadRange => "register window is empty or not page aligned",
            Self::NoSpace => "no address space left for register window",
            Self::Denied => "Xen refused to map the register window",
        })
    }
}

/// Maps device registers.
pub trait MmioSpace {
    /// A mapped window.
    type Region: Mmio + 'static;
    /// Maps `len` bytes at `base` uncached. `base` is page aligned; `len` is rounded up to pages.
    ///
    /// The mapping lasts as long as the domain.
    fn map_mmio(&self, base: Maddr, len: usize) -> Result<Self::Region, MmioError>;
}
