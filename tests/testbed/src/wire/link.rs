//! The cable: frames over QEMU's stream socket, in batches.
//!
//! QEMU puts a 32-bit big-endian length before each frame. [`Link`] reads and writes many frames per system
//! call into buffers made once, and is a [`Device`] for smoltcp. When the NIC takes no frames, a bounded
//! backlog builds up and then frames are dropped, as on a real cable.

use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Instant;

use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};

use super::capture::Capture;
use super::counters::Counters;
use super::verify::inspect;

const LENGTH_BYTES: usize = 4;
/// Bytes of both Ethernet addresses; a tag comes behind them.
const ADDRESSES: usize = 12;
const TAG_BYTES: usize = 4;
/// Bytes of the longest frame with an MTU of 1500, its tag included.
const STANDARD_BYTES: usize = 1518;
const INCOMING_BYTES: usize = 1 << 20;
/// TCP stops sending when this much waits for the NIC.
const BACKLOG_FULL: usize = 1 << 20;
/// Everything is dropped when this much waits.
const BACKLOG_DROP: usize = 4 << 20;

/// One end of a cable whose other end is a NIC in QEMU.
#[derive(Debug)]
pub struct Link {
    stream: UnixStream,
    incoming: Vec<u8>,
    start: usize,
    end: usize,
    outgoing: Outgoing,
    mtu: usize,
}

/// What waits to be sent, and who counts it.
#[derive(Debug)]
struct Outgoing {
    bytes: Vec<u8>,
    /// The VLAN that the host is in; 0: none.
    vlan: Arc<AtomicU16>,
    sent: usize,
    counters: Arc<Counters>,
    capture: Option<Capture>,
    epoch: Instant,
}

impl Link {
    /// Takes over a connection from QEMU; `mtu` is the IP MTU in bytes, `vlan` the VLAN of the host, `epoch` the zero of the capture's clock.
    ///
    /// # Errors
    /// The socket cannot be made non-blocking.
    pub fn new(
        stream: UnixStream,
        mtu: usize,
        vlan: Arc<AtomicU16>,
        counters: Arc<Counters>,
        capture: Option<Capture>,
        epoch: Instant,
    ) -> std::io::Result<Self> {
        stream.set_nonblocking(true)?;
        let outgoing = Outgoing { bytes: Vec::with_capacity(BACKLOG_DROP), vlan, sent: 0, counters, capture, epoch };
        Ok(Self { stream, incoming: vec![0; INCOMING_BYTES], start: 0, end: 0, outgoing, mtu })
    }

    /// The socket, to wait on.
    #[must_use]
    pub fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// From now on the IP MTU is `mtu` bytes. Returns whether it was not before.
    pub fn set_mtu(&mut self, mtu: usize) -> bool {
        std::mem::replace(&mut self.mtu, mtu) != mtu
    }

    /// Whether something waits to be sent.
    #[must_use]
    pub fn has_backlog(&self) -> bool {
        self.outgoing.backlog() > 0
    }

    /// Gives back the capture file when the connection has ended.
    #[must_use]
    pub fn into_capture(self) -> Option<Capture> {
        self.outgoing.capture
    }

    /// Reads what has arrived. False when the other end is gone.
    pub fn fill(&mut self) -> bool {
        self.incoming.copy_within(self.start..self.end, 0);
        self.end = self.end.saturating_sub(self.start);
        self.start = 0;
        match self.stream.read(self.incoming.get_mut(self.end..).unwrap_or_default()) {
            Ok(0) => false,
            Ok(length) => {
                self.end = self.end.saturating_add(length);
                true
            }
            Err(error) => matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted),
        }
    }

    /// The next whole frame, if one has arrived; it stays until taken by [`Device::receive`] or [`Self::skip`].
    #[must_use]
    pub fn frame(&self) -> Option<&[u8]> {
        whole_frame(self.incoming.get(self.start..self.end)?)
    }

    /// Counts, verifies and captures the next frame.
    pub fn examine(&mut self) {
        let mtu = self.mtu;
        let waiting = self.incoming.get(self.start..self.end).unwrap_or_default();
        let Some(frame) = whole_frame(waiting) else { return };
        let counters = &self.outgoing.counters;
        if let Err(fault) = inspect(frame, mtu) {
            counters.count_fault(fault);
        }
        Counters::add(&counters.bytes_in, frame.len());
        Counters::add(&counters.frames_in, 1);
        Counters::add(&counters.jumbo_in, usize::from(frame.len() > STANDARD_BYTES));
        if frame.starts_with(&[0xff; 6]) {
            Counters::add(&counters.broadcasts_in, 1);
        }
        if let Some(capture) = &mut self.outgoing.capture {
            capture.record(self.outgoing.epoch.elapsed(), frame);
        }
    }

    /// Takes the tag out of the next frame if the host is in a VLAN. False if the frame is not of that VLAN.
    pub fn enter_vlan(&mut self) -> bool {
        let vlan = self.outgoing.vlan();
        let Some(frame) = self.frame() else { return true };
        let (length, tag) = (frame.len(), tag_of(frame));
        if tag.is_some() {
            Counters::add(&self.outgoing.counters.tagged_in, 1);
        }
        if tag != vlan {
            return false;
        }
        if tag.is_some() {
            let (from, to) = (self.start, self.start.saturating_add(TAG_BYTES));
            self.incoming.copy_within(from..from.saturating_add(LENGTH_BYTES + ADDRESSES), to);
            let shorter = u32::try_from(length.saturating_sub(TAG_BYTES)).unwrap_or(0);
            if let Some(prefix) = self.incoming.get_mut(to..to.saturating_add(LENGTH_BYTES)) {
                prefix.copy_from_slice(&shorter.to_be_bytes());
            }
            self.start = to;
        }
        true
    }

    /// Forgets the next frame.
    pub fn skip(&mut self) {
        let length = self.frame().map_or(0, |frame| frame.len().saturating_add(LENGTH_BYTES));
        self.start = self.start.saturating_add(length);
    }

    /// Puts a whole frame into the backlog.
    pub fn queue(&mut self, frame: &[u8]) {
        self.outgoing.push(frame.len(), |to| to.copy_from_slice(frame));
    }

    /// Sends as much of the backlog as QEMU takes now. False when the other end is gone.
    pub fn flush(&mut self) -> bool {
        while let Some(rest) = self.outgoing.bytes.get(self.outgoing.sent..).filter(|rest| !rest.is_empty()) {
            match self.stream.write(rest) {
                Ok(length) => self.outgoing.sent = self.outgoing.sent.saturating_add(length),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
        self.outgoing.forget_sent();
        true
    }
}

/// The VLAN in a frame's tag.
fn tag_of(frame: &[u8]) -> Option<u16> {
    let (kind, number) = (frame.get(ADDRESSES..ADDRESSES + 2)?, frame.get(ADDRESSES + 2..ADDRESSES + 4)?);
    let number = number.first_chunk::<2>().map_or(0, |bytes| u16::from_be_bytes(*bytes)) & 0xfff;
    (kind == [0x81, 0]).then_some(number)
}

fn whole_frame(waiting: &[u8]) -> Option<&[u8]> {
    let (length, rest) = waiting.split_first_chunk::<LENGTH_BYTES>()?;
    rest.get(..usize::try_from(u32::from_be_bytes(*length)).ok()?)
}

impl Outgoing {
    fn backlog(&self) -> usize {
        self.bytes.len().saturating_sub(self.sent)
    }

    fn push<R>(&mut self, length: usize, write: impl FnOnce(&mut [u8]) -> R) -> R {
        let head = self.bytes.len();
        self.bytes.extend(u32::try_from(length).unwrap_or(0).to_be_bytes());
        let body = self.bytes.len();
        self.bytes.resize(body.saturating_add(length), 0);
        let frame = self.bytes.get_mut(body..).unwrap_or_default();
        let result = write(frame);
        let length = length.saturating_add(self.tag(head));
        let frame = self.bytes.get(body..).unwrap_or_default();
        if head.saturating_sub(self.sent) > BACKLOG_DROP {
            Counters::add(&self.counters.dropped_out, 1);
            self.bytes.truncate(head);
            return result;
        }
        Counters::add(&self.counters.frames_out, 1);
        Counters::add(&self.counters.bytes_out, length);
        if let Some(capture) = &mut self.capture {
            capture.record(self.epoch.elapsed(), frame);
        }
        result
    }

    fn vlan(&self) -> Option<u16> {
        Some(self.vlan.load(Ordering::Acquire)).filter(|vlan| *vlan != 0)
    }

    /// Puts the host's tag, if it has one, into the last frame, which starts at `head`. Returns by how much that grew.
    fn tag(&mut self, head: usize) -> usize {
        let Some([high, low]) = self.vlan().map(u16::to_be_bytes) else { return 0 };
        let body = head.saturating_add(LENGTH_BYTES);
        let at = body.saturating_add(ADDRESSES).min(self.bytes.len());
        self.bytes.splice(at..at, [0x81, 0, high, low]);
        let length = u32::try_from(self.bytes.len().saturating_sub(body)).unwrap_or(0);
        if let Some(prefix) = self.bytes.get_mut(head..body) {
            prefix.copy_from_slice(&length.to_be_bytes());
        }
        TAG_BYTES
    }

    /// Moves the unsent rest to the front once enough has been sent to make that cheap.
    fn forget_sent(&mut self) {
        if self.sent == self.bytes.len() {
            self.bytes.clear();
            self.sent = 0;
        } else if self.sent > BACKLOG_FULL {
            self.bytes.drain(..self.sent);
            self.sent = 0;
        }
    }
}

/// A received frame for smoltcp.
#[derive(Debug)]
pub struct Received<'a>(&'a [u8]);

/// A place in the backlog for smoltcp.
#[derive(Debug)]
pub struct Slot<'a>(&'a mut Outgoing);

impl RxToken for Received<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(self.0)
    }
}

impl TxToken for Slot<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        self.0.push(len, f)
    }
}

impl Device for Link {
    type RxToken<'a> = Received<'a>;
    type TxToken<'a> = Slot<'a>;

    fn receive(&mut self, _: smoltcp::time::Instant) -> Option<(Received<'_>, Slot<'_>)> {
        let waiting = self.incoming.get(self.start..self.end)?;
        let frame = whole_frame(waiting)?;
        self.start = self.start.saturating_add(frame.len()).saturating_add(LENGTH_BYTES);
        Some((Received(frame), Slot(&mut self.outgoing)))
    }

    fn transmit(&mut self, _: smoltcp::time::Instant) -> Option<Slot<'_>> {
        (self.outgoing.backlog() < BACKLOG_FULL).then_some(Slot(&mut self.outgoing))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = self.mtu.saturating_add(14);
        // The stack checks too (the default): a wrong frame is counted and has the effect it has on a real peer.
        capabilities
    }
}
