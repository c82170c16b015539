//! Cards as the data plane sees them.

use alloc::boxed::Box;
use alloc::collections::VecDeque;

use super::Memory;
use crate::checksum;
use crate::frame::{Checksum, Frame, Gso};
use crate::nic::{Capabilities, Link, Nic};
use crate::segmentation::{self, Cut};

/// Frames that wait for room in a card's descriptor ring.
const BACKLOG: usize = 128;
/// With this many waiting, vifs that send to the card are not served: their packets wait in their rings.
const CONGESTED: usize = 32;

/// The cards of the domain, by number. A card that has failed is no longer there.
pub trait Uplinks {
    /// Number of cards, failed ones included; it never changes.
    fn count(&self) -> u8;
    /// Card number `index`, if it is in service.
    fn nic(&mut self, index: u8) -> Option<&mut dyn Nic>;
}

impl Uplinks for [Box<dyn Nic>] {
    fn count(&self) -> u8 {
        u8::try_from(self.len()).unwrap_or(u8::MAX)
    }
    fn nic(&mut self, index: u8) -> Option<&mut dyn Nic> {
        match self.get_mut(usize::from(index)) {
            Some(nic) => Some(&mut **nic),
            None => None,
        }
    }
}

/// What the data plane keeps about a card.
pub(super) struct Uplink {
    waiting: VecDeque<Frame>,
    /// Frames that could not be sent.
    pub(super) dropped: u64,
    /// Whether something was queued since the last doorbell.
    dirty: bool,
}

impl Uplink {
    pub(super) fn new() -> Self {
        Self { waiting: VecDeque::with_capacity(BACKLOG), dropped: 0, dirty: false }
    }

    /// Whether senders should wait rather than have their packets dropped.
    pub(super) fn is_congested(&self) -> bool {
        self.waiting.len() >= CONGESTED
    }

    /// Whether frames wait for the card.
    pub(super) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Sends a frame, now or when the card has room. Returns whether it was accepted.
    pub(super) fn send(&mut self, nic: Option<&mut (dyn Nic + '_)>, frame: Frame, memory: &Memory) -> bool {
        let accepted = match nic {
            Some(nic) if nic.link() != Link::Down => match frame.gso {
                Some(gso) if !takes_gso(&nic.capabilities(), &frame, gso) => self.send_cut(nic, &frame, memory),
                _ => self.send_one(nic, frame),
            },
            _ => false,
        };
        if !accepted {
            self.dropped = self.dropped.wrapping_add(1);
        }
        accepted
    }

    /// Cuts up a frame for a card that cannot.
    fn send_cut(&mut self, nic: &mut dyn Nic, frame: &Frame, memory: &Memory) -> bool {
        let too_long =
            frame.gso.is_none_or(|gso| segmentation::longest(frame, frame.len(), gso) > nic.capabilities().max_frame);
        let Some(mut cut) = Cut::new(frame).filter(|_| !too_long) else { return false };
        let mut all = true;
        while let Some(segment) = cut.next(memory) {
            all &= self.send_one(nic, segment);
        }
        all && cut.is_done()
    }

    fn send_one(&mut self, nic: &mut dyn Nic, frame: Frame) -> bool {
        prepare(nic, frame).is_some_and(|frame| self.queue(nic, frame))
    }

    fn queue(&mut self, nic: &mut dyn Nic, frame: Frame) -> bool {
        let refused = if self.waiting.is_empty() { nic.transmit(frame) } else { Err(frame) };
        match refused {
            Ok(()) => {
                self.dirty = true;
                true
            }
            Err(frame) if self.waiting.len() < BACKLOG => {
                self.waiting.push_back(frame);
                true
            }
            Err(_) => false,
        }
    }

    /// Hands waiting frames to the card. Returns whether any was taken.
    pub(super) fn retry(&mut self, nic: Option<&mut (dyn Nic + '_)>) -> bool {
        let Some(nic) = nic.filter(|nic| nic.link() != Link::Down) else {
            self.waiting.clear();
            return false;
        };
        let mut progress = false;
        while let Some(frame) = self.waiting.pop_front() {
            if let Err(frame) = nic.transmit(frame) {
                self.waiting.push_front(frame);
                break;
            }
            progress = true;
        }
        self.dirty |= progress;
        progress
    }

    /// Rings the doorbell if something was queued.
    pub(super) fn flush(&mut self, nic: Option<&mut (dyn Nic + '_)>) {
        if let Some(nic) = nic
            && self.dirty
        {
            nic.flush();
        }
        self.dirty = false;
    }
}

/// Fills in the checksum if the card cannot. `None` if the frame cannot be sent at all.
fn prepare(nic: &dyn Nic, mut frame: Frame) -> Option<Frame> {
    let can = nic.capabilities();
    if matches!(frame.checksum, Checksum::Blank { .. }) && !can.tx_checksum && !checksum::complete(&mut frame) {
        return None;
    }
    let fits = (frame.gso.is_some() || frame.len() <= can.max_frame) && frame.segment_count() <= can.max_segments;
    fits.then_some(frame)
}

/// Whether the card cuts up this frame.
fn takes_gso(can: &Capabilities, frame: &Frame, gso: Gso) -> bool {
    let cuts = if gso.ipv6 { can.tso6 } else { can.tso4 };
    cuts && can.tx_checksum
        && frame.segment_count() <= can.max_segments
        && segmentation::longest(frame, frame.len(), gso) <= can.max_frame
}
