//! The card of the rig: what it is given to send, and what it receives.

use std::collections::VecDeque;

use netback_dom::dataplane::Uplinks;
use netback_dom::frame::{Checksum, Frame, Gso, Segment};
use netback_dom::nic::{Capabilities, Link, MacAddress, Nic, NicCounters, NicError};
use netback_dom::publish::CardReport;
use xen_pv_rt::hyp::DmaPool;

/// A frame that the card was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    pub bytes: Vec<u8>,
    pub checksum: Checksum,
    pub gso: Option<Gso>,
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
    incoming: VecDeque<(Vec<u8>, Checksum)>,
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
        self.inject_with(frame, Checksum::Unknown);
    }

    /// A frame from the wire of whose checksum the card knows something.
    pub fn inject_with(&mut self, frame: &[u8], checksum: Checksum) {
        self.incoming.push_back((frame.to_vec(), checksum));
    }

    pub fn has_interrupt(&self) -> bool {
        !self.incoming.is_empty()
    }

    pub fn reports(&self) -> Vec<CardReport> {
        let sbdf = "0000:00:03.0".parse().unwrap();
        let (mac, link, counters) = (self.mac(), self.link, self.counters());
        vec![CardReport { index: 0, sbdf, name: "wire", mac, link, counters, interrupts: 0 }]
    }
}

/// All cards: the first, and the others.
pub struct Wires<'a>(pub &'a mut Wire, pub &'a mut Vec<Wire>);

impl Uplinks for Wires<'_> {
    fn count(&self) -> u8 {
        u8::try_from(self.1.len() + 1).unwrap()
    }
    fn nic(&mut self, index: u8) -> Option<&mut dyn Nic> {
        match index {
            0 => Some(self.0),
            _ => self.1.get_mut(usize::from(index) - 1).map(|wire| -> &mut dyn Nic { wire }),
        }
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
        let fits = frame.gso.is_some() || frame.len() <= self.capabilities.max_frame;
        assert!(fits, "the card is given {} bytes", frame.len());
        assert!(
            frame.segment_count() <= self.capabilities.max_segments,
            "the card is given {} segments",
            frame.segment_count()
        );
        assert!(self.capabilities.tx_checksum || !matches!(frame.checksum, Checksum::Blank { .. }));
        let cuts = |gso: Gso| if gso.ipv6 { self.capabilities.tso6 } else { self.capabilities.tso4 };
        assert!(frame.gso.is_none_or(cuts), "the card cannot cut up packets");
        let (gso, head) = (frame.gso, usize::from(frame.head().len));
        let bytes = frame.segments().flat_map(Segment::bytes).copied().collect();
        self.sent.push(Sent { bytes, checksum: frame.checksum, gso, head, segments: frame.segment_count() });
        Ok(())
    }
    fn flush(&mut self) {}
    fn receive(&mut self) -> Option<Frame> {
        let (bytes, checksum) = self.incoming.front()?;
        let mut buf = self.buffers.take()?;
        buf.bytes_mut()[..bytes.len()].copy_from_slice(bytes);
        let len = u16::try_from(bytes.len()).unwrap();
        let mut frame = Frame::new(Segment { buf, offset: 0, len });
        frame.checksum = *checksum;
        self.incoming.pop_front();
        Some(frame)
    }
    fn poll(&mut self) -> Result<(), NicError> {
        Ok(())
    }
    fn enable_interrupts(&mut self) -> bool {
        !self.incoming.is_empty()
    }
    fn quiesce(&mut self) {}
}
