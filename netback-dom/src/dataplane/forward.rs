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
use crate::switch::tag::is_tagged;
use crate::switch::vlan::Form;
use crate::switch::{Exit, Flood, PortId, Refusal, Verdict};
use crate::vif::Cause;

impl<H: Hypervisor> Plane<H> {
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
        let Some(job) = self.tx.get_mut(at) else { return };
        let Some(frame) = &job.frame else { return };
        let verdict = self.switch.forward(PortId::Vif(vif), frame.head().bytes(), now);
        if let Verdict::Refuse(refusal) = verdict {
            job.fail(Status::Dropped);
            self.drop_tx(vif, refusal.into(), now);
            return;
        }
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
        let sent = self.send(verdict, frame, uplinks, now);
        if let Some(job) = self.tx.get_mut(at).filter(|_| !sent) {
            job.status = Status::Dropped;
        }
        if let Some(Some(port)) = self.vifs.get_mut(usize::from(vif)) {
            if sent {
                port.counters.tx.add(len);
            } else {
                let to_vif = matches!(verdict, Verdict::To(Exit { port: PortId::Vif(_), .. }));
                port.drop_tx(if to_vif { Cause::RxQueue } else { Cause::Uplink }, now);
            }
        }
    }

    /// Hands a packet of which we have the headers to another vif. Returns whether that was possible.
    fn forward_direct(&mut self, at: usize, verdict: Verdict) -> bool {
        let Verdict::To(Exit { port: PortId::Vif(to), bearing }) = verdict else { return false };
        let Some((job, frame)) = self.tx.get(at).and_then(|job| Some((job, job.frame.as_ref()?))) else { return false };
        let (len, vif, flags) = (job.len(), job.ring.vif, flags_of(frame));
        // A tag that comes or goes makes the packet another length.
        let same =
            bearing.length(frame.head().bytes(), len) == len && (bearing.form == Form::Untagged || is_plain(frame));
        let takes = self.vifs.get(usize::from(to)).and_then(Option::as_ref).is_some_and(|port| {
            len <= port.max_frame()
                && port.is_within_mtu(frame, len)
                && port.takes_gso(frame.gso)
                && port.takes_checksum(frame, len)
        });
        if !takes || !same || !self.pull_direct(to, at, len, flags) {
            return false;
        }
        if let Some(job) = self.tx.get_mut(at) {
            job.stage = Stage::Done;
            job.frame.as_mut().map(|frame| bearing.apply(frame));
        }
        if let Some(Some(port)) = self.vifs.get_mut(usize::from(vif)) {
            port.counters.tx.add(len);
        }
        true
    }

    /// Sends a frame where the switch wants it. Returns whether somebody took it or nobody was to have it.
    pub(super) fn send(&mut self, verdict: Verdict, frame: Frame, uplinks: &mut dyn Uplinks, now: Instant) -> bool {
        match verdict {
            Verdict::Discard | Verdict::Refuse(_) => true,
            Verdict::To(exit) => self.send_to(exit, frame, uplinks, now),
            Verdict::Flood(flood) => self.flood(&flood, frame, uplinks, now),
        }
    }

    fn send_to(&mut self, exit: Exit, mut frame: Frame, uplinks: &mut dyn Uplinks, now: Instant) -> bool {
        exit.bearing.apply(&mut frame)
            && match exit.port {
                PortId::Uplink(index) => self.send_up(index, frame, uplinks),
                PortId::Vif(to) => self.send_down(to, frame, now),
            }
    }

    /// Sends a frame to a vif, with done in software what its frontend cannot take.
    fn send_down(&mut self, to: u16, mut frame: Frame, now: Instant) -> bool {
        let Some(Some(port)) = self.vifs.get(usize::from(to)) else { return false };
        // Linux drops what is still to be done to a packet if a tag is in front of it.
        let tagged = is_tagged(frame.head().bytes());
        if frame.gso.is_some() && (tagged || !port.takes_gso(frame.gso)) {
            let memory = self.memory.clone();
            let Some(mut cut) = Cut::new(&frame) else { return false };
            let mut all = true;
            while let Some(segment) = cut.next(&memory) {
                all &= self.send_down(to, segment, now);
            }
            return all && cut.is_done();
        }
        let takes = port.takes_checksum(&frame, frame.len()) && (!tagged || is_plain(&frame));
        if !takes && !checksum::complete(&mut frame) {
            return false;
        }
        self.shared.share(frame).is_some_and(|frame| self.enqueue(to, frame, now))
    }

    fn flood(&mut self, flood: &Flood, mut frame: Frame, uplinks: &mut dyn Uplinks, now: Instant) -> bool {
        let Some((first, after)) = self.switch.next_exit(flood, 0) else { return true };
        if self.switch.next_exit(flood, after).is_none() {
            return self.send_to(first, frame, uplinks, now);
        }
        if frame.gso.is_some() {
            let memory = self.memory.clone();
            let Some(mut cut) = Cut::new(&frame) else { return false };
            while let Some(segment) = cut.next(&memory) {
                self.flood(flood, segment, uplinks, now);
            }
            return cut.is_done();
        }
        // The receivers share the frame, so it has to suit every one of them.
        if matches!(frame.checksum, Checksum::Blank { .. }) && !checksum::complete(&mut frame) {
            return false;
        }
        let (mut next, mut tagged, mut untagged) = (0, false, false);
        while let Some((exit, after)) = self.switch.next_exit(flood, next) {
            next = after;
            match (exit.port, exit.bearing.form) {
                (PortId::Uplink(_), _) => {
                    if let Some(copy) = self.memory.duplicate(&frame) {
                        self.send_to(exit, copy, uplinks, now);
                    }
                }
                (PortId::Vif(_), Form::Tagged) => tagged = true,
                (PortId::Vif(_), Form::Untagged) => untagged = true,
            }
        }
        if tagged && untagged {
            if let Some(copy) = self.memory.duplicate(&frame) {
                self.flood_vifs(flood, Form::Tagged, copy, now);
            }
            tagged = false;
        }
        self.flood_vifs(flood, if tagged { Form::Tagged } else { Form::Untagged }, frame, now);
        true
    }

    /// Sends a frame to the vifs that get it with a tag, or to those that get it without.
    fn flood_vifs(&mut self, flood: &Flood, form: Form, frame: Frame, now: Instant) {
        let (mut frame, mut shared): (Option<Frame>, Option<SharedFrame>) = (Some(frame), None);
        let mut next = 0;
        while let Some((exit, after)) = self.switch.next_exit(flood, next) {
            next = after;
            let PortId::Vif(to) = exit.port else { continue };
            if exit.bearing.form != form {
                continue;
            }
            if let Some(mut frame) = frame.take().filter(|_| shared.is_none()) {
                shared = exit.bearing.apply(&mut frame).then(|| self.shared.share(frame)).flatten();
            }
            let Some(frame) = &shared else { return };
            self.enqueue(to, frame.clone(), now);
        }
    }

    fn send_up(&mut self, index: u8, frame: Frame, uplinks: &mut dyn Uplinks) -> bool {
        let Some(uplink) = self.uplinks.get_mut(usize::from(index)) else { return false };
        uplink.send(uplinks.nic(index), frame, &self.memory)
    }

    /// Remembers where a vif's packets go, to expect the next one there too.
    fn note_dest(&mut self, vif: u16, verdict: Verdict) {
        if let Verdict::To(exit) = verdict
            && let Some(Some(port)) = self.vifs.get_mut(usize::from(vif))
        {
            port.last_dest = Some(exit.port);
        }
    }

    fn drop_tx(&mut self, vif: u16, cause: Cause, now: Instant) {
        if let Some(Some(port)) = self.vifs.get_mut(usize::from(vif)) {
            port.drop_tx(cause, now);
        }
    }
}

/// Whether nothing is left to be done to a frame.
fn is_plain(frame: &Frame) -> bool {
    frame.gso.is_none() && !matches!(frame.checksum, Checksum::Blank { .. })
}

impl From<Refusal> for Cause {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Spoof => Self::Spoof,
            Refusal::Vlan => Self::Vlan,
            Refusal::Storm => Self::Storm,
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
