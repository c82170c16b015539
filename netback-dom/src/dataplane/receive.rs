//! Frames from cards: TCP segments are joined for guests that take them so, then all go where the switch says.
//!
//! A segment that may have a successor is kept back until that comes, something else of its flow comes, or the card
//! has nothing more in this turn: nothing waits longer than the frames that are there already take.

use xen_pv_rt::hyp::{Hypervisor, Instant};

use super::{Plane, Uplinks};
use crate::frame::{Frame, Gso, TailPool};
use crate::gro::{MOST_PARTS, Part, Train};
use crate::switch::vlan::Form;
use crate::switch::{Exit, PortId, Verdict};
use crate::wire::{Protocol, Transport};

/// Frames taken from one card in a turn.
const RECEIVE_BURST: usize = 64;
/// Flows of which segments are joined at a time.
const FLOWS: usize = 8;
/// Segments that may always be joined to one packet; up to [`MOST_PARTS`] where pages are plenty.
const FEW_PARTS: usize = 18;
/// Joined packets on their way to guests; beyond, segments are handed on as they are.
const JOINED: usize = 96;

/// Segments that are being joined, and the guests they are for.
pub(super) struct Joiner {
    trains: heapless::Vec<(Train, Exit), FLOWS>,
    tails: TailPool,
    /// Segments joined to one packet, at most.
    most: usize,
}

impl Joiner {
    pub(super) fn new() -> Self {
        Self { trains: heapless::Vec::new(), tails: TailPool::with_segments(JOINED, MOST_PARTS), most: FEW_PARTS }
    }

    /// Takes out the train that a frame must not overtake; any train for a frame of which that is not known.
    fn take_before(&mut self, head: &[u8]) -> Option<(Train, Exit)> {
        let found = match Transport::find(head, head.len()) {
            Some(transport) if transport.protocol == Protocol::Tcp => {
                self.trains.iter().position(|(train, _)| train.is_of_flow(head, &transport))
            }
            Some(_) => None,
            None => self.trains.len().checked_sub(1),
        }?;
        Some(self.trains.swap_remove(found))
    }
}

impl<H: Hypervisor> Plane<H> {
    /// Takes frames from the cards and queues them where they belong. Returns whether there were any.
    pub(super) fn receive(&mut self, uplinks: &mut dyn Uplinks, now: Instant) -> bool {
        let mut any = false;
        // A packet is queued or dropped as a whole, so it has at most half of the pages that may wait for one vif.
        let free = self.memory.held_pages.saturating_sub(self.held);
        self.joiner.most = (free / 4).clamp(FEW_PARTS, MOST_PARTS);
        for index in 0..uplinks.count() {
            for _ in 0..RECEIVE_BURST {
                let Some(frame) = uplinks.nic(index).and_then(|nic| nic.receive()) else { break };
                any = true;
                self.arrive(PortId::Uplink(index), frame, uplinks, now);
            }
            while let Some((train, exit)) = self.joiner.trains.pop() {
                self.release(train, exit, uplinks, now);
            }
        }
        any
    }

    /// Joins a frame with those before it, or sends it where it belongs.
    fn arrive(&mut self, from: PortId, frame: Frame, uplinks: &mut dyn Uplinks, now: Instant) {
        let part = Part::of(&frame);
        let frame = match &part {
            Some(part) => match self.join(frame, part, uplinks, now) {
                Ok(()) => return,
                Err(frame) => frame,
            },
            None => frame,
        };
        while let Some((train, exit)) = self.joiner.take_before(frame.head().bytes()) {
            self.release(train, exit, uplinks, now);
        }
        let verdict = self.switch.forward(from, frame.head().bytes(), now);
        match (part, verdict) {
            (Some(part), Verdict::To(exit)) if part.is_open() && self.takes_joined(exit, part.transport.ipv6) => {
                self.keep_back(Train::new(frame, part), exit, uplinks, now);
            }
            _ => {
                self.send(verdict, frame, uplinks, now);
            }
        }
    }

    /// Appends a segment to those of its flow.
    fn join(&mut self, frame: Frame, part: &Part, uplinks: &mut dyn Uplinks, now: Instant) -> Result<(), Frame> {
        let Joiner { trains, tails, most } = &mut self.joiner;
        let head = frame.head().bytes();
        let found = trains.iter().position(|(train, _)| train.is_of_flow(head, &part.transport));
        let Some((at, (train, _))) = found.and_then(|at| Some((at, trains.get_mut(at)?))) else { return Err(frame) };
        train.append(frame, part, tails)?;
        if train.is_closed() || usize::from(train.parts()) >= *most {
            let (train, exit) = trains.swap_remove(at);
            self.release(train, exit, uplinks, now);
        }
        Ok(())
    }

    fn keep_back(&mut self, train: Train, exit: Exit, uplinks: &mut dyn Uplinks, now: Instant) {
        if self.joiner.trains.is_full()
            && let Some((other, exit)) = self.joiner.trains.pop()
        {
            self.release(other, exit, uplinks, now);
        }
        // There is room now.
        let _ = self.joiner.trains.push((train, exit));
    }

    /// Sends what was joined.
    fn release(&mut self, train: Train, exit: Exit, uplinks: &mut dyn Uplinks, now: Instant) {
        let joined = train.parts().saturating_sub(1);
        let Some(frame) = train.into_frame() else { return };
        let sent = self.send(Verdict::To(exit), frame, uplinks, now);
        if let Some(port) = self.port_mut(exit.port).filter(|_| sent) {
            port.counters.rx_joined = port.counters.rx_joined.wrapping_add(joined.into());
        }
    }

    /// Whether what leaves by this way can stay in one piece all the way into a guest.
    fn takes_joined(&self, exit: Exit, ipv6: bool) -> bool {
        exit.bearing.form == Form::Untagged
            && self.port(exit.port).is_some_and(|port| port.takes_gso(Some(Gso { ipv6, size: 1 })))
    }
}
