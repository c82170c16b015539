//! The xenstore client, as the control plane sees it.
//!
//! Every operation is a future: the control plane waits for xenstored without holding up the data plane.
//! Paths are absolute, or relative to `/local/domain/<us>/`.
//!
//! Xen: `docs/misc/xenstore.txt`, `public/io/xs_wire.h`.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::future::Future;

use super::Instant;

/// Why an operation failed: xenstored's answer, or what was wrong before it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XsError {
    /// `ENOENT`: no such node.
    NoEntry,
    /// `EACCES`, `EPERM`: not ours to read or write.
    Denied,
    /// `EINVAL`: malformed path or value.
    Invalid,
    /// `EAGAIN`: the transaction conflicted and must be retried.
    Again,
    /// `EEXIST`: already there (a watch, for instance).
    Exists,
    /// `ENOSPC`, `EQUOTA`: this domain's quota of nodes, watches or transactions is used up.
    Quota,
    /// `E2BIG`, or a request or value beyond 4096 bytes, which is never sent.
    TooBig,
    /// `EBUSY`: too many operations in flight.
    Busy,
    /// The value is not what its key demands (not UTF-8, not a number, out of range).
    Malformed,
    /// The connection to xenstored was reset while the operation was under way.
    Reset,
    /// Any other error name.
    Other,
}

impl fmt::Display for XsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoEntry => "no such xenstore node",
            Self::Denied => "xenstore access denied",
            Self::Invalid => "xenstore refused the path or value",
            Self::Again => "xenstore transaction conflict",
            Self::Exists => "xenstore node or watch exists already",
            Self::Quota => "xenstore quota used up (see xenstored's --entry-nb, --watch-nb, --transaction)",
            Self::TooBig => "xenstore value or request too big",
            Self::Busy => "xenstore has too many requests in flight",
            Self::Malformed => "xenstore value malformed",
            Self::Reset => "xenstore connection was reset",
            Self::Other => "xenstore error",
        })
    }
}

/// A transaction that was begun. [`Transaction::NONE`] stands for operations outside one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transaction(u32);

impl Transaction {
    /// No transaction.
    pub const NONE: Self = Self(0);
    /// Wraps xenstored's number.
    pub const fn from_raw(raw: u32) -> Self {
        Self(raw)
    }
    /// xenstored's number.
    pub const fn into_raw(self) -> u32 {
        self.0
    }
}

/// A registered watch; removed on drop.
pub trait Watch {
    /// Waits for the next event and returns the path that changed.
    ///
    /// Events for one path that was not read yet coalesce, so a peer cannot make the queue grow without
    /// bound; when the queue overflows, the watched path itself is returned, which means "look at all of it".
    /// The first event comes right after registration.
    fn next(&self) -> impl Future<Output = String>;
}

/// Xenstore operations.
pub trait Xenstore {
    /// A registered watch.
    type Watch: Watch + 'static;

    /// Exchanges bytes with xenstored, without waiting. Called by the event loop; returns whether the control
    /// plane's tasks have something to see.
    /// `now` is monotonic time: events that were not read for long may have been dropped.
    fn poll(&self, now: Instant) -> bool;
    /// Reads a node's value.
    fn read(&self, t: Transaction, path: &str) -> impl Future<Output = Result<Vec<u8>, XsError>>;
    /// Writes a node, creating it and its parents as needed.
    fn write(&self, t: Transaction, path: &str, value: &str) -> impl Future<Output = Result<(), XsError>>;
    /// Lists the children of a node.
    fn list(&self, t: Transaction, path: &str) -> impl Future<Output = Result<Vec<String>, XsError>>;
    /// Removes a node and everything below it.
    fn remove(&self, t: Transaction, path: &str) -> impl Future<Output = Result<(), XsError>>;
    /// Begins a transaction.
    fn begin(&self) -> impl Future<Output = Result<Transaction, XsError>>;
    /// Commits a transaction. [`XsError::Again`] asks to run it once more from the start.
    fn commit(&self, t: Transaction) -> impl Future<Output = Result<(), XsError>>;
    /// Abandons a transaction.
    fn abort(&self, t: Transaction) -> impl Future<Output = Result<(), XsError>>;
    /// Watches a node and everything below it.
    fn watch(&self, path: &str) -> impl Future<Output = Result<Self::Watch, XsError>>;
}
