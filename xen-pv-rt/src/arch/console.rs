//! The console ring: where `log` lines and last words go.
//!
//! Output never waits: what does not fit because nobody reads is dropped and counted. Lines end in CR LF as
//! on a terminal.
//!
//! Xen: `public/io/console.h` (`struct xencons_interface`).

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use log::{Level, LevelFilter, Log, Metadata, Record};
use spin::Once;
use spin::mutex::SpinMutex;

use super::abi::{PAGE_SHIFT, StartInfo, evtchn, nr, sched};
use super::{clock, hypercall, paging};

const OUT_LEN: u32 = 2048;

#[repr(C)]
struct Ring {
    input: [AtomicU8; 1024],
    output: [AtomicU8; OUT_LEN as usize],
    in_cons: AtomicU32,
    in_prod: AtomicU32,
    out_cons: AtomicU32,
    out_prod: AtomicU32,
}

struct Console {
    ring: &'static Ring,
    port: u32,
}

static CONSOLE: Once<Console> = Once::new();
static LOST: SpinMutex<u32> = SpinMutex::new(0);

/// Finds the ring. Called once, first of all.
pub(super) fn init(start: &StartInfo) {
    let va = paging::pfn_of(start.console_mfn) << PAGE_SHIFT;
    // SAFETY: the builder gave us this page, mapped, as the console ring; every field is atomic.
    let ring = unsafe { &*core::ptr::with_exposed_provenance::<Ring>(va as usize) };
    CONSOLE.call_once(|| Console { ring, port: start.console_evtchn });
    if log::set_logger(&Sink).is_ok() {
        log::set_max_level(LevelFilter::Info);
    }
}

impl Console {
    /// Copies as much as fits and returns how much that was.
    fn push(&self, bytes: &[u8]) -> usize {
        let cons = self.ring.out_cons.load(Ordering::Acquire);
        let mut prod = self.ring.out_prod.load(Ordering::Relaxed);
        let mut taken = 0;
        // A consumer index that makes no sense leaves no room.
        for byte in bytes.iter().take(OUT_LEN.saturating_sub(prod.wrapping_sub(cons)) as usize) {
            self.ring.output[(prod % OUT_LEN) as usize].store(*byte, Ordering::Relaxed);
            prod = prod.wrapping_add(1);
            taken += 1;
        }
        self.ring.out_prod.store(prod, Ordering::Release);
        taken
    }

    fn room(&self) -> u32 {
        let used = self.ring.out_prod.load(Ordering::Relaxed).wrapping_sub(self.ring.out_cons.load(Ordering::Acquire));
        OUT_LEN.saturating_sub(used)
    }

    fn notify(&self) {
        let mut port = self.port;
        // SAFETY: sends an event; touches no memory of ours.
        let _ = unsafe { hypercall::op(nr::EVENT_CHANNEL_OP, evtchn::SEND, &mut port) };
    }
}

/// Writes all of `bytes`, giving the reader up to a second to make room.
pub(super) fn write_patiently(bytes: &[u8]) {
    let Some(console) = CONSOLE.get() else { return };
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        let (text, newline) = match line.strip_suffix(b"\n") {
            Some(text) => (text, &b"\r\n"[..]),
            None => (line, &b""[..]),
        };
        for mut rest in [text, newline] {
            let mut attempts = 20_000;
            while !rest.is_empty() && attempts > 0 {
                rest = rest.get(console.push(rest)..).unwrap_or(&[]);
                console.notify();
                attempts -= 1;
                // SAFETY: gives the CPU away; no argument.
                let _ = unsafe { hypercall::call(nr::SCHED_OP, sched::YIELD, 0, 0, 0) };
            }
        }
    }
}

/// A line being put together, so that it goes out whole or not at all.
struct Line(heapless::Vec<u8, 512>);

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            // A control character in a log line could fake another line.
            let byte = if byte.is_ascii_control() { b'?' } else { byte };
            self.0.push(byte).map_err(|_| fmt::Error)?;
        }
        Ok(())
    }
}

fn write_line(line: &Line) {
    let Some(console) = CONSOLE.get() else { return };
    let mut lost = LOST.lock();
    if (console.room() as usize) < line.0.len() + 64 {
        *lost = lost.saturating_add(1);
        return;
    }
    if *lost > 0 {
        let mut note = Line(heapless::Vec::new());
        let _ = write!(note, "({lost} lines lost)");
        console.push(&note.0);
        console.push(b"\r\n");
        *lost = 0;
    }
    console.push(&line.0);
    console.push(b"\r\n");
    console.notify();
}

struct Sink;

impl Log for Sink {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let mut line = Line(heapless::Vec::new());
        let ms = clock::since_boot().as_millis();
        let _ = write!(line, "{:>5}.{:03} ", ms / 1000, ms % 1000);
        if record.level() <= Level::Warn {
            let _ = write!(line, "{}: ", if record.level() == Level::Error { "error" } else { "warning" });
        }
        // A line that is too long is cut.
        let _ = write!(line, "{}", record.args());
        write_line(&line);
    }

    fn flush(&self) {}
}

/// The console as an output stream. Bytes that do not fit are dropped, because waiting is worse.
#[derive(Clone, Copy, Debug)]
pub struct ConsoleStream;

impl embedded_io::ErrorType for ConsoleStream {
    type Error = core::convert::Infallible;
}

impl embedded_io::Write for ConsoleStream {
    fn write(&mut self, bytes: &[u8]) -> Result<usize, Self::Error> {
        let Some(console) = CONSOLE.get() else { return Ok(bytes.len()) };
        console.push(bytes);
        console.notify();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> Result<(), Self::Error> {
        Ok(())
    }
}
