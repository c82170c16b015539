//! When a sleep ends at the latest: the one-shot timer of this vCPU.
//!
//! `SCHEDOP_poll` takes a time-out too, but then Xen starts and stops a timer for each sleep, and reprograms that of the
//! CPU for it. The one-shot timer stays set while events come and go, so a domain that events wake thousands of times
//! in a second sets it for some of them only; one that was set for an earlier sleep wakes the domain once for nothing.
//!
//! Xen: `VCPUOP_set_singleshot_timer` and `VCPUOP_stop_periodic_timer` in `public/vcpu.h`.

use core::sync::atomic::{AtomicU64, Ordering};

use spin::Once;

use super::abi::{SetSingleshotTimer, VCPUOP_SET_SINGLESHOT_TIMER, VCPUOP_STOP_PERIODIC_TIMER, nr};
use super::events::{self, VIRQ_TIMER, XenPort};
use super::hypercall;

/// Where it shows that the timer has gone off.
static PORT: Once<XenPort> = Once::new();
/// When the timer goes off, in system time; `u64::MAX`: it is not set.
static SET_TO: AtomicU64 = AtomicU64::new(u64::MAX);

/// Stops the timer that every PV vCPU starts with, 100 times a second, and gets the one-shot timer ready. Without it sleeps
/// have a time-out each.
pub(super) fn init() {
    // SAFETY: stops a timer of ours; touches no memory.
    let _ = unsafe { hypercall::call(nr::VCPU_OP, VCPUOP_STOP_PERIODIC_TIMER, 0, 0, 0) };
    if let Ok(port) = events::bind_virq(VIRQ_TIMER) {
        PORT.call_once(|| port);
    }
}

/// Sees to it that an event comes at system time `at` at the latest. Returns whether it will.
pub(super) fn set(at: u64) -> bool {
    let Some(port) = PORT.get() else { return false };
    if events::take(port) {
        SET_TO.store(u64::MAX, Ordering::Relaxed);
    }
    if SET_TO.load(Ordering::Relaxed) <= at {
        return true;
    }
    let mut timer = SetSingleshotTimer { timeout_abs_ns: at, flags: 0 };
    let address = (&raw mut timer).expose_provenance();
    // SAFETY: Xen reads one `vcpu_set_singleshot_timer` from the address of such a structure. A time that has passed makes
    // the timer go off at once.
    let set = unsafe { hypercall::call(nr::VCPU_OP, VCPUOP_SET_SINGLESHOT_TIMER, 0, address, 0) }.is_ok();
    SET_TO.store(if set { at } else { u64::MAX }, Ordering::Relaxed);
    set
}

/// Notes that the timer has gone off, if it has.
pub(super) fn take() {
    if PORT.get().is_some_and(events::take) {
        SET_TO.store(u64::MAX, Ordering::Relaxed);
    }
}
