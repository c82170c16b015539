//! The driver domain's connection to xenstored: requests in flight, and the rules of what it may write.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use xen_pv_rt::hyp::{Instant, Transaction, Watch, Xenstore, XsError};
use xen_pv_rt::xenbus::{BackendPath, DeviceKind};

use crate::faults::{StoreOp, consult};
use crate::machine::{FakeHyp, Machine};
use crate::store::{Change, Store};

enum Reply {
    Done,
    Value(Vec<u8>),
    Names(Vec<String>),
    Id(u64),
}

type Answer = Rc<RefCell<Option<Result<Reply, XsError>>>>;

/// Requests that were sent and not answered.
#[derive(Default)]
pub(crate) struct Client {
    queue: VecDeque<(u32, StoreOp, String, Answer)>,
}

impl Client {
    pub(crate) fn has_work(&self) -> bool {
        !self.queue.is_empty()
    }
}

impl Machine {
    fn serve(&self, t: u32, operation: &StoreOp, asked: &str) -> Result<Reply, XsError> {
        if let Some(error) = consult(&self.faults, |faults| &mut faults.store, operation) {
            // Whatever it answers, xenstored has ended the transaction.
            if matches!(operation, StoreOp::Commit | StoreOp::Abort) {
                self.store.borrow_mut().abort(t)?;
            }
            return Err(error);
        }
        if let StoreOp::Write(path, _) | StoreOp::Remove(path) = operation {
            // Before the permissions, which would answer for a backend that does not know its place.
            self.check_subtree(path);
        }
        let us = self.backend;
        let mut store = self.store.borrow_mut();
        match operation {
            StoreOp::Read(path) => store.read(us, t, path).map(Reply::Value),
            StoreOp::List(path) => store.list(us, t, path).map(Reply::Names),
            StoreOp::Write(path, value) => {
                store.may_write(us, t, path, value.len())?;
                let change = Change::Write(path.clone(), value.clone().into_bytes());
                drop(store);
                self.change(t, change)
            }
            StoreOp::Remove(path) => {
                if !store.may_remove(us, t, path)? {
                    return Ok(Reply::Done);
                }
                drop(store);
                self.change(t, Change::Remove(path.clone()))
            }
            StoreOp::Begin => store.begin(us).map(|id| Reply::Id(id.into())),
            StoreOp::Abort => store.abort(t).map(|()| Reply::Done),
            StoreOp::Commit => {
                let changes = store.end(t)?;
                drop(store);
                for change in changes {
                    self.change(0, change)?;
                }
                Ok(Reply::Done)
            }
            StoreOp::Watch(path) => store.watch(us, path.clone(), asked.to_string()).map(Reply::Id),
        }
    }

    fn change(&self, t: u32, change: Change) -> Result<Reply, XsError> {
        let mut store = self.store.borrow_mut();
        if t == 0 {
            drop(store);
            self.check_closed(&change);
            self.store.borrow_mut().apply(self.backend, &change);
        } else {
            store.transaction(t)?.change(self.backend, change);
        }
        Ok(Reply::Done)
    }

    /// Rule 4.
    fn check_subtree(&self, path: &str) {
        let home = Store::home(self.backend);
        let ours = ["backend/", "error/", "data/", "device/pci/"];
        let allowed = path.strip_prefix(&format!("{home}/")).is_some_and(|below| {
            let control = below == "control/shutdown" || below.starts_with("control/feature-");
            ours.iter().any(|prefix| below.starts_with(prefix)) || control || below == "data"
        });
        assert!(allowed, "rule 4: the driver domain changes {path}");
    }

    /// Rule 2.
    fn check_closed(&self, change: &Change) {
        let Change::Write(path, value) = change else { return };
        let closed = value == b"6" && path.ends_with("/state");
        let devices = [DeviceKind::Vif, DeviceKind::Vbd].map(|kind| BackendPath::parse(kind, path));
        for device in devices.into_iter().flatten().filter(|_| closed) {
            let mapped = self.grants.borrow().mapped_of(&device);
            assert_eq!(mapped, 0, "rule 2: {device} publishes Closed with pages of the frontend mapped");
            let bound = self.events.borrow().bound_of(&device);
            assert_eq!(bound, 0, "rule 2: {device} publishes Closed with its event channel bound");
        }
    }
}

impl FakeHyp {
    async fn request(&self, t: Transaction, operation: StoreOp, asked: &str) -> Result<Reply, XsError> {
        let answer = Answer::default();
        let entry = (t.into_raw(), operation, asked.to_string(), answer.clone());
        self.0.client.borrow_mut().queue.push_back(entry);
        poll_fn(|_| match answer.borrow_mut().take() {
            Some(answer) => Poll::Ready(answer),
            None => Poll::Pending,
        })
        .await
    }

    fn absolute(&self, path: &str) -> Result<String, XsError> {
        Store::absolute(self.0.backend, path)
    }
}

impl Xenstore for FakeHyp {
    type Watch = StoreWatch;

    fn poll(&self, _now: Instant) -> bool {
        if self.0.store.borrow().paused {
            return false;
        }
        let queue = std::mem::take(&mut self.0.client.borrow_mut().queue);
        let mut any = false;
        for (t, operation, asked, answer) in queue {
            let result = self.0.serve(t, &operation, &asked);
            *answer.borrow_mut() = Some(result);
            any = true;
        }
        any |= self.0.store.borrow_mut().watches().deliver();
        if any {
            self.0.sleepless.set(0);
        }
        any
    }

    async fn read(&self, t: Transaction, path: &str) -> Result<Vec<u8>, XsError> {
        match self.request(t, StoreOp::Read(self.absolute(path)?), path).await? {
            Reply::Value(value) => Ok(value),
            _ => Err(XsError::Other),
        }
    }

    async fn write(&self, t: Transaction, path: &str, value: &str) -> Result<(), XsError> {
        self.request(t, StoreOp::Write(self.absolute(path)?, value.to_string()), path).await.map(drop)
    }

    async fn list(&self, t: Transaction, path: &str) -> Result<Vec<String>, XsError> {
        match self.request(t, StoreOp::List(self.absolute(path)?), path).await? {
            Reply::Names(names) => Ok(names),
            _ => Err(XsError::Other),
        }
    }

    async fn remove(&self, t: Transaction, path: &str) -> Result<(), XsError> {
        self.request(t, StoreOp::Remove(self.absolute(path)?), path).await.map(drop)
    }

    async fn begin(&self) -> Result<Transaction, XsError> {
        match self.request(Transaction::NONE, StoreOp::Begin, "").await? {
            Reply::Id(id) => u32::try_from(id).map(Transaction::from_raw).map_err(|_| XsError::Other),
            _ => Err(XsError::Other),
        }
    }

    async fn commit(&self, t: Transaction) -> Result<(), XsError> {
        self.request(t, StoreOp::Commit, "").await.map(drop)
    }

    async fn abort(&self, t: Transaction) -> Result<(), XsError> {
        self.request(t, StoreOp::Abort, "").await.map(drop)
    }

    async fn watch(&self, path: &str) -> Result<StoreWatch, XsError> {
        match self.request(Transaction::NONE, StoreOp::Watch(self.absolute(path)?), path).await? {
            Reply::Id(id) => Ok(StoreWatch { machine: self.0.clone(), id }),
            _ => Err(XsError::Other),
        }
    }
}

/// A watch of the driver domain's; removed on drop.
pub struct StoreWatch {
    machine: Rc<Machine>,
    id: u64,
}

impl Watch for StoreWatch {
    async fn next(&self) -> String {
        poll_fn(|_| match self.machine.store.borrow_mut().watches().take(self.id) {
            Some(event) => Poll::Ready(event),
            None => Poll::Pending,
        })
        .await
    }
}

impl Drop for StoreWatch {
    fn drop(&mut self) {
        self.machine.store.borrow_mut().watches().remove(self.id);
    }
}
