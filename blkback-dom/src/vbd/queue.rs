//! A ring and its event channel.

use alloc::vec::Vec;

use ring::blkif::{Request, Response, Ring};
use ring::{Notify, Pages, RingFault, Ticket};
use xen_pv_rt::hyp::Hypervisor;

/// The memory of a ring.
pub(super) type RingMemory<H> = Pages<Vec<<H as xen_pv_rt::hyp::Grants>::Page>>;

/// One of a vbd's queues.
pub(crate) struct Queue<H: Hypervisor> {
    pub(crate) ring: Ring<RingMemory<H>>,
    pub(crate) port: H::Port,
}

impl<H: Hypervisor> Queue<H> {
    /// Takes the next request.
    pub(super) fn take(&mut self) -> Result<Option<(Request, Ticket)>, RingFault> {
        self.ring.take_request()
    }

    /// Answers a request. The frontend sees it after [`Self::push`].
    pub(super) fn respond(&mut self, ticket: Ticket, response: &Response) {
        self.ring.respond(ticket, response);
    }

    /// Publishes answers and notifies if the frontend asked for it. Returns whether it was notified.
    pub(super) fn push(&mut self, hyp: &H) -> bool {
        let notify = self.ring.push_responses() == Notify::Needed;
        if notify {
            hyp.notify(&self.port);
        }
        notify
    }

    /// Gives the ring's pages back, to be unmapped; the event channel is closed.
    pub(super) fn into_pages(self) -> Vec<H::Page> {
        self.ring.into_mem().into_inner()
    }
}
