//! Vbds on the control plane, and the backend as the main loop sees it.

use alloc::rc::Rc;
use alloc::string::ToString;
use alloc::vec::Vec;
use core::cell::RefCell;

use ring::Pages;
use ring::blkif::{Abi, Limits, MAX_INDIRECT_SEGMENTS, Ring};
use xen_pv_rt::hyp::{Access, Copied, Dma, Domid, Hypervisor, Instant};
use xen_pv_rt::task::{Signal, Tasks};
use xen_pv_rt::xenbus::backend::{Action, Backend, Devices, Fault, Keys, Reporter};
use xen_pv_rt::xenbus::{BackendPath, DeviceKind, FrontendPath};

use super::Budget;
use super::cause::VbdCounters;
use super::device::VbdParts;
use super::keys::{BackendKeys, FrontendKeys, QueueKeys, offer, offered_discard};
use super::plane::{Controllers, Plane, Turn, VbdId};
use super::queue::Queue;
use crate::disk::SECTOR_BYTES;
use crate::volume::{Catalogue, Claims, Map, Target, Use, Volume, VolumeError};

/// Indices that no ring can have.
const RING_STATE: Fault = Fault::new("RING_STATE", "impossible producer index when the ring was attached");
/// The domain has no memory for another vbd's buffers.
const NO_MEMORY: Fault = Fault::new("NO_MEMORY", "no memory for another vbd (give the domain more with memory=)");

/// What can be set about a [`Blkback`].
#[derive(Clone, Debug)]
pub struct Options {
    /// What one vbd may hold.
    pub budget: Budget,
    /// Most vbds; further ones are refused.
    pub max_vbds: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { budget: Budget::default(), max_vbds: 32 }
    }
}

/// A vbd in service, as far as the control plane needs to know.
pub(super) struct Connected {
    pub(super) id: VbdId,
    pub(super) path: BackendPath,
    pub(super) target: Target,
    pub(super) map: Map,
    /// Its size changed and the frontend does not know.
    pub(super) resized: bool,
    pub(super) signal: Signal,
}

/// What is particular to vbds.
pub(super) struct Vbds<H: Hypervisor + Dma> {
    hyp: H,
    tasks: Tasks,
    pub(super) plane: RefCell<Plane<H>>,
    pub(super) catalogue: RefCell<Catalogue>,
    pub(super) claims: RefCell<Claims>,
    pub(super) connected: RefCell<Vec<Connected>>,
    budget: Budget,
}

impl<H: Hypervisor + Dma> Vbds<H> {
    /// Finds a vbd's volume and claims it.
    fn open(&self, path: &BackendPath, keys: &BackendKeys) -> Result<(Target, Volume), VolumeError> {
        let target = Target::parse(&keys.target)?;
        let volume = self.catalogue.borrow().resolve(&target)?;
        if volume.read_only && !keys.read_only {
            return Err(VolumeError::ReadOnly(keys.target.clone()));
        }
        let usage = Use { writes: !keys.read_only, shared: target.shared };
        let pieces = volume.map.pieces().collect();
        self.claims.borrow_mut().claim(path, pieces, usage).map_err(VolumeError::InUse)?;
        Ok((target, volume))
    }

    fn queues(&self, frontend: Domid, abi: Abi, keys: &[QueueKeys]) -> Result<Vec<Queue<H>>, Fault> {
        let mut queues = Vec::new();
        for queue in keys {
            let pages = self.hyp.map(frontend, &queue.ring, Access::ReadWrite);
            let pages: Result<Vec<_>, _> = pages.into_iter().collect();
            let ring = Ring::attach(abi, Pages::new(pages.map_err(|_| Fault::RING_REF)?)).map_err(|_| RING_STATE)?;
            let port = self.hyp.bind_interdomain(frontend, queue.port).map_err(|_| Fault::EVTCHN)?;
            queues.push(Queue { ring, port });
        }
        Ok(queues)
    }
}

impl<H: Hypervisor + Dma> Backend for Vbds<H> {
    type Hyp = H;
    type Id = VbdId;
    const KIND: DeviceKind = DeviceKind::Vbd;

    fn hyp(&self) -> &H {
        &self.hyp
    }

    async fn offer(&self, path: &BackendPath) -> Result<Keys, Fault> {
        let keys = BackendKeys::read(&self.hyp, path).await?;
        let (_, volume) = self.open(path, &keys)?;
        Ok(offer(&keys, &volume, self.budget.persistent > 0))
    }

    async fn connect(&self, path: &BackendPath, frontend: &FrontendPath, poke: &Signal) -> Result<VbdId, Fault> {
        let keys = BackendKeys::read(&self.hyp, path).await?;
        let (target, volume) = self.open(path, &keys)?;
        let front = FrontendKeys::read(&self.hyp, frontend).await?;
        let buffers = self.hyp.dma_pool(self.budget.pages).map_err(|_| NO_MEMORY)?;
        let queues = self.queues(path.frontend, front.abi, &front.queues)?;
        let sectors = volume.map.sectors();
        let parts = VbdParts {
            frontend: path.frontend,
            devid: path.devid,
            queues,
            limits: limits(&keys, &volume),
            map: volume.map.clone(),
            shared: target.shared,
            buffers,
            budget: self.budget,
            persistent: front.persistent,
            signal: poke.clone(),
        };
        let id = self.plane.borrow_mut().attach(parts);
        let persistent = if front.persistent && self.budget.persistent > 0 { ", persistent grants" } else { "" };
        log::info!("{path}: {}, {sectors} sectors{persistent}", keys.target.escape_default());
        let (map, signal) = (volume.map, poke.clone());
        self.connected.borrow_mut().push(Connected { id, path: *path, target, map, resized: false, signal });
        Ok(id)
    }

    fn changed_keys(&self, id: VbdId) -> Keys {
        let mut connected = self.connected.borrow_mut();
        match connected.iter_mut().find(|vbd| vbd.id == id && vbd.resized) {
            Some(vbd) => {
                vbd.resized = false;
                alloc::vec![("sectors", vbd.map.sectors().to_string())]
            }
            None => Keys::new(),
        }
    }

    fn fault(&self, id: VbdId) -> Option<(u8, Fault)> {
        self.plane.borrow().fault(id)
    }

    fn report(&self, id: VbdId, reporter: &mut Reporter) {
        let errors = self.plane.borrow_mut().take_report(id);
        for (cause, count) in errors {
            reporter.line(self.hyp.now(), 0, &cause.fault(), Action::Err, count);
        }
    }

    async fn disconnect(&self, id: VbdId) {
        let signal = self.connected.borrow().iter().find(|vbd| vbd.id == id).map(|vbd| vbd.signal.clone());
        self.plane.borrow_mut().close(id);
        // Disks that have a command read and write our buffers, and would write for a frontend that has gone on
        // to something else.
        while !self.plane.borrow().is_drained(id) {
            match &signal {
                Some(signal) => signal.wait().await,
                None => break,
            }
        }
        self.connected.borrow_mut().retain(|vbd| vbd.id != id);
        let pages = self.plane.borrow_mut().detach(id);
        self.hyp.unmap(pages);
    }

    fn forget(&self, path: &BackendPath) {
        self.claims.borrow_mut().release(path);
        self.tasks.signal().raise();
    }
}

fn limits(keys: &BackendKeys, volume: &Volume) -> Limits {
    Limits {
        sectors: volume.map.sectors(),
        granularity: volume.logical_bytes.checked_div(SECTOR_BYTES).unwrap_or(1),
        read_only: keys.read_only || volume.read_only,
        flush: true,
        barrier: true,
        discard: offered_discard(keys, volume).is_some(),
        secure_discard: offered_discard(keys, volume).is_some() && volume.secure_erase,
        indirect_segments: MAX_INDIRECT_SEGMENTS,
    }
}

/// A block backend: every vbd of the domain.
pub struct Blkback<H: Hypervisor + Dma> {
    pub(super) devices: Rc<Devices<Vbds<H>>>,
}

/// Another handle to the same backend.
impl<H: Hypervisor + Dma> Clone for Blkback<H> {
    fn clone(&self) -> Self {
        Self { devices: self.devices.clone() }
    }
}

impl<H: Hypervisor + Dma> Blkback<H> {
    /// A backend for what is in `catalogue`. Its control plane runs in `tasks`.
    pub fn new(hyp: H, tasks: Tasks, catalogue: Catalogue, options: &Options) -> Self {
        let vbds = Vbds {
            plane: RefCell::new(Plane::new(hyp.clone())),
            hyp,
            tasks: tasks.clone(),
            catalogue: RefCell::new(catalogue),
            claims: RefCell::default(),
            connected: RefCell::default(),
            budget: options.budget,
        };
        Self { devices: Devices::new(vbds, tasks, options.max_vbds) }
    }

    /// Starts to serve the vbds that are there, and those that come.
    pub fn spawn_hotplug(&self) {
        self.devices.spawn();
    }

    /// Moves data: one turn, of bounded length. [`Turn::Busy`] asks to be called again without sleeping.
    ///
    /// `now` may be some milliseconds old: it serves deadlines and reports.
    pub fn poll(&self, now: Instant, controllers: &mut dyn Controllers) -> Turn {
        self.devices.backend().plane.borrow_mut().poll(now, controllers)
    }

    /// Whether a frontend has published a request that can be taken. Cheap, and asks for no event; those
    /// that idle vbds have sent are taken.
    pub fn has_requests(&self) -> bool {
        self.devices.backend().plane.borrow_mut().has_requests()
    }

    /// Whether a frontend may have published a few requests without waking us, since answers of its disks are expected.
    /// Should none come, somebody has to look at its ring.
    pub fn is_patient(&self) -> bool {
        self.devices.backend().plane.borrow().is_patient()
    }

    /// The step before sleeping: asks every frontend for an event and looks for the last time.
    ///
    /// [`Turn::Busy`]: do not sleep. If it is [`Turn::Idle`], whatever comes after makes an event channel
    /// pending, so a wait that starts later ends at once; but see [`is_patient`](Self::is_patient).
    pub fn arm(&self) -> Turn {
        self.devices.backend().plane.borrow_mut().arm()
    }

    /// Closes every vbd, in the order the protocol wants, and accepts no more. For shutdown.
    pub fn stop(&self) {
        self.devices.stop();
    }

    /// Whether no device is served or being closed any more.
    pub fn is_stopped(&self) -> bool {
        self.devices.is_empty()
    }

    /// Frontend, device id and counters of every connected vbd.
    pub fn counters(&self) -> Vec<(Domid, u32, VbdCounters)> {
        self.devices.backend().plane.borrow().counters().collect()
    }

    /// Grant copies since start.
    pub fn copied(&self) -> Copied {
        self.devices.backend().plane.borrow().copied()
    }
}
