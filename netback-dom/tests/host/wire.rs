//! The card of the rig: what it is given to send, and what it receives.

use std::collections::VecDeque;

use netback_dom::dataplane::Uplinks;
use netback_dom::frame::{Checksum, Frame, Segment};
use netback_dom::nic::{Capabilities, Link, MacAddress, Nic, NicCounters, NicError};
use xen_pv_rt::hyp::DmaPool;

/// A frame that the card was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    pub bytes: Vec<u8>,
    pub checksum: Checksum,
    /// Length of the first segment.
    pub head: usize,
    pub segments: usize,
}

/// A card with a wire at the other end.
pub struct Wire {
    pub sent: Vec<Sent>,
    pub capabilities: Capabilities,
    pub link: Link,
    /// Frames the card takes before it says that it has no descriptor left.
    pub room: usize,
    buffers: DmaPool,
    incoming: VecDeque<Vec<u8>>,
}

impl Wire {
    pub fn new(buffers: DmaPool) -> Self {
        let capabilities =
            Capabilities { tx_checksum: false, tso4: false, tso6: false, max_segments: 18, max_frame: 1514 };
        Self {
            sent: Vec::new(),
            capabilities,
            link: Link::Up(1000),
            room: usize::MAX,
            buffers,
            incoming: VecDeque::new(),
        }
    }

    /// A frame from the wire.
    pub fn inject(&mut self, frame: &[u8]) {
        self.incoming.push_back(frame.to_vec());
    }

    pub fn has_interrupt(&self) -> bool {
        !self.incoming.is_empty()
    }
}

impl Uplinks for Wire {
    fn count(&self) -> u8 {
        1
    }
    fn nic(&mut self, index: u8) -> Option<&mut dyn Nic> {
        (index == 0).then_some(self)
    }
}

impl Nic for Wire {
    fn mac(&self) -> MacAddress {
        MacAddress([2, 0, 0, 0, 0, 1])
    }
    fn capabilities(&self) -> Capabilities {
        self.capabilities
    }
    fn link(&self) -> Link {
        self.link
    }
    fn counters(&self) -> NicCounters {
        NicCounters::default()
    }
    fn transmit(&mut self, frame: Frame) -> Result<(), Frame> {
        if self.room == 0 {
            return Err(frame);
        }
        self.room -= 1;
        assert!(frame.len() <= self.capabilities.max_frame, "the card is given {} bytes", frame.len());
        assert!(
            frame.segment_count() <= self.capabilities.max_segments,
            "the card is given {} segments",
            frame.segment_count()
        );
        let head = usize::from(frame.head().len);
        let bytes = frame.segments().flat_map(Segment::bytes).copied().collect();
        self.sent.push(Sent { bytes, checksum: frame.checksum, head, segments: frame.segment_count() });
        Ok(())
    }
    fn flush(&mut self) {}
    fn receive(&mut self) -> Option<Frame> {
        let bytes = self.incoming.front()?;
        let mut buf = self.buffers.take()?;
        buf.bytes_mut()[..bytes.len()].copy_from_slice(bytes);
        let len = u16::try_from(bytes.len()).unwrap();
        self.incoming.pop_front();
        Some(Frame::new(Segment { buf, offset: 0, len }))
    }
    fn poll(&mut self) -> Result<(), NicError> {
        Ok(())
    }
    fn enable_interrupts(&mut self) -> bool {
        !self.incoming.is_empty()
    }
    fn quiesce(&mut self) {}
}
