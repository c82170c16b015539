//! The queue pairs of a device: which of them sends a frame, and whose turn it is to receive one.
//!
//! A flow is sent on one queue, so that it stays in order; a device that steers flows (virtio 1.2, 5.1.6.5.6) gives
//! what comes back to the receive queue of the same pair. Frames are received from each queue in turn, so that a flood
//! in one of them delays the others by a frame each.
//!
//! The pairs share what one alone has: 256 descriptors of each kind, and the buffers that go with them. So the device
//! holds no more of the domain's memory, however many pairs there are.

use alloc::vec::Vec;

use virtio_drivers::transport::Transport;
use virtio_pci::{MAX_SIZE, Queue, QueueError};
use xen_pv_rt::hyp::{Dma, Instant};

use super::features::{Agreed, Features};
use super::header::SentHeader;
use super::rx::{Receiver, RxMemory, Terms};
use super::tx::Transmitter;
use crate::flow::{self, Flow};
use crate::frame::Frame;
use crate::nic::{NicCounters, NicError};

/// Most pairs that are used. Each but the first costs five pages, and half as much of the heap: 92 KiB for three, of the
/// 16 MiB of a domain. With four, a transmit queue still holds three of the largest packets, and a receive queue 64 frames.
pub(super) const MAX_PAIRS: u16 = 4;
/// Of the hash that spreads flows. No secret: who aims flows at one queue gains nothing, see [`Queues::push`].
const SEED: u64 = 0;

/// The number of a pair's receive queue. The control queue has that of the pair after the last which the device has.
pub(super) const fn receive_queue(pair: u16) -> u16 {
    pair << 1
}

/// The number of a pair's transmit queue.
pub(super) const fn transmit_queue(pair: u16) -> u16 {
    pair << 1 | 1
}

/// How a queue is set up.
#[derive(Clone, Copy)]
pub(super) struct Place {
    /// Its number.
    pub(super) number: u16,
    /// Most descriptors.
    pub(super) size: u16,
    pub(super) event_idx: bool,
}

/// Empties a queue and gives it to a device that has been reset.
pub(super) fn set_up<T: Transport>(queue: &mut Queue, transport: &mut T, place: Place) -> Result<(), NicError> {
    let offered = transport.max_queue_size(place.number);
    queue.start(offered.min(place.size.into()), place.event_idx)?;
    let (table, available, used) = queue.addresses();
    let size = queue.size().into();
    transport.queue_set(place.number, size, table.into_raw(), available.into_raw(), used.into_raw());
    queue.disable_interrupts();
    Ok(())
}

impl From<QueueError> for NicError {
    fn from(error: QueueError) -> Self {
        match error {
            QueueError::NoMemory => Self::NoMemory,
            QueueError::TooSmall => Self::Unsupported("queues of at least two descriptors"),
            QueueError::Confused(what) => Self::Confused(what),
        }
    }
}

struct Pair {
    rx: Receiver,
    tx: Transmitter,
}

impl Pair {
    fn new(dma: &impl Dma, memory: RxMemory) -> Result<Self, NicError> {
        Ok(Self { rx: Receiver::new(dma, memory)?, tx: Transmitter::new(dma)? })
    }
}

pub(super) struct Queues {
    /// At least one.
    pairs: Vec<Pair>,
    /// The pair that is to receive next.
    turn: usize,
}

impl Queues {
    pub(super) fn new(dma: &impl Dma, pairs: u16, spare: usize) -> Result<Self, NicError> {
        let memory = RxMemory::new(dma, spare)?;
        let pairs = (0..pairs).map(|_| Pair::new(dma, memory.clone())).collect::<Result<_, _>>()?;
        Ok(Self { pairs, turn: 0 })
    }

    /// Pairs in use.
    pub(super) fn count(&self) -> u16 {
        u16::try_from(self.pairs.len()).unwrap_or(u16::MAX)
    }

    /// Drops what is queued and programs a device that has been reset. Pairs that were not agreed on go for good.
    /// Returns the longest frame that can be received; `wanted` is what it is to be.
    pub(super) fn start<T: Transport>(
        &mut self,
        transport: &mut T,
        agreed: &Agreed,
        wanted: usize,
        counters: &mut NicCounters,
    ) -> Result<usize, NicError> {
        for pair in &mut self.pairs {
            // Before any is filled: what one lets go of may be for another.
            pair.rx.take_back();
            counters.tx_dropped = counters.tx_dropped.wrapping_add(pair.tx.take_back());
        }
        self.pairs.truncate(agreed.pairs.into());
        self.turn = 0;
        let terms = Terms::new(agreed.features, wanted);
        let (size, event_idx) = (self.share(), agreed.features.contains(Features::EVENT_IDX));
        for (pair, number) in self.pairs.iter_mut().zip(0..) {
            pair.tx.start(transport, Place { number: transmit_queue(number), size, event_idx })?;
            pair.rx.start(transport, Place { number: receive_queue(number), size, event_idx }, terms)?;
        }
        Ok(terms.max_frame)
    }

    /// Descriptors of each queue.
    fn share(&self) -> u16 {
        MAX_SIZE.checked_div(self.count()).unwrap_or(MAX_SIZE)
    }

    /// Queues a frame.
    ///
    /// # Errors
    /// Gives it back if there are too few free descriptors in the queue of its flow. The caller lets all that comes
    /// after it wait too, whatever the flow: simpler than a backlog for each queue, and over once the device has sent
    /// something from that one queue, or when its watchdog finds that it does not.
    pub(super) fn push(&mut self, frame: Frame, header: SentHeader) -> Result<(), Frame> {
        let pair = self.pair_for(&frame);
        match self.pairs.get_mut(pair) {
            Some(pair) => pair.tx.push(frame, header),
            None => Err(frame),
        }
    }

    /// The pair that sends a frame: the same for all of a flow, and the first for what is of none.
    fn pair_for(&self, frame: &Frame) -> usize {
        if self.pairs.len() < 2 {
            return 0;
        }
        let flow = Flow::find(frame.head().bytes(), frame.len());
        flow.map_or(0, |flow| flow::remainder(flow.hash(SEED), self.pairs.len()))
    }

    /// Shows the device the frames that were queued.
    pub(super) fn flush<T: Transport>(&mut self, transport: &mut T) {
        self.pairs.iter_mut().for_each(|pair| pair.tx.flush(transport));
    }

    /// Lets go of frames that the device has sent; whether there were any.
    pub(super) fn reclaim(&mut self, counters: &mut NicCounters) -> Result<bool, NicError> {
        let mut any = false;
        for pair in &mut self.pairs {
            any |= pair.tx.reclaim(counters)? > 0;
        }
        Ok(any)
    }

    /// Whether one of the queues has not sent anything for long, with frames in it that the device is free to send.
    pub(super) fn is_stuck(&mut self, link: bool, now: Instant) -> bool {
        let mut stuck = false;
        for pair in &mut self.pairs {
            // Each is asked, whatever another says: that is how it learns the time.
            stuck |= pair.tx.is_stuck(link, now);
        }
        stuck
    }

    /// Takes the next good frame.
    pub(super) fn receive<T: Transport>(
        &mut self,
        transport: &mut T,
        counters: &mut NicCounters,
    ) -> Result<Option<Frame>, NicError> {
        for _ in 0..self.pairs.len() {
            let (free, turn) = (self.free(), self.turn);
            self.turn = turn.wrapping_add(1);
            if self.turn >= self.pairs.len() {
                self.turn = 0;
            }
            let Some(Pair { rx, .. }) = self.pairs.get_mut(turn) else { break };
            let received = rx.receive(free.saturating_sub(rx.free()), counters);
            if rx.is_hungry() || matches!(received, Ok(None)) {
                rx.flush(transport);
            }
            if !matches!(received, Ok(None)) {
                return received;
            }
        }
        Ok(None)
    }

    /// Descriptors of receive queues that are free.
    fn free(&self) -> usize {
        self.pairs.iter().fold(0, |sum, pair| sum.saturating_add(pair.rx.free()))
    }

    /// Gives the device as many buffers as there are.
    pub(super) fn refill<T: Transport>(&mut self, transport: &mut T) {
        self.pairs.iter_mut().for_each(|pair| pair.rx.flush(transport));
    }

    /// Whether a received frame is there to be taken.
    pub(super) fn has_received(&self) -> bool {
        self.pairs.iter().any(|pair| pair.rx.is_ready())
    }

    /// Asks for an interrupt when a frame comes on any queue.
    pub(super) fn enable_receive_interrupts(&self) {
        self.pairs.iter().for_each(|pair| pair.rx.enable_interrupts());
    }

    /// Asks for an interrupt for sent frames where a queue is filling up. Whether there is anything to do on any queue.
    pub(super) fn enable_transmit_interrupts(&self) -> bool {
        self.pairs.iter().fold(false, |ready, Pair { rx, tx }| {
            let crowded = tx.enable_interrupts_if_crowded();
            ready || rx.is_ready() || crowded && tx.is_ready()
        })
    }

    /// Keeps the memory allocated for ever: the device may still use it.
    pub(super) fn leak(&mut self) {
        for pair in &mut self.pairs {
            pair.rx.leak();
            pair.tx.leak();
        }
    }
}
