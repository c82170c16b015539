//! Commands, as FISes and packets. Serial ATA AHCI 1.3.1, section 4.2; ATA Command Set 3; MMC for packets.

use crate::disk::Op;
use crate::disk::words::low32;

/// ATA commands.
mod ata {
    pub(super) const DATA_SET_MANAGEMENT: u8 = 0x06;
    pub(super) const READ_DMA_EXT: u8 = 0x25;
    pub(super) const WRITE_DMA_EXT: u8 = 0x35;
    pub(super) const WRITE_DMA_FUA_EXT: u8 = 0x3d;
    pub(super) const READ_FPDMA_QUEUED: u8 = 0x60;
    pub(super) const WRITE_FPDMA_QUEUED: u8 = 0x61;
    pub(super) const PACKET: u8 = 0xa0;
    pub(super) const IDENTIFY_PACKET_DEVICE: u8 = 0xa1;
    pub(super) const STANDBY_IMMEDIATE: u8 = 0xe0;
    pub(super) const FLUSH_CACHE_EXT: u8 = 0xea;
    pub(super) const IDENTIFY_DEVICE: u8 = 0xec;
}
/// Addresses are blocks.
const LBA: u8 = 1 << 6;
/// Force unit access, in the device field of a queued write.
const FUA: u8 = 1 << 7;
/// Trim, in the features of data set management.
const TRIM: u8 = 1;
/// Data by DMA, in the features of a packet.
const PACKET_DMA: u8 = 1;

/// The first 20 bytes of a command FIS, and the packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Fis {
    pub(super) words: [u64; 3],
    pub(super) packet: Option<[u64; 2]>,
}

/// A register FIS to the device.
fn register(command: u8, features: u16, device: u8, lba: u64, count: u16) -> Fis {
    /// Register FIS, host to device; it is a command.
    const H2D: u8 = 0x27;
    const IS_COMMAND: u8 = 1 << 7;
    let [f0, f1] = features.to_le_bytes();
    let [c0, c1] = count.to_le_bytes();
    let [l0, l1, l2, l3, l4, l5, ..] = lba.to_le_bytes();
    Fis {
        words: [
            u64::from_le_bytes([H2D, IS_COMMAND, command, f0, l0, l1, l2, device]),
            u64::from_le_bytes([l3, l4, l5, f1, c0, c1, 0, 0]),
            0,
        ],
        packet: None,
    }
}

/// How a command is given to a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// Queued, by this tag.
    Queued(u8),
    /// By itself.
    Alone,
    /// As a packet.
    Packet,
}

/// A command of an operation on `blocks` blocks from `lba` on. 65536 blocks are 0 in the count.
pub(super) fn operation(op: Op, mode: Mode, lba: u64, blocks: u32) -> Fis {
    let [c0, c1, ..] = blocks.to_le_bytes();
    let count = u16::from_le_bytes([c0, c1]);
    match (op, mode) {
        (_, Mode::Packet) => read_cd(low32(lba), blocks),
        (Op::Read, Mode::Queued(tag)) => queued(ata::READ_FPDMA_QUEUED, tag, LBA, lba, count),
        (Op::Write, Mode::Queued(tag)) => queued(ata::WRITE_FPDMA_QUEUED, tag, LBA, lba, count),
        (Op::WriteFua, Mode::Queued(tag)) => queued(ata::WRITE_FPDMA_QUEUED, tag, LBA | FUA, lba, count),
        (Op::Read, Mode::Alone) => register(ata::READ_DMA_EXT, 0, LBA, lba, count),
        (Op::Write, Mode::Alone) => register(ata::WRITE_DMA_EXT, 0, LBA, lba, count),
        (Op::WriteFua, Mode::Alone) => register(ata::WRITE_DMA_FUA_EXT, 0, LBA, lba, count),
        (Op::Discard { .. }, _) => register(ata::DATA_SET_MANAGEMENT, TRIM.into(), LBA, 0, 1),
        (Op::Flush | Op::WriteZeroes { .. } | Op::SecureErase { .. }, _) => {
            register(ata::FLUSH_CACHE_EXT, 0, LBA, 0, 0)
        }
    }
}

/// The count is where the features are, and the tag where the count is.
fn queued(command: u8, tag: u8, device: u8, lba: u64, count: u16) -> Fis {
    register(command, count, device, lba, u16::from(tag) << 3)
}

/// Identifies a disk, or a packet device.
pub(super) fn identify(packet: bool) -> Fis {
    register(if packet { ata::IDENTIFY_PACKET_DEVICE } else { ata::IDENTIFY_DEVICE }, 0, 0, 0, 0)
}

/// Parks the heads.
pub(super) fn standby() -> Fis {
    register(ata::STANDBY_IMMEDIATE, 0, LBA, 0, 0)
}

/// Flushes the cache.
pub(super) fn flush() -> Fis {
    register(ata::FLUSH_CACHE_EXT, 0, LBA, 0, 0)
}

fn packet(bytes: [u8; 12]) -> Fis {
    let [a, b, c, d, e, f, g, h, i, j, k, l] = bytes;
    let mut fis = register(ata::PACKET, PACKET_DMA.into(), 0, 0, 0);
    fis.packet = Some([u64::from_le_bytes([a, b, c, d, e, f, g, h]), u64::from_le_bytes([i, j, k, l, 0, 0, 0, 0])]);
    fis
}

/// `READ (12)`.
fn read_cd(lba: u32, blocks: u32) -> Fis {
    let ([a, b, c, d], [e, f, g, h]) = (lba.to_be_bytes(), blocks.to_be_bytes());
    packet([0xa8, 0, a, b, c, d, e, f, g, h, 0, 0])
}

/// `READ CAPACITY (10)`: eight bytes.
pub(super) fn read_capacity() -> Fis {
    packet([0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
}

/// The ranges that trim `count` blocks from `first` on: address in the low 48 bits, count above.
pub(super) fn trim_ranges(first: u64, count: u64, most: u64) -> impl Iterator<Item = u64> {
    (0..count.div_ceil(most)).map(move |index| {
        let done = index.saturating_mul(most);
        first.saturating_add(done) & 0xffff_ffff_ffff | count.saturating_sub(done).min(most) << 48
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_where_the_device_looks_for_them() {
        let fis = operation(Op::Read, Mode::Queued(5), 0x0605_0403_0201, 0x1234);
        assert_eq!(fis.words[0].to_le_bytes(), [0x27, 0x80, 0x60, 0x34, 1, 2, 3, 0x40]);
        assert_eq!(fis.words[1].to_le_bytes(), [4, 5, 6, 0x12, 5 << 3, 0, 0, 0]);
        let fis = operation(Op::WriteFua, Mode::Alone, 7, 65536);
        assert_eq!(fis.words[0].to_le_bytes(), [0x27, 0x80, 0x3d, 0, 7, 0, 0, 0x40]);
        assert_eq!(fis.words[1].to_le_bytes(), [0; 8]);
    }

    #[test]
    fn trim_covers_all_blocks_once() {
        let ranges: alloc::vec::Vec<u64> = trim_ranges(10, 0x1_0005, 0xffff).collect();
        assert_eq!(ranges, [0xffff << 48 | 10, 6 << 48 | 0x1_0009]);
    }
}
