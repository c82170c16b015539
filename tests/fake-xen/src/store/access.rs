//! Operations with the checks that xenstored makes, and what tests do to the store.

use xen_pv_rt::hyp::{Domid, XsError};

use super::tree::Tree;
use super::{Change, MAX_NODES, MAX_PAYLOAD, MAX_WATCHES, Perms, Store};
use crate::machine::FakeXen;

impl Store {
    fn view(&self, t: u32) -> Result<&Tree, XsError> {
        if t == 0 { Ok(&self.tree) } else { self.transactions.running(t).map(|running| &running.tree) }
    }

    fn look(&mut self, t: u32, path: &str) -> Result<(), XsError> {
        if t != 0 {
            self.transaction(t)?.look(path);
        }
        Ok(())
    }

    /// What is said of a node that is not there: nobody learns that from a directory that is not theirs.
    fn absent(tree: &Tree, domid: Domid, path: &str) -> XsError {
        if tree.nearest(path).1.perms.may_read(domid) { XsError::NoEntry } else { XsError::Denied }
    }

    pub(crate) fn read(&mut self, domid: Domid, t: u32, path: &str) -> Result<Vec<u8>, XsError> {
        self.look(t, path)?;
        let tree = self.view(t)?;
        match tree.get(path) {
            None => Err(Self::absent(tree, domid, path)),
            Some(node) if !node.perms.may_read(domid) => Err(XsError::Denied),
            Some(node) => Ok(node.value.clone()),
        }
    }

    pub(crate) fn list(&mut self, domid: Domid, t: u32, path: &str) -> Result<Vec<String>, XsError> {
        self.read(domid, t, path)?;
        Ok(self.view(t)?.children(path))
    }

    /// Checks a write.
    pub(crate) fn may_write(&mut self, domid: Domid, t: u32, path: &str, len: usize) -> Result<(), XsError> {
        if path.len() + len + 1 > MAX_PAYLOAD {
            return Err(XsError::TooBig);
        }
        let tree = self.view(t)?;
        if !tree.nearest(path).1.perms.may_write(domid) {
            return Err(XsError::Denied);
        }
        let missing = tree.missing(path);
        if domid != Domid::DOM0 && missing > 0 && tree.owned_by(domid) + missing > MAX_NODES {
            return Err(XsError::Quota);
        }
        Ok(())
    }

    /// Checks a removal. `Ok(false)` if there is nothing to remove, which is no error.
    pub(crate) fn may_remove(&mut self, domid: Domid, t: u32, path: &str) -> Result<bool, XsError> {
        let tree = self.view(t)?;
        match tree.get(path) {
            Some(node) if node.perms.may_write(domid) => Ok(true),
            Some(_) => Err(XsError::Denied),
            None if tree.get(super::tree::parent(path)).is_some() => Ok(false),
            None => Err(Self::absent(tree, domid, path)),
        }
    }

    pub(crate) fn watch(&mut self, domid: Domid, path: String, asked: String) -> Result<u64, XsError> {
        if domid != Domid::DOM0 && self.watch_count(domid) >= MAX_WATCHES {
            return Err(XsError::Quota);
        }
        Ok(self.watches.add(domid, path, asked))
    }
}

impl super::Transactions {
    fn running(&self, id: u32) -> Result<&super::transactions::Running, XsError> {
        self.peek(id).ok_or(XsError::NoEntry)
    }
}

/// The store as tests, Dom0 and frontends use it: at once, and without permissions in the way.
impl FakeXen {
    /// What a node holds, as text.
    pub fn read_store(&self, path: &str) -> Option<String> {
        let store = self.0.store.borrow();
        store.tree().get(path).map(|node| String::from_utf8_lossy(&node.value).into_owned())
    }

    /// Writes a node as Dom0 does.
    pub fn write_store(&self, path: &str, value: impl AsRef<[u8]>) {
        self.write_store_as(Domid::DOM0, path, value);
    }

    /// Writes a node as `domid` does, which owns what it creates.
    pub fn write_store_as(&self, domid: Domid, path: &str, value: impl AsRef<[u8]>) {
        self.0.store.borrow_mut().apply(domid, &Change::Write(path.to_string(), value.as_ref().to_vec()));
    }

    /// Creates a node if it is not there, and sets its permissions.
    pub fn set_perms(&self, path: &str, perms: Perms) {
        self.0.store.borrow_mut().apply(Domid::DOM0, &Change::SetPerms(path.to_string(), perms));
    }

    /// Removes a node and everything below it.
    pub fn remove_store(&self, path: &str) {
        if self.read_store(path).is_some() {
            self.0.store.borrow_mut().apply(Domid::DOM0, &Change::Remove(path.to_string()));
        }
    }

    /// The children of a node.
    pub fn list_store(&self, path: &str) -> Vec<String> {
        self.0.store.borrow().tree().children(path)
    }

    /// Every node at or below `path` with its value, for messages.
    pub fn dump_store(&self, path: &str) -> Vec<(String, String)> {
        self.0.store.borrow().tree().dump(path)
    }

    /// Everything that the driver domain has written to a node so far, oldest first.
    pub fn written(&self, path: &str) -> Vec<String> {
        self.0.store.borrow().history(path)
    }

    /// Stops (or lets go on) xenstored: requests stay unanswered, events are not delivered.
    pub fn pause_store(&self, paused: bool) {
        self.0.store.borrow_mut().paused = paused;
    }

    /// Fires every watch of the driver domain without reason.
    pub fn spurious_events(&self) {
        self.0.store.borrow_mut().watches().fire_all();
    }

    /// Drops the events that were sent and not received, as xenstored does for a client that does not read.
    pub fn lose_events(&self) {
        self.0.store.borrow_mut().watches().lose_all();
    }

    /// From now on, each watch gives its events in an order that `seed` decides.
    pub fn shuffle_events(&self, seed: u64) {
        self.0.store.borrow_mut().watches().shuffle(seed);
    }
}
