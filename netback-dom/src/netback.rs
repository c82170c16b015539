//! The network backend as the main loop sees it.
//!
//! ```text
//! let mut netback = Netback::new(hyp, tasks, memory, options);
//! netback.add_uplink(BridgeId::default());         // once for each card
//! netback.spawn_hotplug();
//! loop {
//!     xenstore, tasks.poll(), cards.poll()
//!     if netback.poll(&mut cards) == Turn::Busy { continue }
//!     if netback.arm() == Turn::Busy || cards.arm() { continue }
//!     hyp.wait(earliest of netback.next_deadline(), timers of tasks, cards)
//! }
//! ```

use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

use xen_pv_rt::hyp::{Domid, Hypervisor, Instant};
use xen_pv_rt::task::{Signal, Tasks};
use xen_pv_rt::xenbus::BackendPath;

use crate::dataplane::{Memory, Plane, Turn, Uplinks};
use crate::gate::Gate;
use crate::hotplug;
use crate::switch::{BridgeId, TableLimits};
use crate::vif::counters::VifCounters;

/// Transactions at a time.
const TRANSACTIONS: usize = 4;

/// What can be set about a [`Netback`].
#[derive(Clone, Debug)]
pub struct Options {
    /// Bounds of the address table.
    pub table: TableLimits,
    /// Names of bridges, as `bridge=` of a vif has them. If empty, every name means the default bridge.
    pub bridges: Vec<(String, BridgeId)>,
    /// Most vifs; further ones are refused.
    pub max_vifs: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { table: TableLimits::default(), bridges: Vec::new(), max_vifs: 64 }
    }
}

/// What control plane and data plane share.
pub(crate) struct Shared<H: Hypervisor> {
    pub(crate) hyp: H,
    pub(crate) tasks: Tasks,
    pub(crate) plane: RefCell<Plane<H>>,
    /// Set when the domain shuts down.
    pub(crate) stopping: Cell<bool>,
    /// For transactions: xenstored lets a domain have ten at a time.
    pub(crate) transactions: Gate,
    /// Makes the hotplug task look at all directories.
    pub(crate) rescan: Signal,
    options: Options,
    /// The devices that have a task, and the flag that wakes each.
    devices: RefCell<Vec<(BackendPath, Signal)>>,
}

impl<H: Hypervisor> Shared<H> {
    /// The bridge of that name.
    pub(crate) fn bridge(&self, name: Option<&str>) -> Option<BridgeId> {
        let bridges = &self.options.bridges;
        match name {
            Some(name) if !bridges.is_empty() => bridges.iter().find(|(known, _)| known == name).map(|(_, id)| *id),
            _ => Some(BridgeId::default()),
        }
    }

    /// Whether there are more devices than are to be served.
    pub(crate) fn is_full(&self) -> bool {
        self.devices.borrow().len() > self.options.max_vifs
    }

    /// Wakes a device's task. Returns whether it has one.
    pub(crate) fn poke(&self, path: &BackendPath) -> bool {
        let devices = self.devices.borrow();
        let known = devices.iter().find(|(device, _)| device == path);
        if let Some((_, signal)) = known {
            signal.raise();
        }
        known.is_some()
    }

    /// Wakes every device's task.
    pub(crate) fn poke_all(&self) {
        for (_, signal) in self.devices.borrow().iter() {
            signal.raise();
        }
    }

    /// Notes that a device gets a task; `None` if it has one.
    pub(crate) fn enter(&self, path: BackendPath) -> Option<Signal> {
        let mut devices = self.devices.borrow_mut();
        if devices.iter().any(|(device, _)| *device == path) {
            return None;
        }
        let signal = self.tasks.signal();
        devices.push((path, signal.clone()));
        Some(signal)
    }

    /// Notes that a device's task has ended.
    pub(crate) fn leave(&self, path: &BackendPath) {
        self.devices.borrow_mut().retain(|(device, _)| device != path);
    }
}

/// A network backend: every vif of the domain, and the switch between them and the cards.
pub struct Netback<H: Hypervisor> {
    shared: Rc<Shared<H>>,
}

impl<H: Hypervisor> Netback<H> {
    /// A backend without cards that serves nobody yet. Its control plane runs in `tasks`.
    pub fn new(hyp: H, tasks: Tasks, memory: Memory, options: Options) -> Self {
        let plane = RefCell::new(Plane::new(hyp.clone(), memory, options.table));
        let rescan = tasks.signal();
        let stopping = Cell::new(false);
        let devices = RefCell::default();
        let transactions = Gate::new(&tasks, TRANSACTIONS);
        Self { shared: Rc::new(Shared { hyp, tasks, plane, stopping, transactions, rescan, options, devices }) }
    }

    /// Adds the next card to a bridge; the order is that of [`Uplinks`].
    pub fn add_uplink(&mut self, bridge: BridgeId) {
        self.shared.plane.borrow_mut().add_uplink(bridge);
    }

    /// Starts to serve the vifs that are there, and those that come.
    pub fn spawn_hotplug(&self) {
        self.shared.tasks.spawn(hotplug::run(self.shared.clone()));
    }

    /// Moves packets: one turn, of bounded length. [`Turn::Busy`] asks to be called again without sleeping.
    pub fn poll(&mut self, uplinks: &mut dyn Uplinks) -> Turn {
        self.shared.plane.borrow_mut().poll(uplinks)
    }

    /// The step before sleeping: asks every frontend for an event and looks for the last time.
    ///
    /// [`Turn::Busy`]: do not sleep. If it is [`Turn::Idle`], whatever comes after makes an event channel
    /// pending, so a wait that starts later ends at once.
    pub fn arm(&mut self) -> Turn {
        self.shared.plane.borrow_mut().arm()
    }

    /// When [`poll`](Self::poll) is due even if nothing happens.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.shared.plane.borrow().next_deadline()
    }

    /// Closes every vif, in the order the protocol wants, and accepts no more. For shutdown.
    pub fn stop(&self) {
        self.shared.stopping.set(true);
        self.shared.poke_all();
    }

    /// Whether no device is served or being closed any more.
    pub fn is_stopped(&self) -> bool {
        self.shared.devices.borrow().is_empty()
    }

    /// Frontend, device id and counters of every connected vif.
    pub fn counters(&self) -> Vec<(Domid, u32, VifCounters)> {
        self.shared.plane.borrow().counters().collect()
    }

    /// Grant copy hypercalls since start.
    pub fn copy_hypercalls(&self) -> u64 {
        self.shared.plane.borrow().hypercalls()
    }
}
