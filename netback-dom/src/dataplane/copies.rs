//! What grant copies of a turn are for.
//!
//! A job with one failed operation has failed, and every other job of the batch is unaffected.

use alloc::vec::Vec;

use xen_pv_rt::hyp::{CopyOwner, GrantError};

/// The job an operation belongs to, by its number in this turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// A packet from a frontend.
    Tx(usize),
    /// A packet to a frontend.
    Rx(usize),
}

impl CopyOwner for Owner {
    /// The jobs that failed; with room for all of them, so that noting one does not allocate.
    type Log = Vec<Self>;

    fn failed(&self, _: GrantError, log: &mut Vec<Self>) {
        // Operations of a job are adjacent, so each job is here at most once.
        if log.last() != Some(self) {
            log.push(*self);
        }
    }
}

/// Operations for jobs of a turn.
pub(super) type CopyBatch<'h, 'a, H> = xen_pv_rt::hyp::CopyBatch<'h, 'a, H, Owner>;
