//! What a disk is like, and the checks that follow from it.

use core::fmt;

use super::command::{Command, Op, SECTOR_BYTES};
use super::error::SubmitError;

/// A disk of a controller: the index into [`Controller::disks`](super::Controller::disks).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DiskId(pub u16);

/// Most spans of a command on any disk: what a blkif request with indirect segments can have.
pub const MAX_SPANS: u16 = 256;

/// What a disk is called: "nvme0n1"-like names are the domain's business, this is the part after the controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskName {
    /// The only disk of its controller.
    Only,
    /// An NVMe namespace, by its id.
    Namespace(u32),
    /// An AHCI port, by its number.
    Port(u8),
}

impl fmt::Display for DiskName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Only => Ok(()),
            Self::Namespace(id) => write!(f, "n{id}"),
            Self::Port(port) => write!(f, "p{port}"),
        }
    }
}

/// What a disk is made of, as far as frontends care.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Medium {
    /// No moving parts, or it does not say.
    Solid,
    /// Spins.
    Rotational,
    /// A CD-ROM; always read-only.
    CdRom,
}

/// Sizes and limits. Those of a [`Command`] hold whatever its memory looks like within a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Size of the disk in 512-byte sectors; whole logical sectors.
    pub sectors: u64,
    /// Smallest unit of transfer in bytes: 512, 2048 or 4096.
    pub logical_bytes: u32,
    /// Unit that the disk prefers for writes, in bytes; at least `logical_bytes`.
    pub physical_bytes: u32,
    /// Most bytes of a read or write.
    pub max_transfer_bytes: u32,
    /// Most bytes of a read or write that the device gets as one command, if they are whole pages; what is longer
    /// becomes several.
    pub command_bytes: u32,
    /// Most spans of a read or write.
    pub max_spans: u16,
}

/// What a disk offers besides reading and writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Answered writes may be in a cache that does not survive power loss: [`Op::Flush`] has work to do.
    pub volatile_cache: bool,
    /// [`Op::WriteFua`] is offered.
    pub fua: bool,
    /// Unit of [`Op::Discard`] in 512-byte sectors; 0 if it is not offered. Other lengths are accepted too, and
    /// the device does with them what it can.
    pub discard_granularity: u32,
    /// First sector that is a multiple of the unit of discard.
    pub discard_alignment: u32,
    /// Most sectors of [`Op::Discard`].
    pub max_discard_sectors: u64,
    /// Most sectors of [`Op::SecureErase`]; 0 if it is not offered.
    pub max_secure_erase_sectors: u64,
    /// Most sectors of [`Op::WriteZeroes`]; 0 if it is not offered.
    pub max_write_zeroes_sectors: u64,
    /// Commands that it takes at a time from all lanes together; 0 if lanes have queues of their own.
    pub shared_slots: u16,
    /// It cannot be written.
    pub read_only: bool,
}

/// A disk, described.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// Which of its controller's disks it is.
    pub name: DiskName,
    /// Serial number as the device gives it, printable ASCII only; may be empty.
    pub serial: heapless::String<40>,
    /// Model as the device gives it, printable ASCII only; may be empty.
    pub model: heapless::String<40>,
    /// Sizes and limits.
    pub geometry: Geometry,
    /// What it offers.
    pub capabilities: Capabilities,
    /// What it is made of.
    pub medium: Medium,
    /// Whether it is still there.
    pub present: bool,
}

impl Disk {
    /// Checks a command against what the disk is. Drivers call this first; what passes is well formed.
    ///
    /// # Errors
    /// Everything but [`SubmitError::Full`] and [`SubmitError::Layout`].
    pub fn check(&self, command: &Command<'_>) -> Result<(), SubmitError> {
        if !self.present {
            return Err(SubmitError::Gone);
        }
        self.check_op(command.op)?;
        if command.op == Op::Flush {
            return if command.spans.is_empty() { Ok(()) } else { Err(SubmitError::BadSpans) };
        }
        self.check_spans(command)?;
        let per_block = u64::from(self.geometry.logical_bytes / SECTOR_BYTES).max(1);
        let (first, count) = command.range();
        if !first.is_multiple_of(per_block) || !count.is_multiple_of(per_block) {
            return Err(SubmitError::Unaligned);
        }
        match first.checked_add(count) {
            Some(end) if count > 0 && end <= self.geometry.sectors => Ok(()),
            _ => Err(SubmitError::OutOfRange),
        }
    }

    fn check_op(&self, op: Op) -> Result<(), SubmitError> {
        let caps = &self.capabilities;
        if caps.read_only && op.is_change() {
            return Err(SubmitError::ReadOnly);
        }
        let offered = match op {
            Op::Read | Op::Write | Op::Flush => true,
            Op::WriteFua => caps.fua,
            Op::Discard { sectors } => within(sectors, caps.max_discard_sectors, caps.discard_granularity > 0)?,
            Op::SecureErase { sectors } => {
                within(sectors, caps.max_secure_erase_sectors, caps.max_secure_erase_sectors > 0)?
            }
            Op::WriteZeroes { sectors } => {
                within(sectors, caps.max_write_zeroes_sectors, caps.max_write_zeroes_sectors > 0)?
            }
        };
        if offered { Ok(()) } else { Err(SubmitError::Unsupported) }
    }

    fn check_spans(&self, command: &Command<'_>) -> Result<(), SubmitError> {
        let spans = command.spans;
        if !command.op.has_data() {
            return if spans.is_empty() { Ok(()) } else { Err(SubmitError::BadSpans) };
        }
        let each = |span: &super::Span| {
            span.len > 0
                && span.len.is_multiple_of(SECTOR_BYTES)
                && span.maddr.into_raw().is_multiple_of(4)
                && span.maddr.into_raw().checked_add(span.len.into()).is_some()
        };
        let fits = spans.len() <= usize::from(self.geometry.max_spans)
            && command.data_bytes() <= u64::from(self.geometry.max_transfer_bytes);
        if !spans.is_empty() && fits && spans.iter().all(each) { Ok(()) } else { Err(SubmitError::BadSpans) }
    }
}

/// Whether an operation on a range is offered; an error if it is, but not for so many sectors.
const fn within(sectors: u64, most: u64, offered: bool) -> Result<bool, SubmitError> {
    if offered && sectors > most { Err(SubmitError::OutOfRange) } else { Ok(offered) }
}

/// Keeps the printable ASCII of what a device calls itself, without the padding at its ends.
pub(crate) fn printable(bytes: &[u8]) -> heapless::String<40> {
    let mut text = heapless::String::new();
    for byte in bytes.trim_ascii() {
        let c = if byte.is_ascii_graphic() || *byte == b' ' { char::from(*byte) } else { '?' };
        // Longer than the field of any interface: cut off.
        let _ = text.push(c);
    }
    text
}
