#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    reason = "tests"
)]

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::future::Future;
use core::pin::pin;
use core::task::{Context, Poll, Waker};

use proptest::prelude::*;

use super::super::sectors::{Sectors, crc32};
use super::{config, logical_volumes};
use crate::disk::DiskId;
use crate::volume::ReadError;
use crate::volume::{DiskRef, LogicalVolume, Piece};

const INITIAL_CRC: u32 = 0xf597_a6cf;
/// Sectors of each disk.
const DISK: u64 = 4096;
/// Where the metadata area is, and its size.
const AREA: usize = 4096;
const AREA_SIZE: usize = 16384;

/// Disks that are slices of bytes.
struct Images(Vec<Vec<u8>>);

impl Sectors for Images {
    async fn read(&mut self, piece: Piece) -> Result<Vec<u8>, ReadError> {
        let start = piece.sector as usize * 512;
        Ok(self.0[usize::from(piece.disk.disk.0)][start..start + piece.sectors as usize * 512].to_vec())
    }
}

fn now<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => unreachable!("images answer at once"),
    }
}

fn whole(disk: usize) -> Piece {
    Piece { disk: DiskRef { controller: 0, disk: DiskId(disk as u16) }, sector: 0, sectors: DISK }
}

fn volumes(images: &[Vec<u8>]) -> Vec<LogicalVolume> {
    let candidates: Vec<_> = (0..images.len()).map(|disk| (format!("disk{disk}"), whole(disk))).collect();
    now(logical_volumes(&mut Images(images.to_vec()), &candidates)).0
}

fn put32(image: &mut [u8], at: usize, value: u32) {
    image[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

fn put64(image: &mut [u8], at: usize, value: u64) {
    image[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

fn id(disk: usize) -> String {
    format!("{disk}23456-abcd-efgh-ijkl-mnop-qrst-uvwxyz")
}

/// A physical volume with a text at `offset` in its metadata area.
fn physical(disk: usize, text: &str, offset: usize) -> Vec<u8> {
    let mut image = alloc::vec![0; DISK as usize * 512];
    let label = &mut image[512..1024];
    label[..8].copy_from_slice(b"LABELONE");
    put64(label, 8, 1);
    put32(label, 20, 32);
    label[24..32].copy_from_slice(b"LVM2 001");
    label[32..64].copy_from_slice(id(disk).replace('-', "").as_bytes());
    put64(label, 64, DISK * 512);
    put64(label, 72, 1 << 20);
    put64(label, 104, AREA as u64);
    put64(label, 112, AREA_SIZE as u64);
    let crc = crc32(INITIAL_CRC, &label[20..]);
    put32(label, 16, crc);
    let area = &mut image[AREA..AREA + AREA_SIZE];
    area[4..20].copy_from_slice(b" LVM2 x[5A%r0N*>");
    put32(area, 20, 1);
    put64(area, 24, AREA as u64);
    put64(area, 32, AREA_SIZE as u64);
    put64(area, 40, offset as u64);
    put64(area, 48, text.len() as u64 + 1);
    let mut bytes = text.as_bytes().to_vec();
    bytes.push(0);
    put32(area, 56, crc32(INITIAL_CRC, &bytes));
    let crc = crc32(INITIAL_CRC, &area[4..512]);
    put32(area, 0, crc);
    for (at, byte) in bytes.iter().enumerate() {
        let at = if offset + at < AREA_SIZE { offset + at } else { offset + at - AREA_SIZE + 512 };
        area[at] = *byte;
    }
    image
}

fn segment(number: u32, start: u32, count: u32, more: &str) -> String {
    format!("segment{number} {{\nstart_extent = {start}\nextent_count = {count}\n{more}\n}}\n")
}

fn volume(name: &str, status: &str, segments: &[String]) -> String {
    format!(
        "{name} {{\nid = \"x\"\nstatus = [{status}]\nflags = []\nsegment_count = {}\n{}}}\n",
        segments.len(),
        segments.concat()
    )
}

const RW: &str = "\"READ\", \"WRITE\", \"VISIBLE\"";
const LINEAR: &str = "type = \"striped\"\nstripe_count = 1\nstripes = [\n\"pv0\", 10\n]";
const STRIPED: &str =
    "type = \"striped\"\nstripe_count = 2\nstripe_size = 16\nstripes = [\n\"pv0\", 50,\n\"pv1\", 60\n]";

/// The text of a group of two disks with extents of 32 sectors.
fn group(seqno: u32, volumes: &str) -> String {
    let member = |disk: usize| {
        format!(
            "pv{disk} {{\nid = \"{}\"\ndevice = \"/dev/sd{disk}\"\t# Hint only\npe_start = 64\npe_count = 120\n}}\n",
            id(disk)
        )
    };
    format!(
        "# a comment\nvg0 {{\nid = \"group-id\"\nseqno = {seqno}\nformat = \"lvm2\"\nstatus = [\"RESIZEABLE\", \"READ\", \"WRITE\"]\n\
         flags = []\nextent_size = 32\nmax_lv = 0\nphysical_volumes {{\n{}{}}}\nlogical_volumes {{\n{volumes}}}\n}}\n\
         contents = \"Text Format Volume Group\"\nversion = 1\ndescription = \"\"\ncreation_time = 1700000000 # then\n",
        member(0),
        member(1)
    )
}

fn images(text: &str) -> Vec<Vec<u8>> {
    alloc::vec![physical(0, text, 512), physical(1, text, 512)]
}

#[test]
fn linear_and_striped_volumes_are_found() {
    let text = group(
        3,
        &[
            volume("root", RW, &[segment(1, 0, 20, LINEAR), segment(2, 20, 4, STRIPED)]),
            volume("fast", RW, &[segment(1, 0, 8, STRIPED)]),
        ]
        .concat(),
    );
    let found = volumes(&images(&text));
    assert_eq!(
        found.iter().map(|v| (v.group.as_str(), v.name.as_str())).collect::<Vec<_>>(),
        [("vg0", "root"), ("vg0", "fast")]
    );
    let root = found[0].map.as_ref().unwrap();
    assert_eq!(root.sectors(), 24 * 32);
    let at = |sector| root.piece(sector, 1).map(|piece| (piece.disk.disk.0, piece.sector));
    assert_eq!(at(0), Some((0, 64 + 10 * 32)));
    assert_eq!(at(639), Some((0, 64 + 10 * 32 + 639)));
    assert_eq!(at(640), Some((0, 64 + 50 * 32)));
    assert_eq!(at(656), Some((1, 64 + 60 * 32)));
    assert_eq!(at(672), Some((0, 64 + 50 * 32 + 16)));
    assert_eq!(at(768), None);
}

#[test]
fn a_text_may_go_round_the_end_of_its_area() {
    let text = group(1, &volume("root", RW, &[segment(1, 0, 20, LINEAR)]));
    for offset in [512, 8192, AREA_SIZE - 1, AREA_SIZE - text.len(), AREA_SIZE - text.len() - 1] {
        let found = volumes(&[physical(0, &text, offset)]);
        assert_eq!(found.len(), 1, "{offset}");
        assert!(found[0].map.is_ok());
    }
}

#[test]
fn the_newest_text_counts() {
    let old = group(4, &volume("root", RW, &[segment(1, 0, 1, LINEAR)]));
    let new = group(5, &volume("root", RW, &[segment(1, 0, 2, LINEAR)]));
    for (first, second) in [(&old, &new), (&new, &old)] {
        let found = volumes(&[physical(0, first, 512), physical(1, second, 512)]);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].map.as_ref().unwrap().sectors(), 64);
    }
}

#[test]
fn damage_anywhere_is_noticed() {
    let text = group(1, &volume("root", RW, &[segment(1, 0, 20, LINEAR)]));
    let good = physical(0, &text, 512);
    let label = 512..1024;
    let header = AREA..AREA + 512;
    let body = AREA + 512..AREA + 512 + text.len();
    // The label's magic decides whether there is a label at all, and its number must be right.
    for at in label.step_by(7).chain(header.step_by(7)).chain(body.step_by(13)) {
        let mut image = good.clone();
        image[at] ^= 0x20;
        assert_eq!(volumes(&[image]), [], "byte {at}");
    }
}

#[test]
fn what_is_not_supported_is_named() {
    let case = |volume: &str| volumes(&images(&group(1, volume))).remove(0).map.unwrap_err();
    for (kind, more) in [("thin", ""), ("raid1", ""), ("mirror", ""), ("snapshot", ""), ("cache", ""), ("error", "")] {
        let why = case(&volume("lv", RW, &[segment(1, 0, 4, &format!("type = \"{kind}\"{more}"))]));
        assert!(why.contains(kind), "{why}");
    }
    for (segments, words) in [
        (alloc::vec![segment(1, 0, 20, "type = \"striped\"\nstripe_count = 1\nstripes = [\"pv9\", 0]")], "pv9"),
        (alloc::vec![segment(1, 0, 20, "type = \"striped\"\nstripe_count = 1\nstripes = [\"pv0\", 101]")], "leaves"),
        (
            alloc::vec![segment(
                1,
                0,
                20,
                "type = \"striped\"\nstripe_count = 1\nstripes = [\"pv0\", 18446744073709551615]"
            )],
            "leaves",
        ),
        (alloc::vec![segment(1, 1, 20, LINEAR)], "gap"),
        (alloc::vec![segment(1, 0, 4, LINEAR), segment(2, 5, 4, LINEAR)], "gap"),
        (alloc::vec![segment(1, 0, 3, STRIPED)], "no sense"),
        (
            alloc::vec![segment(
                1,
                0,
                4,
                "type = \"striped\"\nstripe_count = 2\nstripe_size = 16\nstripes = [\"pv0\", 0]"
            )],
            "no sense",
        ),
        (alloc::vec![segment(1, 0, 4, "type = \"striped\"\nstripe_count = 0\nstripes = []")], "no sense"),
        (alloc::vec![], "no segments"),
    ] {
        let why = case(&volume("lv", RW, &segments));
        assert!(why.contains(words), "{why:?} should say {words:?}");
    }
    let linear = [segment(1, 0, 4, LINEAR)];
    assert!(case(&volume("lv", "\"READ\", \"VISIBLE\"", &linear)).contains("read-only"));
    assert!(case(&volume("lv", &format!("{RW}, \"PVMOVE\""), &linear)).contains("PVMOVE"));
    let exported = group(1, &volume("lv", RW, &linear)).replacen("\"RESIZEABLE\"", "\"EXPORTED\"", 1);
    assert!(volumes(&images(&exported))[0].map.as_ref().unwrap_err().contains("EXPORTED"));
}

#[test]
fn a_volume_on_a_missing_disk_is_refused_and_the_others_are_not() {
    let text = group(
        1,
        &[volume("one", RW, &[segment(1, 0, 4, LINEAR)]), volume("two", RW, &[segment(1, 0, 4, STRIPED)])].concat(),
    );
    let found = volumes(&[physical(0, &text, 512)]);
    assert!(found[0].map.is_ok());
    assert_eq!(found[1].map, Err("physical volume pv1 is missing".to_string()));
}

#[test]
fn hidden_volumes_are_not_shown() {
    let text = group(1, &volume("lv_rmeta_0", "\"READ\", \"WRITE\"", &[segment(1, 0, 4, LINEAR)]));
    assert_eq!(volumes(&images(&text)), []);
}

#[test]
fn quotes_in_a_text_may_be_escaped() {
    // As in the description that lvcreate leaves behind.
    let tree = config::parse(r#"description = "lvcreate \"a|b\\c|\" -n x" version = 1 odd = "\\" "#).unwrap();
    assert_eq!(tree.text("description"), Some(r#"lvcreate "a|b\c|" -n x"#));
    assert_eq!((tree.number("version"), tree.text("odd")), (Some(1), Some("\\")));
    assert!(config::parse(r#"open = "\""#).is_none());
}

#[test]
fn a_label_that_lvm2_wrote_has_the_checksum_that_we_compute() {
    // pvcreate of LVM2 2.03.16 on a disk of 64 MiB.
    let mut label = alloc::vec![0; 512];
    label[..8].copy_from_slice(b"LABELONE");
    put64(&mut label, 8, 1);
    put32(&mut label, 20, 32);
    label[24..32].copy_from_slice(b"LVM2 001");
    label[32..64].copy_from_slice(b"lv1o9j57TTRUksc0f4VETWuJMcvY9cOS");
    put64(&mut label, 64, 64 << 20);
    put64(&mut label, 72, 1 << 20);
    put64(&mut label, 104, 4096);
    put64(&mut label, 112, 0xff000);
    put32(&mut label, 136, 2);
    put32(&mut label, 140, 1);
    assert_eq!(crc32(INITIAL_CRC, &label[20..]), 0xf698_e1c0);
}

#[test]
fn a_text_too_deep_is_refused() {
    assert!(config::parse(&"a {".repeat(100_000)).is_none());
    assert!(config::parse(&"a = [".repeat(10)).is_none());
    assert!(config::parse(&"a = 1\n".repeat(1000)).is_some());
    assert!(config::parse(&"a = 1\n".repeat(100_000)).is_none());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_text_panics(text in ".{0,400}") {
        let _ = config::parse(&text);
    }

    #[test]
    fn no_damaged_text_leaves_its_disks(at in 0..1200_usize, byte in 0x20..0x7f_u8, len in 1..6_usize) {
        let mut text = group(1, &volume("root", RW, &[segment(1, 0, 20, LINEAR), segment(2, 20, 4, STRIPED)])).into_bytes();
        let at = at % text.len();
        let end = (at + len).min(text.len());
        text[at..end].fill(byte);
        for volume in volumes(&images(core::str::from_utf8(&text).unwrap())) {
            if let Ok(map) = volume.map {
                for piece in map.pieces() {
                    prop_assert!(piece.sector + piece.sectors <= DISK);
                }
            }
        }
    }

    #[test]
    fn no_disk_panics(mut image in proptest::collection::vec(any::<u8>(), 8192), fix: bool) {
        image[512..520].copy_from_slice(b"LABELONE");
        image[536..544].copy_from_slice(b"LVM2 001");
        put64(&mut image, 520, 1);
        if fix {
            put32(&mut image, 512 + 20, 32);
            let crc = crc32(INITIAL_CRC, &image[532..1024]);
            put32(&mut image, 512 + 16, crc);
        }
        image.resize(DISK as usize * 512, 0);
        let _ = volumes(&[image]);
    }
}
