//! Where this domain's time went, as Xen counts it.
//!
//! Xen: `struct vcpu_runstate_info` and `VCPUOP_get_runstate_info` in `public/vcpu.h`.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use core::time::Duration;

use super::abi::{RunstateInfo, VCPUOP_GET_RUNSTATE_INFO, VCPUOP_REGISTER_RUNSTATE_MEMORY_AREA, nr};
use super::hypercall;

/// A `vcpu_runstate_info` that Xen writes each time it takes the CPU from us or gives it to us. Within a page.
#[repr(C, align(64))]
struct Area([AtomicU64; 6]);

static AREA: Area = Area([const { AtomicU64::new(0) }; 6]);
static REGISTERED: AtomicBool = AtomicBool::new(false);
/// The word of `state_entry_time`.
const ENTERED: usize = 1;

/// Has Xen keep [`AREA`]. Called once.
pub(super) fn init() {
    let mut address = (&raw const AREA).expose_provenance();
    let argument = (&raw mut address).expose_provenance();
    // SAFETY: Xen reads the address, and from now on writes 48 bytes there while we do not run; they are a static of
    // atomics, of that size.
    let outcome = unsafe { hypercall::call(nr::VCPU_OP, VCPUOP_REGISTER_RUNSTATE_MEMORY_AREA, 0, argument, 0) };
    REGISTERED.store(outcome.is_ok(), Ordering::Relaxed);
}

/// Nanoseconds of system time when Xen last gave us the CPU, if it says so.
pub(super) fn resumed_at() -> Option<u64> {
    REGISTERED.load(Ordering::Relaxed).then(|| AREA.0[ENTERED].load(Ordering::Relaxed)).filter(|at| *at > 0)
}

/// Time since the domain was built, by what its vCPU was doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RunTimes {
    /// On a physical CPU, hypercalls included.
    pub running: Duration,
    /// Ready to run while another domain had the physical CPU.
    pub runnable: Duration,
    /// Asleep, waiting for an event.
    pub blocked: Duration,
}

/// The times so far; zeros should Xen not tell.
#[must_use]
pub fn run_times() -> RunTimes {
    let mut info = RunstateInfo::default();
    let address = (&raw mut info).expose_provenance();
    // SAFETY: Xen writes one `vcpu_runstate_info`, 48 bytes, to the address of a structure of that size.
    let outcome = unsafe { hypercall::call(nr::VCPU_OP, VCPUOP_GET_RUNSTATE_INFO, 0, address, 0) };
    if outcome.is_err() {
        return RunTimes::default();
    }
    let [running, runnable, blocked, _offline] = info.time.map(Duration::from_nanos);
    RunTimes { running, runnable, blocked }
}
