//! Packets under way within one turn.
//!
//! A turn takes packets off many rings, copies them together and answers them. What it needs to remember in
//! between is kept in two lists of fixed size; nothing in them outlives the turn.

use ring::Ticket;
use ring::netif::{GsoKind, MAX_SLOTS, Packet, RxFlags, Status};
use xen_pv_rt::hyp::{Domid, GrantRef};

use super::layout::{Extras, Parts};
use super::shared::SharedFrame;
use super::transfer::spans;
use crate::frame::{Frame, Gso};

/// Packets taken from frontends in a turn.
pub(super) const TX_JOBS: usize = 64;
/// Packets handed to frontends in one step of a turn.
pub(super) const RX_JOBS: usize = 128;

/// Which ring a packet belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RingOf {
    /// The vif's number.
    pub(super) vif: u16,
    /// The queue's number in the vif.
    pub(super) queue: usize,
}

/// How far a packet from a frontend has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Its destination is to be decided.
    Pending,
    /// Its destination cannot be reached, or not even be decided, before all of it is in our memory.
    NeedsWhole,
    /// It was handed on, or dropped.
    Done,
}

/// A packet from a frontend.
pub(super) struct TxJob {
    pub(super) ring: RingOf,
    pub(super) domid: Domid,
    /// Where its bytes are, and which slots it is to be answered in.
    pub(super) packet: Packet,
    /// Our copy of its first bytes, or of all of it; `None` if it goes nowhere.
    pub(super) frame: Option<Frame>,
    /// Bytes that are, or will be with the next batch, in `frame`.
    pub(super) copied: usize,
    pub(super) stage: Stage,
    pub(super) status: Status,
}

impl TxJob {
    /// Length of the packet in bytes.
    pub(super) fn len(&self) -> usize {
        usize::from(self.packet.total)
    }

    /// How it is to be cut up, if the frontend asks for that.
    pub(super) fn gso(&self) -> Option<Gso> {
        self.packet.gso.map(|(size, kind)| Gso { ipv6: kind == GsoKind::TcpV6, size })
    }

    /// Lengths of the pieces that it is copied in: those in our memory, then what is left in each of its pages.
    pub(super) fn pieces(&self) -> impl Iterator<Item = usize> {
        let ours = self.frame.iter().flat_map(|frame| frame.segments().map(|segment| usize::from(segment.len)));
        let theirs = spans(self.domid, self.packet.fragments.as_slice(), self.copied);
        ours.chain(theirs.map(|(_, len)| len))
    }

    /// Ends the job without delivery.
    pub(super) fn fail(&mut self, status: Status) {
        self.frame = None;
        self.stage = Stage::Done;
        self.status = status;
    }
}

/// A posted receive buffer that was taken for a packet.
pub(super) struct RxSlot {
    pub(super) gref: GrantRef,
    pub(super) id: u16,
    pub(super) ticket: Ticket,
}

/// Where the bytes of a packet for a frontend come from.
pub(super) enum RxSource {
    /// A frame in our memory.
    Stored(SharedFrame),
    /// The packet of this transmit job: its first bytes from our copy, the rest from the sender's pages.
    Direct(usize),
}

/// A packet to a frontend.
pub(super) struct RxJob {
    pub(super) ring: RingOf,
    pub(super) domid: Domid,
    pub(super) source: RxSource,
    pub(super) slots: heapless::Vec<RxSlot, MAX_SLOTS>,
    /// Bytes in each of those with data.
    pub(super) parts: Parts,
    /// Length of the packet in bytes.
    pub(super) len: usize,
    /// Flags of its first response, but for [`RxFlags::MORE_DATA`].
    pub(super) flags: RxFlags,
    /// What the frontend is told about it in extra segments.
    pub(super) extras: Extras,
    /// Bytes left free at the start of each buffer.
    pub(super) headroom: usize,
    /// Set if a copy failed.
    pub(super) failed: bool,
}
