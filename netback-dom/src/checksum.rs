//! Internet checksums: where a frame has one, and filling it in.
//!
//! A guest may leave the TCP or UDP checksum of a frame to us (`NETTXF_csum_blank`): the field then holds
//! the sum of the pseudo-header, and the sum over the transport header and payload is still to be added.
//! A card or the receiving guest may do it; otherwise [`complete`] does.
//!
//! Standards: RFC 1071, 768 (a UDP checksum of 0 is sent as all ones), 8200.

use crate::frame::{Checksum, Frame};
use crate::wire::{Protocol, Transport};

/// Finds the checksum that a guest has left blank in a frame of `frame_len` bytes that starts with `head`.
///
/// `None` if the frame is not TCP or UDP, is a fragment, is truncated, or has bytes behind the packet, which
/// a card would sum too.
pub fn locate(head: &[u8], frame_len: usize) -> Option<Checksum> {
    let transport = Transport::find(head, frame_len)?;
    if transport.end != frame_len {
        return None;
    }
    let start = u16::try_from(transport.start).ok()?;
    let field = u16::try_from(transport.protocol.checksum_field()).ok()?;
    Some(Checksum::Blank { start, field })
}

/// Fills in a blank checksum. Returns whether it could be found; the frame is untouched if not.
pub fn complete(frame: &mut Frame) -> bool {
    let Some(transport) = Transport::find(frame.head().bytes(), frame.len()) else { return false };
    let mut sum = Sum::default();
    let mut at = 0_usize;
    for segment in frame.segments() {
        let bytes = segment.bytes();
        let from = transport.start.saturating_sub(at).min(bytes.len());
        let to = transport.end.saturating_sub(at).min(bytes.len());
        sum.add(bytes.get(from..to).unwrap_or(&[]));
        at = at.saturating_add(bytes.len());
    }
    let mut checksum = !sum.fold();
    if checksum == 0 && transport.protocol == Protocol::Udp {
        checksum = 0xffff;
    }
    let field = transport.start.saturating_add(transport.protocol.checksum_field());
    let Some(place) = frame.head_mut().bytes_mut().get_mut(field..).and_then(<[u8]>::first_chunk_mut::<2>) else {
        return false;
    };
    *place = checksum.to_ne_bytes();
    frame.checksum = Checksum::Good;
    true
}

/// A running Internet checksum over pieces of any length.
///
/// Words are summed in the byte order of the machine: the sum comes out in that order too, so nothing needs
/// swapping but pieces that start at an odd offset (RFC 1071, section 2).
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum {
    total: u64,
    odd: bool,
}

impl Sum {
    /// Adds the next piece.
    pub fn add(&mut self, bytes: &[u8]) {
        let folded = fold(sum_words(bytes));
        let aligned = if self.odd { folded.swap_bytes() } else { folded };
        self.total = self.total.wrapping_add(u64::from(aligned));
        self.odd ^= bytes.len() % 2 == 1;
    }

    /// The one's complement sum so far, in the byte order of the machine.
    pub fn fold(self) -> u16 {
        fold(self.total)
    }
}

/// Sums 16-bit words, four at a time: an addition and one of the carry for each eight bytes. Two at a time need no carry, but
/// compilers make that of vectors that are taken apart again, more instructions and slow ones.
fn sum_words(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let mut last = [0; 8];
    for (to, from) in last.iter_mut().zip(rest) {
        *to = *from;
    }
    words.iter().chain(core::iter::once(&last)).fold(0_u64, |sum, word| {
        let (sum, carry) = sum.overflowing_add(u64::from_ne_bytes(*word));
        // A sum that has overflowed has room for the carry.
        sum.wrapping_add(u64::from(carry))
    })
}

fn fold(sum: u64) -> u16 {
    let mut sum = sum;
    // Each round moves the carries down; the fifth takes in the last single one.
    for _ in 0..5 {
        sum = (sum & 0xffff).wrapping_add(sum >> 16);
    }
    u16::try_from(sum).unwrap_or(0xffff)
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
