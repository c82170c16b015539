//! Where our storage domain's time goes under a steady load, as [`super::profile()`] finds it.

use std::path::Path;

use super::disks::DiskBed;
use super::profile::{LOAD_MS, Sampler};
use super::ramdisk::LOAD;
use super::samples::Contender;
use crate::failure::Result;
use crate::guest::XL_LIMIT;

/// A steady load: its name, and the generator's options.
const LOADS: &[(&str, &str)] = &[
    ("random read, depth 1", "--depth 1"),
    ("random read, depth 32", "--depth 32"),
    ("random write, depth 32", "--depth 32 --reads 0"),
    ("sequential read 128 KiB, depth 4", "--depth 4 --sequential --block 131072"),
    ("sequential read 1 MiB, depth 4", "--depth 4 --sequential --block 1048576"),
];

/// Samples our domain under every load, and returns the report.
///
/// # Errors
/// A tool failed.
pub fn run(bed: &DiskBed, image: &Path, only: &str) -> Result<String> {
    let mut report = String::new();
    for place in bed.places.iter().filter(|place| place.contender == Contender::Bulkhead) {
        let symbols = image.with_extension("debug");
        let sampler = Sampler { machine: &bed.machine, symbols, guest: &place.guest, wire: None };
        for (name, options) in LOADS.iter().filter(|(name, _)| name.contains(only)) {
            let script = format!("{LOAD} disk {} {options} --milliseconds {LOAD_MS} >/dev/null 2>&1 &", place.device);
            report.push_str(&sampler.section(name, || place.guest.check(&script, XL_LIMIT).map(drop))?);
        }
    }
    Ok(report)
}
