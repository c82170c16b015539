//! Direct I/O on a block device with a given number of requests under way: one thread for each.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;

use crate::Window;

/// Linux's `O_DIRECT` on x86: past the page cache.
const O_DIRECT: i32 = 0x4000;
/// What the kernel wants of a buffer's address for direct I/O.
const ALIGNMENT: usize = 4096;

/// What to do to a disk.
#[derive(Debug, Clone, Args)]
pub(crate) struct Disk {
    /// The block device; writes destroy what it holds.
    path: PathBuf,
    /// Bytes of a request.
    #[arg(long, default_value_t = 4096)]
    block: usize,
    /// Requests under way.
    #[arg(long, default_value_t = 1)]
    depth: u64,
    /// Reads among 100 requests; the others write.
    #[arg(long, default_value_t = 100)]
    reads: u64,
    /// One request after the other instead of anywhere.
    #[arg(long)]
    sequential: bool,
    /// Flush the disk's cache after every write.
    #[arg(long)]
    flush: bool,
    /// The part of the disk that is used, from its start.
    #[arg(long, default_value_t = 192)]
    span_mib: u64,
    #[command(flatten)]
    window: Window,
    /// Milliseconds to go on after measuring: others may measure a little later.
    #[arg(long, default_value_t = 0)]
    cool_down_ms: u64,
}

/// What a thread has done.
#[derive(Debug, Default)]
struct Done {
    /// The latencies of the requests that ended in the window.
    latencies: Vec<Duration>,
    /// Requests in all.
    all: u64,
}

/// Where the next sequential request starts, in blocks.
type Cursor = Arc<AtomicU64>;

/// Does I/O for the window; prints how many requests ended in it, in which time, their latencies, and how many there
/// were in all.
///
/// # Errors
/// The device cannot be opened, or a request failed.
pub(crate) fn run(disk: &Disk) -> io::Result<String> {
    let started = Instant::now();
    let cursor = Cursor::default();
    let mut threads = Vec::new();
    for number in 0..disk.depth {
        let (disk, cursor) = (disk.clone(), Arc::clone(&cursor));
        threads.push(thread::spawn(move || worker(&disk, &cursor, number, started)));
    }
    let Done { mut latencies, mut all } = Done::default();
    for thread in threads {
        let done = thread.join().map_err(|_| io::Error::other("a thread panicked"))??;
        latencies.extend(done.latencies);
        all = all.saturating_add(done.all);
    }
    latencies.sort_unstable();
    let percentile = |percent: usize| {
        let index = latencies.len().saturating_mul(percent) / 100;
        latencies.get(index).or(latencies.last()).map_or(0, Duration::as_micros)
    };
    Ok(format!(
        "ios {} us {} p50 {} p99 {} all {all}",
        latencies.len(),
        disk.window.length().as_micros(),
        percentile(50),
        percentile(99)
    ))
}

/// One request after the other.
fn worker(disk: &Disk, cursor: &Cursor, number: u64, started: Instant) -> io::Result<Done> {
    let file = OpenOptions::new().read(true).write(disk.reads < 100).custom_flags(O_DIRECT).open(&disk.path)?;
    let mut memory = vec![0xA5; disk.block.saturating_add(ALIGNMENT)];
    let offset = memory.as_ptr().align_offset(ALIGNMENT);
    let end = offset.saturating_add(disk.block);
    let buffer = memory.get_mut(offset..end).ok_or_else(|| io::Error::other("no aligned buffer"))?;
    let blocks = (disk.span_mib << 20).checked_div(u64::try_from(disk.block).unwrap_or(u64::MAX)).unwrap_or(1).max(1);
    // Any odd seed that differs between threads.
    let mut random = number.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut done = Done::default();
    let until = disk.window.warm_up().saturating_add(disk.window.length());
    let end = until.saturating_add(Duration::from_millis(disk.cool_down_ms));
    loop {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let block = if disk.sequential { cursor.fetch_add(1, Ordering::Relaxed) } else { random };
        let position = block.checked_rem(blocks).unwrap_or(0).wrapping_mul(u64::try_from(disk.block).unwrap_or(0));
        // The upper bits decide, so that the choice does not depend on the place.
        let reads = (random >> 40) % 100 < disk.reads;
        let before = started.elapsed();
        request(&file, buffer, position, reads, disk.flush)?;
        let after = started.elapsed();
        done.all = done.all.saturating_add(1);
        if after >= disk.window.warm_up() && after < until {
            done.latencies.push(after.saturating_sub(before));
        }
        if after >= end {
            return Ok(done);
        }
    }
}

fn request(file: &File, buffer: &mut [u8], position: u64, reads: bool, flush: bool) -> io::Result<()> {
    if reads {
        return file.read_exact_at(buffer, position);
    }
    file.write_all_at(buffer, position)?;
    if flush { file.sync_data() } else { Ok(()) }
}
