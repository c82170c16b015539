//! When cards are looked at without an interrupt.

use core::time::Duration;

use xen_pv_rt::hyp::Instant;

/// How often while there is traffic, if a card's interrupts are not known to arrive, and whenever the loop does not get to
/// sleep: it would otherwise keep a shared interrupt line from its other owners.
const BUSY_POLL: Duration = Duration::from_millis(10);
/// How often otherwise; also how soon a change of the link is seen.
const IDLE_POLL: Duration = Duration::from_millis(100);
/// How long traffic is expected to go on after the last packet.
const TRAFFIC_MEMORY: Duration = Duration::from_secs(1);

/// Whether to look at a card that has not interrupted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// Not now.
    No,
    /// Yes: the loop has been awake for long.
    Awake,
    /// Yes, the sleep has lasted until that was due: what is found now has not interrupted.
    Overdue,
}

/// The times of looks.
#[derive(Debug, Default)]
pub(super) struct Cadence {
    /// The next one, asleep or not.
    next: Instant,
    /// Until when traffic is expected.
    busy_until: Instant,
    /// Since when the loop has been awake, or when it has last looked since then.
    awake_since: Instant,
    /// Every card has been asked for an interrupt, and the loop has slept.
    asleep: bool,
}

impl Cadence {
    /// A turn begins. `trusted`: all interrupts are known to arrive.
    pub(super) fn begin_turn(&mut self, now: Instant, trusted: bool) -> Look {
        let slept = core::mem::take(&mut self.asleep);
        if slept {
            self.awake_since = now;
        }
        let due = now >= self.next;
        if !due && now.saturating_since(self.awake_since) < BUSY_POLL {
            return Look::No;
        }
        self.awake_since = now;
        let often = now < self.busy_until && !trusted;
        self.next = now.saturating_add(if often { BUSY_POLL } else { IDLE_POLL });
        if due && slept { Look::Overdue } else { Look::Awake }
    }

    /// Packets moved.
    pub(super) fn note_traffic(&mut self, now: Instant, trusted: bool) {
        self.busy_until = now.saturating_add(TRAFFIC_MEMORY);
        if !trusted {
            self.next = self.next.min(now.saturating_add(BUSY_POLL));
        }
    }

    /// Every card was asked for an interrupt, and none has work: a sleep follows.
    pub(super) fn note_sleep(&mut self) {
        self.asleep = true;
    }

    /// When a look is due whatever happens: a sleep must end then.
    pub(super) const fn deadline(&self) -> Instant {
        self.next
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::default().saturating_add(Duration::from_millis(1000).saturating_add(Duration::from_millis(ms)))
    }

    /// One that has looked at time 0, with a packet then.
    fn busy(trusted: bool) -> Cadence {
        let mut cadence = Cadence::default();
        cadence.begin_turn(at(0), trusted);
        cadence.note_traffic(at(0), trusted);
        cadence
    }

    #[test]
    fn sleeps_in_traffic_are_short_until_interrupts_are_trusted() {
        assert_eq!(busy(false).deadline(), at(10));
        assert_eq!(busy(true).deadline(), at(100));
        let mut idle = busy(false);
        idle.note_sleep();
        idle.begin_turn(at(1500), false);
        assert_eq!(idle.deadline(), at(1600));
    }

    #[test]
    fn what_a_sleep_was_ended_for_is_overdue_and_an_event_in_between_ends_none() {
        let mut cadence = busy(true);
        cadence.note_sleep();
        assert_eq!(cadence.begin_turn(at(60), true), Look::No);
        cadence.note_sleep();
        assert_eq!(cadence.begin_turn(at(100), true), Look::Overdue);
        assert_eq!(cadence.begin_turn(at(100), true), Look::No);
        assert_eq!(cadence.deadline(), at(200));
    }

    #[test]
    fn a_loop_that_does_not_sleep_looks_every_ten_milliseconds_whatever_is_trusted() {
        for trusted in [false, true] {
            let mut cadence = busy(trusted);
            let looks: Vec<_> = (1..40).filter(|ms| cadence.begin_turn(at(*ms), trusted) != Look::No).collect();
            assert_eq!(looks, [10, 20, 30]);
            assert_eq!(cadence.begin_turn(at(40), trusted), Look::Awake);
        }
    }
}
