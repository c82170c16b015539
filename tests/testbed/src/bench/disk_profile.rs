//! Where our storage domain's time goes under a steady load, as [`super::profile()`] finds it.

use std::fmt::Write as _;
use std::path::Path;
use std::thread;
use std::time::Duration;

use super::disks::{DiskBed, DiskPlace};
use super::profile::{LOAD_MS, places, sample};
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
    let symbols = image.with_extension("debug");
    let mut report = String::new();
    let ours = |place: &&DiskPlace| place.contender == Contender::Bulkhead;
    for place in bed.places.iter().filter(ours) {
        for (name, options) in LOADS.iter().filter(|(name, _)| name.contains(only)) {
            let script = format!("{LOAD} disk {} {options} --milliseconds {LOAD_MS} >/dev/null 2>&1 &", place.device);
            place.guest.check(&script, XL_LIMIT)?;
            thread::sleep(Duration::from_millis(1500));
            let samples = sample(&bed.machine.logs.join("qmp.sock"))?;
            let _ = writeln!(report, "## {name}\n\n{}", places(&samples, &symbols, &bed.machine.dom0)?);
            place.guest.check("killall load; sleep 1", XL_LIMIT)?;
        }
    }
    println!("{report}");
    Ok(report)
}
