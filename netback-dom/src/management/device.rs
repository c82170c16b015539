//! Frames between the data plane and the stack: two bounded queues.

use alloc::boxed::Box;
use alloc::collections::VecDeque;

use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use xen_pv_rt::hyp::{DmaBuf, DmaPool};

use super::BUFFERS;
use crate::frame::{Frame, Segment};

/// Longest frame in bytes.
pub(super) const MAX_FRAME: usize = 1514;

/// A frame that has arrived.
struct Slot {
    bytes: [u8; MAX_FRAME],
    len: usize,
}

/// Frames that have arrived, and frames to be sent.
pub(super) struct Queues {
    slots: Box<[Slot]>,
    /// The oldest frame that has arrived.
    first: usize,
    /// How many there are.
    waiting: usize,
    outgoing: VecDeque<Frame>,
    buffers: DmaPool,
}

impl Queues {
    pub(super) fn new(buffers: DmaPool) -> Self {
        let slots = (0..BUFFERS).map(|_| Slot { bytes: [0; MAX_FRAME], len: 0 }).collect();
        Self { slots, first: 0, waiting: 0, outgoing: VecDeque::with_capacity(BUFFERS), buffers }
    }

    /// Copies a frame that has arrived. False if there is no room or it is too long: it is dropped.
    pub(super) fn put(&mut self, frame: &Frame) -> bool {
        let length = frame.len();
        let index = self.first.saturating_add(self.waiting).checked_rem(self.slots.len()).unwrap_or(0);
        if self.waiting >= self.slots.len() || length > MAX_FRAME {
            return false;
        }
        let Some(slot) = self.slots.get_mut(index) else { return false };
        let bytes = frame.segments().flat_map(|segment| segment.bytes());
        slot.bytes.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        slot.len = length;
        self.waiting = self.waiting.saturating_add(1);
        true
    }

    /// Takes the next frame to be sent.
    pub(super) fn take_outgoing(&mut self) -> Option<Frame> {
        self.outgoing.pop_front()
    }

    pub(super) fn has_received(&self) -> bool {
        self.waiting > 0
    }

    pub(super) fn has_outgoing(&self) -> bool {
        !self.outgoing.is_empty()
    }
}

/// A frame for the stack.
pub(super) struct Received<'a>(&'a [u8]);

/// A buffer for a frame of the stack's.
pub(super) struct Room<'a> {
    buf: DmaBuf,
    outgoing: &'a mut VecDeque<Frame>,
}

impl RxToken for Received<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(self.0)
    }
}

impl TxToken for Room<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(mut self, len: usize, f: F) -> R {
        // The stack keeps to the MTU, and a buffer is a page.
        let result = f(self.buf.bytes_mut().get_mut(..len).unwrap_or(&mut []));
        let len = u16::try_from(len).unwrap_or(0);
        self.outgoing.push_back(Frame::new(Segment { buf: self.buf, offset: 0, len }));
        result
    }
}

impl Device for Queues {
    type RxToken<'a> = Received<'a>;
    type TxToken<'a> = Room<'a>;

    fn receive(&mut self, _: smoltcp::time::Instant) -> Option<(Received<'_>, Room<'_>)> {
        if self.waiting == 0 || self.outgoing.len() >= BUFFERS {
            return None;
        }
        let buf = self.buffers.take()?;
        let slot = self.slots.get(self.first)?;
        self.waiting = self.waiting.saturating_sub(1);
        self.first = self.first.saturating_add(1).checked_rem(self.slots.len()).unwrap_or(0);
        let bytes = slot.bytes.get(..slot.len)?;
        Some((Received(bytes), Room { buf, outgoing: &mut self.outgoing }))
    }

    fn transmit(&mut self, _: smoltcp::time::Instant) -> Option<Room<'_>> {
        if self.outgoing.len() >= BUFFERS {
            return None;
        }
        Some(Room { buf: self.buffers.take()?, outgoing: &mut self.outgoing })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = MAX_FRAME;
        capabilities
    }
}
