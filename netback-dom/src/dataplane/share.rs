//! Fair shares: what each guest, and each vif with a `rate`, may send now.
//!
//! Packets are taken from guests by deficit round robin: in each round a guest may send so many bytes, from whichever of
//! its vifs and queues; what a packet takes beyond that is a debt for the next rounds, and what is left over is lost. A
//! vif with a `rate` has a token bucket beside that. Packets that may not be sent yet stay in their ring.

use alloc::rc::Rc;
use core::cell::Cell;

use xen_pv_rt::hyp::Instant;

use crate::switch::bucket::TokenBucket;

/// Bytes that a guest may send in a round: as many as the packets of usual size that it may.
const QUANTUM_BYTES: i64 = 16 * 1514;

#[derive(Clone, Copy, Debug, Default)]
struct Credit {
    round: u64,
    bytes: i64,
}

/// What a guest may still send in a round; clones are the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Share(Rc<Cell<Credit>>);

impl Share {
    /// Whether the guest may send one more packet in this round.
    pub(super) fn has_any(&self, round: u64) -> bool {
        let mut credit = self.0.get();
        if credit.round != round {
            credit = Credit { round, bytes: credit.bytes.min(0).saturating_add(QUANTUM_BYTES) };
            self.0.set(credit);
        }
        credit.bytes > 0
    }

    /// Counts a packet.
    pub(super) fn charge(&self, bytes: usize) {
        let credit = self.0.get();
        let bytes = credit.bytes.saturating_sub(i64::try_from(bytes).unwrap_or(i64::MAX));
        self.0.set(Credit { bytes, ..credit });
    }
}

/// What the `rate` key of a vif allows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Rate {
    /// As much as the guest's share.
    #[default]
    Unlimited,
    /// So many bytes per time.
    Limited(TokenBucket),
    /// Nothing: the key makes no sense, so nobody knows how much.
    Nothing,
}

/// A [`Rate`] at work.
#[derive(Debug, Default)]
pub(super) struct Allowance {
    rate: Rate,
    /// Nothing is taken before this.
    waits_until: Option<Instant>,
}

impl Allowance {
    pub(super) const fn new(rate: Rate) -> Self {
        Self { rate, waits_until: None }
    }

    /// Changes the rate. A debt remains.
    pub(super) fn change(&mut self, rate: Rate, now: Instant) {
        match (&mut self.rate, rate) {
            (Rate::Limited(bucket), Rate::Limited(new)) => bucket.change(new, now),
            (old, new) => *old = new,
        }
        self.waits_until = None;
    }

    /// Whether a packet may be taken. If not, it waits, and [`Self::waits_until`] says until when.
    pub(super) fn has_any(&mut self, now: Instant) -> bool {
        if self.waits_until.is_some_and(|at| now < at) {
            return false;
        }
        self.waits_until = match &mut self.rate {
            Rate::Unlimited => None,
            Rate::Limited(bucket) => (!bucket.has_any(now)).then(|| bucket.ready_at()),
            Rate::Nothing => Some(Instant::from_nanos(u64::MAX)),
        };
        self.waits_until.is_none()
    }

    /// Counts a packet.
    pub(super) fn charge(&mut self, bytes: usize) {
        if let Rate::Limited(bucket) = &mut self.rate {
            bucket.take(bytes);
        }
    }

    /// Until when nothing is taken.
    pub(super) const fn waits_until(&self) -> Option<Instant> {
        self.waits_until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_packet_costs_later_rounds_and_silence_earns_nothing() {
        let share = Share::default();
        let mut rounds = 0_u64;
        let mut sent = 0_u64;
        for round in 1..=1000 {
            rounds = round;
            if share.clone().has_any(round) {
                share.charge(65535);
                sent = sent.saturating_add(65535);
            }
        }
        let fair = rounds.saturating_mul(QUANTUM_BYTES.unsigned_abs());
        assert!(sent.abs_diff(fair) <= 65535, "{sent} of {fair}");
        assert!(share.has_any(5000));
        share.charge(16 * 1514);
        assert!(!share.has_any(5000));
    }
}
