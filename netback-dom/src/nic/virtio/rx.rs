//! The receive queue: one buffer per descriptor, each with room for a header.

use alloc::vec::Vec;

use virtio_drivers::transport::Transport;
use virtio_pci::{Buffer, MAX_SIZE, Queue, Used};
use xen_pv_rt::hyp::{Dma, DmaBuf, DmaPool};

use super::{Features, HEADER, RX};
use crate::frame::{Checksum, Frame, Gso, Segment, TailPool};
use crate::nic::{GROWTH, MIN_HEADER, NicCounters, NicError, STANDARD_FRAME};
use crate::segmentation;

/// What the device may write into one buffer, its header included, and the same where frames may be long.
const BUFFER: u16 = 2048;
const LONG_BUFFER: u16 = 4096;
/// Descriptors that are refilled together.
const REFILL_BATCH: usize = 64;
/// Frames in several buffers that may be on their way at a time.
const TAILS: usize = 32;
/// `VIRTIO_NET_HDR_F_NEEDS_CSUM` and `VIRTIO_NET_HDR_F_DATA_VALID`.
const NEEDS_CSUM: u8 = 1;
const DATA_VALID: u8 = 2;
/// `VIRTIO_NET_HDR_GSO_TCPV4` and `VIRTIO_NET_HDR_GSO_TCPV6`.
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;

pub(super) struct Receiver {
    queue: Queue,
    pool: DmaPool,
    tails: TailPool,
    /// The buffer of each descriptor in the device's hands.
    buffers: Vec<Option<DmaBuf>>,
    features: Features,
    /// What the device may write into one buffer.
    buffer: u16,
    /// Longest frame that is not to be cut up.
    max_frame: usize,
    /// A frame whose remaining buffers have not come yet.
    partial: Option<Partial>,
}

struct Partial {
    /// `None` if the frame is being dropped.
    frame: Option<Frame>,
    /// How it is to be cut up, if it is.
    gso: Option<Gso>,
    /// Buffers that are still to come.
    missing: u16,
}

/// A header asks for something that the device was not allowed to.
struct NotAgreed;

/// `struct virtio_net_hdr_v1`, as far as it matters on receive.
struct Header {
    flags: u8,
    gso_type: u8,
    gso_size: u16,
    csum_start: u16,
    csum_offset: u16,
    num_buffers: u16,
}

impl Header {
    fn read(bytes: &[u8]) -> Option<Self> {
        let [flags, gso_type, _, _, g, h, a, b, c, d, e, f] = *bytes.first_chunk()?;
        let [gso_size, csum_start, csum_offset, num_buffers] = [[g, h], [a, b], [c, d], [e, f]].map(u16::from_le_bytes);
        Some(Self { flags, gso_type, gso_size, csum_start, csum_offset, num_buffers })
    }

    /// How the frame is to be cut up, if it is. An error if that was not agreed.
    fn gso(&self, features: Features) -> Result<Option<Gso>, NotAgreed> {
        let (feature, ipv6) = match self.gso_type {
            0 => return Ok(None),
            GSO_TCPV4 => (Features::GUEST_TSO4, false),
            GSO_TCPV6 => (Features::GUEST_TSO6, true),
            _ => return Err(NotAgreed),
        };
        let agreed = features.contains(feature) && self.gso_size > 0;
        agreed.then_some(Some(Gso { ipv6, size: self.gso_size })).ok_or(NotAgreed)
    }

    /// What the device knows of the checksum. Only believed if that was agreed, and if the field is in the frame.
    fn checksum(&self, features: Features, len: usize) -> Checksum {
        let end = usize::from(self.csum_start).saturating_add(usize::from(self.csum_offset)).saturating_add(2);
        if !features.contains(Features::GUEST_CSUM) {
            Checksum::Unknown
        } else if self.flags & NEEDS_CSUM != 0 && end <= len {
            Checksum::Blank { start: self.csum_start, field: self.csum_offset }
        } else if self.flags & (NEEDS_CSUM | DATA_VALID) == DATA_VALID {
            Checksum::Good
        } else {
            Checksum::Unknown
        }
    }
}

impl Receiver {
    pub(super) fn new(queue: Queue, dma: &impl Dma, spare: usize) -> Result<Self, NicError> {
        let pool = dma.dma_pool(usize::from(MAX_SIZE).saturating_add(spare)).map_err(|_| NicError::NoMemory)?;
        let buffers = (0..MAX_SIZE).map(|_| None).collect();
        let (tails, features) = (TailPool::new(TAILS), Features::empty());
        let (buffer, max_frame) = (BUFFER, STANDARD_FRAME);
        Ok(Self { queue, pool, tails, buffers, features, buffer, max_frame, partial: None })
    }

    /// Fills the queue anew and programs a device that has been reset. Frames of up to `wanted` bytes are to be
    /// received; of which length they can be is returned.
    pub(super) fn start<T: Transport>(
        &mut self,
        transport: &mut T,
        features: Features,
        wanted: usize,
    ) -> Result<usize, NicError> {
        self.features = features;
        let long = wanted.saturating_add(HEADER.into()) > BUFFER.into();
        let large = features.intersects(Features::GUEST_TSO4 | Features::GUEST_TSO6);
        self.buffer = if long || large { LONG_BUFFER } else { BUFFER };
        let one = usize::from(self.buffer.saturating_sub(HEADER));
        self.max_frame = if features.contains(Features::MRG_RXBUF) { wanted } else { wanted.min(one) };
        self.partial = None;
        for buf in &mut self.buffers {
            // A device that was at work may have written to any of them.
            if let Some(mut buf) = buf.take() {
                buf.note_written(LONG_BUFFER.into());
            }
        }
        self.queue.start(transport.max_queue_size(RX), features.contains(Features::EVENT_IDX))?;
        let (table, available, used) = self.queue.addresses();
        let size = self.queue.size().into();
        transport.queue_set(RX, size, table.into_raw(), available.into_raw(), used.into_raw());
        self.queue.disable_interrupts();
        self.refill();
        Ok(self.max_frame)
    }

    /// Gives the device as many buffers as there are.
    fn refill(&mut self) {
        while self.queue.free() > 0 {
            let Some(buf) = self.pool.take() else { break };
            if !self.arm(buf) {
                break;
            }
        }
    }

    /// Gives a buffer to the device.
    fn arm(&mut self, mut buf: DmaBuf) -> bool {
        // What an earlier frame left must not reach anyone if the device reports more than it wrote.
        buf.clear_written();
        let buffer = Buffer::from_device(buf.maddr(), self.buffer.into());
        let Some(head) = self.queue.push(core::iter::once(buffer)) else { return false };
        if let Some(slot) = self.buffers.get_mut(usize::from(head)) {
            *slot = Some(buf);
        }
        true
    }

    /// Shows the device the buffers it was given, and notifies it if it wants that.
    pub(super) fn flush<T: Transport>(&mut self, transport: &mut T) {
        self.refill();
        if self.queue.show() {
            transport.notify(RX);
        }
    }

    /// Whether so many descriptors are free that the device should get them back without waiting for the end
    /// of what it has finished.
    pub(super) fn is_hungry(&self) -> bool {
        self.queue.free() >= REFILL_BATCH
    }

    /// Whether a frame waits.
    pub(super) fn is_ready(&self) -> bool {
        self.queue.is_ready()
    }
    /// Asks for an interrupt when a frame comes.
    pub(super) fn enable_interrupts(&self) {
        self.queue.enable_interrupts();
    }

    /// Takes the next good frame.
    pub(super) fn receive(&mut self, counters: &mut NicCounters) -> Result<Option<Frame>, NicError> {
        // At most one lap: a device that completes as fast as we look must not hold us here.
        for _ in 0..MAX_SIZE {
            let Some(used) = self.queue.pop()? else { return Ok(None) };
            let buf = self.buffers.get_mut(usize::from(used.head)).and_then(Option::take);
            let mut buf = buf.ok_or(NicError::Confused("descriptor id"))?;
            let written = usize::try_from(used.len).unwrap_or(usize::MAX).max(HEADER.into());
            buf.note_written(written.saturating_add(GROWTH));
            // A frame is handed on only if a buffer is there to take the place of its own.
            if self.pool.available() < self.queue.free() {
                self.skip(buf.bytes(), counters);
                continue;
            }
            let frame = self.add(buf, used, counters);
            if let Some(frame) = frame {
                counters.rx_frames = counters.rx_frames.wrapping_add(1);
                counters.rx_bytes = counters.rx_bytes.wrapping_add(u64::try_from(frame.len()).unwrap_or(0));
                return Ok(Some(frame));
            }
        }
        Ok(None)
    }

    /// Drops a buffer, and the frame it is a part of.
    fn skip(&mut self, bytes: &[u8], counters: &mut NicCounters) {
        match &mut self.partial {
            Some(partial) => partial.frame = None,
            None => {
                let buffers = Header::read(bytes).map_or(1, |header| header.num_buffers.max(1));
                self.partial = Some(Partial { frame: None, gso: None, missing: buffers });
            }
        }
        self.finish(counters);
    }

    /// Adds a buffer to the frame it belongs to; the frame, if that completes it.
    fn add(&mut self, buf: DmaBuf, used: Used, counters: &mut NicCounters) -> Option<Frame> {
        let len = u16::try_from(used.len).ok().filter(|len| *len <= self.buffer);
        match &mut self.partial {
            Some(partial) => {
                let segment = len.filter(|len| *len > 0).map(|len| Segment { buf, offset: 0, len });
                partial.frame = partial
                    .frame
                    .take()
                    .zip(segment)
                    .and_then(|(mut frame, segment)| frame.push(segment, &self.tails).is_ok().then_some(frame));
            }
            None => {
                let header = Header::read(buf.bytes())?;
                let missing = if self.features.contains(Features::MRG_RXBUF) { header.num_buffers } else { 1 };
                let len = len.and_then(|len| len.checked_sub(HEADER)).filter(|len| *len >= MIN_HEADER);
                let gso = header.gso(self.features);
                let frame = len.filter(|_| gso.is_ok()).map(|len| {
                    let mut frame = Frame::new(Segment { buf, offset: HEADER, len });
                    frame.checksum = header.checksum(self.features, len.into());
                    frame
                });
                // A frame of no buffers is nonsense: it is dropped with the one that it came in.
                let frame = frame.filter(|_| missing > 0);
                self.partial = Some(Partial { frame, gso: gso.unwrap_or(None), missing: missing.max(1) });
            }
        }
        self.finish(counters)
    }

    /// Counts a buffer of the partial frame; the frame, if it was the last.
    fn finish(&mut self, counters: &mut NicCounters) -> Option<Frame> {
        let partial = self.partial.as_mut()?;
        partial.missing = partial.missing.saturating_sub(1);
        if partial.missing > 0 {
            return None;
        }
        let Partial { frame, gso, .. } = self.partial.take()?;
        let frame = frame.and_then(|frame| self.whole(frame, gso));
        if frame.is_none() {
            counters.rx_dropped = counters.rx_dropped.wrapping_add(1);
        }
        frame
    }

    /// Checks a frame of which all buffers have come.
    fn whole(&self, mut frame: Frame, gso: Option<Gso>) -> Option<Frame> {
        let len = frame.len();
        let good = match gso {
            Some(gso) => segmentation::accept(&mut frame, len, gso),
            None => len <= self.max_frame,
        };
        good.then_some(frame)
    }

    /// Keeps the memory allocated for ever: the device may still write to it.
    pub(super) fn leak(&mut self) {
        self.queue.leak();
        core::mem::forget(self.pool.clone());
        core::mem::forget(core::mem::take(&mut self.buffers));
    }
}
