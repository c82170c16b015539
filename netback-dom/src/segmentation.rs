//! Large TCP packets: checking them, and cutting them up in software.
//!
//! A guest may hand over up to 64 KiB of TCP payload as one packet with the size of the segments to be made of
//! it. A card or a receiving guest may take it as it is; for the others [`Cut`] makes ordinary frames.
//!
//! The form in which such a frame travels, made by [`accept`]: [`Frame::gso`] is set, the checksum is
//! [`Checksum::Blank`], and the TCP checksum field holds the sum of the pseudo-header with the length of the
//! whole packet.
//!
//! Standards: RFC 9293, 791, 8200. Xen: `XEN_NETIF_EXTRA_TYPE_GSO`.

use crate::checksum::Sum;
use crate::dataplane::Memory;
use crate::frame::{Checksum, Frame, Gso, Segment};
use crate::wire::{Protocol, Transport};

/// Most segments of one packet, so that a small packet of a guest's cannot become many.
const MAX_CUT: usize = 128;
/// Longest headers that are copied to every segment.
const MAX_HEADERS: usize = 256;

const TCP_SEQUENCE: usize = 4;
const TCP_FLAGS: usize = 13;
const TCP_CHECKSUM: usize = 16;
const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const CWR: u8 = 0x80;

/// Checks a packet of `len` bytes, of which `frame` holds at least the headers, that is to be cut up, and
/// brings it into the form that the rest of the code expects. Returns whether it can be.
///
/// A packet that fits in one segment is made an ordinary one.
pub(crate) fn accept(frame: &mut Frame, len: usize, gso: Gso) -> bool {
    let Some(plan) = Plan::new(frame, len, gso) else { return false };
    let Some(sum) = pseudo_sum(frame.head().bytes(), &plan.transport, len) else { return false };
    let Ok(start) = u16::try_from(plan.transport.start) else { return false };
    let field = plan.transport.start.saturating_add(TCP_CHECKSUM);
    if !put(frame.head_mut().bytes_mut(), field, sum.to_ne_bytes()) {
        return false;
    }
    frame.checksum = Checksum::Blank { start, field: 16 };
    frame.gso = (plan.payload > usize::from(gso.size)).then_some(gso);
    true
}

/// Length of the longest frame that a packet of `len` bytes to be cut up becomes, of which `frame` holds at least the
/// headers.
pub(crate) fn longest(frame: &Frame, len: usize, gso: Gso) -> usize {
    headers_end(frame, len).map_or(usize::MAX, |(_, end)| end.saturating_add(usize::from(gso.size)))
}

fn headers_end(frame: &Frame, len: usize) -> Option<(Transport, usize)> {
    let head = frame.head().bytes();
    let transport = Transport::find(head, len).filter(|transport| transport.protocol == Protocol::Tcp)?;
    let end = transport.tcp_payload(head)?;
    (end <= MAX_HEADERS.min(head.len()) && transport.end == len).then_some((transport, end))
}

/// What is to be cut where.
struct Plan {
    transport: Transport,
    headers: usize,
    payload: usize,
    size: usize,
}

impl Plan {
    fn new(frame: &Frame, len: usize, gso: Gso) -> Option<Self> {
        let (transport, headers) = headers_end(frame, len)?;
        let (payload, size) = (len.checked_sub(headers)?, usize::from(gso.size));
        let fits = payload <= size.saturating_mul(MAX_CUT);
        (transport.ipv6 == gso.ipv6 && fits).then_some(Self { transport, headers, payload, size })
    }
}

/// Cuts up one frame.
pub(crate) struct Cut<'a> {
    frame: &'a Frame,
    plan: Plan,
    /// Payload bytes that were handed out.
    done: usize,
}

impl<'a> Cut<'a> {
    /// Begins; `None` if the frame is not in the form of [`accept`].
    pub(crate) fn new(frame: &'a Frame) -> Option<Self> {
        let plan = Plan::new(frame, frame.len(), frame.gso?)?;
        Some(Self { frame, plan, done: 0 })
    }

    /// Whether every byte was handed out.
    pub(crate) fn is_done(&self) -> bool {
        self.done >= self.plan.payload
    }

    /// The next segment, with a blank checksum; `None` at the end, or if there is no buffer.
    pub(crate) fn next(&mut self, memory: &Memory) -> Option<Frame> {
        let Plan { transport, headers, payload, size } = &self.plan;
        let part = payload.saturating_sub(self.done).min(*size);
        if part == 0 {
            return None;
        }
        let len = headers.saturating_add(part);
        let mut segment = memory.frame(len)?;
        copy(self.frame, 0, &mut segment, 0, *headers);
        copy(self.frame, headers.saturating_add(self.done), &mut segment, *headers, part);
        let index = self.done.checked_div(*size).and_then(|index| u16::try_from(index).ok())?;
        let last = self.done.saturating_add(part) >= *payload;
        fix_headers(segment.head_mut().bytes_mut(), transport, len, self.done, index, last)?;
        segment.checksum = Checksum::Blank { start: u16::try_from(transport.start).ok()?, field: 16 };
        self.done = self.done.saturating_add(part);
        Some(segment)
    }
}

/// Makes the headers of the whole packet those of segment `index`, which starts `done` bytes into the payload.
fn fix_headers(head: &mut [u8], transport: &Transport, len: usize, done: usize, index: u16, last: bool) -> Option<()> {
    let (ip, tcp) = (transport.network, transport.start);
    if !transport.ipv6 {
        let id = u16::from_be_bytes(get(head, ip.checked_add(4)?)?).wrapping_add(index);
        put(head, ip.checked_add(4)?, id.to_be_bytes());
    }
    set_ip_length(head, transport, len)?;
    let sequence = tcp.checked_add(TCP_SEQUENCE)?;
    let moved = u32::from_be_bytes(get(head, sequence)?).wrapping_add(u32::try_from(done).ok()?);
    put(head, sequence, moved.to_be_bytes());
    let flags = head.get_mut(tcp.checked_add(TCP_FLAGS)?)?;
    if !last {
        *flags &= !(FIN | PSH);
    }
    if index > 0 {
        *flags &= !CWR;
    }
    let sum = pseudo_sum(head, transport, len)?;
    put(head, tcp.checked_add(TCP_CHECKSUM)?, sum.to_ne_bytes());
    Some(())
}

/// Makes an IP header that of a packet that ends at byte `len` of its frame, its checksum included.
pub(crate) fn set_ip_length(head: &mut [u8], transport: &Transport, len: usize) -> Option<()> {
    let ip = transport.network;
    if transport.ipv6 {
        let after = len.checked_sub(ip.checked_add(40)?)?;
        put(head, ip.checked_add(4)?, u16::try_from(after).ok()?.to_be_bytes());
        return Some(());
    }
    put(head, ip.checked_add(2)?, u16::try_from(len.checked_sub(ip)?).ok()?.to_be_bytes());
    put(head, ip.checked_add(10)?, [0, 0]);
    let mut sum = Sum::default();
    sum.add(head.get(ip..transport.start)?);
    put(head, ip.checked_add(10)?, (!sum.fold()).to_ne_bytes());
    Some(())
}

/// The sum of the pseudo-header of a TCP packet that ends at byte `len` of its frame.
pub(crate) fn pseudo_sum(head: &[u8], transport: &Transport, len: usize) -> Option<u16> {
    let (from, bytes) = if transport.ipv6 { (8, 32) } else { (12, 8) };
    let start = transport.network.checked_add(from)?;
    let mut sum = Sum::default();
    sum.add(head.get(start..start.checked_add(bytes)?)?);
    sum.add(&[0, 6]);
    sum.add(&u16::try_from(len.checked_sub(transport.start)?).ok()?.to_be_bytes());
    Some(sum.fold())
}

fn get<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

fn put<const N: usize>(bytes: &mut [u8], at: usize, value: [u8; N]) -> bool {
    match bytes.get_mut(at..).and_then(<[u8]>::first_chunk_mut) {
        Some(place) => {
            *place = value;
            true
        }
        None => false,
    }
}

/// Copies `len` bytes from byte `from` of one frame to byte `at` of another.
fn copy(source: &Frame, from: usize, dest: &mut Frame, at: usize, len: usize) {
    let mut skip = from;
    let mut left = len;
    let mut windows = dest.segments_mut().map(Segment::bytes_mut);
    let mut window: &mut [u8] = windows.next().and_then(|head| head.get_mut(at..)).unwrap_or(&mut []);
    for segment in source.segments() {
        let bytes = segment.bytes();
        let skipped = skip.min(bytes.len());
        skip = skip.saturating_sub(skipped);
        let mut bytes = bytes.get(skipped..).unwrap_or(&[]);
        while left > 0 && !bytes.is_empty() {
            if window.is_empty() {
                let Some(next) = windows.next() else { return };
                window = next;
            }
            let part = bytes.len().min(window.len()).min(left);
            let (to, later) = core::mem::take(&mut window).split_at_mut(part);
            let (now, rest) = bytes.split_at(part);
            to.copy_from_slice(now);
            (window, bytes) = (later, rest);
            left = left.saturating_sub(part);
        }
    }
}

#[cfg(test)]
#[expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    reason = "tests"
)]
mod tests;
