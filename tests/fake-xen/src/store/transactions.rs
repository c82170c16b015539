//! Transactions: a private copy of the tree, a log of changes, and a check for conflicts.

use std::collections::{BTreeMap, BTreeSet};

use xen_pv_rt::hyp::{Domid, XsError};

use super::tree::parent;
use super::{Change, MAX_TRANSACTIONS, Store, Tree};

pub(crate) struct Running {
    domid: Domid,
    /// As it was at the start.
    base: Tree,
    /// With the changes so far.
    pub(crate) tree: Tree,
    /// Nodes that were looked at or changed.
    touched: BTreeSet<String>,
    log: Vec<Change>,
}

impl Running {
    pub(crate) fn change(&mut self, by: Domid, change: Change) {
        let (Change::Write(path, _) | Change::Remove(path) | Change::SetPerms(path, _)) = &change;
        if self.tree.get(path).is_none() || matches!(change, Change::Remove(_)) {
            // Creating and removing changes the directory that it is in.
            self.touched.insert(parent(path).to_string());
        }
        self.touched.insert(path.clone());
        self.tree.apply(by, &change);
        self.log.push(change);
    }

    pub(crate) fn look(&mut self, path: &str) {
        self.touched.insert(path.to_string());
    }
}

#[derive(Default)]
pub(crate) struct Transactions {
    running: BTreeMap<u32, Running>,
    next: u32,
}

impl Transactions {
    pub(crate) fn count(&self, domid: Domid) -> usize {
        self.running.values().filter(|running| running.domid == domid).count()
    }

    pub(crate) fn peek(&self, id: u32) -> Option<&Running> {
        self.running.get(&id)
    }

    pub(crate) fn get(&mut self, id: u32) -> Result<&mut Running, XsError> {
        self.running.get_mut(&id).ok_or(XsError::NoEntry)
    }
}

impl Store {
    pub(crate) fn begin(&mut self, domid: Domid) -> Result<u32, XsError> {
        if domid != Domid::DOM0 && self.transactions.count(domid) >= MAX_TRANSACTIONS {
            return Err(XsError::Quota);
        }
        self.transactions.next += 1;
        let (base, tree) = (self.tree.clone(), self.tree.clone());
        let running = Running { domid, base, tree, touched: BTreeSet::new(), log: Vec::new() };
        self.transactions.running.insert(self.transactions.next, running);
        Ok(self.transactions.next)
    }

    pub(crate) fn transaction(&mut self, id: u32) -> Result<&mut Running, XsError> {
        self.transactions.get(id)
    }

    /// Ends a transaction, without its changes.
    pub(crate) fn abort(&mut self, id: u32) -> Result<(), XsError> {
        self.transactions.running.remove(&id).map(drop).ok_or(XsError::NoEntry)
    }

    /// Ends a transaction and returns its changes, to be applied.
    pub(crate) fn end(&mut self, id: u32) -> Result<Vec<Change>, XsError> {
        let running = self.transactions.running.remove(&id).ok_or(XsError::NoEntry)?;
        let generation = |tree: &Tree, path: &str| tree.get(path).map(|node| node.generation);
        if running.touched.iter().any(|path| generation(&running.base, path) != generation(&self.tree, path)) {
            return Err(XsError::Again);
        }
        Ok(running.log)
    }
}
