//! Ethernet frames in our memory, on their way between a NIC and the switch.
//!
//! A [`Frame`] owns its buffers; dropping it gives them back to their pool. Most frames are one segment.
//! The tail of a longer one lives in a box from a [`TailPool`], so that moving a frame stays cheap and the
//! data path does not touch the heap.

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::RefCell;

use xen_pv_rt::hyp::DmaBuf;

/// Most segments of one frame that a card is to send: 64 KiB in whole pages, plus a head of its own.
pub const MAX_SEGMENTS: usize = 18;

/// A run of bytes in one buffer.
#[derive(Debug)]
pub struct Segment {
    /// The buffer.
    pub buf: DmaBuf,
    /// First byte of the run in the buffer; `offset + len` is at most 4096.
    pub offset: u16,
    /// Length of the run in bytes, at least 1.
    pub len: u16,
}

impl Segment {
    /// The bytes of the run; empty if the bounds were wrong.
    pub fn bytes(&self) -> &[u8] {
        let start = usize::from(self.offset);
        self.buf.bytes().get(start..start.saturating_add(usize::from(self.len))).unwrap_or(&[])
    }
    /// The bytes of the run, for writing.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        let start = usize::from(self.offset);
        let end = start.saturating_add(usize::from(self.len));
        self.buf.bytes_mut().get_mut(start..end).unwrap_or(&mut [])
    }
}

/// What is known about the TCP or UDP checksum of a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Checksum {
    /// Nothing; the receiver has to look.
    #[default]
    Unknown,
    /// It was verified, or comes from memory and cannot be wrong.
    Good,
    /// It is still to be filled in: the field holds the pseudo-header sum.
    Blank {
        /// Where the checksummed bytes start, in bytes from the start of the frame.
        start: u16,
        /// Where the checksum field is, in bytes from `start`.
        field: u16,
    },
}

/// How a frame larger than the MTU is to be cut into segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gso {
    /// TCP over IPv6, rather than over IPv4.
    pub ipv6: bool,
    /// Payload bytes per segment, at least 1.
    pub size: u16,
}

/// In a box, so that it moves from the pool into a frame as one pointer.
type Tail = Box<Vec<Segment>>;

/// Preallocated tails of multi-segment frames. Cloning gives another handle to the same pool.
#[derive(Clone)]
pub struct TailPool(Rc<Tails>);

struct Tails {
    free: RefCell<Vec<Tail>>,
    /// Most segments of a tail; each has room for that many.
    longest: usize,
}

impl TailPool {
    /// A pool that serves `frames` multi-segment frames at a time.
    pub fn new(frames: usize) -> Self {
        Self::with_segments(frames, MAX_SEGMENTS)
    }

    /// As [`new`](Self::new), for frames of up to `segments` segments: one of more than [`MAX_SEGMENTS`] is for guests only.
    pub fn with_segments(frames: usize, segments: usize) -> Self {
        let longest = segments.saturating_sub(1);
        let tails = (0..frames).map(|_| Box::new(Vec::with_capacity(longest)));
        Self(Rc::new(Tails { free: RefCell::new(tails.collect()), longest }))
    }

    /// Multi-segment frames that can be made now.
    pub fn available(&self) -> usize {
        self.0.free.borrow().len()
    }
}

/// A tail in use; it goes back to its pool on drop.
struct PooledTail {
    /// There until it is dropped.
    segments: Option<Tail>,
    pool: TailPool,
}

impl PooledTail {
    fn segments(&self) -> &[Segment] {
        self.segments.as_ref().map_or(&[], |segments| segments.as_slice())
    }
}

impl Drop for PooledTail {
    fn drop(&mut self) {
        if let Some(mut segments) = self.segments.take() {
            segments.clear();
            // The pool never holds more than it was made with, so this does not allocate.
            self.pool.0.free.borrow_mut().push(segments);
        }
    }
}

/// An Ethernet frame without FCS.
pub struct Frame {
    head: Segment,
    tail: Option<PooledTail>,
    /// State of the transport checksum.
    pub checksum: Checksum,
    /// Set if the frame is still to be cut up.
    pub gso: Option<Gso>,
}

impl Frame {
    /// A frame of one segment, which holds at least the Ethernet header.
    pub fn new(head: Segment) -> Self {
        Self { head, tail: None, checksum: Checksum::Unknown, gso: None }
    }

    /// Appends a segment.
    ///
    /// # Errors
    /// Gives the segment back if the frame has as many already as `tails` allows, or `tails` is exhausted.
    pub fn push(&mut self, segment: Segment, tails: &TailPool) -> Result<(), Segment> {
        if self.tail.is_none() {
            let Some(tail) = tails.0.free.borrow_mut().pop() else { return Err(segment) };
            self.tail = Some(PooledTail { segments: Some(tail), pool: tails.clone() });
        }
        let Some(tail) = &mut self.tail else { return Err(segment) };
        match &mut tail.segments {
            // The pool made it with room for so many, so this does not allocate.
            Some(segments) if segments.len() < tail.pool.0.longest => segments.push(segment),
            _ => return Err(segment),
        }
        Ok(())
    }

    /// The first segment alone; the others go back to their pool.
    pub fn into_head(self) -> Segment {
        self.head
    }

    /// The first segment. Protocol headers up to TCP are in it, wherever the frame came from.
    pub fn head(&self) -> &Segment {
        &self.head
    }

    /// The first segment, for filling in headers.
    pub fn head_mut(&mut self) -> &mut Segment {
        &mut self.head
    }

    /// All segments in order.
    pub fn segments(&self) -> impl Iterator<Item = &Segment> {
        core::iter::once(&self.head).chain(self.tail.iter().flat_map(PooledTail::segments))
    }

    /// All segments in order, for filling.
    pub fn segments_mut(&mut self) -> impl Iterator<Item = &mut Segment> {
        core::iter::once(&mut self.head)
            .chain(self.tail.iter_mut().filter_map(|tail| tail.segments.as_mut()).flat_map(|tail| tail.iter_mut()))
    }

    /// Number of segments, at least 1.
    pub fn segment_count(&self) -> usize {
        self.tail.as_ref().map_or(0, |tail| tail.segments().len()).saturating_add(1)
    }

    /// Length in bytes, without FCS.
    pub fn len(&self) -> usize {
        self.segments().fold(0, |sum, segment| sum.saturating_add(usize::from(segment.len)))
    }

    /// Makes the frame at least `min` bytes long with zeros at its end. `false` if its last buffer has no room.
    pub fn pad(&mut self, min: usize) -> bool {
        let missing = min.saturating_sub(self.len());
        if missing == 0 {
            return true;
        }
        let Some(last) = self.segments_mut().last() else { return false };
        let end = usize::from(last.offset).saturating_add(usize::from(last.len));
        let Some(padding) = last.buf.bytes_mut().get_mut(end..end.saturating_add(missing)) else { return false };
        padding.fill(0);
        last.len = last.len.saturating_add(u16::try_from(missing).unwrap_or(u16::MAX));
        true
    }

    /// Whether the frame has no bytes, which no constructor makes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
