//! Which changes were answered lately, to decide what may be repeated.
//!
//! A write that was in flight when the controller was reset, or that failed and may be retried, must not be
//! repeated if a write that was submitted after it and touches the same sectors has been answered already: the
//! repetition would undo it. Answered changes are noted here, a fixed number of them; when that is too few to
//! tell, the answer is the careful one.

use alloc::vec::Vec;

/// Changes that are remembered.
const ENTRIES: usize = 1024;

/// Sectors of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) disk: u16,
    /// First 512-byte sector.
    pub(crate) first: u64,
    /// How many.
    pub(crate) count: u64,
}

impl Extent {
    fn overlaps(&self, other: &Self) -> bool {
        self.disk == other.disk
            && self.first < other.first.saturating_add(other.count)
            && other.first < self.first.saturating_add(self.count)
    }
}

pub(crate) struct Journal {
    entries: Vec<(u64, Extent)>,
    /// Where the next entry goes once `entries` is full.
    next: usize,
    /// Greatest sequence number among entries that were overwritten.
    forgotten: Option<u64>,
}

impl Journal {
    pub(crate) fn new() -> Self {
        Self { entries: Vec::with_capacity(ENTRIES), next: 0, forgotten: None }
    }

    /// Notes that the change submitted as number `sequence` was answered.
    pub(crate) fn answered(&mut self, sequence: u64, extent: Extent) {
        if self.entries.len() < ENTRIES {
            self.entries.push((sequence, extent));
            return;
        }
        if let Some(entry) = self.entries.get_mut(self.next) {
            self.forgotten = self.forgotten.max(Some(entry.0));
            *entry = (sequence, extent);
        }
        self.next = self.next.wrapping_add(1) % ENTRIES;
    }

    /// Whether the change submitted as number `sequence` can be repeated: no later one to the same sectors was
    /// answered, for all that is known.
    pub(crate) fn allows(&self, sequence: u64, extent: &Extent) -> bool {
        self.forgotten.is_none_or(|forgotten| forgotten < sequence)
            && !self.entries.iter().any(|(later, other)| *later > sequence && other.overlaps(extent))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extent(first: u64, count: u64) -> Extent {
        Extent { disk: 0, first, count }
    }

    #[test]
    fn a_later_overlapping_change_forbids_repetition() {
        let mut journal = Journal::new();
        journal.answered(5, extent(8, 8));
        assert!(!journal.allows(4, &extent(15, 1)));
        assert!(!journal.allows(4, &extent(0, 9)));
        assert!(journal.allows(4, &extent(16, 8)));
        assert!(journal.allows(4, &extent(0, 8)));
        assert!(journal.allows(6, &extent(8, 8)));
        assert!(journal.allows(4, &Extent { disk: 1, first: 8, count: 8 }));
    }

    #[test]
    fn what_was_forgotten_counts_as_conflicting() {
        let mut journal = Journal::new();
        journal.answered(10, extent(1 << 40, 1));
        for sequence in 11..11 + 1023 {
            journal.answered(sequence, extent(0, 1));
        }
        assert!(journal.allows(9, &extent(100, 1)));
        journal.answered(5000, extent(0, 1));
        assert!(!journal.allows(9, &extent(100, 1)));
        assert!(journal.allows(11, &extent(100, 1)));
    }
}
