//! The guest that all contenders share: the image with hardware drivers, started as the stock guest is, and the load
//! generator.
//!
//! Archives of an initramfs may follow each other, and of two files with one name the later wins: so nothing has to
//! be built but one archive with what is new.

use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::path::Path;

use crate::cpio::Archive;
use crate::failure::{Doing, Result};

/// Where the generator lies in guests and in Dom0.
pub const LOAD: &str = "/usr/bin/load";

/// Writes a guest's initramfs: that at `base`, the start of the stock guest, and the generator at `load`.
///
/// # Errors
/// A file cannot be read or written.
pub fn write(base: &Path, load: &Path, to: &Path) -> Result<()> {
    let mut file = BufWriter::with_capacity(1 << 20, File::create(to).doing(to.display())?);
    file.write_all(&fs::read(base).doing(base.display())?)?;
    let mut archive = Archive::new(file);
    archive.file("/init", &fs::read("images/guest/init").doing("images/guest/init")?, true)?;
    archive.file(LOAD, &fs::read(load).doing(load.display())?, true)?;
    archive.finish().map(drop).doing("writing the guest's initramfs")
}
