//! Paravirtual time: the CPU's time stamp counter, scaled as Xen says.
//!
//! Xen: `struct vcpu_time_info` in `public/xen.h`.

use core::arch::x86_64::_rdtsc;
use core::sync::atomic::{AtomicU64, Ordering, fence};
use core::time::Duration;

use crate::hyp::{Clock, Instant};

use super::{Xen, runstate, shared};

/// System time when this domain started.
static BOOT: AtomicU64 = AtomicU64::new(0);
/// The control plane's next deadline in nanoseconds since boot; `u64::MAX` for none.
static WAKE_AT: AtomicU64 = AtomicU64::new(u64::MAX);

/// Nanoseconds of system time: since Xen started.
fn system_time() -> u64 {
    let time = &shared::info().vcpu_info[0].time;
    loop {
        let version = time.version.load(Ordering::Acquire);
        // SAFETY: `rdtsc` is part of every x86-64 CPU.
        let tsc = unsafe { _rdtsc() };
        let delta = tsc.wrapping_sub(time.tsc_timestamp.load(Ordering::Relaxed));
        let mul = time.tsc_to_system_mul.load(Ordering::Relaxed);
        let shift = time.tsc_shift.load(Ordering::Relaxed).cast_signed();
        let base = time.system_time.load(Ordering::Relaxed);
        fence(Ordering::Acquire);
        // An odd version means that Xen is writing.
        if version & 1 == 0 && version == time.version.load(Ordering::Relaxed) {
            let shifted = if shift < 0 {
                delta >> u32::from(shift.unsigned_abs())
            } else {
                delta << u32::from(shift.unsigned_abs())
            };
            return base.wrapping_add(((u128::from(shifted) * u128::from(mul)) >> 32) as u64);
        }
        core::hint::spin_loop();
    }
}

/// Starts the clock.
pub(super) fn init() {
    BOOT.store(system_time(), Ordering::Relaxed);
}

/// Time since this domain started.
pub(super) fn since_boot() -> Duration {
    Duration::from_nanos(system_time().saturating_sub(BOOT.load(Ordering::Relaxed)))
}

/// The system time of an instant, for `SCHEDOP_poll`.
pub(super) fn to_system_time(at: Instant) -> u64 {
    at.as_nanos().saturating_add(BOOT.load(Ordering::Relaxed))
}

impl Clock for Xen {
    fn now(&self) -> Instant {
        Instant::from_nanos(u64::try_from(since_boot().as_nanos()).unwrap_or(u64::MAX))
    }

    fn resumed_at(&self) -> Option<Instant> {
        let at = runstate::resumed_at()?;
        Some(Instant::from_nanos(at.saturating_sub(BOOT.load(Ordering::Relaxed))))
    }

    fn wake_at(&self, at: Instant) {
        WAKE_AT.fetch_min(at.as_nanos(), Ordering::Relaxed);
    }

    fn take_wake_at(&self) -> Option<Instant> {
        let at = WAKE_AT.swap(u64::MAX, Ordering::Relaxed);
        (at != u64::MAX).then(|| Instant::from_nanos(at))
    }
}
