//! The transmit queue: a header of ours and the frame's segments make a chain.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use virtio_drivers::transport::Transport;
use virtio_pci::{Buffer, MAX_SIZE, Queue};
use xen_pv_rt::hyp::{Dma, DmaRing};

use super::{HEADER, TX};
use crate::frame::{Checksum, Frame, MAX_SEGMENTS};
use crate::nic::{Capabilities, NicCounters, NicError};

/// `VIRTIO_NET_HDR_F_NEEDS_CSUM`.
const NEEDS_CSUM: u8 = 1;
/// `VIRTIO_NET_HDR_GSO_TCPV4` and `VIRTIO_NET_HDR_GSO_TCPV6`.
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
/// Offset of the length nibble in a TCP header.
const TCP_DATA_OFFSET: u16 = 12;

/// `struct virtio_net_hdr_v1` as words.
pub(super) type Header = [u32; 3];

/// The header that says what the frame wants done. `None` if the device does not do it.
pub(super) fn header(frame: &Frame, capabilities: Capabilities) -> Option<Header> {
    let Checksum::Blank { start, field } = frame.checksum else {
        return frame.gso.is_none().then_some([0; 3]);
    };
    if !capabilities.tx_checksum {
        return None;
    }
    let (mut gso_type, mut headers, mut gso_size) = (0, 0_u16, 0);
    if let Some(gso) = frame.gso {
        let (offered, kind) = if gso.ipv6 { (capabilities.tso6, GSO_TCPV6) } else { (capabilities.tso4, GSO_TCPV4) };
        if !offered {
            return None;
        }
        let nibble = *frame.head().bytes().get(usize::from(start.checked_add(TCP_DATA_OFFSET)?))?;
        (gso_type, gso_size) = (kind, gso.size);
        headers = start.checked_add(u16::from(nibble >> 4).wrapping_mul(4))?;
    }
    let half = |low: u16, high: u16| u32::from(low) | u32::from(high) << 16;
    Some([half(u16::from_le_bytes([NEEDS_CSUM, gso_type]), headers), half(gso_size, start), half(field, 0)])
}

pub(super) struct Transmitter {
    queue: Queue,
    /// A header per chain, by the number of its first descriptor.
    headers: Rc<DmaRing>,
    /// The frame of each chain in the device's hands.
    frames: Vec<Option<Frame>>,
}

impl Transmitter {
    pub(super) fn new(queue: Queue, dma: &impl Dma) -> Result<Self, NicError> {
        let headers = dma.dma_ring(1).map(Rc::new).map_err(|_| NicError::NoMemory)?;
        Ok(Self { queue, headers, frames: (0..MAX_SIZE).map(|_| None).collect() })
    }

    /// Drops what is queued and programs a device that has been reset. How many frames were dropped.
    pub(super) fn start<T: Transport>(&mut self, transport: &mut T, event_idx: bool) -> Result<u64, NicError> {
        let lost = self.frames.iter_mut().filter_map(Option::take).count();
        self.queue.start(transport.max_queue_size(TX), event_idx)?;
        if usize::from(self.queue.size()) <= MAX_SEGMENTS {
            return Err(NicError::Unsupported("a transmit queue that holds a whole frame"));
        }
        let (table, available, used) = self.queue.addresses();
        let size = self.queue.size().into();
        transport.queue_set(TX, size, table.into_raw(), available.into_raw(), used.into_raw());
        self.queue.disable_interrupts();
        Ok(u64::try_from(lost).unwrap_or(u64::MAX))
    }

    /// Whether the device holds frames.
    pub(super) fn is_busy(&self) -> bool {
        self.queue.is_busy()
    }
    /// Whether the device has reported a frame.
    pub(super) fn is_ready(&self) -> bool {
        self.queue.is_ready()
    }

    /// Queues a frame.
    ///
    /// # Errors
    /// Gives it back if there are too few free descriptors.
    pub(super) fn push(&mut self, frame: Frame, header: Header) -> Result<(), Frame> {
        let Some(head) = self.queue.next_head() else { return Err(frame) };
        let first = usize::from(head).wrapping_mul(header.len());
        let offset = u64::from(head).wrapping_mul(HEADER.into());
        let mut buffers = heapless::Vec::<Buffer, { MAX_SEGMENTS + 1 }>::new();
        let header_at = Buffer::to_device(self.headers.maddr().wrapping_add(offset), HEADER.into());
        let segments = frame.segments().map(|segment| {
            Buffer::to_device(segment.buf.maddr().wrapping_add(segment.offset.into()), segment.len.into())
        });
        buffers.extend(core::iter::once(header_at).chain(segments).take(MAX_SEGMENTS.saturating_add(1)));
        if self.queue.push(buffers.into_iter()).is_none() {
            return Err(frame);
        }
        for (word, value) in self.headers.words().iter().skip(first).zip(header) {
            word.store(value, Ordering::Relaxed);
        }
        if let Some(slot) = self.frames.get_mut(usize::from(head)) {
            *slot = Some(frame);
        }
        Ok(())
    }

    /// Shows the device what was queued, and notifies it if it wants that.
    pub(super) fn flush<T: Transport>(&mut self, transport: &mut T) {
        if self.queue.show() {
            transport.notify(TX);
        }
    }

    /// Lets go of frames that the device has sent; how many.
    pub(super) fn reclaim(&mut self, counters: &mut NicCounters) -> Result<u32, NicError> {
        let mut count = 0_u32;
        while let Some(used) = self.queue.pop()? {
            if let Some(frame) = self.frames.get_mut(usize::from(used.head)).and_then(Option::take) {
                counters.tx_frames = counters.tx_frames.wrapping_add(1);
                counters.tx_bytes = counters.tx_bytes.wrapping_add(u64::try_from(frame.len()).unwrap_or(0));
            }
            count = count.wrapping_add(1);
        }
        Ok(count)
    }

    /// Asks for an interrupt for sent frames if the queue is filling up; nobody waits for them otherwise.
    /// Whether it did.
    pub(super) fn enable_interrupts_if_crowded(&self) -> bool {
        let crowded = self.queue.free() < usize::from(self.queue.size() >> 1);
        if crowded {
            self.queue.enable_interrupts();
        } else {
            self.queue.disable_interrupts();
        }
        crowded
    }

    /// Keeps the memory allocated for ever: the device may still read it.
    pub(super) fn leak(&mut self) {
        self.queue.leak();
        core::mem::forget(self.headers.clone());
        core::mem::forget(core::mem::take(&mut self.frames));
    }
}
