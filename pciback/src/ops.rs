//! Configuration requests: one page shared with xen-pciback, one request at a time.
//!
//! A request is answered within milliseconds by a kernel thread in Dom0, and requests happen at start-up and
//! shutdown only. So the caller sleeps until the answer comes, with a deadline, rather than being a future.

use core::time::Duration;

use ring::pciif::{OpReply, OpRequest, SharedInfo};
use xen_pv_rt::hyp::{Access, BoundPort, Domid, Platform, SharedPage};

use crate::{BusError, PciCause};

/// How long xen-pciback may take for one request. Linux's pcifront gives it two seconds.
const OP_DEADLINE: Duration = Duration::from_secs(3);

/// The shared page and its event channel.
pub(crate) struct OpPage<H: Platform> {
    hyp: H,
    page: SharedInfo<H::Shared>,
    gref: u32,
    port: H::Port,
}

impl<H: Platform> OpPage<H> {
    /// Shares a fresh page with `backend`.
    pub(crate) fn new(hyp: H, backend: Domid) -> Result<Self, BusError> {
        let page = hyp.share(backend, Access::ReadWrite).map_err(BusError::Grant)?;
        let port = hyp.alloc_unbound(backend).map_err(BusError::EventChannel)?;
        let gref = page.gref().into_raw();
        Ok(Self { hyp, page: SharedInfo::new(page), gref, port })
    }

    /// The grant reference to publish.
    pub(crate) const fn gref(&self) -> u32 {
        self.gref
    }

    /// The event channel port to publish.
    pub(crate) fn port(&self) -> u32 {
        self.port.port().into_raw()
    }

    /// Sends a request and sleeps until it is answered.
    pub(crate) fn call(&self, request: &OpRequest) -> Result<OpReply, PciCause> {
        if !self.page.submit(request) {
            // The backend still owes the answer to a request whose deadline has passed.
            return Err(PciCause::NoAnswer);
        }
        let deadline = self.hyp.now().saturating_add(OP_DEADLINE);
        self.hyp.notify(&self.port);
        loop {
            // Cleared before looking: an answer after the look leaves the bit set, and `wait` returns at once.
            self.hyp.take_pending(&self.port);
            if let Some(reply) = self.page.take_reply() {
                self.decline_aer();
                return reply.map_err(PciCause::Refused);
            }
            if self.hyp.now() >= deadline {
                return Err(PciCause::NoAnswer);
            }
            // On this port alone: what else is pending stays so until the caller is done, and Dom0 needs the CPU.
            self.hyp.wait_on(&self.port, deadline);
        }
    }

    /// Answers a request of the backend for error recovery with "no driver takes part in it".
    pub(crate) fn decline_aer(&self) {
        if self.page.decline_aer() {
            log::warn!("pciback: declined a request for PCI error recovery");
            self.hyp.notify(&self.port);
        }
    }

    /// Whether the backend has sent an event since the last look.
    pub(crate) fn take_pending(&self) -> bool {
        self.hyp.take_pending(&self.port)
    }
}
