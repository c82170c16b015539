//! Batches of grant copies.
//!
//! All copies of one step of a backend's turn go into one [`CopyBatch`], which is one hypercall unless it overflows.
//! Each operation names its owner, a request or a packet, who is told if it failed; the others of the batch are
//! unaffected.

use core::cell::Cell;

use super::{CopyDest, CopySource, GrantCopy, GrantError, Grants};

/// Operations of one hypercall: `arch` makes as many of a longer list.
pub(crate) const BATCH: usize = 64;

/// Copies since some moment. They wrap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    /// Hypercalls.
    pub calls: u64,
    /// Operations in those.
    pub operations: u64,
}

impl Copied {
    /// Adds those of a batch.
    pub const fn add(&mut self, more: Self) {
        self.calls = self.calls.wrapping_add(more.calls);
        self.operations = self.operations.wrapping_add(more.operations);
    }
}

/// Who wants a copy, and is to know if it failed.
pub trait CopyOwner {
    /// Where failures are noted, if not in the owner itself.
    type Log: ?Sized;

    /// A copy has failed. Called once for each that has, in the order in which they were added.
    fn failed(&self, error: GrantError, log: &mut Self::Log);
}

impl CopyOwner for &Cell<Option<GrantError>> {
    type Log = ();

    fn failed(&self, error: GrantError, (): &mut ()) {
        self.set(Some(error));
    }
}

/// Operations that are carried out together, the last of them by [`finish`](Self::finish).
///
/// It is several KiB, and turns that copy nothing make some too: so it stays where it was made, and has one list, at its
/// end. With fields that start as zero on both sides of a list, the compiler clears the list as well.
#[repr(C)]
pub struct CopyBatch<'h, 'a, G, O: CopyOwner> {
    grants: &'h G,
    log: &'h mut O::Log,
    copied: Copied,
    ops: heapless::Vec<GrantCopy<'a, O>, BATCH>,
}

impl<'h, 'a, G: Grants, O: CopyOwner> CopyBatch<'h, 'a, G, O> {
    /// An empty batch. Failures are noted in `log`.
    #[must_use]
    pub const fn new(grants: &'h G, log: &'h mut O::Log) -> Self {
        Self { grants, log, copied: Copied { calls: 0, operations: 0 }, ops: heapless::Vec::new() }
    }

    /// Adds a copy of `len` bytes, 1 to a page; the ones added so far are carried out first if the batch is full. A length
    /// that no operation can have is a failure of its owner's.
    pub fn push(&mut self, owner: O, source: CopySource<'a>, dest: CopyDest<'a>, len: usize) {
        let Ok(len) = u16::try_from(len) else {
            self.fail(&owner, GrantError::BadCopyArg);
            return;
        };
        if self.ops.is_full() {
            self.run();
        }
        // There is room now.
        let _ = self.ops.push(GrantCopy::for_owner(owner, source, dest, len));
    }

    /// Tells an owner that a copy of its failed, one that was not even tried.
    pub fn fail(&mut self, owner: &O, error: GrantError) {
        owner.failed(error, self.log);
    }

    /// Carries out what was added, and says what the whole batch took.
    pub fn finish(&mut self) -> Copied {
        self.run();
        self.copied
    }

    fn run(&mut self) {
        if self.ops.is_empty() {
            return;
        }
        self.grants.copy(&mut self.ops);
        self.copied.add(Copied { calls: 1, operations: u64::try_from(self.ops.len()).unwrap_or(0) });
        for op in &self.ops {
            if let Err(error) = op.status {
                op.owner.failed(error, self.log);
            }
        }
        self.ops.clear();
    }
}
