//! The disks of a run, sparse raw files: one with an MBR of two partitions and slices that scenarios agree on, and those that
//! scenarios change as a whole.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;

use crate::failure::{Doing, Result};

/// Bytes of the disk.
pub(super) const DISK_BYTES: u64 = 1 << 30;
/// Bytes of the second disk, whose size changes.
pub(super) const SPARE_BYTES: u64 = 64 << 20;
/// Bytes of the disk on which Dom0 makes tables.
pub(super) const TABLES_BYTES: u64 = 96 << 20;
/// Bytes of the medium in the CD-ROM: not in whole pages, but in whole blocks.
pub(super) const CD_BYTES: u64 = (3 << 20) + 3 * 2048;
/// What the first line of partition 1 is.
pub(super) const PARTITION_MARK: &str = "partition 1 starts here\n";
/// What the first line of the slice at 4 MiB is.
pub(super) const SLICE_MARK: &str = "the slice starts here\n";
/// A slice for file systems.
pub(super) const FILES: &str = "@64M+64M";
/// Where the slice for file systems starts, in bytes, and its length.
pub(super) const FILES_RANGE: (u64, u64) = (64 << 20, 64 << 20);
/// A slice for data that needs no file system.
pub(super) const RAW: &str = "@128M+64M";
/// The partition with a root file system.
pub(super) const ROOT: &str = ":2";

/// The partition of the spare disk that holds a part of a volume group.
pub(super) const SPARE_PHYSICAL: &str = ":2";

/// First sector and number of sectors of the partitions.
const PARTITIONS: [(u32, u32); 2] = [(65_536, 65_536), (1_048_576, 524_288)];
/// The same of the spare disk, whose first one Dom0 makes, and whose end moves.
const SPARE_PARTITIONS: [(u32, u32); 2] = [(0, 0), (65_536, 65_536)];

/// Makes the disk; partition 2 becomes a copy of the root file system `root`.
pub(super) fn make_disk(path: &Path, root: &Path) -> Result<()> {
    let disk = File::create(path).doing("creating the disk image")?;
    let start = u64::from(PARTITIONS[1].0) * 512;
    let mut copy = File::options().write(true).open(path)?;
    io::Seek::seek(&mut copy, io::SeekFrom::Start(start))?;
    io::copy(&mut File::open(root).doing("opening root.ext4 (run images/build first)")?, &mut copy)?;
    disk.set_len(DISK_BYTES)?;
    write_mbr(&disk, PARTITIONS)?;
    disk.write_all_at(PARTITION_MARK.as_bytes(), u64::from(PARTITIONS[0].0) * 512)?;
    disk.write_all_at(SLICE_MARK.as_bytes(), 4 << 20)?;
    Ok(())
}

/// Writes a partition table; a partition of no sectors is none.
fn write_mbr(disk: &File, partitions: [(u32, u32); 2]) -> Result<()> {
    for ((first, count), entry) in partitions.into_iter().zip(0..).filter(|((_, count), _)| *count > 0) {
        let mut bytes = [0, 0, 0, 0, 0x83, 0, 0, 0].to_vec();
        bytes.extend_from_slice(&first.to_le_bytes());
        bytes.extend_from_slice(&count.to_le_bytes());
        disk.write_all_at(&bytes, 446_u64.saturating_add(16_u64.saturating_mul(entry)))?;
    }
    Ok(disk.write_all_at(&[0x55, 0xaa], 510)?)
}

/// Makes the second disk.
pub(super) fn make_spare(path: &Path, bytes: u64) -> Result<()> {
    make_empty(path, bytes)?;
    write_mbr(&File::options().write(true).open(path)?, SPARE_PARTITIONS)
}

/// Makes the medium of the CD-ROM: every line is as long as any other, and tells where it is.
pub(super) fn make_cd(path: &Path) -> Result<()> {
    let lines: String = (0..CD_BYTES / 16).map(|number| format!("line {number:010}\n")).collect();
    std::fs::write(path, lines).doing("creating the CD-ROM's medium")
}

/// Makes an empty disk.
pub(super) fn make_empty(path: &Path, bytes: u64) -> Result<()> {
    File::create(path).and_then(|file| file.set_len(bytes)).doing("creating a disk image")
}

/// Bytes that a sparse file takes on this machine.
pub(super) fn allocated_bytes(path: &Path) -> Result<u64> {
    Ok(std::fs::metadata(path)?.blocks().saturating_mul(512))
}
