//! CPU exceptions. None is expected: each ends in a crash report.
//!
//! Interrupts do not exist here: `evtchn_upcall_mask` stays set and no callback is registered.
//!
//! Xen: `HYPERVISOR_set_trap_table`, `public/arch-x86/xen.h`. Xen pushes its frame at the current stack pointer,
//! with rcx and r11 on top, so a stack that has overflowed cannot be reported from here; see `stack` below.

use core::arch::global_asm;

use super::abi::{FLAT_KERNEL_CS, TrapInfo, nr};
use super::{crash, hypercall, shared};

/// What a stub leaves on the stack.
#[repr(C)]
pub(super) struct TrapFrame {
    /// r15, r14, r13, r12, r11, r10, r9, r8, rdi, rsi, rbp, rbx, rdx, rcx, rax.
    pub(super) general: [u64; 15],
    pub(super) vector: u64,
    pub(super) error_code: u64,
    pub(super) rip: u64,
    pub(super) cs: u64,
    pub(super) rflags: u64,
    pub(super) rsp: u64,
    pub(super) ss: u64,
}

/// Index of rbp in [`TrapFrame::general`].
pub(super) const RBP: usize = 10;

macro_rules! stubs {
    ($($vector:literal $kind:ident $name:ident),* $(,)?) => {
        $(
            global_asm!(
                concat!(".globl ", stringify!($name)),
                concat!(stringify!($name), ":"),
                "mov rcx, [rsp]",
                "mov r11, [rsp + 8]",
                stubs!(@ $kind),
                concat!("push ", $vector),
                "jmp trap_common",
            );
        )*
        unsafe extern "C" { $(fn $name();)* }
        /// Vector and address of every stub.
        fn table() -> [TrapInfo; TRAPS + 1] {
            let mut table = [TrapInfo { vector: 0, flags: 0, cs: 0, address: 0 }; TRAPS + 1];
            let stubs: [(u8, unsafe extern "C" fn()); TRAPS] = [$(($vector, $name)),*];
            for (entry, (vector, stub)) in table.iter_mut().zip(stubs) {
                *entry = TrapInfo { vector, flags: 0, cs: FLAT_KERNEL_CS, address: stub as usize as u64 };
            }
            table
        }
    };
    // Without an error code a zero takes its place, so that all frames look alike.
    (@ plain) => { "add rsp, 16\npush 0" };
    (@ code) => { "add rsp, 16" };
}

const TRAPS: usize = 18;

stubs! {
    0 plain trap_divide, 1 plain trap_debug, 2 plain trap_nmi, 3 plain trap_breakpoint, 4 plain trap_overflow,
    5 plain trap_bound, 6 plain trap_opcode, 7 plain trap_no_fpu, 8 code trap_double, 10 code trap_tss,
    11 code trap_segment, 12 code trap_stack, 13 code trap_protection, 14 code trap_page, 16 plain trap_fpu,
    17 code trap_alignment, 18 plain trap_machine, 19 plain trap_simd,
}

global_asm!(
    "trap_common:",
    "push rax", "push rcx", "push rdx", "push rbx", "push rbp", "push rsi", "push rdi", "push r8", "push r9",
    "push r10", "push r11", "push r12", "push r13", "push r14", "push r15",
    "cld",
    "mov rdi, rsp",
    "and rsp, -16",
    "call {report}",
    "ud2",
    report = sym trap,
);

/// Registers the stubs.
pub(super) fn init() {
    let mut table = table();
    let ptr = table.as_mut_ptr().expose_provenance();
    // SAFETY: the table ends with a zero address; every stub is code of ours that never returns.
    if unsafe { hypercall::call(nr::SET_TRAP_TABLE, ptr, 0, 0, 0) }.is_err() {
        crash::fail("Xen refused the trap table");
    }
}

/// Name of an exception vector.
pub(super) fn name(vector: u64) -> &'static str {
    match vector {
        0 => "divide error",
        1 => "debug",
        2 => "NMI",
        3 => "breakpoint",
        6 => "invalid opcode",
        8 => "double fault",
        12 => "stack fault",
        13 => "general protection fault",
        14 => "page fault",
        17 => "alignment check",
        18 => "machine check",
        19 => "SIMD exception",
        _ => "exception",
    }
}

extern "C" fn trap(frame: &TrapFrame) -> ! {
    let cr2 = shared::info().vcpu_info[0].cr2.load(core::sync::atomic::Ordering::Relaxed);
    crash::exception(frame, cr2)
}
