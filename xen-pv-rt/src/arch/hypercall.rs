//! Hypercalls: a call into the page that Xen filled at start.
//!
//! Arguments travel in rdi, rsi, rdx and r10; Xen may destroy all of them, and rcx and r11.

use core::arch::asm;

unsafe extern "C" {
    /// One 32-byte stub per hypercall number.
    static hypercall_page: [u8; 4096];
}

/// A negative errno from Xen, made positive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Errno(pub(super) u32);

impl Errno {
    pub(super) const PERM: Self = Self(1);
    pub(super) const SRCH: Self = Self(3);
    pub(super) const NOMEM: Self = Self(12);
    pub(super) const ACCES: Self = Self(13);
    pub(super) const BUSY: Self = Self(16);
    pub(super) const EXIST: Self = Self(17);
    pub(super) const INVAL: Self = Self(22);
    pub(super) const NOSPC: Self = Self(28);
}

fn check(ret: i64) -> Result<u64, Errno> {
    u64::try_from(ret).map_err(|_| Errno(u32::try_from(ret.unsigned_abs()).unwrap_or(u32::MAX)))
}

/// Calls the hypervisor with up to four arguments.
///
/// # Safety
/// The arguments must be what hypercall `nr` wants: pointers valid for what it reads and writes, and
/// no effect that breaks the memory that Rust code relies on.
pub(super) unsafe fn call(nr: usize, a1: usize, a2: usize, a3: usize, a4: usize) -> Result<u64, Errno> {
    let ret: i64;
    // SAFETY: 1. The stub is part of the image and holds `syscall`-and-return code from Xen. 2. Every
    // register that Xen may change is declared. 3. The call pushes a return address, hence no `nostack`. 4. The
    // effect on memory is the caller's responsibility.
    unsafe {
        asm!(
            "call {stub}",
            stub = in(reg) (&raw const hypercall_page).cast::<u8>().add(nr * 32),
            inlateout("rdi") a1 => _,
            inlateout("rsi") a2 => _,
            inlateout("rdx") a3 => _,
            inlateout("r10") a4 => _,
            lateout("rax") ret,
            lateout("rcx") _,
            lateout("r8") _,
            lateout("r9") _,
            lateout("r11") _,
        );
    }
    check(ret)
}

/// Calls the hypervisor with a command and its argument structure.
///
/// # Safety
/// As [`call`]; `arg` is the structure that the command reads and writes.
pub(super) unsafe fn op<T>(nr: usize, cmd: usize, arg: &mut T) -> Result<u64, Errno> {
    // SAFETY: `arg` is valid for reads and writes; the rest is the caller's.
    unsafe { call(nr, cmd, (&raw mut *arg).expose_provenance(), 0, 0) }
}

/// Calls the hypervisor with a command and an array.
///
/// # Safety
/// As [`op`], for every element.
pub(super) unsafe fn op_array<T>(nr: usize, cmd: usize, args: &mut [T]) -> Result<u64, Errno> {
    // SAFETY: `args` is valid for reads and writes over its length; the rest is the caller's.
    unsafe { call(nr, cmd, args.as_mut_ptr().expose_provenance(), args.len(), 0) }
}
