//! The console ring: where `log` lines and last words go.
//!
//! Output never waits: what does not fit because nobody reads is dropped and counted. Lines end in CR LF as
//! on a terminal.
//!
//! The ring itself is [`ring::console`].

use core::fmt::{self, Write};
use core::sync::atomic::AtomicU32;

use log::{Level, LevelFilter, Log, Metadata, Record};
use ring::console::Page;
use spin::Once;
use spin::mutex::SpinMutex;

use super::abi::{PAGE_SHIFT, StartInfo, evtchn, nr, sched};
use super::{clock, hypercall, paging};
use crate::hyp::PAGE_SIZE;

struct Console {
    page: Page<'static>,
    port: u32,
}

static CONSOLE: Once<Console> = Once::new();
static LOST: SpinMutex<u32> = SpinMutex::new(0);

/// Finds the ring. Called once, first of all.
pub(super) fn init(start: &StartInfo) {
    let va = paging::pfn_of(start.console_mfn) << PAGE_SHIFT;
    let words = core::ptr::with_exposed_provenance::<AtomicU32>(va as usize);
    // SAFETY: the builder gave us this page, mapped, for good; xenconsoled writes it too, hence atomic words.
    let page = Page::new(unsafe { core::slice::from_raw_parts(words, PAGE_SIZE / 4) });
    CONSOLE.call_once(|| Console { page, port: start.console_evtchn });
    if log::set_logger(&Sink).is_ok() {
        log::set_max_level(LevelFilter::Info);
    }
}

impl Console {
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
                rest = rest.get(console.page.push(rest)..).unwrap_or(&[]);
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
    if (console.page.room() as usize) < line.0.len() + 64 {
        *lost = lost.saturating_add(1);
        return;
    }
    if *lost > 0 {
        let mut note = Line(heapless::Vec::new());
        let _ = write!(note, "({lost} lines lost)");
        console.page.push(&note.0);
        console.page.push(b"\r\n");
        *lost = 0;
    }
    console.page.push(&line.0);
    console.page.push(b"\r\n");
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
        console.page.push(bytes);
        console.notify();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> Result<(), Self::Error> {
        Ok(())
    }
}
