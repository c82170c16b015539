//! From port to port: what becomes of a packet once its headers are in our memory.

use ring::netif::Status;
use xen_pv_rt::hyp::{Hypervisor, Instant};

use super::job::Stage;
use super::rx::flags_of;
use super::shared::SharedFrame;
use super::{Plane, Uplinks};
use crate::checksum;
use crate::frame::{Checksum, Frame};
use crate::segmentation::{self, Cut};
use crate::switch::{PortId, Verdict};
use crate::vif::Cause;
use crate::wire::Ethernet;

/// Frames taken from one card in a turn.
const RECEIVE_BURST: usize = 64;

impl<H: Hypervisor> Plane<H> {
    /// Takes frames from the cards and queues them where they belong. Returns whether there were any.
    pub(super) fn receive(&mut self, uplinks: &mut dyn Uplinks, now: Instant) -> bool {
        let mut any = false;
        for index in 0..uplinks.count() {
            for _ in 0..RECEIVE_BURST {
                let Some(frame) = uplinks.nic(index).and_then(|nic| nic.receive()) else { break };
                any = true;
                let from = PortId::Uplink(index);
                if let Some((dest, source)) = Ethernet::addresses(frame.head().bytes()) {
                    let verdict = self.switch.forward(from, dest, source, now);
                    self.send(from, verdict, frame, uplinks, now);
                }
            }
        }
        any
    }

    /// Decides about every transmit job that is still pending. Returns whether some need all their bytes first.
    pub(super) fn forward(&mut self, uplinks: &mut dyn Uplinks, now: Instant) -> bool {
        let mut incomplete = false;
        for at in 0..self.tx.len() {
            self.forward_job(at, uplinks, now);
            incomplete |= self.tx.get(at).is_some_and(|job| job.stage == Stage::NeedsWhole);
        }
        incomplete
    }

    fn forward_job(&mut self, at: usize, uplinks: &mut dyn Uplinks, now: Instant) {
        let Some(job) = self.tx.get_mut(at).filter(|job| job.stage == Stage::Pending) else { return };
        let (len, whole, vif, gso) = (job.len(), job.copied == job.len(), job.ring.vif, job.gso());
        let Some(frame) = &mut job.frame else { return };
        let Some((dest, source)) = Ethernet::addresses(frame.head().bytes()) else { return };
        let flags = (job.packet.flags.csum_blank(), job.packet.flags.data_validated());
        let (good, cause) = match gso {
            Some(gso) => (segmentation::accept(frame, len, gso), Cause::GsoMin),
            None => (note_checksum(frame, len, whole, flags), Cause::Csum),
        };
        if !good {
            if whole {
                job.fail(Status::Error);
                self.drop_tx(vif, cause, now);
            } else {
                job.stage = Stage::NeedsWhole;
            }
            return;
        }
        if self.is_too_long(at) {
            if let Some(job) = self.tx.get_mut(at) {
                job.fail(Status::Dropped);
            }
            self.drop_tx(vif, Cause::Mtu, now);
            return;
        }
        let from = PortId::Vif(vif);
        let verdict = self.switch.forward(from, dest, source, now);
        self.note_dest(vif, verdict);
        if whole {
            self.forward_whole(at, verdict, uplinks, now);
        } else if !self.forward_direct(at, verdict)
            && let Some(job) = self.tx.get_mut(at)
        {
            job.stage = Stage::NeedsWhole;
        }
    }

    /// Whether a packet is beyond the MTU of the vif it comes from.
    fn is_too_long(&self, at: usize) -> bool {
        let Some((job, frame)) = self.tx.get(at).and_then(|job| Some((job, job.frame.as_ref()?))) else { return false };
        let port = self.vifs.get(usize::from(job.ring.vif)).and_then(Option::as_ref);
        port.is_some_and(|port| !port.is_within_mtu(frame, job.len()))
    }

    fn forward_whole(&mut self, at: usize, verdict: Verdict, uplinks: &mut dyn Uplinks, now: Instant) {
        let Some(job) = self.tx.get_mut(at) else { return };
        let (len, vif) = (job.len(), job.ring.vif);
        let Some(frame) = job.frame.take() else { return };
        job.stage = Stage::Done;
        let sent = self.send(PortId::Vif(vif), verdict, frame, uplinks, now);
        if let Some(job) = self.tx.get_mut(at).filter(|_| !sent) {
            job.status = Status::Dropped;
        }
        if let Some(Some(port)) = self.vifs.get_mut(usize::from(vif)) {
            if sent {
                port.counters.tx.add(len);
            } else {
                port.drop_tx(
                    if matches!(verdict, Verdict::To(PortId::Vif(_))) { Cause::RxQueue } else { Cause::Uplink },
                    now,
                );
            }
        }
    }

    /// Hands a packet of which we have the headers to another vif. Returns whether that was possible.
    fn forward_direct(&mut self, at: usize, verdict: Verdict) -> bool {
        let Verdict::To(PortId::Vif(to)) = verdict else { return false };
        let Some((job, frame)) = self.tx.get(at).and_then(|job| Some((job, job.frame.as_ref()?))) else { return false };
        let (len, vif, flags) = (job.len(), job.ring.vif, flags_of(frame));
        let takes = self.vifs.get(usize::from(to)).and_then(Option::as_ref).is_some_and(|port| {
            len <= port.max_frame()
                && port.is_within_mtu(frame, len)
                && port.takes_gso(frame.gso)
                && port.takes_checksum(frame, len)
        });
        if !takes || !self.pull_direct(to, at, len, flags) {
            return false;
        }
        if let Some(job) = self.tx.get_mut(at) {
            job.stage = Stage::Done;
        }
        if let Some(Some(port)) = self.vifs.get_mut(usize::from(vif)) {
            port.counters.tx.add(len);
        }
        true
    }

    /// Sends a frame where the switch wants it. Returns whether somebody took it or nobody was to have it.
    fn send(&mut self, from: PortId, verdict: Verdict, frame: Frame, uplinks: &mut dyn Uplinks, now: Instant) -> bool {
        match verdict {
            Verdict::Discard => true,
            Verdict::To(PortId::Uplink(index)) => self.send_up(index, frame, uplinks),
            Verdict::To(PortId::Vif(to)) => self.send_down(to, frame, now),
            Verdict::Flood => self.flood(from, frame, uplinks, now),
        }
    }

    /// Sends a frame to a vif, with done in software what its frontend cannot take.
    fn send_down(&mut self, to: u16, mut frame: Frame, now: Instant) -> bool {
        let Some(Some(port)) = self.vifs.get(usize::from(to)) else { return false };
        if !port.takes_gso(frame.gso) {
            let memory = self.memory.clone();
            let Some(mut cut) = Cut::new(&frame) else { return false };
            let mut all = true;
            while let Some(segment) = cut.next(&memory) {
                all &= self.send_down(to, segment, now);
            }
            return all && cut.is_done();
        }
        if !port.takes_checksum(&frame, frame.len()) && !checksum::complete(&mut frame) {
            return false;
        }
        self.shared.share(frame).is_some_and(|frame| self.enqueue(to, frame, now))
    }

    fn flood(&mut self, from: PortId, mut frame: Frame, uplinks: &mut dyn Uplinks, now: Instant) -> bool {
        let Some((first, after)) = self.switch.next_flood_port(from, 0) else { return true };
        if self.switch.next_flood_port(from, after).is_none() {
            return self.send(from, Verdict::To(first), frame, uplinks, now);
        }
        if frame.gso.is_some() {
            let memory = self.memory.clone();
            let Some(mut cut) = Cut::new(&frame) else { return false };
            while let Some(segment) = cut.next(&memory) {
                self.flood(from, segment, uplinks, now);
            }
            return cut.is_done();
        }
        // The receivers share the frame, so it has to suit every one of them.
        if matches!(frame.checksum, Checksum::Blank { .. }) && !checksum::complete(&mut frame) {
            return false;
        }
        let mut next = 0;
        while let Some((port, after)) = self.switch.next_flood_port(from, next) {
            next = after;
            if let PortId::Uplink(index) = port
                && let Some(copy) = self.memory.duplicate(&frame)
            {
                self.send_up(index, copy, uplinks);
            }
        }
        self.flood_vifs(from, frame, now);
        true
    }

    fn flood_vifs(&mut self, from: PortId, frame: Frame, now: Instant) {
        let Some(frame): Option<SharedFrame> = self.shared.share(frame) else { return };
        let mut next = 0;
        while let Some((port, after)) = self.switch.next_flood_port(from, next) {
            next = after;
            if let PortId::Vif(to) = port {
                self.enqueue(to, frame.clone(), now);
            }
        }
    }

    fn send_up(&mut self, index: u8, frame: Frame, uplinks: &mut dyn Uplinks) -> bool {
        let Some(uplink) = self.uplinks.get_mut(usize::from(index)) else { return false };
        uplink.send(uplinks.nic(index), frame, &self.memory)
    }

    /// Remembers where a vif's packets go, to expect the next one there too.
    fn note_dest(&mut self, vif: u16, verdict: Verdict) {
        if let Verdict::To(dest) = verdict
            && let Some(Some(port)) = self.vifs.get_mut(usize::from(vif))
        {
            port.last_dest = Some(dest);
        }
    }

    fn drop_tx(&mut self, vif: u16, cause: Cause, now: Instant) {
        if let Some(Some(port)) = self.vifs.get_mut(usize::from(vif)) {
            port.drop_tx(cause, now);
        }
    }
}

/// Notes what is known about the checksum of a packet from a frontend, of which `frame` holds at least the
/// headers.
///
/// A blank checksum goes before a validated packet if the frontend claims both. Returns `false` if the checksum
/// is said to be blank and cannot be found, or could only be filled in if all bytes were there.
fn note_checksum(frame: &mut Frame, len: usize, whole: bool, (blank, validated): (bool, bool)) -> bool {
    if !blank {
        frame.checksum = if validated { Checksum::Good } else { Checksum::Unknown };
        return true;
    }
    match checksum::locate(frame.head().bytes(), len) {
        Some(blank) => {
            frame.checksum = blank;
            true
        }
        // Bytes behind the packet: neither a card nor a guest would find its end.
        None => whole && checksum::complete(frame),
    }
}
