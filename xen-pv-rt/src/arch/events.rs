//! Event channels, and sleeping.
//!
//! `evtchn_upcall_mask` stays set, so Xen never interrupts; a pending bit stays until it is taken. Sleeping is
//! `SCHEDOP_poll` on the ports that are bound.
//!
//! Xen: `public/event_channel.h`, `public/sched.h`, `public/physdev.h`.

use core::sync::atomic::{AtomicU64, Ordering};

use spin::Once;
use spin::mutex::SpinMutex;

use crate::hyp::{BoundPort, Domid, EventChannels, EvtchnError, Instant, PAGE_SIZE, Pirq, Port, RemotePort};

use super::abi::{DOMID_SELF, StartInfo, evtchn, nr, physdev, sched};
use super::hypercall::{self, Errno};
use super::{Xen, clock, memory, shared, store, timer};

/// The ports to sleep on.
static BOUND: SpinMutex<heapless::Vec<u32, { sched::POLL_MAX }>> = SpinMutex::new(heapless::Vec::new());

/// A bound port; closed on drop.
#[derive(Debug)]
pub struct XenPort {
    port: Port,
    /// The interrupt to report as serviced, if Xen wants that.
    eoi: Option<u32>,
}

impl BoundPort for XenPort {
    fn port(&self) -> Port {
        self.port
    }
}

impl Drop for XenPort {
    fn drop(&mut self) {
        let mut port = self.port.into_raw();
        let mut bound = BOUND.lock();
        if let Some(at) = bound.iter().position(|bound| *bound == port) {
            bound.swap_remove(at);
        }
        // SAFETY: closes a port of ours that nobody else knows.
        let _ = unsafe { hypercall::op(nr::EVENT_CHANNEL_OP, evtchn::CLOSE, &mut port) };
        clear(port);
    }
}

impl From<Errno> for EvtchnError {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::INVAL => Self::BadPort,
            Errno::SRCH => Self::NoDomain,
            Errno::PERM | Errno::ACCES => Self::Denied,
            Errno::NOSPC | Errno::NOMEM => Self::Exhausted,
            Errno::EXIST | Errno::BUSY => Self::Busy,
            Errno(other) => Self::Other(other),
        }
    }
}

fn bit(port: u32) -> Option<(&'static AtomicU64, u64)> {
    let word = shared::info().evtchn_pending.get((port / 64) as usize)?;
    Some((word, 1 << (port % 64)))
}

fn clear(port: u32) -> bool {
    let Some((word, mask)) = bit(port) else { return false };
    // A plain load first: a locked instruction for every idle port would cost more than all else here.
    word.load(Ordering::Relaxed) & mask != 0 && word.fetch_and(!mask, Ordering::AcqRel) & mask != 0
}

/// Makes a fresh port known to [`EventChannels::wait`].
fn adopt(port: u32, eoi: Option<u32>) -> Result<XenPort, EvtchnError> {
    // From here on the port is closed on every path.
    let adopted = XenPort { port: Port::from_raw(port), eoi };
    BOUND.lock().push(port).map_err(|_| EvtchnError::Exhausted)?;
    let mut unmask = port;
    // SAFETY: unmasks a port of ours; with upcalls masked, nothing is interrupted.
    unsafe { hypercall::op(nr::EVENT_CHANNEL_OP, evtchn::UNMASK, &mut unmask) }?;
    Ok(adopted)
}

/// The port that the builder bound to xenstored for us.
pub(super) fn xenstore_port(start: &StartInfo) -> Result<XenPort, EvtchnError> {
    adopt(start.store_evtchn, None)
}

/// A bit for each pirq of ours that is to be reported as serviced, kept by Xen.
static EOI_MAP: Once<&'static [AtomicU64]> = Once::new();

/// Has Xen keep [`EOI_MAP`]. Called once, before any pirq is bound: Xen enters none that is.
pub(super) fn init() {
    let Some((va, mfn)) = memory::with(|m| m.take_page().map(|va| (va, m.mfn_at(va)))).flatten() else { return };
    let mut arg = mfn;
    // SAFETY: gives Xen a page of ours to write to, which nobody else has and which is never given back.
    if unsafe { hypercall::op(nr::PHYSDEV_OP, physdev::PIRQ_EOI_GMFN, &mut arg) }.is_err() {
        memory::with(|m| m.free_page(va));
        return;
    }
    // SAFETY: a page of the linear map, ours for good; Xen writes it at any time, hence atomic words.
    let map = unsafe { core::slice::from_raw_parts(core::ptr::with_exposed_provenance(va as usize), PAGE_SIZE / 8) };
    EOI_MAP.call_once(|| map);
}

/// Whether Xen waits to be told that a bound pirq was serviced. Asked for one of them, Xen says yes whatever it is;
/// the map tells the truth, which for MSI-X is no.
fn wants_eoi(pirq: u32) -> bool {
    if let Some(word) = EOI_MAP.get().and_then(|map| map.get((pirq / 64) as usize)) {
        return word.load(Ordering::Acquire) & 1 << (pirq % 64) != 0;
    }
    let mut status = physdev::IrqStatus { irq: pirq, flags: 0 };
    // SAFETY: only fills in `status`.
    let asked = unsafe { hypercall::op(nr::PHYSDEV_OP, physdev::IRQ_STATUS_QUERY, &mut status) };
    // If Xen does not say, telling it is harmless.
    asked.is_err() || status.flags & physdev::NEEDS_EOI != 0
}

/// A virtual interrupt of this vCPU (`VIRQ_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Virq {
    /// Somebody asked Xen for a dump of this domain (`xl debug-keys q`).
    Debug,
}

/// `VIRQ_TIMER`: the timers of the vCPU.
pub(super) const VIRQ_TIMER: u32 = 0;
/// `VIRQ_DEBUG`.
const VIRQ_DEBUG: u32 = 1;

pub(super) fn bind_virq(virq: u32) -> Result<XenPort, EvtchnError> {
    let mut arg = evtchn::BindVirq { virq, vcpu: 0, port: 0 };
    // SAFETY: makes a port; touches no memory of ours but `arg`.
    unsafe { hypercall::op(nr::EVENT_CHANNEL_OP, evtchn::BIND_VIRQ, &mut arg) }?;
    adopt(arg.port, None)
}

/// Takes a port's pending bit. Returns whether it was set.
pub(super) fn take(port: &XenPort) -> bool {
    clear(port.port.into_raw())
}

/// Sleeps until one of the ports is pending, or system time `timeout` has come; 0: never.
fn sleep(ports: &[u32], timeout: u64) {
    let mut arg = sched::Poll { ports: ports.as_ptr(), nr_ports: u32::try_from(ports.len()).unwrap_or(0), timeout };
    // SAFETY: reads the ports, which are borrowed until it returns.
    let _ = unsafe { hypercall::op(nr::SCHED_OP, sched::POLL, &mut arg) };
}

/// Sleeps until the port is pending or `deadline` has passed.
pub(super) fn wait_on(port: &XenPort, deadline: Option<Instant>) {
    // A time-out of its own: the one-shot timer would end the sleep through a port that is not looked at.
    sleep(&[port.port.into_raw()], deadline.map_or(0, |at| clock::to_system_time(at).max(1)));
}

impl Xen {
    /// Connects a port to a virtual interrupt. Only code that runs on Xen itself has a use for this, so it is not
    /// part of [`EventChannels`].
    ///
    /// # Errors
    /// [`EvtchnError::Busy`] if it is bound already.
    pub fn bind_virq(&self, virq: Virq) -> Result<XenPort, EvtchnError> {
        bind_virq(match virq {
            Virq::Debug => VIRQ_DEBUG,
        })
    }
}

impl EventChannels for Xen {
    type Port = XenPort;

    fn bind_interdomain(&self, domid: Domid, remote: RemotePort) -> Result<XenPort, EvtchnError> {
        let mut arg =
            evtchn::BindInterdomain { remote_dom: domid.into_raw(), remote_port: remote.into_raw(), local_port: 0 };
        // SAFETY: makes a port; touches no memory of ours but `arg`.
        unsafe { hypercall::op(nr::EVENT_CHANNEL_OP, evtchn::BIND_INTERDOMAIN, &mut arg) }?;
        adopt(arg.local_port, None)
    }

    fn alloc_unbound(&self, domid: Domid) -> Result<XenPort, EvtchnError> {
        let mut arg = evtchn::AllocUnbound { dom: DOMID_SELF, remote_dom: domid.into_raw(), port: 0 };
        // SAFETY: as in `bind_interdomain`.
        unsafe { hypercall::op(nr::EVENT_CHANNEL_OP, evtchn::ALLOC_UNBOUND, &mut arg) }?;
        adopt(arg.port, None)
    }

    fn bind_pirq(&self, pirq: Pirq, share: bool) -> Result<XenPort, EvtchnError> {
        let pirq = pirq.into_raw();
        let mut arg = evtchn::BindPirq { pirq, flags: if share { evtchn::WILL_SHARE } else { 0 }, port: 0 };
        // SAFETY: as in `bind_interdomain`.
        unsafe { hypercall::op(nr::EVENT_CHANNEL_OP, evtchn::BIND_PIRQ, &mut arg) }?;
        let port = adopt(arg.port, wants_eoi(pirq).then_some(pirq))?;
        self.eoi(&port);
        Ok(port)
    }

    fn notify(&self, port: &XenPort) {
        let mut port = port.port.into_raw();
        // A send fails only if the peer has closed its end, which xenstore will tell in its own time.
        // SAFETY: sends an event; touches no memory of ours.
        let _ = unsafe { hypercall::op(nr::EVENT_CHANNEL_OP, evtchn::SEND, &mut port) };
    }

    fn take_pending(&self, port: &XenPort) -> bool {
        take(port)
    }

    fn eoi(&self, port: &XenPort) {
        if let Some(mut irq) = port.eoi {
            // SAFETY: tells Xen that an interrupt of ours has been serviced.
            let _ = unsafe { hypercall::op(nr::PHYSDEV_OP, physdev::EOI, &mut irq) };
        }
    }

    fn wait(&self, deadline: Option<Instant>) {
        // 0 would mean for ever; the past means not at all.
        let timeout = deadline.map(clock::to_system_time).map_or(0, |at| if timer::set(at) { 0 } else { at.max(1) });
        sleep(&BOUND.lock(), timeout);
        timer::take();
    }

    fn wait_on(&self, port: &XenPort, deadline: Instant) {
        wait_on(port, Some(deadline));
    }

    fn wait_for_xenstored(&self, deadline: Option<Instant>) {
        store::wait(deadline);
    }
}
