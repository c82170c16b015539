//! Batches of grant copies, across vifs and directions.
//!
//! All copies of one step of a turn go into one [`CopyBatch`], which becomes one hypercall unless it
//! overflows. A batch knows which job each operation belongs to; a job with one failed operation has failed,
//! and every other job of the batch is unaffected.

use alloc::vec::Vec;

use xen_pv_rt::hyp::{CopyDest, CopySource, GrantCopy, Hypervisor};

use super::job::{RX_JOBS, TX_JOBS};

/// Operations of one hypercall.
const MAX_OPS: usize = 128;

/// The job an operation belongs to, by its number in this turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// A packet from a frontend.
    Tx(usize),
    /// A packet to a frontend.
    Rx(usize),
}

/// What became of a batch.
pub(super) struct Outcome {
    /// The jobs that failed.
    pub(super) failed: Vec<Owner>,
    /// Hypercalls that it took.
    pub(super) hypercalls: u32,
    /// Operations that it was.
    pub(super) operations: usize,
}

impl Outcome {
    /// Room for as many failures as there can be, so that noting one does not allocate.
    pub(super) fn new() -> Self {
        Self { failed: Vec::with_capacity(TX_JOBS.saturating_add(RX_JOBS)), hypercalls: 0, operations: 0 }
    }
}

/// Operations that are carried out together, the last of them when it is dropped.
///
/// It is large, so it stays where it was made.
pub(super) struct CopyBatch<'h, 'a, H: Hypervisor> {
    hyp: &'h H,
    ops: heapless::Vec<GrantCopy<'a>, MAX_OPS>,
    owners: heapless::Vec<Owner, MAX_OPS>,
    outcome: &'h mut Outcome,
}

impl<'h, 'a, H: Hypervisor> CopyBatch<'h, 'a, H> {
    /// An empty batch that notes in `outcome` what becomes of it.
    pub(super) fn new(hyp: &'h H, outcome: &'h mut Outcome) -> Self {
        outcome.failed.clear();
        (outcome.hypercalls, outcome.operations) = (0, 0);
        Self { hyp, ops: heapless::Vec::new(), owners: heapless::Vec::new(), outcome }
    }

    /// Adds a copy of `len` bytes; the ones added so far are carried out first if the batch is full.
    pub(super) fn push(&mut self, owner: Owner, source: CopySource<'a>, dest: CopyDest<'a>, len: usize) {
        let Ok(len) = u16::try_from(len) else {
            self.fail(owner);
            return;
        };
        if self.ops.is_full() {
            self.run();
        }
        // There is room now, and both have the same length.
        let _ = self.ops.push(GrantCopy::new(source, dest, len));
        let _ = self.owners.push(owner);
    }

    /// Marks a job as failed without a copy.
    pub(super) fn fail(&mut self, owner: Owner) {
        let failed = &mut self.outcome.failed;
        if failed.last() != Some(&owner) {
            // Operations of a job are adjacent, so each job is here at most once and all jobs fit.
            failed.push(owner);
        }
    }

    fn run(&mut self) {
        if self.ops.is_empty() {
            return;
        }
        self.hyp.copy(&mut self.ops);
        self.outcome.hypercalls = self.outcome.hypercalls.wrapping_add(1);
        self.outcome.operations = self.outcome.operations.wrapping_add(self.ops.len());
        for at in 0..self.ops.len() {
            if let (Some(op), Some(owner)) = (self.ops.get(at), self.owners.get(at))
                && op.status.is_err()
            {
                let owner = *owner;
                self.fail(owner);
            }
        }
        self.ops.clear();
        self.owners.clear();
    }
}

impl<H: Hypervisor> Drop for CopyBatch<'_, '_, H> {
    fn drop(&mut self) {
        self.run();
    }
}
