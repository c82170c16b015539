//! xenstored: one tree, permissions, watches, transactions and quotas.
//!
//! Dom0 and the frontends use it at once, through [`FakeXen`]; the driver domain through its client
//! (`client.rs`), whose requests wait until they are polled.
//!
//! Xen: `docs/misc/xenstore.txt`, `tools/xenstored`.

mod access;
mod transactions;
mod tree;
mod watches;

use std::collections::BTreeMap;

use xen_pv_rt::hyp::{Domid, XsError};

pub use tree::{Perm, Perms};

use transactions::Transactions;
pub(crate) use tree::Tree;
use watches::Watches;

/// Nodes a domain may own.
const MAX_NODES: usize = 1000;
/// Watches a domain may have.
const MAX_WATCHES: usize = 128;
/// Transactions a domain may have under way.
const MAX_TRANSACTIONS: usize = 10;
/// Longest request, and so the longest value.
const MAX_PAYLOAD: usize = 4096;

pub(crate) struct Store {
    backend: Domid,
    tree: Tree,
    watches: Watches,
    transactions: Transactions,
    /// No request is answered and no event is sent while this is set.
    pub(crate) paused: bool,
    /// Values the driver domain has written, by path.
    history: BTreeMap<String, Vec<String>>,
}

/// One change, as it is carried out and as it is logged in a transaction.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    Write(String, Vec<u8>),
    Remove(String),
    SetPerms(String, Perms),
}

impl Store {
    pub(crate) fn new(backend: Domid) -> Self {
        Self {
            backend,
            tree: Tree::new(),
            watches: Watches::default(),
            transactions: Transactions::default(),
            paused: false,
            history: BTreeMap::new(),
        }
    }

    /// A domain's own directory.
    pub(crate) fn home(domid: Domid) -> String {
        format!("/local/domain/{domid}")
    }

    /// The absolute form of a path.
    ///
    /// # Errors
    /// [`XsError::Invalid`] if it is not a path.
    pub(crate) fn absolute(domid: Domid, path: &str) -> Result<String, XsError> {
        let legal = |c: char| c.is_ascii_alphanumeric() || "-/_@:+".contains(c);
        let max = if path.starts_with('/') { 3072 } else { 2048 };
        let clean = !path.is_empty() && path.len() <= max && path.chars().all(legal);
        if !clean || path.contains("//") || (path.ends_with('/') && path != "/") {
            return Err(XsError::Invalid);
        }
        if path.starts_with('/') || path.starts_with('@') {
            return Ok(path.to_string());
        }
        Ok(format!("{}/{path}", Self::home(domid)))
    }

    pub(crate) fn node_count(&self, domid: Domid) -> usize {
        self.tree.owned_by(domid)
    }

    pub(crate) fn watch_count(&self, domid: Domid) -> usize {
        self.watches.count(domid)
    }

    pub(crate) fn transaction_count(&self, domid: Domid) -> usize {
        self.transactions.count(domid)
    }

    /// Whether an event is on its way to the driver domain.
    pub(crate) fn has_news(&self) -> bool {
        !self.paused && self.watches.has_news()
    }

    /// Values that the driver domain has written to a node, oldest first.
    pub(crate) fn history(&self, path: &str) -> Vec<String> {
        self.history.get(path).cloned().unwrap_or_default()
    }

    pub(crate) fn tree(&self) -> &Tree {
        &self.tree
    }

    pub(crate) fn watches(&mut self) -> &mut Watches {
        &mut self.watches
    }

    /// Carries out a change and sends the events it causes.
    pub(crate) fn apply(&mut self, by: Domid, change: &Change) {
        if by == self.backend
            && let Change::Write(path, value) = change
        {
            self.history.entry(path.clone()).or_default().push(String::from_utf8_lossy(value).into_owned());
        }
        for (path, perms, exact) in self.tree.apply(by, change) {
            self.watches.fire(&path, &perms, exact);
        }
    }
}
