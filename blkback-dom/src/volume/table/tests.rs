#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    reason = "tests"
)]

use alloc::string::ToString;
use alloc::vec::Vec;
use core::future::Future;
use core::pin::pin;
use core::task::{Context, Poll, Waker};

use proptest::prelude::*;

use super::super::sectors::{Sectors, crc32};
use super::{TableError, partitions};
use crate::disk::{Capabilities, Disk, DiskId, DiskName, Geometry, Medium};
use crate::volume::{DiskRef, NamedDisk, Partition, Piece, ReadError};

/// A disk that is a slice of bytes.
struct Image(Vec<u8>);

impl Sectors for Image {
    async fn read(&mut self, piece: Piece) -> Result<Vec<u8>, ReadError> {
        let start = piece.sector as usize * 512;
        Ok(self.0[start..start + piece.sectors as usize * 512].to_vec())
    }
}

fn disk(sectors: u64, logical_bytes: u32) -> NamedDisk {
    let about = Disk {
        name: DiskName::Only,
        serial: heapless::String::new(),
        model: heapless::String::new(),
        geometry: Geometry {
            sectors,
            logical_bytes,
            physical_bytes: logical_bytes,
            max_transfer_bytes: 4096,
            command_bytes: 4096,
            max_spans: 1,
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
            read_only: false,
        },
        medium: Medium::Solid,
        present: true,
    };
    NamedDisk { name: "vda".to_string(), disk: DiskRef { controller: 0, disk: DiskId(0) }, about }
}

fn now<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => unreachable!("images answer at once"),
    }
}

fn read(image: &[u8], block: u32) -> Result<Vec<Partition>, TableError> {
    now(partitions(&mut Image(image.to_vec()), &disk(image.len() as u64 / 512, block)))
}

fn borders(partitions: &[Partition]) -> Vec<(u32, u64, u64)> {
    partitions.iter().map(|part| (part.number, part.piece.sector, part.piece.sectors)).collect()
}

fn put32(image: &mut [u8], at: usize, value: u32) {
    image[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

fn put64(image: &mut [u8], at: usize, value: u64) {
    image[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

fn mbr_entry(block: &mut [u8], index: usize, kind: u8, start: u32, blocks: u32) {
    let at = 446 + index * 16;
    block[at + 4] = kind;
    put32(block, at + 8, start);
    put32(block, at + 12, blocks);
    block[510..512].copy_from_slice(&[0x55, 0xaa]);
}

fn sum(bytes: &[u8]) -> u32 {
    !crc32(!0, bytes)
}

/// A disk of 512 blocks with two copies of a GPT of two partitions.
fn gpt(block: usize) -> Vec<u8> {
    let mut image = alloc::vec![0; 512 * block];
    mbr_entry(&mut image, 0, 0xee, 1, 511);
    let mut array = alloc::vec![0; 128 * 128];
    for (index, first, last, name) in [(0, 40, 49, "boot"), (2, 50, 399, "Wurzel-Größe")] {
        let entry = &mut array[index * 128..][..128];
        entry[..16].fill(0xaa);
        for (at, byte) in entry[16..32].iter_mut().enumerate() {
            *byte = (at + index) as u8;
        }
        put64(entry, 32, first);
        put64(entry, 40, last);
        for (at, unit) in name.encode_utf16().enumerate() {
            entry[56 + at * 2..58 + at * 2].copy_from_slice(&unit.to_le_bytes());
        }
    }
    let blocks = array.len() / block;
    for (at, entries) in [(1, 2), (511, 511 - blocks)] {
        image[entries * block..][..array.len()].copy_from_slice(&array);
        let mut header = alloc::vec![0; 92];
        header[..8].copy_from_slice(b"EFI PART");
        put32(&mut header, 8, 0x1_0000);
        put32(&mut header, 12, 92);
        put64(&mut header, 24, at as u64);
        put64(&mut header, 40, 40);
        put64(&mut header, 48, 400);
        put64(&mut header, 72, entries as u64);
        put32(&mut header, 80, 128);
        put32(&mut header, 84, 128);
        put32(&mut header, 88, sum(&array));
        let crc = sum(&header);
        put32(&mut header, 16, crc);
        image[at * block..][..92].copy_from_slice(&header);
    }
    image
}

#[test]
fn a_gpt_is_read() {
    for (block, per_block) in [(512, 1), (4096, 8)] {
        let parts = read(&gpt(block), block as u32).unwrap();
        assert_eq!(borders(&parts), [(1, 40 * per_block, 10 * per_block), (3, 50 * per_block, 350 * per_block)]);
        assert_eq!(parts[0].label.as_deref(), Some("boot"));
        assert_eq!(parts[1].label.as_deref(), Some("Wurzel-Größe"));
        assert_eq!(parts[0].uuid, Some([3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15]));
    }
}

#[test]
fn the_second_copy_serves_when_the_first_is_damaged() {
    for at in [512, 512 + 16, 512 + 80, 2 * 512, 2 * 512 + 40] {
        let mut image = gpt(512);
        image[at] ^= 1;
        assert_eq!(read(&image, 512).unwrap().len(), 2, "byte {at}");
        image[511 * 512 + 20] ^= 1;
        assert_eq!(read(&image, 512), Err(TableError::BadGpt), "byte {at}");
    }
}

#[test]
fn an_mbr_is_read_with_its_logical_partitions() {
    let mut image = alloc::vec![0; 512 * 512];
    mbr_entry(&mut image, 0, 0x83, 10, 20);
    mbr_entry(&mut image, 2, 0x0f, 100, 300);
    mbr_entry(&mut image[100 * 512..], 0, 0x83, 2, 30);
    mbr_entry(&mut image[100 * 512..], 1, 0x05, 50, 60);
    mbr_entry(&mut image[150 * 512..], 0, 0x8e, 1, 40);
    assert_eq!(borders(&read(&image, 512).unwrap()), [(1, 10, 20), (5, 102, 30), (6, 151, 40)]);
    // Round and round.
    mbr_entry(&mut image[150 * 512..], 1, 0x05, 0, 60);
    assert_eq!(read(&image, 512), Err(TableError::BadBorders));
}

#[test]
fn a_disk_without_a_table_has_no_partitions() {
    assert_eq!(read(&[0; 4096], 512), Ok(Vec::new()));
    assert_eq!(read(&[0; 512], 512), Ok(Vec::new()));
    // A FAT boot sector has the signature, and code where the entries would be.
    let mut fat = alloc::vec![0x41; 4096];
    fat[510..512].copy_from_slice(&[0x55, 0xaa]);
    assert_eq!(read(&fat, 512), Ok(Vec::new()));
}

#[test]
fn partitions_that_overlap_or_leave_the_disk_are_refused() {
    for (a, b) in [((10, 20), (29, 5)), ((10, 20), (0, 11)), ((10, 20), (500, 13)), ((10, 20), (u32::MAX, u32::MAX))] {
        let mut image = alloc::vec![0; 512 * 512];
        mbr_entry(&mut image, 0, 0x83, a.0, a.1);
        mbr_entry(&mut image, 1, 0x83, b.0, b.1);
        assert_eq!(read(&image, 512), Err(TableError::BadBorders), "{a:?} {b:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_disk_panics(mut image in proptest::collection::vec(any::<u8>(), 512 * 20), gpt in any::<bool>()) {
        image[510..512].copy_from_slice(&[0x55, 0xaa]);
        for at in [446, 462, 478, 494] {
            image[at] &= 0x80;
        }
        if gpt {
            image[450] = 0xee;
        }
        let _ = read(&image, 512);
    }

    #[test]
    fn no_damaged_gpt_gives_sectors_beyond_the_disk(at in 0..512_usize * 36, value: u8, fix_crc: bool) {
        let mut image = gpt(512);
        image[at] = value;
        if fix_crc {
            let crc = sum(&image[1024..1024 + 128 * 128]);
            put32(&mut image, 512 + 88, crc);
            put32(&mut image, 512 + 16, 0);
            let crc = sum(&image[512..512 + 92]);
            put32(&mut image, 512 + 16, crc);
        }
        if let Ok(parts) = read(&image, 512) {
            for part in parts {
                prop_assert!(part.piece.sector + part.piece.sectors <= 512);
            }
        }
    }
}
