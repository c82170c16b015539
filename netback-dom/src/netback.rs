//! The network backend as the main loop sees it.
//!
//! ```text
//! let mut netback = Netback::new(hyp, tasks, memory, options);
//! netback.add_uplink(BridgeId::default());         // once for each card
//! netback.spawn_hotplug();
//! loop {
//!     xenstore, tasks.poll(), cards.poll()
//!     if netback.poll(&mut cards, now) == Turn::Busy { continue }
//!     if netback.arm() == Turn::Busy || cards.arm() { continue }
//!     hyp.wait(earliest of netback.next_deadline(now), timers of tasks, cards)
//! }
//! ```

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::RefCell;

use xen_pv_rt::hyp::{Copied, Hypervisor, Instant};
use xen_pv_rt::task::Tasks;
use xen_pv_rt::xenbus::backend::Devices;

use crate::dataplane::{Memory, Plane, Turn, Uplinks};
use crate::publish::VifReport;
use crate::switch::policy::Policy;
use crate::switch::{BridgeId, SwitchOptions};
use crate::vif::Vifs;

/// What can be set about a [`Netback`].
#[derive(Clone, Debug)]
pub struct Options {
    /// The switch.
    pub switch: SwitchOptions,
    /// What becomes of a vif's keys.
    pub policy: Policy,
    /// Most vifs; further ones are refused.
    pub max_vifs: usize,
    /// Most queues of a vif, at least 1. With many vifs the later ones are offered fewer.
    pub max_queues: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { switch: SwitchOptions::default(), policy: Policy::default(), max_vifs: 64, max_queues: 4 }
    }
}

/// A network backend: every vif of the domain, and the switch between them and the cards.
pub struct Netback<H: Hypervisor> {
    devices: Rc<Devices<Vifs<H>>>,
    plane: Rc<RefCell<Plane<H>>>,
}

impl<H: Hypervisor> Netback<H> {
    /// A backend without cards that serves nobody yet. Its control plane runs in `tasks`.
    pub fn new(hyp: H, tasks: Tasks, memory: Memory, options: Options) -> Self {
        let plane = Rc::new(RefCell::new(Plane::new(hyp.clone(), memory, options.switch)));
        let vifs = Vifs::new(hyp, tasks.clone(), plane.clone(), options.policy, options.max_queues);
        Self { devices: Devices::new(vifs, tasks, options.max_vifs), plane }
    }

    /// Adds the next card to a bridge; the order is that of [`Uplinks`].
    pub fn add_uplink(&mut self, bridge: BridgeId) {
        self.plane.borrow_mut().add_uplink(bridge);
    }

    /// Adds the domain's own interface to a bridge, after the cards: it reaches cards and vifs alike.
    pub fn add_local(&mut self, bridge: BridgeId) {
        self.plane.borrow_mut().add_local(bridge);
    }

    /// Starts to serve the vifs that are there, and those that come.
    pub fn spawn_hotplug(&self) {
        self.devices.spawn();
    }

    /// Moves packets: one turn, of bounded length. [`Turn::Busy`] asks to be called again without sleeping.
    ///
    /// `now` is the time at the start of the turn.
    pub fn poll(&mut self, uplinks: &mut dyn Uplinks, now: Instant) -> Turn {
        self.plane.borrow_mut().poll(uplinks, now)
    }

    /// The step before sleeping: asks every frontend for an event and looks for the last time.
    ///
    /// [`Turn::Busy`]: do not sleep. If it is [`Turn::Idle`], whatever comes after makes an event channel
    /// pending, so a wait that starts later ends at once.
    pub fn arm(&mut self) -> Turn {
        self.plane.borrow_mut().arm()
    }

    /// When [`poll`](Self::poll) is due even if nothing happens.
    pub fn next_deadline(&self, now: Instant) -> Option<Instant> {
        self.plane.borrow().next_deadline(now)
    }

    /// Closes every vif, in the order the protocol wants, and accepts no more. For shutdown.
    pub fn stop(&self) {
        self.devices.stop();
    }

    /// Whether no device is served or being closed any more.
    pub fn is_stopped(&self) -> bool {
        self.devices.is_empty()
    }

    /// The counters of every connected vif.
    pub fn reports(&self) -> Vec<VifReport> {
        let plane = self.plane.borrow();
        plane.counters().map(|(frontend, devid, counters)| VifReport { frontend, devid, counters }).collect()
    }

    /// Grant copies since start.
    pub fn copied(&self) -> Copied {
        self.plane.borrow().copied()
    }
}
