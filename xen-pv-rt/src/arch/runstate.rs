//! Where this domain's time went, as Xen counts it.
//!
//! Xen: `struct vcpu_runstate_info` and `VCPUOP_get_runstate_info` in `public/vcpu.h`.

use core::time::Duration;

use super::abi::{RunstateInfo, VCPUOP_GET_RUNSTATE_INFO, nr};
use super::hypercall;

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
