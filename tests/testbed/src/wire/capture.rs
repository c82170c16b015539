//! A capture file of everything on the wire, for a person to read afterwards.

use std::fs::File;
use std::io::BufWriter;
use std::path::Path;
use std::time::Duration;

use pcap_file::pcap::{PcapHeader, PcapPacket, PcapWriter};

use crate::failure::{Doing, Result};

/// Bytes kept of each frame: headers and a little more.
const SNAP_BYTES: usize = 128;
/// The capture stops here, so that a long run does not fill the disk.
const MAX_FILE_BYTES: usize = 256 << 20;

/// An open capture file.
#[derive(Debug)]
pub struct Capture {
    file: PcapWriter<BufWriter<File>>,
    written: usize,
}

impl Capture {
    /// Creates the file.
    ///
    /// # Errors
    /// The file cannot be created.
    pub fn create(path: &Path) -> Result<Self> {
        let file = BufWriter::with_capacity(1 << 18, File::create(path).doing(path.display())?);
        let header = PcapHeader { snaplen: u32::try_from(SNAP_BYTES).unwrap_or(u32::MAX), ..PcapHeader::default() };
        Ok(Self { file: PcapWriter::with_header(file, header).doing(path.display())?, written: 0 })
    }

    /// Records one frame at `now`, counted from the start of the wire.
    pub fn record(&mut self, now: Duration, frame: &[u8]) {
        if self.written >= MAX_FILE_BYTES {
            return;
        }
        let kept = frame.get(..SNAP_BYTES).unwrap_or(frame);
        let packet = PcapPacket::new(now, u32::try_from(frame.len()).unwrap_or(u32::MAX), kept);
        // A full disk ends the capture, not the test.
        self.written = match self.file.write_packet(&packet) {
            Ok(bytes) => self.written.saturating_add(bytes),
            Err(_) => MAX_FILE_BYTES,
        };
    }
}
