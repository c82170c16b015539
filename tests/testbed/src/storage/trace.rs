//! The record of what a disk was told, and what a disk would hold that lost its cache at some point of it.
//!
//! QEMU's `blklogwrites` driver writes the format of Linux's dm-log-writes: a sector with the number of entries,
//! then for each entry a sector that describes it and the data of a write. Entries are in the order in which the
//! disk got the commands.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use crate::failure::{Doing, Result, ensure};

const SECTOR: u64 = 512;
/// The first word of a record.
const MAGIC: u64 = 0x006a_7366_7773_6872;
const FLUSH: u64 = 1;
const DISCARD: u64 = 4;

/// One command.
#[derive(Debug, Clone, Copy)]
struct Entry {
    sector: u64,
    sectors: u64,
    flags: u64,
    /// Where its data is in the record, in bytes.
    data: u64,
}

/// A record, as far as it was complete when it was read.
#[derive(Debug)]
pub(super) struct Trace {
    path: PathBuf,
    entries: Vec<Entry>,
}

impl Trace {
    /// Reads a record, also while QEMU goes on writing it; its count is renewed at every flush.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let file = File::open(path).doing("opening the record of the disk")?;
        let [magic, _, count, _] = words(&file, 0)?;
        ensure(magic == MAGIC, || format!("the record starts with {magic:#x}"))?;
        let mut entries = Vec::new();
        let mut at = SECTOR;
        for _ in 0..count {
            let [sector, sectors, flags, _] = words(&file, at)?;
            let data = at.saturating_add(SECTOR);
            entries.push(Entry { sector, sectors, flags, data });
            let data_sectors = if flags & DISCARD == 0 { sectors } else { 0 };
            at = data.saturating_add(data_sectors.saturating_mul(SECTOR));
        }
        Ok(Self { path: path.to_owned(), entries })
    }

    /// Number of commands.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The positions of flushes from entry `from` on.
    pub(super) fn flushes(&self, from: usize) -> Vec<usize> {
        let flush = |(index, entry): (usize, &Entry)| (entry.flags & FLUSH != 0).then_some(index);
        self.entries.iter().enumerate().skip(from).filter_map(flush).collect()
    }

    /// What the disk surely holds after a power cut at entry `end`: everything before the last flush before it. Of what
    /// came later, `lucky` says by its number which made it all the same.
    pub(super) fn replay(&self, image: &mut Image, end: usize, lucky: impl Fn(usize) -> bool) -> Result<()> {
        let file = File::open(&self.path)?;
        let flushed = self.flushes(0).into_iter().rfind(|flush| *flush < end).unwrap_or(0);
        for (index, entry) in self.entries.iter().enumerate().take(end) {
            if index < flushed || lucky(index) {
                image.apply(&file, entry)?;
            }
        }
        Ok(())
    }
}

/// The first four words of a sector of a record.
fn words(file: &File, at: u64) -> Result<[u64; 4]> {
    let mut bytes = [0; 32];
    file.read_exact_at(&mut bytes, at).doing("reading the record of the disk")?;
    let mut words = [0; 4];
    for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(8)) {
        *word = u64::from_le_bytes(bytes.try_into().unwrap_or_default());
    }
    Ok(words)
}

/// A piece of the disk in memory.
#[derive(Debug, Clone)]
pub(super) struct Image {
    first_sector: u64,
    bytes: Vec<u8>,
}

impl Image {
    /// Reads the piece at `start`, of `len` bytes, out of a disk's file.
    pub(super) fn read(file: &Path, (start, len): (u64, u64)) -> Result<Self> {
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
        File::open(file)?.read_exact_at(&mut bytes, start)?;
        Ok(Self { first_sector: start.checked_div(SECTOR).unwrap_or(0), bytes })
    }

    /// Writes the piece to a file of its own.
    pub(super) fn save(&self, file: &Path) -> Result<()> {
        std::fs::write(file, &self.bytes).doing("writing an image")
    }

    /// Carries out one command, as far as it is within the piece. A discard may do nothing, and does.
    fn apply(&mut self, record: &File, entry: &Entry) -> Result<()> {
        if entry.flags & (DISCARD | FLUSH) != 0 || entry.sector < self.first_sector {
            return Ok(());
        }
        let offset = entry.sector.saturating_sub(self.first_sector).saturating_mul(SECTOR);
        let end = offset.saturating_add(entry.sectors.saturating_mul(SECTOR));
        let range = usize::try_from(offset).unwrap_or(usize::MAX)..usize::try_from(end).unwrap_or(usize::MAX);
        match self.bytes.get_mut(range) {
            Some(bytes) => record.read_exact_at(bytes, entry.data).doing("reading the record of the disk"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A record of: write 1 to sector 8, flush, write 2 to sector 8, write 3 to sector 9.
    fn record(folder: &Path) -> PathBuf {
        let mut bytes = Vec::new();
        let mut sector = |words: [u64; 4], data: Option<u8>| {
            let mut header = words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>();
            header.resize(512, 0);
            bytes.extend(header);
            bytes.extend(data.map(|byte| vec![byte; 512]).unwrap_or_default());
        };
        sector([MAGIC, 1, 5, 512], None);
        sector([8, 1, 0, 0], Some(1));
        sector([0, 0, FLUSH, 0], None);
        sector([8, 1, 0, 0], Some(2));
        sector([9, 1, 0, 0], Some(3));
        sector([8, 2, DISCARD, 0], None);
        let path = folder.join("record");
        std::fs::write(&path, bytes).unwrap();
        path
    }

    #[test]
    fn what_was_not_flushed_is_lost_unless_lucky() {
        let folder = std::env::temp_dir().join(format!("testbed-trace-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let trace = Trace::read(&record(&folder)).unwrap();
        assert_eq!((trace.len(), trace.flushes(0)), (5, vec![1]));
        let empty = Image { first_sector: 8, bytes: vec![0; 1024] };
        let held = |end, lucky: fn(usize) -> bool| {
            let mut image = empty.clone();
            trace.replay(&mut image, end, lucky).unwrap();
            (image.bytes[0], image.bytes[512])
        };
        assert_eq!(held(1, |_| false), (0, 0));
        assert_eq!(held(5, |_| false), (1, 0));
        assert_eq!(held(5, |_| true), (2, 3));
        assert_eq!(held(5, |index| index == 3), (1, 3));
        std::fs::remove_dir_all(folder).unwrap();
    }
}
