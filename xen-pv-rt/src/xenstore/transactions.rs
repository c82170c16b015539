//! Open transactions: our numbers for them, and xenstored's.

use alloc::collections::BTreeMap;

use crate::hyp::{Transaction, XsError};

/// Open transactions.
///
/// xenstored may use its numbers again, after a reset at the latest. Ours stand for one transaction only, so a task
/// that goes on with one from before a reset is refused, instead of writing into that of another task.
#[derive(Default)]
pub(super) struct Transactions {
    open: BTreeMap<u32, u32>,
    last: u32,
}

impl Transactions {
    /// Adds a transaction, given the reply that has begun it.
    ///
    /// # Errors
    /// [`XsError::Malformed`] if that is no transaction number.
    pub(super) fn begun(&mut self, reply: &[u8]) -> Result<Transaction, XsError> {
        let tx_id = number(reply).ok_or(XsError::Malformed)?;
        self.last = self.last.wrapping_add(1).max(1);
        self.open.insert(self.last, tx_id);
        Ok(Transaction::from_raw(self.last))
    }

    /// xenstored's number; 0 for none.
    ///
    /// # Errors
    /// [`XsError::Reset`] if it was begun before a reset, or has ended.
    pub(super) fn tx_id(&self, t: Transaction) -> Result<u32, XsError> {
        match t {
            Transaction::NONE => Ok(0),
            t => self.open.get(&t.into_raw()).copied().ok_or(XsError::Reset),
        }
    }

    /// The transaction is over, whatever xenstored answers.
    pub(super) fn ended(&mut self, t: Transaction) {
        self.open.remove(&t.into_raw());
    }

    /// All of them are void.
    pub(super) fn clear(&mut self) {
        self.open.clear();
    }
}

/// xenstored's number in the reply that has begun a transaction.
pub(super) fn number(reply: &[u8]) -> Option<u32> {
    let text = core::str::from_utf8(reply).ok()?;
    text.strip_suffix('\0').unwrap_or(text).parse().ok().filter(|id| *id != 0)
}
