//! How long to look for a completion before sleeping, and how old the time may get.
//!
//! A fast disk answers sooner than Xen takes to put a domain to sleep, take the interrupt and wake the domain, so
//! looking for the answer in memory is faster and costs less. A slow one makes looking a waste, of a CPU that the
//! guest may need. Which of the two it is, is learned from the last sleeps.

use core::time::Duration;

/// The shortest look.
const LEAST: Duration = Duration::from_micros(20);
/// The longest. Below the time for which Xen's scheduler lets a vCPU run undisturbed (1 ms).
const MOST: Duration = Duration::from_micros(200);

/// How long to look for completions.
#[derive(Debug, Default)]
pub(crate) struct Patience {
    window: Duration,
}

impl Patience {
    /// How long to look before the next sleep; zero for not at all.
    pub(crate) const fn window(&self) -> Duration {
        self.window
    }

    /// Learns from a wait with commands at a disk: `waited` is the time spent looking and sleeping.
    pub(crate) fn learn(&mut self, waited: Duration) {
        self.window = if waited < MOST {
            self.window.saturating_mul(2).clamp(LEAST, MOST)
        } else {
            self.window.checked_div(2).filter(|half| *half >= LEAST).unwrap_or_default()
        };
    }
}

/// How often a controller with commands in flight is looked at without an interrupt, until its interrupts are known
/// to arrive.
const FAST_POLL: Duration = Duration::from_millis(10);
/// And from then on. Each time that this passes is a wake-up for nothing, after which Xen has to set the CPU's timer anew.
const TRUSTED_POLL: Duration = Duration::from_secs(1);
/// Interrupts with an answer that make a controller's trustworthy.
const ENOUGH: u8 = 32;

/// Whether the interrupts of a controller arrive.
#[derive(Debug, Default)]
pub(crate) struct Trust {
    /// Times that one came with an answer, since one was lost.
    seen: u8,
}

impl Trust {
    /// Learns from answers: whether an interrupt told of them, and whether it was the timer that found them.
    pub(crate) fn learn(&mut self, interrupted: bool, overdue: bool) {
        self.seen = match (interrupted, overdue) {
            (true, _) => self.seen.saturating_add(1),
            (false, true) => 0,
            // Found by a look at the right moment, which says nothing.
            (false, false) => self.seen,
        };
    }

    /// After which time to look at a controller with commands in flight that does not interrupt.
    pub(crate) const fn poll_after(&self) -> Duration {
        if self.seen >= ENOUGH { TRUSTED_POLL } else { FAST_POLL }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interrupts_that_always_arrived_are_trusted_until_one_is_lost() {
        let mut trust = Trust::default();
        (1..ENOUGH).for_each(|_| trust.learn(true, false));
        assert_eq!(trust.poll_after(), FAST_POLL);
        trust.learn(true, true);
        assert_eq!(trust.poll_after(), TRUSTED_POLL);
        trust.learn(false, false);
        assert_eq!(trust.poll_after(), TRUSTED_POLL);
        trust.learn(false, true);
        assert_eq!(trust.poll_after(), FAST_POLL);
    }

    fn after(waits: &[u64]) -> Duration {
        let mut patience = Patience::default();
        waits.iter().for_each(|micros| patience.learn(Duration::from_micros(*micros)));
        patience.window()
    }

    #[test]
    fn a_fast_disk_is_looked_at_for_longer_up_to_a_limit() {
        assert_eq!([after(&[]), after(&[30]), after(&[30, 40])], [Duration::ZERO, LEAST, LEAST * 2]);
        assert_eq!(after(&[80; 20]), MOST);
    }

    #[test]
    fn a_slow_disk_is_soon_not_looked_at_any_more() {
        let mut waits = alloc::vec![80; 20];
        waits.extend([3000; 4]);
        assert_eq!(after(&waits), Duration::ZERO);
        assert_eq!(after(&[3000]), Duration::ZERO);
    }
}
