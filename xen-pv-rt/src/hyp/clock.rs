//! Monotonic time since boot, and the control plane's timers.

use core::future::poll_fn;
use core::task::Poll;
use core::time::Duration;

/// A point in monotonic time: nanoseconds since this domain booted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(u64);

impl Instant {
    /// The instant `ns` nanoseconds after boot.
    pub const fn from_nanos(ns: u64) -> Self {
        Self(ns)
    }
    /// Nanoseconds since boot.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }
    /// The instant `after` this one, saturating (584 years).
    #[must_use]
    pub fn saturating_add(self, after: Duration) -> Self {
        let ns = u64::try_from(after.as_nanos()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(ns))
    }
    /// Time since `earlier`; zero if that is in the future.
    #[must_use]
    pub fn saturating_since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// Time. Virtual in tests.
pub trait Clock {
    /// Monotonic time since boot.
    fn now(&self) -> Instant;
    /// When this domain was last given the CPU, if that can be told from memory. Reading the clock may be an exit to
    /// the hypervisor, so this is what a loop should look at after a sleep. It is in the past, never in the future.
    fn resumed_at(&self) -> Option<Instant> {
        None
    }
    /// Asks for the control plane's tasks to be polled no later than `at`.
    ///
    /// Several requests combine to the earliest; one round of polling uses the request up.
    fn wake_at(&self, at: Instant);
    /// The earliest of those requests, which asking uses up. For the event loop.
    fn take_wake_at(&self) -> Option<Instant>;
}

/// Completes at `at`.
pub async fn sleep_until(clock: &impl Clock, at: Instant) {
    poll_fn(|_| {
        if clock.now() >= at {
            Poll::Ready(())
        } else {
            clock.wake_at(at);
            Poll::Pending
        }
    })
    .await;
}

/// Completes `time` from now.
pub async fn sleep(clock: &impl Clock, time: Duration) {
    sleep_until(clock, clock.now().saturating_add(time)).await;
}
