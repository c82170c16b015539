//! Network cards: one trait, one module per family.
//!
//! A driver sees registers ([`Mmio`](xen_pv_rt::hyp::Mmio)), DMA memory and this trait, nothing of Xen:
//! interrupts are somebody else's event channels, and the loop polls a card when one of them is pending or
//! a slow timer says so. A driver never waits without a deadline and believes nothing that the card writes.

pub mod intel;
mod probe;
pub mod virtio;
mod watchdog;

pub use probe::{AttachedNic, Card, ProbeError};

use core::fmt;

use crate::frame::Frame;

/// Length of an Ethernet header in bytes; shorter frames are nonsense.
pub const MIN_HEADER: u16 = 14;
/// Shortest frame on the wire in bytes, without FCS.
pub const MIN_FRAME: usize = 60;

/// Longest frame in bytes, without FCS, with the usual MTU of 1500: a VLAN tag on top of 1514.
pub const STANDARD_FRAME: usize = 1518;

/// Longest frame in bytes, without FCS, that a card can be set to: for an MTU of 9000, with a VLAN tag.
pub const LONGEST_FRAME: usize = 9018;

/// By how many bytes a received frame may grow in its buffer: padding, a VLAN tag.
const GROWTH: usize = 64;

/// What a card is set to at start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Buffers of received frames that may be on their way at a time; beyond, frames are dropped.
    pub spare: usize,
    /// Longest frame in bytes, without FCS, that it is to send and receive. A card that cannot takes what it can:
    /// [`Capabilities::max_frame`] says.
    pub max_frame: usize,
}

/// An Ethernet address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MacAddress(pub [u8; 6]);

impl MacAddress {
    /// `ff:ff:ff:ff:ff:ff`.
    pub const BROADCAST: Self = Self([0xff; 6]);

    /// Whether it addresses a group (multicast or broadcast).
    pub const fn is_group(self) -> bool {
        let [first, ..] = self.0;
        first & 1 != 0
    }

    /// Whether it can be the address of one station: neither a group nor all zeros.
    pub const fn is_station(self) -> bool {
        !self.is_group() && !matches!(self.0, [0, 0, 0, 0, 0, 0])
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// What a card does for us on transmit and receive. What it does not, software stands in for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// Fills in [`Checksum::Blank`](crate::frame::Checksum) on transmit.
    pub tx_checksum: bool,
    /// Cuts up frames with [`Gso`](crate::frame::Gso) over IPv4 on transmit.
    pub tso4: bool,
    /// Cuts up frames with [`Gso`](crate::frame::Gso) over IPv6 on transmit.
    pub tso6: bool,
    /// Most segments of a frame it transmits.
    pub max_segments: usize,
    /// Longest frame in bytes, without FCS, that it transmits and receives.
    pub max_frame: usize,
}

/// The state of the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// No carrier.
    Down,
    /// Carrier, at a speed in Mbit/s; 0 if the card does not say.
    Up(u32),
}

/// Why a card failed. A failed card is out of service until it is reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NicError {
    /// Registers read as all ones: the card is gone.
    Gone,
    /// A wait for the card passed its deadline: what was waited for.
    TimedOut(&'static str),
    /// The card wrote back something impossible: what it was.
    Confused(&'static str),
    /// The card lacks something that the driver needs.
    Unsupported(&'static str),
    /// DMA memory could not be had.
    NoMemory,
}

impl fmt::Display for NicError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gone => f.write_str("card is gone: registers read as all ones"),
            Self::TimedOut(what) => write!(f, "timed out waiting for {what}"),
            Self::Confused(what) => write!(f, "card wrote back an impossible {what}"),
            Self::Unsupported(what) => write!(f, "card lacks {what}"),
            Self::NoMemory => f.write_str("out of DMA memory"),
        }
    }
}

/// Counters since start. They wrap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NicCounters {
    /// Frames handed to the wire.
    pub tx_frames: u64,
    /// Bytes of those.
    pub tx_bytes: u64,
    /// Frames that could not be sent.
    pub tx_dropped: u64,
    /// Frames taken from the wire.
    pub rx_frames: u64,
    /// Bytes of those.
    pub rx_bytes: u64,
    /// Frames that arrived damaged, too long, or while no buffer was free.
    pub rx_dropped: u64,
    /// Frames that the card had no room for, as far as it counts them.
    pub rx_missed: u64,
    /// Resets by the watchdog.
    pub resets: u64,
}

/// A network card in service.
pub trait Nic {
    /// The address it came with.
    fn mac(&self) -> MacAddress;
    /// What it can do.
    fn capabilities(&self) -> Capabilities;
    /// The state of the link as last seen by [`poll`](Self::poll).
    fn link(&self) -> Link;
    /// Counters since start.
    fn counters(&self) -> NicCounters;

    /// Queues a frame. It reaches the card with [`flush`](Self::flush) at the latest.
    ///
    /// The frame is within [`capabilities`](Self::capabilities), except that it may be short: the driver pads
    /// it to the Ethernet minimum of 60 bytes with zeros.
    ///
    /// # Errors
    /// Gives the frame back if no descriptors are free.
    fn transmit(&mut self, frame: Frame) -> Result<(), Frame>;

    /// Makes the card look at what was queued: one doorbell for a whole batch.
    fn flush(&mut self);

    /// Takes the next received frame. Refilling receive buffers is the driver's own business.
    fn receive(&mut self) -> Option<Frame>;

    /// Notes that interrupts have come, or may have been lost: a bit for each of the first 32 vectors. Called before
    /// [`poll`](Self::poll).
    fn note_interrupts(&mut self, _vectors: u32) {}

    /// Reclaims sent frames, checks link and health. Called after an interrupt and from a slow timer.
    ///
    /// # Errors
    /// The card has failed; the caller takes it out of service.
    fn poll(&mut self) -> Result<(), NicError>;

    /// Asks for an interrupt on the next event and says whether there is work already, so that a frame
    /// between the last poll and going to sleep is not lost.
    ///
    /// This is also what makes a card deassert its interrupt line; the caller signals end of interrupt after
    /// it, not before. A loop that does not get to sleep calls it now and then, since Xen keeps the line quiet
    /// until then, for other devices on it as well.
    fn enable_interrupts(&mut self) -> bool;

    /// Stops DMA and interrupts, for shutdown.
    fn quiesce(&mut self);
}
