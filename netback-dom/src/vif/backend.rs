//! What is particular to vifs on the control plane: what we offer, how a frontend's queues are connected, and
//! what the data plane has to report.
//!
//! Following toolstack and frontend through the states is [`xen_pv_rt::xenbus::backend`]'s business.

use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::RefCell;

use xen_pv_rt::hyp::{Access, EvtchnError, Hypervisor};
use xen_pv_rt::task::{Signal, Tasks};
use xen_pv_rt::xenbus::backend::{Action, Backend, Fault, Keys, Reporter};
use xen_pv_rt::xenbus::{BackendPath, DeviceKind, FrontendPath};

use super::cause::Cause;
use super::follow;
use super::keys::{self, BackendKeys, Channels, FrontendKeys};
use super::ports::Ports;
use crate::dataplane::{ControlParts, Plane, QueueParts, Rate, VifParts};
use crate::switch::PortId;
use crate::switch::policy::Policy;

/// Every event channel port of the domain is in use, or kept for others.
const NO_PORTS: Fault = Fault::new("QUOTA", "the domain has no event channel ports left, see queues=");

/// The rings of a vif, mapped and bound.
type Rings<H> = (Vec<QueueParts<H>>, Option<ControlParts<H>>);

/// The vifs of the domain.
pub(crate) struct Vifs<H: Hypervisor> {
    hyp: H,
    plane: Rc<RefCell<Plane<H>>>,
    /// What becomes of the keys that are the switch's business.
    policy: Policy,
    ports: RefCell<Ports>,
    tasks: Tasks,
    connected: RefCell<Vec<Connected>>,
}

/// What is kept of a connected vif.
struct Connected {
    id: PortId,
    /// Ends the task that follows its keys.
    stop: Signal,
    /// The `rate` key as it was last seen.
    rate: Option<String>,
}

impl<H: Hypervisor> Vifs<H> {
    /// No vifs yet; later on with at most `max_queues` queues each.
    pub(crate) fn new(hyp: H, tasks: Tasks, plane: Rc<RefCell<Plane<H>>>, policy: Policy, max_queues: usize) -> Self {
        let ports = RefCell::new(Ports::new(max_queues));
        Self { hyp, plane, policy, ports, tasks, connected: RefCell::default() }
    }

    /// Maps all rings in one batch and binds the event channels. What was acquired is released on failure.
    fn rings(&self, path: &BackendPath, keys: &FrontendKeys) -> Result<Rings<H>, Fault> {
        let rings = keys.queues.iter().flat_map(|queue| [queue.tx_ring, queue.rx_ring]);
        let grefs: Vec<_> = rings.chain(keys.control.map(|(ring, _)| ring)).collect();
        let pages: Result<Vec<_>, _> = self.hyp.map(path.frontend, &grefs, Access::ReadWrite).into_iter().collect();
        let mut pages = pages.map_err(|_| Fault::RING_REF)?.into_iter();
        let bind = |port| {
            self.hyp.bind_interdomain(path.frontend, port).map_err(|error| match error {
                EvtchnError::Exhausted => NO_PORTS,
                _ => Fault::EVTCHN,
            })
        };
        let mut queues = Vec::with_capacity(keys.queues.len());
        for queue in &keys.queues {
            let (Some(tx), Some(rx)) = (pages.next(), pages.next()) else { return Err(Fault::RING_REF) };
            let (tx_port, rx_port) = match queue.channels {
                Channels::Single(both) => (bind(both)?, None),
                Channels::Split { tx, rx } => (bind(tx)?, Some(bind(rx)?)),
            };
            queues.push(QueueParts { tx, rx, tx_port, rx_port });
        }
        let control = match keys.control.zip(pages.next()) {
            Some(((_, port), ring)) => Some(ControlParts { ring, port: bind(port)? }),
            None => None,
        };
        Ok((queues, control))
    }
}

impl<H: Hypervisor> Backend for Vifs<H> {
    type Hyp = H;
    type Id = PortId;
    const KIND: DeviceKind = DeviceKind::Vif;

    fn hyp(&self) -> &H {
        &self.hyp
    }

    async fn offer(&self, path: &BackendPath) -> Result<Keys, Fault> {
        let keys = BackendKeys::read(&self.hyp, path).await?;
        self.policy.port(&keys.port())?;
        keys::parse_rate(keys.rate.as_deref())?;
        let queues = self.ports.borrow_mut().offer(path).ok_or(NO_PORTS)?;
        Ok(keys::offer(queues))
    }

    async fn connect(&self, path: &BackendPath, frontend: &FrontendPath, poke: &Signal) -> Result<PortId, Fault> {
        // The toolstack's keys may have changed since they were looked at.
        let backend = BackendKeys::read(&self.hyp, path).await?;
        let config = self.policy.port(&backend.port())?;
        let rate = keys::parse_rate(backend.rate.as_deref())?;
        let max_queues = self.ports.borrow().offered(path);
        let keys = FrontendKeys::read(&self.hyp, frontend, max_queues).await?;
        if !self.ports.borrow_mut().take(path, keys.ports()) {
            return Err(NO_PORTS);
        }
        let (queues, control) = self.rings(path, &keys)?;
        let parts = VifParts {
            frontend: path.frontend,
            devid: path.devid,
            config,
            rate,
            features: keys.features,
            max_frame: backend.max_frame,
            headroom: keys.headroom,
            multicast_control: keys.multicast_control,
            queues,
            control,
            signal: poke.clone(),
        };
        let id = self.plane.borrow_mut().attach(parts)?;
        let stop = self.tasks.signal();
        self.connected.borrow_mut().push(Connected { id, stop: stop.clone(), rate: backend.rate });
        let (hyp, plane) = (self.hyp.clone(), self.plane.clone());
        self.tasks.spawn(follow::multicast_control(hyp, plane, frontend.clone(), id, stop));
        Ok(id)
    }

    async fn reconfigure(&self, id: PortId, frontend: &FrontendPath) {
        let headroom = keys::read_headroom(&self.hyp, frontend).await;
        self.plane.borrow_mut().set_headroom(id, headroom);
    }

    async fn refresh(&self, path: &BackendPath, id: PortId) -> Result<(), Fault> {
        let Ok(text) = keys::read_rate(&self.hyp, path).await else { return Ok(()) };
        if let Some(vif) = self.connected.borrow_mut().iter_mut().find(|vif| vif.id == id) {
            if vif.rate == text {
                return Ok(());
            }
            vif.rate.clone_from(&text);
        }
        let rate = keys::parse_rate(text.as_deref());
        // Nobody knows what was meant, so nothing is sent until it is put right.
        let now = self.hyp.now();
        self.plane.borrow_mut().set_rate(id, rate.clone().unwrap_or(Rate::Nothing), now);
        rate.map(drop)
    }

    fn changed_keys(&self, _: PortId) -> Keys {
        Keys::new()
    }

    fn fault(&self, id: PortId) -> Option<(u8, Fault)> {
        self.plane.borrow().fault(id).map(|(queue, cause)| (queue, cause.into()))
    }

    fn report(&self, id: PortId, reporter: &mut Reporter) {
        let now = self.hyp.now();
        for (cause, count) in self.plane.borrow_mut().take_report(id) {
            let action = if cause == Cause::CtrlParam { Action::Err } else { Action::Drop };
            reporter.line(now, 0, &cause.into(), action, count);
        }
    }

    async fn disconnect(&self, id: PortId) {
        self.connected.borrow_mut().retain(|vif| {
            if vif.id == id {
                vif.stop.raise();
            }
            vif.id != id
        });
        let pages = self.plane.borrow_mut().detach(id);
        self.hyp.unmap(pages);
    }

    fn forget(&self, path: &BackendPath) {
        self.ports.borrow_mut().release(path);
    }
}
