//! The stack: one, with an unmapped page below it and a mark above that page.
//!
//! Xen writes an exception frame at the stack pointer. If that lies in the guard page, Xen cannot, and crashes
//! the domain itself: registers and stack then appear in `xl dmesg`, not on our console. So that most overflows
//! are reported with words of our own, the event loop checks a mark near the end of the stack each turn.

use core::sync::atomic::{AtomicU64, Ordering};

unsafe extern "C" {
    static __stack_bottom: AtomicU64;
    static __stack_top: u8;
    static __text_start: u8;
    static __text_end: u8;
}

/// Bytes above the guard page that no code should ever use.
const RESERVE: u64 = 8 * 1024;
/// What marks unused stack.
const MARK: u64 = 0x6b61_7473_2066_6f20;

fn bottom() -> u64 {
    (&raw const __stack_bottom).expose_provenance() as u64
}

fn top() -> u64 {
    (&raw const __stack_top).expose_provenance() as u64
}

fn words() -> impl Iterator<Item = &'static AtomicU64> {
    (bottom()..bottom() + RESERVE).step_by(8).map(|va| {
        // SAFETY: the reserve is mapped stack; only an overflow and this module write it, both as aligned words.
        unsafe { &*core::ptr::with_exposed_provenance::<AtomicU64>(va as usize) }
    })
}

/// Marks the reserve as unused.
pub(super) fn init() {
    words().for_each(|word| word.store(MARK, Ordering::Relaxed));
}

/// Panics if the reserve has been used: the next call chain of that depth may hit the guard page.
pub(super) fn check() {
    // The top of the reserve is what an overflow reaches first; frames may skip words, so look at a few.
    let used = words().skip((RESERVE / 8) as usize - 32).any(|word| word.load(Ordering::Relaxed) != MARK);
    assert!(!used, "stack overflow: less than {RESERVE} bytes of {} were left", top() - bottom());
}

/// Return address and caller's frame pointer of the frame at `rbp`, if that is one of ours.
pub(super) fn frame(rbp: u64) -> Option<(u64, u64)> {
    if !rbp.is_multiple_of(8) || rbp < bottom() || rbp + 16 > top() {
        return None;
    }
    // SAFETY: two aligned words on the mapped stack.
    let [next, caller] = unsafe { core::ptr::with_exposed_provenance::<[u64; 2]>(rbp as usize).read() };
    let text = (&raw const __text_start).expose_provenance() as u64..(&raw const __text_end).expose_provenance() as u64;
    text.contains(&caller).then_some((caller, next))
}
