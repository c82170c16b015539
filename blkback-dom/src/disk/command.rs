//! What a disk is asked to do.

use xen_pv_rt::hyp::Maddr;

/// Bytes of a sector in [`Command::sector`] and wherever this crate counts sectors, on every disk.
pub const SECTOR_BYTES: u32 = 512;

/// The caller's name for a command. Drivers do not interpret it and do not need it to be unique.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tag(pub u64);

/// Memory that data goes to or comes from, contiguous for the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Where it starts; a multiple of 4.
    pub maddr: Maddr,
    /// Length in bytes, a multiple of 512, not 0. It may cross pages if those are adjacent in machine memory.
    pub len: u32,
}

/// The operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// From the disk to the spans.
    Read,
    /// From the spans to the disk; perhaps only to its cache.
    Write,
    /// From the spans to stable media ("force unit access"). Only with [`fua`](super::Capabilities::fua).
    WriteFua,
    /// Puts every write that was answered before this was submitted on stable media.
    ///
    /// Accepted by every disk; cheap if it has no volatile cache.
    Flush,
    /// The contents of that many sectors are no longer needed. A hint: what is read afterwards is undefined.
    Discard {
        /// How many 512-byte sectors.
        sectors: u64,
    },
    /// As [`Discard`](Self::Discard), but what was there can never be read again, by whatever means.
    SecureErase {
        /// How many 512-byte sectors.
        sectors: u64,
    },
    /// That many sectors read as zeros afterwards.
    WriteZeroes {
        /// How many 512-byte sectors.
        sectors: u64,
    },
}

impl Op {
    /// Whether it changes the disk's contents.
    pub const fn is_change(self) -> bool {
        !matches!(self, Self::Read | Self::Flush)
    }
    /// Whether it moves data through spans.
    pub const fn has_data(self) -> bool {
        matches!(self, Self::Read | Self::Write | Self::WriteFua)
    }
}

/// A command for a disk.
#[derive(Clone, Copy, Debug)]
pub struct Command<'a> {
    /// What its completion is called.
    pub tag: Tag,
    /// The operation.
    pub op: Op,
    /// First sector, in units of 512 bytes, a multiple of the logical sector. Ignored for [`Op::Flush`].
    pub sector: u64,
    /// The memory, in disk order; empty unless [`Op::has_data`]. Their lengths add up to whole logical sectors.
    pub spans: &'a [Span],
    /// Whose command it is: commands of one lane share a queue of the device and its limits. Any number.
    pub lane: u16,
}

impl Command<'_> {
    /// Length of the spans in bytes.
    pub fn data_bytes(&self) -> u64 {
        self.spans.iter().fold(0_u64, |sum, span| sum.saturating_add(span.len.into()))
    }

    /// The sectors it touches: first, and how many. Nothing for [`Op::Flush`].
    pub fn range(&self) -> (u64, u64) {
        /// Bytes of a sector, as a power of two.
        const SECTOR_SHIFT: u32 = SECTOR_BYTES.ilog2();
        match self.op {
            Op::Read | Op::Write | Op::WriteFua => (self.sector, self.data_bytes() >> SECTOR_SHIFT),
            Op::Discard { sectors } | Op::SecureErase { sectors } | Op::WriteZeroes { sectors } => {
                (self.sector, sectors)
            }
            Op::Flush => (self.sector, 0),
        }
    }
}
