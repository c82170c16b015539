//! Putting VLAN tags into frames and taking them out, without touching the payload.
//!
//! Twelve bytes of addresses move by the four bytes of the tag, into the room in front of the frame or away from it.

use super::vlan::{Form, Vid};
use crate::frame::{Checksum, Frame, Segment};
use crate::wire::{TPID_8021Q, VLAN_TAG, u16_at};

/// Bytes of both addresses.
const ADDRESSES: usize = 12;

/// A VLAN and how a frame is to bear it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bearing {
    /// The VLAN.
    pub vlan: Vid,
    /// In a tag or not.
    pub form: Form,
}

/// Whether a frame that starts with `head` has a tag.
pub fn is_tagged(head: &[u8]) -> bool {
    u16_at(head, ADDRESSES) == Some(TPID_8021Q)
}

impl Bearing {
    /// The length in bytes that a frame of `len` bytes, which starts with `head`, will have.
    pub fn length(self, head: &[u8], len: usize) -> usize {
        match (is_tagged(head), self.form) {
            (true, Form::Untagged) => len.saturating_sub(VLAN_TAG),
            (false, Form::Tagged) => len.saturating_add(VLAN_TAG),
            (true, Form::Tagged) | (false, Form::Untagged) => len,
        }
    }

    /// Makes a frame bear the VLAN. A tag that is there keeps its priority. `false`, and the frame is as it was, if there
    /// is no room for a tag or none to take out.
    pub fn apply(self, frame: &mut Frame) -> bool {
        let done = match (is_tagged(frame.head().bytes()), self.form) {
            (false, Form::Untagged) => Some(0),
            (true, Form::Untagged) => remove(frame.head_mut()).map(|()| -1),
            (false, Form::Tagged) => insert(frame.head_mut(), self.vlan).map(|()| 1),
            (true, Form::Tagged) => renumber(frame.head_mut(), self.vlan).map(|()| 0),
        };
        if let (Some(tags), Checksum::Blank { start, .. }) = (done, &mut frame.checksum) {
            *start = start.saturating_add_signed(4_i16.saturating_mul(tags));
        }
        done.is_some()
    }
}

fn remove(head: &mut Segment) -> Option<()> {
    let len = usize::from(head.len).checked_sub(VLAN_TAG).filter(|len| *len >= ADDRESSES)?;
    let bytes = head.bytes_mut();
    bytes.copy_within(..ADDRESSES, VLAN_TAG);
    head.offset = head.offset.checked_add(4)?;
    head.len = u16::try_from(len).ok()?;
    Some(())
}

fn insert(head: &mut Segment, vlan: Vid) -> Option<()> {
    let (start, len) = (usize::from(head.offset), usize::from(head.len));
    let longer = head.len.checked_add(4)?;
    let page = head.buf.bytes_mut();
    match start.checked_sub(VLAN_TAG) {
        Some(new) => {
            page.get_mut(new..start.checked_add(ADDRESSES)?)?.copy_within(VLAN_TAG.., 0);
            head.offset = u16::try_from(new).ok()?;
        }
        // A card put it at the start of its buffer: then everything behind the addresses moves.
        None => {
            let end = start.checked_add(len)?.checked_add(VLAN_TAG)?;
            let rest = page.get_mut(start.checked_add(ADDRESSES)?..end)?;
            let moved = rest.len().checked_sub(VLAN_TAG)?;
            rest.copy_within(..moved, VLAN_TAG);
        }
    }
    head.len = longer;
    let [a, b] = TPID_8021Q.to_be_bytes();
    let [c, d] = vlan.into_raw().to_be_bytes();
    *head.bytes_mut().get_mut(ADDRESSES..)?.first_chunk_mut::<4>()? = [a, b, c, d];
    Some(())
}

fn renumber(head: &mut Segment, vlan: Vid) -> Option<()> {
    let tci = head.bytes_mut().get_mut(ADDRESSES.saturating_add(2)..)?.first_chunk_mut::<2>()?;
    let priority = u16::from_be_bytes(*tci) & 0xf000;
    *tci = (priority | vlan.into_raw()).to_be_bytes();
    Some(())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
mod tests {
    use std::vec::Vec;

    use xen_pv_rt::hyp::{Dma, HostMemory};

    use super::*;

    fn frame(offset: u16, bytes: &[u8]) -> Frame {
        let mut buf = HostMemory::new().dma_pool(1).unwrap().take().unwrap();
        let start = usize::from(offset);
        buf.bytes_mut()[start..start.saturating_add(bytes.len())].copy_from_slice(bytes);
        Frame::new(Segment { buf, offset, len: u16::try_from(bytes.len()).unwrap() })
    }

    fn bearing(number: u16, form: Form) -> Bearing {
        Bearing { vlan: Vid::new(number).unwrap(), form }
    }

    fn plain() -> Vec<u8> {
        (0..12).chain([8, 0]).chain(100..146).collect()
    }

    fn tagged(tci: [u8; 2]) -> Vec<u8> {
        (0..12).chain([0x81, 0]).chain(tci).chain([8, 0]).chain(100..146).collect()
    }

    #[test]
    fn a_tag_is_put_in_and_taken_out_wherever_the_frame_lies() {
        for offset in [0, 3, 4, 64, 4096 - 64] {
            let mut frame = frame(offset, &plain());
            frame.checksum = Checksum::Blank { start: 34, field: 16 };
            assert_eq!(bearing(10, Form::Tagged).length(frame.head().bytes(), 60), 64);
            assert!(bearing(10, Form::Tagged).apply(&mut frame), "{offset}");
            assert_eq!(frame.head().bytes(), tagged([0, 10]), "{offset}");
            assert_eq!(frame.checksum, Checksum::Blank { start: 38, field: 16 });
            assert_eq!(bearing(10, Form::Untagged).length(frame.head().bytes(), 64), 60);
            assert!(bearing(10, Form::Untagged).apply(&mut frame), "{offset}");
            assert_eq!(frame.head().bytes(), plain(), "{offset}");
            assert_eq!(frame.checksum, Checksum::Blank { start: 34, field: 16 });
        }
    }

    #[test]
    fn a_tag_that_is_there_keeps_its_priority() {
        let mut frame = frame(64, &tagged([0xe0, 0]));
        assert!(bearing(0x123, Form::Tagged).apply(&mut frame));
        assert_eq!(frame.head().bytes(), tagged([0xe1, 0x23]));
    }

    #[test]
    fn what_cannot_be_done_leaves_the_frame_alone() {
        let mut short = frame(0, &tagged([0, 0])[..15]);
        assert!(!bearing(1, Form::Untagged).apply(&mut short));
        assert_eq!(short.head().bytes(), &tagged([0, 0])[..15]);
        let full: Vec<u8> = (0..12).chain(core::iter::repeat_n(7, 4096 - 12)).collect();
        let mut full_frame = frame(0, &full);
        assert!(!bearing(1, Form::Tagged).apply(&mut full_frame));
        assert_eq!(full_frame.head().bytes(), full);
    }
}
