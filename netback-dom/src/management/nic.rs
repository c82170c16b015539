//! The management address as a card: what the switch sends to it, and what it sends.

use super::Management;
use super::device::MAX_FRAME;
use crate::frame::{Frame, MAX_SEGMENTS};
use crate::nic::{Capabilities, Link, MacAddress, Nic, NicCounters, NicError};

/// Where the destination is in a frame.
const MAC_BYTES: usize = 6;

impl Management {
    fn is_for_us(&self, frame: &Frame) -> bool {
        let dest = frame.head().bytes().first_chunk::<MAC_BYTES>();
        dest.is_some_and(|dest| *dest == self.mac.0 || *dest == MacAddress::BROADCAST.0)
    }
}

impl Nic for Management {
    fn mac(&self) -> MacAddress {
        self.mac
    }

    fn capabilities(&self) -> Capabilities {
        let (max_segments, max_frame) = (MAX_SEGMENTS, MAX_FRAME);
        Capabilities { max_segments, max_frame, ..Capabilities::default() }
    }

    fn link(&self) -> Link {
        Link::Up(0)
    }

    fn counters(&self) -> NicCounters {
        self.counters
    }

    /// Never says that it is full: what is too much is dropped, so that nobody waits for us.
    fn transmit(&mut self, frame: Frame) -> Result<(), Frame> {
        if self.is_for_us(&frame) {
            let counter =
                if self.queues.put(&frame) { &mut self.counters.tx_frames } else { &mut self.counters.tx_dropped };
            *counter = counter.wrapping_add(1);
        }
        Ok(())
    }

    fn flush(&mut self) {}

    fn receive(&mut self) -> Option<Frame> {
        let frame = self.queues.take_outgoing()?;
        self.counters.rx_frames = self.counters.rx_frames.wrapping_add(1);
        Some(frame)
    }

    fn poll(&mut self) -> Result<(), NicError> {
        Ok(())
    }

    fn enable_interrupts(&mut self) -> bool {
        self.has_work()
    }

    fn quiesce(&mut self) {}
}
