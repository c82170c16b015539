//! Event channels.

use std::collections::BTreeMap;
use std::rc::Rc;

use xen_pv_rt::hyp::{BoundPort, Domid, EventChannels, EvtchnError, Instant, Pirq, Port, RemotePort};

use crate::faults::consult;
use crate::machine::{FakeHyp, FakeXen, Machine};
use crate::toolstack::DeviceId;

/// Sleeps in a row that may end at once.
const SLEEPLESS: u32 = 1000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Offered to a domain.
    Unbound(Domid),
    /// Connected to a port of a domain.
    Interdomain(Domid, u32),
    Pirq(Pirq),
}

struct Channel {
    kind: Kind,
    pending: bool,
    /// Notifications that arrived here, coalesced or not.
    received: u64,
    device: Option<DeviceId>,
}

#[derive(Default)]
pub(crate) struct Events {
    channels: BTreeMap<(Domid, u32), Channel>,
    next: u32,
    /// Interrupts the driver domain may bind, with the number of times each was acknowledged.
    pirqs: BTreeMap<Pirq, u64>,
}

impl Events {
    fn open(&mut self, domid: Domid, kind: Kind, pending: bool, device: Option<DeviceId>) -> u32 {
        self.next += 1;
        self.channels.insert((domid, self.next), Channel { kind, pending, received: 0, device });
        self.next
    }

    fn send(&mut self, domid: Domid, port: u32) {
        let Some(Channel { kind: Kind::Interdomain(peer, remote), .. }) = self.channels.get(&(domid, port)) else {
            return;
        };
        let key = (*peer, *remote);
        if let Some(channel) = self.channels.get_mut(&key) {
            channel.pending = true;
            channel.received += 1;
        }
    }

    fn close(&mut self, domid: Domid, port: u32) -> bool {
        let Some(channel) = self.channels.remove(&(domid, port)) else { return false };
        if let Kind::Interdomain(peer, remote) = channel.kind
            && let Some(other) = self.channels.get_mut(&(peer, remote))
        {
            other.kind = Kind::Unbound(domid);
        }
        true
    }

    pub(crate) fn ports_of(&self, domid: Domid) -> usize {
        self.channels.keys().filter(|(owner, _)| *owner == domid).count()
    }

    /// Ports of a device's that the driver domain is connected to.
    pub(crate) fn bound_of(&self, device: &DeviceId) -> usize {
        let bound = |channel: &&Channel| {
            channel.device.as_ref() == Some(device) && matches!(channel.kind, Kind::Interdomain(..))
        };
        self.channels.values().filter(bound).count()
    }

    pub(crate) fn destroy(&mut self, domid: Domid) {
        let ports: Vec<u32> =
            self.channels.keys().filter(|(owner, _)| *owner == domid).map(|(_, port)| *port).collect();
        for port in ports {
            self.close(domid, port);
        }
    }

    fn any_pending(&self, domid: Domid) -> bool {
        self.channels.iter().any(|((owner, _), channel)| *owner == domid && channel.pending)
    }
}

impl Machine {
    /// Whether the driver domain's sleep ends.
    fn wakes(&self) -> bool {
        self.xenstored_wakes() || self.events.borrow().any_pending(self.backend)
    }

    fn xenstored_wakes(&self) -> bool {
        let store = self.store.borrow();
        let answers = !store.paused && self.client.borrow().has_work();
        answers || store.has_news()
    }

    /// Time passes until the deadline, unless something ends the sleep. Rule 8.
    fn sleep(&self, ends: bool, deadline: Option<Instant>) {
        if ends {
            self.sleepless.set(self.sleepless.get() + 1);
            assert!(self.sleepless.get() < SLEEPLESS, "rule 8: does not sleep, for something that nobody takes");
            return;
        }
        let deadline = deadline.expect("the domain would sleep for ever: nothing is pending and it gave no deadline");
        self.now.set(self.now.get().max(deadline));
        self.sleepless.set(0);
    }
}

impl FakeXen {
    /// Whether something has happened that ends the driver domain's sleep.
    pub fn driver_wakes(&self) -> bool {
        self.0.wakes()
    }

    /// Offers a port of a frontend's to the driver domain.
    pub fn offer_port(&self, device: DeviceId) -> RemotePort {
        self.offer_port_to(device, self.backend())
    }

    /// Offers a port of a frontend's to any domain.
    pub fn offer_port_to(&self, device: DeviceId, to: Domid) -> RemotePort {
        let kind = Kind::Unbound(to);
        RemotePort::from_raw(self.0.events.borrow_mut().open(device.frontend, kind, false, Some(device)))
    }

    /// Notifies the other end of a frontend's port.
    pub fn notify_from(&self, domid: Domid, port: RemotePort) {
        self.0.events.borrow_mut().send(domid, port.into_raw());
    }

    /// Tests and clears the pending bit of a frontend's port.
    pub fn take_pending_of(&self, domid: Domid, port: RemotePort) -> bool {
        let mut events = self.0.events.borrow_mut();
        events.channels.get_mut(&(domid, port.into_raw())).is_some_and(|channel| std::mem::take(&mut channel.pending))
    }

    /// Notifications that a frontend's port has received so far.
    pub fn received_by(&self, domid: Domid, port: RemotePort) -> u64 {
        self.0.events.borrow().channels.get(&(domid, port.into_raw())).map_or(0, |channel| channel.received)
    }

    /// Closes a frontend's port.
    pub fn close_port(&self, domid: Domid, port: RemotePort) {
        self.0.events.borrow_mut().close(domid, port.into_raw());
    }

    /// Connects a domain to a port that the driver domain has offered to it.
    pub fn bind_to_backend(&self, domid: Domid, port: Port) -> Option<RemotePort> {
        let mut events = self.0.events.borrow_mut();
        let key = (self.backend(), port.into_raw());
        if events.channels.get(&key)?.kind != Kind::Unbound(domid) {
            return None;
        }
        let local = events.open(domid, Kind::Interdomain(key.0, key.1), true, None);
        events.channels.get_mut(&key)?.kind = Kind::Interdomain(domid, local);
        Some(RemotePort::from_raw(local))
    }

    /// Gives the driver domain an interrupt.
    pub fn add_pirq(&self, pirq: Pirq) {
        self.0.events.borrow_mut().pirqs.insert(pirq, 0);
    }

    /// Raises an interrupt.
    pub fn raise_pirq(&self, pirq: Pirq) {
        let mut events = self.0.events.borrow_mut();
        for channel in events.channels.values_mut().filter(|channel| channel.kind == Kind::Pirq(pirq)) {
            channel.pending = true;
        }
    }

    /// How often the driver domain has acknowledged an interrupt.
    pub fn eois_of(&self, pirq: Pirq) -> u64 {
        self.0.events.borrow().pirqs.get(&pirq).copied().unwrap_or(0)
    }
}

/// A port of the driver domain's; closed on drop.
pub struct FakePort {
    machine: Rc<Machine>,
    port: u32,
}

impl BoundPort for FakePort {
    fn port(&self) -> Port {
        Port::from_raw(self.port)
    }
}

impl Drop for FakePort {
    fn drop(&mut self) {
        if !self.machine.events.borrow_mut().close(self.machine.backend, self.port) {
            self.machine.break_rule(format!("rule 3: port {} closed twice", self.port));
        }
    }
}

impl FakeHyp {
    fn new_port(&self, kind: Kind, pending: bool) -> FakePort {
        let port = self.0.events.borrow_mut().open(self.0.backend, kind, pending, None);
        FakePort { machine: self.0.clone(), port }
    }
}

impl EventChannels for FakeHyp {
    type Port = FakePort;

    fn bind_interdomain(&self, domid: Domid, remote: RemotePort) -> Result<FakePort, EvtchnError> {
        if let Some(error) = consult(&self.0.faults, |faults| &mut faults.bind, &(domid, remote)) {
            return Err(error);
        }
        let key = (domid, remote.into_raw());
        let offered =
            self.0.events.borrow().channels.get(&key).is_some_and(|there| there.kind == Kind::Unbound(self.0.backend));
        if !offered {
            return Err(EvtchnError::BadPort);
        }
        let port = self.new_port(Kind::Interdomain(key.0, key.1), true);
        if let Some(there) = self.0.events.borrow_mut().channels.get_mut(&key) {
            there.kind = Kind::Interdomain(self.0.backend, port.port);
        }
        Ok(port)
    }

    fn alloc_unbound(&self, domid: Domid) -> Result<FakePort, EvtchnError> {
        Ok(self.new_port(Kind::Unbound(domid), false))
    }

    fn bind_pirq(&self, pirq: Pirq, shared: bool) -> Result<FakePort, EvtchnError> {
        let events = self.0.events.borrow();
        if !events.pirqs.contains_key(&pirq) {
            return Err(EvtchnError::Denied);
        }
        if !shared && events.channels.values().any(|channel| channel.kind == Kind::Pirq(pirq)) {
            return Err(EvtchnError::Busy);
        }
        drop(events);
        Ok(self.new_port(Kind::Pirq(pirq), false))
    }

    fn notify(&self, port: &FakePort) {
        self.0.events.borrow_mut().send(self.0.backend, port.port);
    }

    fn take_pending(&self, port: &FakePort) -> bool {
        let mut events = self.0.events.borrow_mut();
        let channel = events.channels.get_mut(&(self.0.backend, port.port)).expect("rule 3: port is not bound");
        let taken = std::mem::take(&mut channel.pending);
        if taken {
            self.0.sleepless.set(0);
        }
        taken
    }

    fn eoi(&self, port: &FakePort) {
        let mut events = self.0.events.borrow_mut();
        if let Some(Channel { kind: Kind::Pirq(pirq), .. }) = events.channels.get(&(self.0.backend, port.port)) {
            let pirq = *pirq;
            *events.pirqs.entry(pirq).or_default() += 1;
        }
    }

    /// Virtual time jumps to the deadline if nothing is there to be done.
    fn wait(&self, deadline: Option<Instant>) {
        self.0.sleep(self.0.wakes(), deadline);
    }

    /// The same. Nobody does anything meanwhile.
    fn wait_on(&self, port: &FakePort, deadline: Instant) {
        let key = (self.0.backend, port.port);
        let pending = self.0.events.borrow().channels.get(&key).is_some_and(|channel| channel.pending);
        self.0.sleep(pending, Some(deadline));
    }

    fn wait_for_xenstored(&self, deadline: Option<Instant>) {
        self.0.sleep(self.0.xenstored_wakes(), deadline);
    }
}
