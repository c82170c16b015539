//! The disk of a run: a sparse raw file with an MBR of two partitions, and slices that scenarios agree on.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;

use crate::failure::{Doing, Result};

/// Bytes of the disk.
pub(super) const DISK_BYTES: u64 = 1 << 30;
/// Bytes of the second disk, whose size changes.
pub(super) const SPARE_BYTES: u64 = 64 << 20;
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

/// First sector and number of sectors of the partitions.
const PARTITIONS: [(u32, u32); 2] = [(65_536, 65_536), (1_048_576, 524_288)];

/// Makes the disk; partition 2 becomes a copy of the root file system `root`.
pub(super) fn make_disk(path: &Path, root: &Path) -> Result<()> {
    let disk = File::create(path).doing("creating the disk image")?;
    let start = u64::from(PARTITIONS[1].0) * 512;
    let mut copy = File::options().write(true).open(path)?;
    io::Seek::seek(&mut copy, io::SeekFrom::Start(start))?;
    io::copy(&mut File::open(root).doing("opening root.ext4 (run images/build first)")?, &mut copy)?;
    disk.set_len(DISK_BYTES)?;
    for ((first, count), entry) in PARTITIONS.into_iter().zip(0..) {
        let mut bytes = [0, 0, 0, 0, 0x83, 0, 0, 0].to_vec();
        bytes.extend_from_slice(&first.to_le_bytes());
        bytes.extend_from_slice(&count.to_le_bytes());
        disk.write_all_at(&bytes, 446_u64.saturating_add(16_u64.saturating_mul(entry)))?;
    }
    disk.write_all_at(&[0x55, 0xaa], 510)?;
    disk.write_all_at(PARTITION_MARK.as_bytes(), u64::from(PARTITIONS[0].0) * 512)?;
    disk.write_all_at(SLICE_MARK.as_bytes(), 4 << 20)?;
    Ok(())
}

/// Makes an empty disk.
pub(super) fn make_empty(path: &Path, bytes: u64) -> Result<()> {
    File::create(path).and_then(|file| file.set_len(bytes)).doing("creating a disk image")
}

/// Bytes that a sparse file takes on this machine.
pub(super) fn allocated_bytes(path: &Path) -> Result<u64> {
    Ok(std::fs::metadata(path)?.blocks().saturating_mul(512))
}
