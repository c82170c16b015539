//! Bad ends, each of which the runtime has to report.

use core::hint::black_box;

use xen_pv_rt::arch::Xen;

/// An index out of bounds, a few calls down.
#[inline(never)]
pub(crate) fn panic() {
    middle(black_box(3));
}

#[inline(never)]
fn middle(depth: usize) {
    match depth {
        0 => log::info!("{}", [1, 2, 3].get(black_box(7)).copied().expect("rt-dom panics on purpose")),
        _ => middle(black_box(depth.wrapping_sub(1))),
    }
    // Keeps the call from becoming a jump.
    black_box(depth);
}

/// A read near address 0.
#[inline(never)]
pub(crate) fn fault() {
    // SAFETY: none. This is to fault.
    let value = unsafe { core::ptr::with_exposed_provenance::<u64>(black_box(8)).read_volatile() };
    log::info!("address 8 holds {value}");
}

/// A write to the code of this very function.
#[inline(never)]
pub(crate) fn write_text() {
    let text = write_text as fn() as *mut u8;
    // SAFETY: none. This is to fault.
    unsafe { text.write_volatile(0xc3) }
    log::info!("code is writable");
}

/// Uses nearly all of the stack, and comes back to an event loop.
#[inline(never)]
pub(crate) fn deep(xen: Xen) {
    for depth in 1..2000 {
        recurse(depth);
        xen.check_stack();
    }
    log::info!("the stack is endless");
}

/// Uses more stack than there is.
#[inline(never)]
pub(crate) fn overflow() {
    recurse(u64::MAX);
    log::info!("the stack is endless");
}

#[inline(never)]
fn recurse(depth: u64) -> u64 {
    let frame = black_box([depth; 16]);
    if depth == 0 {
        return 0;
    }
    let below = recurse(black_box(depth.wrapping_sub(1)));
    below.wrapping_add(black_box(frame).len() as u64)
}
