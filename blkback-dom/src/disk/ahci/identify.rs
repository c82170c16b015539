//! What a device says about itself. ATA Command Set 3, section 7.12.6; SCSI for packet devices.

use super::memory::COMMAND_BYTES;
use crate::disk::describe::{MAX_SPANS, printable};
use crate::disk::{Capabilities, Disk, DiskName, Geometry, Medium};

/// Ranges of a trim command: what fits into one block of 512 bytes.
pub(super) const TRIM_RANGES: u64 = 64;
/// Most sectors of a range.
pub(super) const TRIM_SECTORS: u64 = 0xffff;

/// An ATA disk, from `IDENTIFY DEVICE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct AtaData {
    serial: heapless::String<40>,
    model: heapless::String<40>,
    /// Size in logical blocks.
    blocks: u64,
    pub(super) block_bytes: u32,
    physical_bytes: u32,
    /// Queued commands at a time; 0 if it has no queue.
    pub(super) queue: u32,
    fua: bool,
    cache: bool,
    trim: bool,
    rotational: bool,
}

fn word(words: &[u16], index: usize) -> u16 {
    words.get(index).copied().unwrap_or(0)
}

fn number(words: &[u16], first: usize, count: usize) -> u64 {
    (0..count).rev().fold(0_u64, |sum, index| sum << 16 | u64::from(word(words, first.saturating_add(index))))
}

/// Strings have their characters swapped in each word.
fn text(words: &[u16], range: core::ops::Range<usize>) -> heapless::String<40> {
    let mut bytes = heapless::Vec::<u8, 40>::new();
    for word in words.get(range).unwrap_or(&[]) {
        // A range is no longer than 20 words.
        let _ = bytes.extend_from_slice(&word.to_be_bytes());
    }
    printable(&bytes)
}

impl AtaData {
    /// Decodes the 256 words.
    ///
    /// # Errors
    /// What it lacks; the end of a sentence.
    pub(super) fn decode(words: &[u16]) -> Result<Self, &'static str> {
        let bit = |index: usize, bit: u32| u32::from(word(words, index)) >> bit & 1 == 1;
        if bit(0, 15) {
            return Err("is no ATA disk");
        }
        if !bit(83, 10) || !bit(49, 8) {
            return Err("lacks 48-bit addresses or DMA");
        }
        let blocks = number(words, 100, 4);
        if blocks == 0 || blocks >> 48 != 0 {
            return Err("reports an impossible size");
        }
        // Word 106 counts only with 01 in its top bits.
        let sizes = word(words, 106);
        let valid = sizes >> 14 == 0b01;
        let block_bytes = match (valid && sizes & 1 << 12 != 0, number(words, 117, 2)) {
            (false, _) | (true, 256) => 512,
            (true, 2048) => 4096,
            _ => return Err("has logical blocks of neither 512 nor 4096 bytes"),
        };
        let exponent = if valid && sizes & 1 << 13 != 0 { u32::from(sizes & 0xf) } else { 0 };
        let queue = if bit(76, 8) { u32::from(word(words, 75) & 0x1f).saturating_add(1) } else { 0 };
        Ok(Self {
            serial: text(words, 10..20),
            model: text(words, 27..47),
            blocks,
            block_bytes,
            physical_bytes: 512_u32.checked_shl(exponent).unwrap_or(512).clamp(block_bytes, 1 << 20),
            queue,
            fua: bit(84, 6),
            // Whether it is on or off, only we could change it.
            cache: bit(82, 5),
            trim: bit(169, 0),
            rotational: word(words, 217) != 1,
        })
    }

    pub(super) fn describe(&self, port: u8) -> Disk {
        let per_block = self.block_bytes >> 9;
        Disk {
            name: DiskName::Port(port),
            serial: self.serial.clone(),
            model: self.model.clone(),
            geometry: Geometry {
                sectors: self.blocks.saturating_mul(per_block.into()),
                logical_bytes: self.block_bytes,
                physical_bytes: self.physical_bytes,
                max_transfer_bytes: 1 << 20,
                command_bytes: COMMAND_BYTES,
                max_spans: MAX_SPANS,
            },
            capabilities: Capabilities {
                volatile_cache: self.cache,
                fua: self.fua,
                discard_granularity: if self.trim { per_block } else { 0 },
                discard_alignment: 0,
                max_discard_sectors: TRIM_RANGES.saturating_mul(TRIM_SECTORS).saturating_mul(per_block.into()),
                max_secure_erase_sectors: 0,
                max_write_zeroes_sectors: 0,
                shared_slots: 0,
                read_only: false,
            },
            medium: if self.rotational { Medium::Rotational } else { Medium::Solid },
            present: true,
        }
    }
}

/// A CD-ROM of `blocks` blocks of 2048 bytes.
pub(super) fn describe_cd(port: u8, words: &[u16], blocks: u64) -> Disk {
    Disk {
        name: DiskName::Port(port),
        serial: text(words, 10..20),
        model: text(words, 27..47),
        geometry: Geometry {
            sectors: blocks.saturating_mul(4),
            logical_bytes: 2048,
            physical_bytes: 2048,
            max_transfer_bytes: 1 << 20,
            command_bytes: COMMAND_BYTES,
            max_spans: MAX_SPANS,
        },
        capabilities: Capabilities {
            volatile_cache: false,
            fua: false,
            discard_granularity: 0,
            discard_alignment: 0,
            max_discard_sectors: 0,
            max_secure_erase_sectors: 0,
            max_write_zeroes_sectors: 0,
            shared_slots: 0,
            read_only: true,
        },
        medium: Medium::CdRom,
        present: true,
    }
}

/// The size from the answer to `READ CAPACITY (10)`, in blocks; `None` if the blocks are not of 2048 bytes.
pub(super) fn cd_blocks(answer: [u8; 8]) -> Option<u64> {
    let [a, b, c, d, e, f, g, h] = answer;
    let (last, bytes) = (u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h]));
    (bytes == 2048 && last > 0).then(|| u64::from(last).saturating_add(1))
}
