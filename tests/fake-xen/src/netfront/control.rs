//! The control ring of a frontend.

use xen_pv_rt::hyp::{Access, GrantRef, RemotePort};

use super::Netfront;
use super::ring::FrontRing;
use crate::page::Page;

/// A response on the control ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CtrlAnswer {
    /// The request's id.
    pub id: u16,
    /// The request's type.
    pub kind: u16,
    /// `XEN_NETIF_CTRL_STATUS_*`.
    pub status: u32,
    /// What was asked for.
    pub data: u32,
}

/// A control ring, its grant and its event channel.
pub(super) struct ControlLink {
    pub(super) ring: FrontRing<4>,
    pub(super) gref: GrantRef,
    pub(super) port: RemotePort,
    next_id: u16,
}

impl Netfront {
    pub(super) fn new_control(&self) -> ControlLink {
        let ring = FrontRing::new(self.options.start_index);
        let gref = self.xen.grant_for(self.device, &ring.page, Access::ReadWrite);
        ControlLink { ring, gref, port: self.xen.offer_port(self.device), next_id: 1 }
    }

    fn control(&mut self) -> &mut ControlLink {
        self.control.as_mut().expect("the frontend has no control ring")
    }

    /// Puts a request of any type. Published, and the backend notified if it asked for it. Returns its id.
    pub fn send_control(&mut self, kind: u16, data: [u32; 3]) -> u16 {
        let control = self.control();
        let id = control.next_id;
        control.next_id = id.wrapping_add(1);
        control.ring.put([u32::from(id) | u32::from(kind) << 16, data[0], data[1], data[2]]);
        let port = control.port;
        if control.ring.push() {
            self.xen.notify_from(self.device.frontend, port);
        }
        id
    }

    /// Grants a page that starts with `bytes`, to be named in a request.
    pub fn grant_bytes(&self, bytes: &[u8]) -> GrantRef {
        let page = Page::new();
        page.write(0, bytes);
        self.xen.grant_for(self.device, &page, Access::ReadOnly)
    }

    /// The oldest response not looked at yet.
    pub fn take_control_answer(&mut self) -> Option<CtrlAnswer> {
        let ring = &mut self.control().ring;
        let words = ring.take();
        ring.want_response_event();
        let [head, status, data, _] = words?;
        let [i0, i1, k0, k1] = head.to_le_bytes();
        Some(CtrlAnswer { id: u16::from_le_bytes([i0, i1]), kind: u16::from_le_bytes([k0, k1]), status, data })
    }

    /// Free slots of the control ring.
    pub fn control_free(&self) -> u32 {
        self.control.as_ref().map_or(0, |control| control.ring.free())
    }

    /// Publishes any producer index on the control ring and notifies the backend.
    pub fn set_control_req_prod(&mut self, value: u32) {
        self.control().ring.set_req_prod(value);
        let port = self.control().port;
        self.xen.notify_from(self.device.frontend, port);
    }
}
