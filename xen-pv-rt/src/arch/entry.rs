//! The first instructions, the ELF notes that the domain builder reads, and the memory functions that the
//! compiler calls.
//!
//! Xen: `public/elfnote.h`. On entry `rsi` holds the virtual address of the start info page; the stack that
//! the builder set up is not used.

use core::arch::{global_asm, naked_asm};

macro_rules! note {
    ($kind:literal, quad $value:literal) => {
        concat!(".align 4\n.long 4\n.long 8\n.long ", $kind, "\n.asciz \"Xen\"\n.quad ", $value, "\n")
    };
    ($kind:literal, text $value:literal) => {
        concat!(
            ".align 4\n.long 4\n.long 2f - 1f\n.long ",
            $kind,
            "\n.asciz \"Xen\"\n1: .asciz \"",
            $value,
            "\"\n2: .align 4\n"
        )
    };
}

global_asm!(
    ".pushsection .note.Xen, \"a\", @note",
    note!("1", quad "_start"),         // ENTRY
    note!("2", quad "hypercall_page"), // HYPERCALL_PAGE
    note!("3", quad "0"),              // VIRT_BASE
    note!("4", quad "0"),              // PADDR_OFFSET
    note!("5", text "xen-3.0"),        // XEN_VERSION: the interface, which has not changed its name
    note!("6", text "bulkhead"),       // GUEST_OS
    note!("8", text "generic"),        // LOADER
    note!("9", text "yes"),            // PAE_MODE
    ".popsection",
    ".pushsection .text.hypercall_page, \"ax\", @progbits",
    ".balign 4096",
    ".globl hypercall_page",
    "hypercall_page: .skip 4096, 0xcc",
    ".popsection",
    ".pushsection .text._start, \"ax\", @progbits",
    ".globl _start",
    "_start:",
    "    cld",
    "    lea rsp, [rip + __stack_top]",
    "    xor ebp, ebp",
    "    mov rdi, rsi",
    "    call {start}",
    "    ud2",
    ".popsection",
    start = sym super::boot::start,
);

// The prebuilt core and alloc call these by name, and nothing else in an image without libc has them.
// `rep` string instructions: eight bytes a step, then the rest. Written in assembly so that the compiler cannot turn
// the body of memcpy into a call of memcpy.

/// Copies `rdx` bytes from `rsi` to `rdi`.
///
/// # Safety
/// As C's `memcpy`.
#[unsafe(naked)]
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(dest: *mut u8, src: *const u8, n: usize) -> *mut u8 {
    naked_asm!(
        "mov rax, rdi",
        "mov rcx, rdx",
        "shr rcx, 3",
        "rep movsq",
        "mov ecx, edx",
        "and ecx, 7",
        "rep movsb",
        "ret"
    )
}

/// Copies `rdx` bytes between ranges that may overlap.
///
/// # Safety
/// As C's `memmove`.
#[unsafe(naked)]
#[unsafe(no_mangle)]
unsafe extern "C" fn memmove(dest: *mut u8, src: *const u8, n: usize) -> *mut u8 {
    naked_asm!(
        "mov rax, rdi",
        "mov rcx, rdi",
        "sub rcx, rsi",
        "cmp rcx, rdx",
        "jb 2f",
        "mov rcx, rdx",
        "shr rcx, 3",
        "rep movsq",
        "mov ecx, edx",
        "and ecx, 7",
        "rep movsb",
        "ret",
        "2:",
        "mov rcx, rdx",
        "lea rdi, [rdi + rdx - 1]",
        "lea rsi, [rsi + rdx - 1]",
        "std",
        "rep movsb",
        "cld",
        "ret",
    )
}

/// Fills `rdx` bytes at `rdi` with the byte in `sil`.
///
/// # Safety
/// As C's `memset`.
#[unsafe(naked)]
#[unsafe(no_mangle)]
unsafe extern "C" fn memset(dest: *mut u8, byte: i32, n: usize) -> *mut u8 {
    naked_asm!(
        "mov r8, rdi",
        "movzx eax, sil",
        "mov rcx, 0x0101010101010101",
        "imul rax, rcx",
        "mov rcx, rdx",
        "shr rcx, 3",
        "rep stosq",
        "mov ecx, edx",
        "and ecx, 7",
        "rep stosb",
        "mov rax, r8",
        "ret",
    )
}

/// Compares `rdx` bytes.
///
/// # Safety
/// As C's `memcmp`.
#[unsafe(naked)]
#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(a: *const u8, b: *const u8, n: usize) -> i32 {
    naked_asm!(
        "xor ecx, ecx",
        "2:",
        "cmp rcx, rdx",
        "je 3f",
        "movzx eax, byte ptr [rdi + rcx]",
        "movzx r8d, byte ptr [rsi + rcx]",
        "inc rcx",
        "sub eax, r8d",
        "je 2b",
        "ret",
        "3:",
        "xor eax, eax",
        "ret",
    )
}

/// Compares `rdx` bytes for equality only.
///
/// # Safety
/// As BSD's `bcmp`.
#[unsafe(naked)]
#[unsafe(no_mangle)]
unsafe extern "C" fn bcmp(a: *const u8, b: *const u8, n: usize) -> i32 {
    naked_asm!("jmp {}", sym memcmp)
}

/// Length of a C string.
///
/// # Safety
/// As C's `strlen`.
#[unsafe(naked)]
#[unsafe(no_mangle)]
unsafe extern "C" fn strlen(s: *const u8) -> usize {
    naked_asm!("xor eax, eax", "2:", "cmp byte ptr [rdi + rax], 0", "je 3f", "inc rax", "jmp 2b", "3:", "ret")
}

// Prebuilt core and alloc were compiled to unwind; nothing here does, so these are never reached.

/// Referenced by the prebuilt libraries; never called.
#[unsafe(naked)]
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {
    naked_asm!("ud2")
}

/// Referenced by the prebuilt libraries; never called.
#[unsafe(naked)]
#[unsafe(no_mangle)]
extern "C" fn _Unwind_Resume() {
    naked_asm!("ud2")
}
