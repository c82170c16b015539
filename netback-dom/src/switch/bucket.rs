//! A token bucket: so many of something per period, and no more at once than one period's worth.

use core::time::Duration;

use xen_pv_rt::hyp::Instant;

/// Tokens that come at a steady rate. Taking more than there are is a debt, which is paid off before any are had again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenBucket {
    /// Tokens per period, at least 1.
    tokens: u64,
    period_ns: u64,
    /// Tokens times `period_ns`, so that no fraction is lost.
    level: i128,
    filled: Instant,
}

impl TokenBucket {
    /// A full bucket; `None` if nothing would ever come, or all at once.
    pub fn new(tokens: u64, period: Duration) -> Option<Self> {
        let period_ns = u64::try_from(period.as_nanos()).ok().filter(|period| *period > 0)?;
        if tokens == 0 {
            return None;
        }
        let mut bucket = Self { tokens, period_ns, level: 0, filled: Instant::default() };
        bucket.level = bucket.full();
        Some(bucket)
    }

    /// Changes the rate. What was taken stays taken.
    pub fn change(&mut self, other: Self, now: Instant) {
        self.fill(now);
        let level = self.level.checked_div(i128::from(self.period_ns)).unwrap_or(0);
        let scaled = level.saturating_mul(i128::from(other.period_ns)).min(other.full());
        *self = Self { level: scaled, filled: now, ..other };
    }

    /// Whether there are any tokens.
    pub fn has_any(&mut self, now: Instant) -> bool {
        self.fill(now);
        self.level > 0
    }

    /// Takes tokens.
    pub fn take(&mut self, count: usize) {
        let count = i128::try_from(count).unwrap_or(i128::MAX).saturating_mul(i128::from(self.period_ns));
        self.level = self.level.saturating_sub(count);
    }

    /// When there will be some again.
    pub fn ready_at(&self) -> Instant {
        let missing = 1_i128.saturating_sub(self.level).max(0);
        let rate = i128::from(self.tokens);
        let wait = missing.saturating_add(rate.saturating_sub(1)).checked_div(rate).unwrap_or(0);
        self.filled.saturating_add(Duration::from_nanos(u64::try_from(wait).unwrap_or(u64::MAX)))
    }

    fn fill(&mut self, now: Instant) {
        let passed = i128::try_from(now.saturating_since(self.filled).as_nanos()).unwrap_or(i128::MAX);
        self.level = self.level.saturating_add(passed.saturating_mul(i128::from(self.tokens))).min(self.full());
        self.filled = self.filled.max(now);
    }

    fn full(&self) -> i128 {
        i128::from(self.tokens).saturating_mul(i128::from(self.period_ns))
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::from_nanos(millis.saturating_mul(1_000_000))
    }

    #[test]
    fn the_rate_holds_in_the_long_run_whatever_is_taken_at_once() {
        let mut bucket = TokenBucket::new(1000, Duration::from_millis(50)).unwrap();
        let mut taken = 0_u64;
        for millis in 0..10_000 {
            while bucket.has_any(at(millis)) {
                bucket.take(1514);
                taken = taken.saturating_add(1514);
            }
        }
        // 20000 a second for ten seconds, one period's worth at the start, one packet of debt at the end.
        assert!((200_000..=202_514).contains(&taken), "{taken}");
    }

    #[test]
    fn silence_earns_one_period_and_no_more() {
        let mut bucket = TokenBucket::new(10, Duration::from_secs(1)).unwrap();
        for now in [0, 3_600_000] {
            for _ in 0..10 {
                assert!(bucket.has_any(at(now)));
                bucket.take(1);
            }
            assert!(!bucket.has_any(at(now)));
        }
    }

    #[test]
    fn it_says_when_to_come_back_and_not_later_than_needed() {
        for (tokens, period, take) in [(1, 7, 1), (3, 1000, 10), (62_500, 50, 65_535), (u64::MAX, 1, 1)] {
            let mut bucket = TokenBucket::new(tokens, Duration::from_millis(period)).unwrap();
            assert!(bucket.has_any(at(1)));
            bucket.take(take);
            while bucket.has_any(at(1)) && tokens < 1_000_000 {
                bucket.take(take);
            }
            let ready = bucket.ready_at();
            assert!(bucket.clone().has_any(ready), "{tokens} per {period}");
            if ready > at(1) {
                let before = Instant::from_nanos(ready.as_nanos().saturating_sub(1));
                assert!(!bucket.clone().has_any(before), "{tokens} per {period}");
            }
        }
    }

    #[test]
    fn a_change_of_the_rate_forgives_no_debt() {
        let mut bucket = TokenBucket::new(10, Duration::from_secs(1)).unwrap();
        bucket.take(30);
        bucket.change(TokenBucket::new(10, Duration::from_millis(100)).unwrap(), at(0));
        assert!(!bucket.has_any(at(199)));
        assert!(bucket.has_any(at(201)));
    }

    #[test]
    fn nothing_and_no_time_are_no_rate() {
        assert_eq!(TokenBucket::new(0, Duration::from_secs(1)), None);
        assert_eq!(TokenBucket::new(1, Duration::ZERO), None);
    }
}
