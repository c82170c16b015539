//! Packets from frontends: off the ring, into jobs, and answered.

use ring::BackRing;
use ring::netif::{Assembled, Negotiated, SlotKind, Status, Tx, TxKill, TxReject, TxResponse, assemble};
use xen_pv_rt::hyp::{Hypervisor, Instant};

use super::job::{RingOf, Stage, TX_JOBS, TxJob};
use super::memory::HEADER_BYTES;
use super::port::VifPort;
use super::{Memory, Plane};
use crate::nic::MacAddress;
use crate::switch::PortId;
use crate::vif::Cause;

/// Most packets taken from the vifs of one guest before the next guest has its turn.
const QUANTUM: usize = 16;
/// No more are taken in a turn once this many bytes were.
const TURN_BYTES: usize = 256 * 1024;
/// Most rounds in a turn: enough for a guest that is alone to pay off its largest packet.
const ROUNDS: usize = 16;
/// What frontends may use beside plain packets.
const NEGOTIATED: Negotiated = Negotiated { gso_tcpv4: true, gso_tcpv6: true, multicast_control: true, hash: true };
/// Packets shorter than this are always copied whole: that is one operation, where copying the headers apart
/// takes three.
const DIRECT_MIN: usize = 4096;

impl<H: Hypervisor> Plane<H> {
    /// Takes packets off the transmit rings, in rounds over the vifs, until the list is full or nothing is left.
    pub(super) fn collect_tx(&mut self, now: Instant) {
        let count = self.vifs.len();
        let mut bytes = 0_usize;
        for round in 0..ROUNDS {
            self.round = self.round.wrapping_add(1);
            let mut more = false;
            for _ in 0..count {
                // What is not taken waits in its ring, where it costs us nothing.
                if self.tx.len() >= TX_JOBS || bytes >= TURN_BYTES || self.memory.is_low() {
                    return;
                }
                let vif = self.next_vif;
                self.next_vif = vif.saturating_add(1).checked_rem(count).unwrap_or(0);
                if let Some(Some(port)) = self.vifs.get_mut(vif)
                    && port.fault.is_none()
                    && (round == 0 && !port.idle || port.has_more)
                {
                    let ready = !is_blocked(port, &self.uplinks);
                    port.has_more = ready && port.allowance.has_any(now);
                    if port.has_more {
                        bytes = bytes.saturating_add(self.collect_from(vif, now));
                        more |= self.vifs.get(vif).and_then(Option::as_ref).is_some_and(|port| port.has_more);
                    }
                }
            }
            if !more {
                break;
            }
        }
        // Everyone had a turn; who was first is not first again. Without packets nobody was: whoever is next stays so.
        if bytes > 0 {
            self.next_vif = self.next_vif.saturating_add(1).checked_rem(count).unwrap_or(0);
        }
    }

    /// Takes a vif's packets of one round. Returns their bytes.
    fn collect_from(&mut self, vif: usize, now: Instant) -> usize {
        let Self { vifs, tx, memory, round, .. } = self;
        let (Some(Some(port)), Ok(number)) = (vifs.get_mut(vif), u16::try_from(vif)) else { return 0 };
        let end = TX_JOBS.min(tx.len().saturating_add(port.quantum));
        let count = port.queues.len();
        port.next_queue = port.next_queue.saturating_add(1).checked_rem(count).unwrap_or(0);
        let mut bytes = 0_usize;
        for queue in (port.next_queue..count).chain(0..port.next_queue) {
            loop {
                if tx.len() >= end || memory.is_low() || !port.share.has_any(*round) || !port.allowance.has_any(now) {
                    return bytes;
                }
                let Some(rings) = port.queues.get_mut(queue) else { return bytes };
                let assembled = match take_packet::<H>(&mut rings.tx) {
                    Ok(Some(assembled)) => assembled,
                    Ok(None) => break,
                    Err(cause) => {
                        port.kill(u8::try_from(queue).unwrap_or(u8::MAX), cause);
                        return bytes;
                    }
                };
                let job = prepare(port, RingOf { vif: number, queue }, assembled, memory, now);
                bytes = bytes.saturating_add(job.len());
                port.share.charge(job.len());
                port.allowance.charge(job.len());
                tx.push(job);
            }
        }
        port.has_more = false;
        bytes
    }

    /// Gives each guest the same share, however many vifs it has. Called when vifs come and go.
    pub(super) fn share_out(&mut self) {
        for at in 0..self.vifs.len() {
            let Some(Some(frontend)) = self.vifs.get(at).map(|port| port.as_ref().map(|port| port.frontend)) else {
                continue;
            };
            let same = || self.vifs.iter().flatten().filter(|port| port.frontend == frontend);
            let (vifs, share) = (same().count(), same().next().map(|port| port.share.clone()));
            if let Some(Some(port)) = self.vifs.get_mut(at) {
                port.share = share.unwrap_or_default();
                port.quantum = QUANTUM.checked_div(vifs).unwrap_or(QUANTUM).max(1);
            }
        }
    }

    /// Answers every transmit job. Nothing reads the senders' pages any more.
    pub(super) fn finish_tx(&mut self) {
        let Self { vifs, tx, .. } = self;
        for mut job in tx.drain(..) {
            let Some(Some(port)) = vifs.get_mut(usize::from(job.ring.vif)) else { continue };
            let Some(queue) = port.queues.get_mut(job.ring.queue) else { continue };
            for kind in job.packet.slots.as_slice() {
                let Some(ticket) = job.packet.debt.pay() else { break };
                let response = match kind {
                    SlotKind::Request(id) => TxResponse { id: *id, status: job.status },
                    SlotKind::Extra => TxResponse { id: 0, status: Status::Null },
                };
                queue.tx.respond(ticket, &response);
            }
        }
    }
}

/// Makes a job of a packet, with memory for as much of it as is to be copied first.
fn prepare<H: Hypervisor>(
    port: &mut VifPort<H>,
    ring: RingOf,
    assembled: Assembled,
    memory: &Memory,
    now: Instant,
) -> TxJob {
    let (packet, reject) = match assembled {
        Assembled::Packet(packet) => (packet, None),
        Assembled::Rejected(reject, packet) => (packet, Some(reject)),
    };
    let (stage, status) = (Stage::Pending, Status::Okay);
    let mut job = TxJob { ring, domid: port.frontend, packet, frame: None, copied: 0, stage, status };
    if let Some(reject) = reject {
        job.fail(Status::Error);
        port.drop_tx(reject.into(), now);
        return job;
    }
    if !job.packet.multicast.as_slice().is_empty() {
        // A request about the filter; whatever data it comes with is no packet.
        let multicast = &mut port.multicast;
        let changes = job.packet.multicast;
        let fits = changes
            .as_slice()
            .iter()
            .fold(true, |fits, (add, address)| multicast.change(*add, MacAddress(*address)) && fits);
        job.fail(if fits { Status::Okay } else { Status::Error });
        if !fits {
            port.drop_tx(Cause::McastFull, now);
        }
        return job;
    }
    job.copied = first_copy(port, job.len());
    let parts = job.packet.fragments.as_slice().iter().map(|fragment| usize::from(fragment.size));
    job.frame = memory.frame_in_parts(parts, job.copied);
    if job.frame.is_none() {
        job.fail(Status::Dropped);
        port.drop_tx(Cause::NoBuffer, now);
    }
    job
}

/// Whether a vif's packets would only pile up in front of a congested card.
pub(super) fn is_blocked<H: Hypervisor>(port: &VifPort<H>, uplinks: &[super::uplink::Uplink]) -> bool {
    match port.last_dest {
        Some(PortId::Uplink(index)) => uplinks.get(usize::from(index)).is_some_and(super::uplink::Uplink::is_congested),
        _ => false,
    }
}

/// How many bytes of a packet to copy before its destination is known.
fn first_copy<H: Hypervisor>(port: &VifPort<H>, len: usize) -> usize {
    let direct = port.direct && len >= DIRECT_MIN && matches!(port.last_dest, Some(PortId::Vif(_)));
    if direct { HEADER_BYTES } else { len }
}

fn take_packet<H: Hypervisor>(ring: &mut BackRing<Tx, H::Page>) -> Result<Option<Assembled>, Cause> {
    let mut fault = false;
    let taken = assemble(&NEGOTIATED, || match ring.take_request() {
        Ok(request) => request,
        Err(_) => {
            fault = true;
            None
        }
    });
    if fault { Err(Cause::TxProd) } else { taken.map_err(Cause::from) }
}

impl From<TxReject> for Cause {
    fn from(reject: TxReject) -> Self {
        match reject {
            TxReject::Short => Self::TxShort,
            TxReject::Total => Self::TxTotal,
            TxReject::Slots => Self::TxSlots,
        }
    }
}

impl From<TxKill> for Cause {
    fn from(kill: TxKill) -> Self {
        match kill {
            TxKill::Page => Self::TxPage,
            TxKill::Chain => Self::TxChain,
            TxKill::Slots => Self::TxSlots,
            TxKill::ExtraMissing => Self::TxExtraMissing,
            TxKill::ExtraType => Self::TxExtraType,
            TxKill::ExtraChain => Self::TxExtraChain,
            TxKill::GsoSize => Self::GsoSize,
            TxKill::GsoType => Self::GsoType,
        }
    }
}
