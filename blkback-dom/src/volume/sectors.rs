//! Reading tables off disks.

use alloc::vec::Vec;
use core::fmt;
use core::future::Future;

use super::Piece;
use crate::disk::DiskError;

/// Why sectors were not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadError {
    /// What the disk answered.
    Disk(DiskError),
    /// A guest may write there, so nothing there is believed.
    Guest,
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disk(error) => error.fmt(f),
            Self::Guest => f.write_str("a guest may write there, so it was not read again"),
        }
    }
}

impl From<DiskError> for ReadError {
    fn from(error: DiskError) -> Self {
        Self::Disk(error)
    }
}

/// Reads sectors of the domain's disks.
pub trait Sectors {
    /// Reads whole logical sectors: `piece` in full, at most 256 KiB.
    ///
    /// # Errors
    /// What the disk answered, or that it was not asked.
    fn read(&mut self, piece: Piece) -> impl Future<Output = Result<Vec<u8>, ReadError>>;
}

/// The little-endian number at `offset`; 0 beyond the end, which no checksum lets through.
pub(super) fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    bytes.get(offset..).and_then(<[u8]>::first_chunk).map_or(0, |four| u32::from_le_bytes(*four))
}

/// As [`u32_at`].
pub(super) fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    bytes.get(offset..).and_then(<[u8]>::first_chunk).map_or(0, |eight| u64::from_le_bytes(*eight))
}

/// The reflected CRC-32 that GPT and LVM2 share, without the inversions that GPT has around it.
pub(super) fn crc32(initial: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(initial, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ if crc & 1 == 1 { 0xedb8_8320 } else { 0 })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_the_one_everybody_uses() {
        // The check value of CRC-32/ISO-HDLC.
        assert_eq!(!crc32(!0, b"123456789"), 0xcbf4_3926);
        assert_eq!(crc32(7, b""), 7);
    }
}
