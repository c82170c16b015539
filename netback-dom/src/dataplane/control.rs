//! The control ring of a vif: how its frontend wants packets to be spread over queues.
//!
//! A few requests are served in a turn, so a flood costs others nothing. Keys and mappings are copied once, then
//! checked, then used as a whole or not at all.
//!
//! Xen: `public/io/netif.h`, "Control ring".

use ring::netif::{Ctrl, CtrlCommand, CtrlRequest, CtrlResponse, CtrlStatus, HashKind};
use ring::{BackRing, GrantRef, Notify};
use xen_pv_rt::hyp::{CopyDest, CopySource, Domid, GrantCopy, Hypervisor, Instant, PeerSpan};

use super::hashing::{Hashing, MAX_KEY, MAX_MAPPING};
use super::port::VifPort;
use super::{ControlParts, Memory, Plane, Turn};
use crate::vif::Cause;

/// Requests of one vif that are served in a turn.
const BUDGET: usize = 4;

/// A control ring.
pub(super) struct Control<H: Hypervisor> {
    ring: BackRing<Ctrl, H::Page>,
    port: H::Port,
}

impl<H: Hypervisor> Control<H> {
    /// Attaches to the ring.
    ///
    /// # Errors
    /// Its producer index is impossible from the start.
    pub(super) fn attach(parts: ControlParts<H>) -> Result<Self, Cause> {
        Ok(Self { ring: BackRing::attach(parts.ring).map_err(|_| Cause::CtrlProd)?, port: parts.port })
    }

    /// Clears the pending bit. Returns whether it was set.
    pub(super) fn clear_pending(&self, hyp: &H) -> bool {
        hyp.take_pending(&self.port)
    }

    /// Clears the pending bit, asks for an event with the next request, and looks for the last time.
    pub(super) fn arm(&self, hyp: &H) -> Result<Turn, Cause> {
        self.clear_pending(hyp);
        let waiting = self.ring.final_check_for_requests().map_err(|_| Cause::CtrlProd)?;
        Ok(if waiting > 0 { Turn::Busy } else { Turn::Idle })
    }

    /// The ring, to be unmapped.
    pub(super) fn into_page(self) -> H::Page {
        self.ring.into_mem()
    }
}

impl<H: Hypervisor> Plane<H> {
    /// Serves control rings. Returns whether there were any requests.
    pub(super) fn serve_control(&mut self, now: Instant) -> bool {
        let Self { vifs, hyp, memory, .. } = self;
        let mut any = false;
        for port in vifs.iter_mut().flatten().filter(|port| port.fault.is_none() && !port.idle) {
            match serve(port, hyp, memory, now) {
                Ok(served) => any |= served,
                Err(cause) => port.kill(0, cause),
            }
        }
        any
    }
}

fn serve<H: Hypervisor>(port: &mut VifPort<H>, hyp: &H, memory: &Memory, now: Instant) -> Result<bool, Cause> {
    let queues = port.queues.len();
    let mut served = false;
    let mut refused = 0_usize;
    let Some(control) = &mut port.control else { return Ok(false) };
    for _ in 0..BUDGET {
        let Some((request, ticket)) = control.ring.take_request().map_err(|_| Cause::CtrlProd)? else { break };
        served = true;
        let mut hashed = Target { hyp, memory, domid: port.frontend, hashing: &mut port.hashing, queues };
        let (status, data) = hashed.carry_out(&request);
        refused = refused.saturating_add(usize::from(status != CtrlStatus::Success));
        control.ring.respond(ticket, &CtrlResponse { id: request.id, kind: request.kind, status, data });
    }
    if control.ring.push_responses() == Notify::Needed {
        hyp.notify(&control.port);
        port.counters.notifications = port.counters.notifications.wrapping_add(1);
    }
    (0..refused).for_each(|_| port.drop_tx(Cause::CtrlParam, now));
    Ok(served)
}

/// What requests change.
struct Target<'a, H> {
    hyp: &'a H,
    memory: &'a Memory,
    domid: Domid,
    hashing: &'a mut Hashing,
    queues: usize,
}

impl<H: Hypervisor> Target<'_, H> {
    fn carry_out(&mut self, request: &CtrlRequest) -> (CtrlStatus, u32) {
        let status = |good| if good { CtrlStatus::Success } else { CtrlStatus::InvalidParameter };
        match request.command {
            CtrlCommand::GetHashFlags if self.hashing.toeplitz => (CtrlStatus::Success, HashKind::ALL),
            CtrlCommand::GetHashFlags | CtrlCommand::Unknown => (CtrlStatus::NotSupported, 0),
            CtrlCommand::GetMappingSize => (CtrlStatus::Success, u32::try_from(MAX_MAPPING).unwrap_or(0)),
            CtrlCommand::SetAlgorithm(algorithm) => {
                if algorithm <= 1 {
                    self.hashing.toeplitz = algorithm == 1;
                }
                (status(algorithm <= 1), 0)
            }
            CtrlCommand::SetHashFlags(flags) => {
                let good = self.hashing.toeplitz && flags & !HashKind::ALL == 0;
                if good {
                    self.hashing.flags = flags;
                }
                (status(good), 0)
            }
            CtrlCommand::SetHashKey { gref, len } => (self.set_key(gref, len), 0),
            CtrlCommand::SetMappingSize(len) => (status(self.hashing.set_mapping_len(len)), 0),
            CtrlCommand::SetMapping { gref, len, offset } => {
                let good = self.hashing.has_entries(offset, len)
                    && self.with_copy(gref, len.saturating_mul(4), |hashing, entries, queues| {
                        hashing.set_mapping(offset, entries, queues)
                    });
                (status(good), 0)
            }
        }
    }

    fn set_key(&mut self, gref: GrantRef, len: u32) -> CtrlStatus {
        if !usize::try_from(len).is_ok_and(|len| len <= MAX_KEY) {
            return CtrlStatus::BufferOverflow;
        }
        let good = self.with_copy(gref, len, |hashing, key, _| {
            hashing.set_key(key);
            true
        });
        if good { CtrlStatus::Success } else { CtrlStatus::InvalidParameter }
    }

    /// Copies the first `len` bytes of a page, at most a page, and hands them on. Returns what that says, or `false`
    /// if they cannot be had.
    fn with_copy(&mut self, gref: GrantRef, len: u32, set: impl FnOnce(&mut Hashing, &[u8], usize) -> bool) -> bool {
        let Some(mut buffer) = self.memory.buffers.take() else { return false };
        let (Ok(count), Ok(len)) = (usize::try_from(len), u16::try_from(len)) else { return false };
        let Some(bytes) = buffer.bytes_mut().get_mut(..count) else { return false };
        if len > 0 {
            let source = CopySource::Peer(PeerSpan { domid: self.domid, gref, offset: 0 });
            let mut copy = [GrantCopy::new(source, CopyDest::Local(bytes), len)];
            self.hyp.copy(&mut copy);
            if copy.iter().any(|copy| copy.status.is_err()) {
                return false;
            }
        }
        set(self.hashing, buffer.bytes().get(..count).unwrap_or(&[]), self.queues)
    }
}
