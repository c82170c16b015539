//! Whether the interrupts of a function arrive.

/// Interrupts in a row that make a function's trustworthy.
const ENOUGH: u8 = 32;

/// What is known about the interrupts of one function.
///
/// A function is looked at now and then without one, since interrupts get lost: in emulators, and on lines that are
/// shared. Each such look is a wake-up for nothing if none was, so those that have always arrived save most of them.
#[derive(Debug, Default)]
pub struct Trust {
    /// Times that one came with something to do, since one was lost.
    seen: u8,
}

impl Trust {
    /// Learns from something to do: whether an interrupt told of it, and whether it was the timer that found it.
    pub const fn learn(&mut self, interrupted: bool, overdue: bool) {
        self.seen = match (interrupted, overdue) {
            (true, _) => self.seen.saturating_add(1),
            (false, true) => 0,
            // Found by a look at the right moment, which says nothing.
            (false, false) => self.seen,
        };
    }

    /// Whether looks without an interrupt may be rare: many have come since the start, and since one was lost.
    #[must_use]
    pub const fn is_earned(&self) -> bool {
        self.seen >= ENOUGH
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interrupts_that_always_arrived_are_trusted_until_one_is_lost() {
        let mut trust = Trust::default();
        (1..ENOUGH).for_each(|_| trust.learn(true, false));
        assert!(!trust.is_earned());
        trust.learn(true, true);
        assert!(trust.is_earned());
        trust.learn(false, false);
        assert!(trust.is_earned());
        trust.learn(false, true);
        assert!(!trust.is_earned());
    }
}
