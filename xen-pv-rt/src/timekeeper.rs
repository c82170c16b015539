//! The time, as the event loop needs it: exact to some milliseconds, and hardly ever read off the clock.
//!
//! Where Xen emulates the time stamp counter, reading the clock is a trap that costs more than a turn of the loop. But
//! whenever Xen gives the domain the CPU again, it writes down when that was, and a loop that sleeps between requests
//! learns the time from there.

use crate::hyp::{Clock, Instant};

/// Turns for which a reading serves while the domain is neither asleep nor preempted. A turn takes a millisecond at most,
/// and what depends on the time has 10 ms or more.
const TURNS: u32 = 8;

/// The time.
pub struct Timekeeper<C> {
    clock: C,
    /// The time, as of some turns ago.
    now: Instant,
    /// Turns since then.
    age: u32,
}

impl<C: Clock> Timekeeper<C> {
    /// Reads the clock for the first time.
    pub fn new(clock: C) -> Self {
        let now = clock.now();
        Self { clock, now, age: 0 }
    }

    /// The time, as of some turns ago.
    pub const fn now(&self) -> Instant {
        self.now
    }

    /// Begins a turn of the loop.
    pub fn begin_turn(&mut self) {
        self.age = self.age.saturating_add(1);
        if !self.note_resumption() && self.age >= TURNS {
            self.read();
        }
    }

    /// Notes the time after an attempt to sleep. Returns whether the domain was put to sleep, as far as that can be
    /// told.
    pub fn note_wake_up(&mut self) -> bool {
        if self.clock.resumed_at().is_some() {
            return self.note_resumption();
        }
        self.read();
        true
    }

    /// Reads the clock.
    pub fn read(&mut self) {
        (self.now, self.age) = (self.clock.now(), 0);
    }

    /// Whether the domain was given the CPU since the last reading, and the time of it.
    fn note_resumption(&mut self) -> bool {
        let at = self.clock.resumed_at().filter(|at| *at > self.now);
        if let Some(at) = at {
            (self.now, self.age) = (at, 0);
        }
        at.is_some()
    }
}

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "tests")]
mod tests {
    use core::cell::Cell;

    use super::*;

    /// A clock that counts how often it is read, 1 ms of virtual time each.
    #[derive(Default)]
    struct Counted {
        reads: Cell<u64>,
        resumed: Cell<Option<Instant>>,
    }

    impl Clock for &Counted {
        fn now(&self) -> Instant {
            self.reads.set(self.reads.get() + 1);
            Instant::from_nanos(self.reads.get() * 1_000_000)
        }
        fn resumed_at(&self) -> Option<Instant> {
            self.resumed.get()
        }
        fn wake_at(&self, _: Instant) {}
        fn take_wake_at(&self) -> Option<Instant> {
            None
        }
    }

    #[test]
    fn a_loop_that_sleeps_reads_no_clock() {
        let clock = Counted::default();
        let mut time = Timekeeper::new(&clock);
        for micros in 2..1000_u64 {
            let resumed = Instant::from_nanos(micros * 1_000_000);
            clock.resumed.set(Some(resumed));
            assert!(time.note_wake_up());
            // As for a request: taken or answered in one turn, and one that finds nothing.
            (0..2).for_each(|_| time.begin_turn());
            assert_eq!(time.now(), resumed);
        }
        assert_eq!(clock.reads.get(), 1, "only the first");
    }

    #[test]
    fn a_loop_that_does_not_sleep_reads_it_now_and_then() {
        let clock = Counted::default();
        clock.resumed.set(Some(Instant::from_nanos(1)));
        let mut time = Timekeeper::new(&clock);
        (0..TURNS * 10).for_each(|_| time.begin_turn());
        assert_eq!(clock.reads.get(), 11);
        assert!(!time.note_wake_up(), "an event was there already");
        assert_eq!(clock.reads.get(), 11);
    }

    #[test]
    fn without_a_note_of_xens_it_is_read_after_each_sleep() {
        let clock = Counted::default();
        let mut time = Timekeeper::new(&clock);
        assert!(time.note_wake_up());
        (1..TURNS).for_each(|_| time.begin_turn());
        assert_eq!(clock.reads.get(), 2);
    }
}
