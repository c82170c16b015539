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

#[cfg(test)]
mod tests {
    use super::*;

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
