//! The transmit watchdog: finds a card that has stopped sending.
//!
//! It is told of progress where that shows, and looks at a clock only when the card is polled: where Xen emulates the
//! time stamp counter, each look is a trap.

use core::time::Duration;

use xen_pv_rt::hyp::Instant;

/// How long frames may be on their way, while the link is up, without any of them being sent.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a card remembers for it.
#[derive(Debug, Default)]
pub(super) struct Watchdog {
    /// Since when polls have seen frames on their way and nothing sent.
    stuck_since: Option<Instant>,
}

impl Watchdog {
    /// Frames were sent.
    pub(super) fn note_progress(&mut self) {
        self.stuck_since = None;
    }

    /// Whether the card is to be reset. `waiting`: frames are on their way that it is free to send.
    pub(super) fn is_due(&mut self, waiting: bool, now: Instant) -> bool {
        if !waiting {
            self.stuck_since = None;
            return false;
        }
        now.saturating_since(*self.stuck_since.get_or_insert(now)) >= PATIENCE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Instant {
        Instant::default().saturating_add(Duration::from_secs(seconds))
    }

    #[test]
    fn only_frames_that_stay_for_long_without_progress_make_it_due() {
        let mut watchdog = Watchdog::default();
        assert!(!watchdog.is_due(true, at(10)));
        assert!(!watchdog.is_due(true, at(14)));
        watchdog.note_progress();
        assert!(!watchdog.is_due(true, at(15)));
        assert!(!watchdog.is_due(false, at(19)), "the link is down");
        assert!(!watchdog.is_due(true, at(21)));
        assert!(watchdog.is_due(true, at(26)));
    }
}
