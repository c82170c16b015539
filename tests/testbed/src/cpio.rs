//! Writes cpio archives in the `newc` form, the one the Linux kernel unpacks as an initramfs.
//!
//! Initramfs archives may follow each other in one file, so the files of one run (domain images, `xl`
//! configurations) go in as a second archive and the cached Dom0 image stays as it is.
//! Format: Linux, `Documentation/driver-api/early-userspace/buffer-format.rst`.

use std::collections::BTreeSet;
use std::io::{self, Write};

const MODE_DIRECTORY: u32 = 0o040_755;
const MODE_FILE: u32 = 0o100_644;
const MODE_PROGRAM: u32 = 0o100_755;

/// A cpio archive being written to `W`.
#[derive(Debug)]
pub struct Archive<W> {
    to: W,
    inode: u32,
    directories: BTreeSet<String>,
}

impl<W: Write> Archive<W> {
    /// Starts an archive at the current position of `to`, which must be a multiple of 4 bytes.
    pub fn new(to: W) -> Self {
        Self { to, inode: 1, directories: BTreeSet::new() }
    }

    /// Adds a file at the absolute `path` with the directories above it.
    ///
    /// # Errors
    /// What the writer reports; `InvalidInput` for content of 4 GiB or more.
    pub fn file(&mut self, path: &str, content: &[u8], executable: bool) -> io::Result<()> {
        let path = path.trim_start_matches('/');
        for (end, _) in path.match_indices('/') {
            let directory = path.get(..end).unwrap_or_default();
            if self.directories.insert(directory.to_owned()) {
                self.entry(directory, MODE_DIRECTORY, &[])?;
            }
        }
        self.entry(path, if executable { MODE_PROGRAM } else { MODE_FILE }, content)
    }

    /// Writes the trailer and gives the writer back.
    ///
    /// # Errors
    /// What the writer reports.
    pub fn finish(mut self) -> io::Result<W> {
        self.entry("TRAILER!!!", 0, &[])?;
        self.to.flush()?;
        Ok(self.to)
    }

    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) -> io::Result<()> {
        let size = u32::try_from(content.len()).map_err(io::Error::other)?;
        let name_size = name.len().saturating_add(1);
        self.inode = self.inode.wrapping_add(1);
        // magic, ino, mode, uid, gid, nlink, mtime, filesize, dev x2, rdev x2, namesize, check
        write!(
            self.to,
            "070701{:08X}{mode:08X}{:08X}{:08X}{:08X}{:08X}{size:08X}{:08X}{:08X}{:08X}{:08X}{name_size:08X}{:08X}",
            self.inode, 0, 0, 1, 0, 0, 0, 0, 0, 0
        )?;
        self.to.write_all(name.as_bytes())?;
        // The 110-byte header and the name together, then the content, are padded to 4 bytes.
        self.pad(name_size.saturating_add(110), 1)?;
        self.to.write_all(content)?;
        self.pad(content.len(), 0)
    }

    /// Writes `terminator` zero bytes and then as many as make `written` a multiple of 4.
    fn pad(&mut self, written: usize, terminator: usize) -> io::Result<()> {
        let padding = written.next_multiple_of(4).saturating_sub(written);
        let zeroes = [0_u8; 4];
        self.to.write_all(zeroes.get(..padding.saturating_add(terminator)).unwrap_or(&zeroes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_padded_to_four_bytes() {
        let mut archive = Archive::new(Vec::new());
        for length in 0..9_usize {
            archive.file(&format!("/root/{}", "x".repeat(length)), &vec![1; length], false).expect("in memory");
        }
        let bytes = archive.finish().expect("in memory");
        assert_eq!(bytes.len() % 4, 0);
        for (at, _) in String::from_utf8_lossy(&bytes).match_indices("070701") {
            assert_eq!(at % 4, 0, "header at {at}");
        }
    }

    #[test]
    fn directories_come_once_and_before_their_files() {
        let mut archive = Archive::new(Vec::new());
        archive.file("/a/b/one", b"1", true).expect("in memory");
        archive.file("/a/b/two", b"2", false).expect("in memory");
        let text = String::from_utf8(archive.finish().expect("in memory")).expect("ASCII");
        let names: Vec<_> = text.split("070701").filter_map(|e| e.get(104..)?.split('\0').next()).collect();
        assert_eq!(names, ["a", "a/b", "a/b/one", "a/b/two", "TRAILER!!!"]);
    }
}
