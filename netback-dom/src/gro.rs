//! Joining TCP segments that the wire delivers one after the other (generic receive offload).
//!
//! What a packet costs a guest, its ring slots above all, is much the same whatever its length. [`Train`] makes one
//! packet of segments of one length and, at its end, a shorter one, in the form that [`segmentation`] describes.
//! Cutting it up again gives the segments that arrived.
//!
//! Only what is alike in everything but length, sequence number, PSH and checksums is joined, and only if all
//! checksums are right. Everything else stays as it is.
//!
//! Standards: RFC 9293, 791, 6864 (identification of packets that are not to be fragmented), 8200.

use core::ops::Range;

use crate::checksum::Sum;
use crate::frame::{Checksum, Frame, Gso, Segment, TailPool};
use crate::segmentation;
use crate::wire::{IPV6_HEADER, Protocol, Transport, u16_at};

/// Longer headers are not joined: nor would they be cut.
const MAX_HEADERS: usize = 256;
/// Bytes of an IPv4 header without options.
const IPV4_HEADER: usize = 20;
/// Longest joined frame in bytes: no guest is given more in one packet.
const LONGEST: usize = 65535;
/// "Don't fragment", in the third word of an IPv4 header.
const DF: u16 = 0x4000;
const ACK: u8 = 0x10;
const PSH: u8 = 0x08;
/// Most segments that are joined: as many of 1448 bytes as [`LONGEST`] holds.
pub(crate) const MOST_PARTS: usize = 45;
/// Offsets in a TCP header.
const SEQUENCE: usize = 4;
const DATA_OFFSET: usize = 12;
const FLAGS: usize = 13;

/// What is to be known of a TCP segment before it is joined with others.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part {
    pub(crate) transport: Transport,
    /// Bytes before the payload.
    headers: usize,
    payload: usize,
    sequence: u32,
    push: bool,
    /// Identification, if it is IPv4.
    id: u16,
}

impl Part {
    /// Looks at a frame from a card. `None` if it is never joined, as far as one can tell without summing it up.
    pub(crate) fn of(frame: &Frame) -> Option<Self> {
        let bytes = frame.head().bytes();
        let plain = frame.gso.is_none() && frame.segment_count() == 1;
        if !plain || matches!(frame.checksum, Checksum::Blank { .. }) {
            return None;
        }
        let transport = Transport::find(bytes, bytes.len()).filter(|transport| transport.end == bytes.len())?;
        let headers = transport.tcp_payload(bytes).filter(|end| *end <= MAX_HEADERS)?;
        let tcp = bytes.get(transport.start..)?;
        let (flags, reserved) = (*tcp.get(FLAGS)?, *tcp.get(DATA_OFFSET)? & 0xf);
        let payload = bytes.len().checked_sub(headers).filter(|payload| *payload > 0)?;
        if flags & !PSH != ACK || reserved != 0 || !has_plain_ip_header(bytes, &transport) {
            return None;
        }
        let sequence = u32::from_be_bytes(*tcp.get(SEQUENCE..)?.first_chunk()?);
        let id = if transport.ipv6 { 0 } else { u16_at(bytes, transport.network.checked_add(4)?)? };
        Some(Self { transport, headers, payload, sequence, push: flags & PSH != 0, id })
    }

    /// Whether more may follow it.
    pub(crate) const fn is_open(&self) -> bool {
        !self.push
    }
}

/// Whether an IP header has no options and, if it has a checksum, the right one.
fn has_plain_ip_header(bytes: &[u8], transport: &Transport) -> bool {
    let header = bytes.get(transport.network..transport.start).unwrap_or(&[]);
    if transport.ipv6 {
        return header.len() == IPV6_HEADER;
    }
    let mut sum = Sum::default();
    sum.add(header);
    header.len() == IPV4_HEADER && sum.fold() == 0xffff
}

/// Whether the TCP checksum of a frame is right.
fn is_intact(frame: &Frame, transport: &Transport) -> bool {
    let bytes = frame.head().bytes();
    let good = || {
        let mut sum = Sum::default();
        sum.add(&segmentation::pseudo_sum(bytes, transport, transport.end)?.to_ne_bytes());
        sum.add(bytes.get(transport.start..transport.end)?);
        Some(sum.fold() == 0xffff)
    };
    frame.checksum == Checksum::Good || good().unwrap_or(false)
}

/// Whether two frames have the same bytes at a range from these places on.
fn same(a: &[u8], from_a: usize, b: &[u8], from_b: usize, range: Range<usize>) -> bool {
    let at = |from: usize| Some(from.checked_add(range.start)?..from.checked_add(range.end)?);
    let (a, b) = (at(from_a).and_then(|range| a.get(range)), at(from_b).and_then(|range| b.get(range)));
    a.is_some() && a == b
}

/// Segments of a flow, joined so far.
pub(crate) struct Train {
    frame: Frame,
    first: Part,
    /// Bytes of payload.
    payload: usize,
    /// Segments.
    parts: u16,
    /// By how much the identification grows from segment to segment, once there are two.
    id_step: Option<u16>,
    /// The checksum of the first segment was found to be right.
    intact: bool,
    /// The last segment has PSH.
    push: bool,
    /// The last segment was shorter than the first.
    short: bool,
}

impl Train {
    /// Begins with a frame that is [open](Part::is_open).
    pub(crate) fn new(frame: Frame, first: Part) -> Self {
        let (payload, push) = (first.payload, first.push);
        Self { frame, first, payload, parts: 1, id_step: None, intact: false, push, short: false }
    }

    /// Segments so far.
    pub(crate) const fn parts(&self) -> u16 {
        self.parts
    }

    /// Whether nothing can be appended any more.
    pub(crate) fn is_closed(&self) -> bool {
        self.push || self.short || self.frame.segment_count() >= MOST_PARTS
    }

    /// Whether a TCP frame that starts with `head` must not overtake it: it is of the same flow.
    pub(crate) fn is_of_flow(&self, head: &[u8], transport: &Transport) -> bool {
        let (own, mine) = (self.frame.head().bytes(), &self.first.transport);
        let addresses = if mine.ipv6 { 8..40 } else { 12..20 };
        mine.ipv6 == transport.ipv6
            && transport.protocol == Protocol::Tcp
            && same(own, mine.start, head, transport.start, 0..4)
            && same(own, mine.network, head, transport.network, addresses)
    }

    /// Appends the payload of a frame.
    ///
    /// # Errors
    /// Gives the frame back, as it was, if it is not the next segment, differs in its headers or is damaged.
    pub(crate) fn append(&mut self, frame: Frame, part: &Part, tails: &TailPool) -> Result<(), Frame> {
        let room = self.frame.segment_count() > 1 || tails.available() > 0;
        if !room || self.is_closed() || !self.is_next(&frame, part) {
            return Err(frame);
        }
        self.intact = self.intact || is_intact(&self.frame, &self.first.transport);
        let (Ok(start), Ok(len)) = (u16::try_from(part.headers), u16::try_from(part.payload)) else {
            return Err(frame);
        };
        if !self.intact || !is_intact(&frame, &part.transport) {
            return Err(frame);
        }
        let whole = frame.into_head();
        let offset = whole.offset.saturating_add(start);
        // There is room, so this cannot fail.
        let _ = self.frame.push(Segment { offset, len, ..whole }, tails);
        self.id_step = Some(part.id.wrapping_sub(self.first.id)).filter(|_| self.parts == 1).or(self.id_step);
        self.parts = self.parts.saturating_add(1);
        self.payload = self.payload.saturating_add(part.payload);
        (self.push, self.short) = (part.push, part.payload < self.first.payload);
        Ok(())
    }

    /// Whether a segment comes next, and is like the first but for what differs between segments of one packet.
    fn is_next(&self, frame: &Frame, part: &Part) -> bool {
        let (own, other, first) = (self.frame.head().bytes(), frame.head().bytes(), &self.first);
        let (ip, tcp) = (first.transport.network, first.transport.start);
        let alike = |from: usize, range: Range<usize>| same(own, from, other, from, range);
        let options = first.headers.saturating_sub(tcp);
        let network = if first.transport.ipv6 {
            alike(ip, 0..4) && alike(ip, 6..IPV6_HEADER)
        } else {
            alike(ip, 0..2) && alike(ip, 6..10) && alike(ip, 12..IPV4_HEADER) && self.is_next_id(own, part)
        };
        let expected = u32::try_from(self.payload).map(|payload| first.sequence.wrapping_add(payload));
        let longer = first.headers.saturating_add(self.payload).saturating_add(part.payload);
        let places = |part: &Part| (part.transport.ipv6, part.transport.network, part.transport.start, part.headers);
        places(first) == places(part)
            && expected == Ok(part.sequence)
            && part.payload <= first.payload
            && longer <= LONGEST
            && network
            && alike(0, 0..ip)
            // Ports; acknowledgement and data offset; window; urgent pointer and options. Flags were looked at.
            && alike(tcp, 0..4)
            && alike(tcp, 8..13)
            && alike(tcp, 14..16)
            && alike(tcp, 18..options)
    }

    /// Identifications count up, or stay as they are where they have no meaning.
    fn is_next_id(&self, own: &[u8], part: &Part) -> bool {
        let moved = part.id.wrapping_sub(self.first.id);
        let unfragmented =
            u16_at(own, self.first.transport.network.saturating_add(6)).is_some_and(|word| word & DF != 0);
        match self.id_step {
            Some(step) => moved == step.wrapping_mul(self.parts),
            None => moved == 1 || moved == 0 && unfragmented,
        }
    }

    /// The packet. One that was joined is still to be cut up.
    pub(crate) fn into_frame(self) -> Option<Frame> {
        let mut frame = self.frame;
        if self.parts == 1 {
            return Some(frame);
        }
        let (len, transport) = (frame.len(), self.first.transport);
        let gso = Gso { ipv6: transport.ipv6, size: u16::try_from(self.first.payload).ok()? };
        let head = frame.head_mut().bytes_mut();
        segmentation::set_ip_length(head, &transport, len)?;
        if self.push {
            *head.get_mut(transport.start.checked_add(FLAGS)?)? |= PSH;
        }
        segmentation::accept(&mut frame, len, gso).then_some(frame)
    }
}
