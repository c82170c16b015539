//! The last words: cause, registers, backtrace, and `SHUTDOWN_crash`, so that `xl list` shows it.
//!
//! The backtrace follows frame pointers. The prebuilt core library has none, so the chain may skip its
//! frames; addresses resolve with `addr2line -e <image>`.

use core::arch::asm;
use core::fmt::{self, Write};
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicBool, Ordering};

use super::abi::{nr, sched};
use super::traps::{RBP, TrapFrame};
use super::{console, hypercall, stack, traps};

static CRASHING: AtomicBool = AtomicBool::new(false);

/// The console, waiting for room: losing the last words is worse than being late.
struct Patient;

impl Write for Patient {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        console::write_patiently(text.as_bytes());
        Ok(())
    }
}

/// Ends the domain and tells the toolstack why.
pub(super) fn shutdown(mut reason: u32) -> ! {
    loop {
        // SAFETY: ends this domain.
        let _ = unsafe { hypercall::op(nr::SCHED_OP, sched::SHUTDOWN, &mut reason) };
    }
}

fn once() {
    if CRASHING.swap(true, Ordering::Relaxed) {
        // A crash while reporting a crash: say nothing more.
        shutdown(sched::SHUTDOWN_CRASH);
    }
}

/// Ends the domain for a reason that one line tells.
pub(super) fn fail(why: &str) -> ! {
    once();
    let _ = writeln!(Patient, "bulkhead: fatal: {why}");
    shutdown(sched::SHUTDOWN_CRASH)
}

/// Reports a CPU exception.
pub(super) fn exception(frame: &TrapFrame, cr2: u64) -> ! {
    once();
    let out = &mut Patient;
    let _ = writeln!(
        out,
        "bulkhead: {} (vector {}, error code {:#x}) at rip {:#x}, address {cr2:#x}",
        traps::name(frame.vector),
        frame.vector,
        frame.error_code,
        frame.rip
    );
    registers(out, frame);
    let _ = writeln!(out, "backtrace (addr2line -e <image>):\n  {:#x}", frame.rip);
    backtrace(out, frame.general.get(RBP).copied().unwrap_or(0));
    shutdown(sched::SHUTDOWN_CRASH)
}

fn registers(out: &mut Patient, frame: &TrapFrame) {
    const NAMES: [&str; 15] =
        ["r15", "r14", "r13", "r12", "r11", "r10", "r9", "r8", "rdi", "rsi", "rbp", "rbx", "rdx", "rcx", "rax"];
    for (column, (name, value)) in NAMES.iter().zip(frame.general).enumerate() {
        let end = if column % 4 == 3 { "\n" } else { " " };
        let _ = write!(out, "{name:>3}={value:016x}{end}");
    }
    let _ = writeln!(
        out,
        "rsp={:016x}\nrip={:016x} rflags={:x} cs={:x} ss={:x}",
        frame.rsp, frame.rip, frame.rflags, frame.cs, frame.ss
    );
}

fn backtrace(out: &mut Patient, mut rbp: u64) {
    for _ in 0..32 {
        let Some((caller, next)) = stack::frame(rbp) else { break };
        let _ = writeln!(out, "  {caller:#x}");
        // Callers' frames lie higher; anything else is not a frame.
        if next <= rbp {
            break;
        }
        rbp = next;
    }
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    let (rsp, rbp): (u64, u64);
    // SAFETY: reads two registers.
    unsafe { asm!("mov {}, rsp", "mov {}, rbp", out(reg) rsp, out(reg) rbp, options(nomem, nostack)) }
    once();
    let out = &mut Patient;
    let _ = writeln!(out, "bulkhead: {info}\nrsp={rsp:016x} rbp={rbp:016x}\nbacktrace (addr2line -e <image>):");
    backtrace(out, rbp);
    shutdown(sched::SHUTDOWN_CRASH)
}
