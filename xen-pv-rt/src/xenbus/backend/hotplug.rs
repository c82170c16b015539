//! Devices that come and go.
//!
//! One watch on `backend/<kind>` sees every device of this domain. The task is level-triggered: an event below
//! a known device only wakes that device's task; any other makes it list what is there and start a task for
//! each device that has none. Lost, repeated or spurious events therefore do no harm.

use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::time::Duration;

use embassy_futures::select::{Either, select};

use super::gate::Gate;
use super::{Backend, device};
use crate::hyp::{Domid, Transaction, Watch, Xenstore, XsError, sleep};
use crate::task::{Signal, Tasks};
use crate::xenbus::BackendPath;

/// How long to wait before asking xenstored again after it refused.
const RETRY: Duration = Duration::from_secs(1);

/// Transactions at a time; xenstored lets a domain have ten.
const TRANSACTIONS: usize = 4;

/// Every device of one kind that this domain serves.
pub struct Devices<B: Backend> {
    backend: B,
    tasks: Tasks,
    /// Set when the domain shuts down.
    stopping: Cell<bool>,
    /// For tasks that begin a transaction.
    pub(super) transactions: Gate,
    /// Makes the hotplug task look at all directories.
    rescan: Signal,
    /// Most devices; further ones are refused.
    max: usize,
    /// The devices that have a task, and the flag that wakes each.
    known: RefCell<Vec<(BackendPath, Signal)>>,
}

impl<B: Backend> Devices<B> {
    /// No devices yet; at most `max` later on. Their tasks run in `tasks`.
    pub fn new(backend: B, tasks: Tasks, max: usize) -> Rc<Self> {
        let (rescan, transactions) = (tasks.signal(), Gate::new(&tasks, TRANSACTIONS));
        let (stopping, known) = (Cell::new(false), RefCell::default());
        Rc::new(Self { backend, tasks, stopping, transactions, rescan, max, known })
    }

    /// What is particular to the devices.
    pub fn backend(&self) -> &B {
        &self.backend
    }

    /// Starts to serve the devices that are there, and those that come.
    pub fn spawn(self: &Rc<Self>) {
        self.tasks.spawn(run(self.clone()));
    }

    /// Closes every device, in the order the protocol wants, and accepts no more. For shutdown.
    pub fn stop(&self) {
        self.stopping.set(true);
        self.poke_all();
    }

    /// Whether the domain shuts down.
    pub fn is_stopping(&self) -> bool {
        self.stopping.get()
    }

    /// Whether no device is served or being closed any more.
    pub fn is_empty(&self) -> bool {
        self.known.borrow().is_empty()
    }

    /// Wakes every device's task.
    pub fn poke_all(&self) {
        for (_, signal) in self.known.borrow().iter() {
            signal.raise();
        }
    }

    /// Whether there are more devices than are to be served.
    pub(super) fn is_full(&self) -> bool {
        self.known.borrow().len() > self.max
    }

    /// Wakes a device's task. Returns whether it has one.
    fn poke(&self, path: &BackendPath) -> bool {
        let known = self.known.borrow();
        let device = known.iter().find(|(device, _)| device == path);
        if let Some((_, signal)) = device {
            signal.raise();
        }
        device.is_some()
    }

    /// Notes that a device gets a task; `None` if it has one.
    fn enter(&self, path: BackendPath) -> Option<Signal> {
        let mut known = self.known.borrow_mut();
        if known.iter().any(|(device, _)| *device == path) {
            return None;
        }
        let signal = self.tasks.signal();
        known.push((path, signal.clone()));
        Some(signal)
    }

    /// Notes that a device's task has ended.
    fn leave(&self, path: &BackendPath) {
        self.known.borrow_mut().retain(|(device, _)| device != path);
    }
}

async fn run<B: Backend>(devices: Rc<Devices<B>>) {
    let directory = format!("backend/{}", B::KIND);
    let hyp = devices.backend.hyp().clone();
    let watch = loop {
        match hyp.watch(&directory).await {
            Ok(watch) => break watch,
            Err(error) => log::error!("cannot watch {directory}: {error}"),
        }
        sleep(&hyp, RETRY).await;
    };
    loop {
        match select(watch.next(), devices.rescan.wait()).await {
            Either::First(changed) => match BackendPath::parse(B::KIND, &changed) {
                Some(path) if devices.poke(&path) => {}
                Some(_) => reconcile(&devices, &directory).await,
                None => {
                    devices.poke_all();
                    reconcile(&devices, &directory).await;
                }
            },
            Either::Second(()) => reconcile(&devices, &directory).await,
        }
    }
}

/// Starts a task for each device that has none. A device's task ends by itself.
async fn reconcile<B: Backend>(devices: &Rc<Devices<B>>, directory: &str) {
    let hyp = devices.backend.hyp();
    loop {
        match find::<B>(hyp, directory).await {
            Ok(found) => {
                found.into_iter().for_each(|path| start(devices, path));
                return;
            }
            Err(error) => log::warn!("cannot list {directory}: {error}"),
        }
        sleep(hyp, RETRY).await;
    }
}

fn start<B: Backend>(devices: &Rc<Devices<B>>, path: BackendPath) {
    if devices.stopping.get() {
        return;
    }
    let Some(poke) = devices.enter(path) else { return };
    let task = devices.clone();
    devices.tasks.spawn(async move {
        device::run(&task, path, poke).await;
        task.backend.forget(&path);
        task.leave(&path);
        // The directory may have been created anew while the task was finishing.
        task.rescan.raise();
    });
}

/// Every device directory there is.
async fn find<B: Backend>(hyp: &B::Hyp, directory: &str) -> Result<Vec<BackendPath>, XsError> {
    let mut found = Vec::new();
    for frontend in list(hyp, directory).await? {
        let Ok(domid) = frontend.parse() else { continue };
        for device in list(hyp, &format!("{directory}/{domid}")).await? {
            if let Ok(devid) = device.parse() {
                found.push(BackendPath { kind: B::KIND, frontend: Domid::from_raw(domid), devid });
            }
        }
    }
    Ok(found)
}

async fn list(hyp: &impl Xenstore, path: &str) -> Result<Vec<String>, XsError> {
    match hyp.list(Transaction::NONE, path).await {
        Err(XsError::NoEntry) => Ok(Vec::new()),
        other => other,
    }
}
