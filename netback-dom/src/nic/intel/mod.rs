//! Intel's gigabit cards: 82540EM and 82545EM (QEMU: `e1000`), 82574L (`e1000e`), 82576 (`igb`).
//!
//! One driver: registers, rings, reset and most of the rest are the same in all of them, and what is not is in
//! `model.rs` (which card has what), `interrupts.rs` (by causes or by vectors), `rx_desc.rs` and `tx_desc.rs`
//! (descriptor formats). [`Quiet::reset`] stops the card and reads its address; [`Quiet::start`] puts it to work
//! as an [`Intel`]. Between the two the caller lets it do DMA. The hot path reads no register and writes one tail
//! register per batch, because each access is slow, on a PCI bus and even more so on an emulated one.
//!
//! The 82576 has four receive queues; the card puts each flow into one of them by a hash of its addresses and
//! ports, so the order in a flow is kept. The domain has one vCPU, which takes a frame from each queue in turn:
//! what that brings today is that a flood in one flow overruns its own queue and delays the flows in the others
//! little. When there are more vCPUs, a queue and its vector can move to one as they are. There is one transmit
//! queue, since one vCPU fills it.
//!
//! Not here: VLAN offload, virtual functions, the firmware's semaphores around the PHY.

mod interrupts;
mod model;
mod regs;
mod rx;
mod rx_desc;
mod segment;
mod setup;
mod tx;
mod tx_desc;

use alloc::vec::Vec;
use core::time::Duration;

use pciback::InterruptKind;
use xen_pv_rt::hyp::{Clock, Dma, Instant, Mmio};

use self::interrupts::Interrupts;
pub use self::model::Model;
use self::regs::Registers;
use self::rx::{RxMemory, RxRing};
use self::tx::TxRing;
use self::tx_desc::Offload;
use super::watchdog::Watchdog;
use super::{
    Capabilities, LONGEST_FRAME, Link, MIN_FRAME, MacAddress, Nic, NicCounters, NicError, STANDARD_FRAME, Settings,
};
use crate::checksum;
use crate::frame::{Checksum, Frame, MAX_SEGMENTS, TailPool};

/// The length of the register window, BAR 0.
pub const WINDOW: usize = regs::WINDOW;

/// Used transmit descriptors from which on the card is asked to interrupt for sent frames.
const TX_CROWDED: u8 = 128;
/// How often the link is looked at without being asked to.
const HEALTH: Duration = Duration::from_secs(1);
/// What the card may write into one buffer, unless frames are longer.
const BUFFER: u16 = 2048;
const LONG_BUFFER: u16 = 4096;
/// Received frames in several buffers that may be on their way at a time.
const TAILS: usize = 96;

/// A card that has been reset and does nothing.
pub struct Quiet<R, C> {
    regs: Registers<R>,
    clock: C,
    mac: MacAddress,
}

impl<R: Mmio, C: Clock> Quiet<R, C> {
    /// Resets the card behind `window` and reads its address.
    ///
    /// # Errors
    /// Whatever the card does not do within its deadline; [`NicError::Unsupported`] if it has no valid address.
    pub fn reset(model: Model, window: R, clock: C) -> Result<Self, NicError> {
        let regs = Registers::new(window, model);
        setup::reset(&regs, &clock)?;
        let mac = setup::mac(&regs, &clock)?;
        Ok(Self { regs, clock, mac })
    }

    /// Puts the card to work, with `vectors` interrupts of a kind.
    ///
    /// # Errors
    /// [`NicError::NoMemory`], or what the card does not do within its deadline.
    pub fn start(
        self,
        dma: &impl Dma,
        settings: Settings,
        (kind, vectors): (InterruptKind, u16),
    ) -> Result<Intel<R, C>, NicError> {
        let (model, now) = (self.regs.model, self.clock.now());
        let max_frame = settings.max_frame.clamp(STANDARD_FRAME, LONGEST_FRAME);
        let mut card = Intel {
            regs: self.regs,
            clock: self.clock,
            mac: self.mac,
            rx: receive_rings(dma, model, max_frame, settings.spare)?,
            tx: TxRing::new(dma, model)?,
            interrupts: Interrupts::new(model, kind, vectors),
            max_frame,
            turn: 0,
            link: Link::Down,
            counters: NicCounters::default(),
            watchdog: Watchdog::default(),
            checked: now,
            look: false,
            state: State::Stopped,
        };
        card.bring_up()?;
        Ok(card)
    }
}

fn receive_rings(dma: &impl Dma, model: Model, max_frame: usize, spare: usize) -> Result<Vec<RxRing>, NicError> {
    let long = max_frame > usize::from(BUFFER);
    let buffers = model.rx_queues().saturating_mul(model.rx_ring()).saturating_add(spare);
    let memory = RxMemory {
        pool: dma.dma_pool(buffers).map_err(|_| NicError::NoMemory)?,
        tails: TailPool::new(if long { TAILS } else { 0 }),
        buffer: if long { LONG_BUFFER } else { BUFFER },
        max_frame,
    };
    let ring = |queue| RxRing::new(dma, memory.clone(), model, queue);
    (0..model.rx_queues()).map(ring).collect()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Reset, no DMA.
    Stopped,
    /// In service.
    Running,
    /// Out of service, and not known to have stopped.
    Failed(NicError),
}

/// A card in service.
pub struct Intel<R: Mmio, C: Clock> {
    regs: Registers<R>,
    clock: C,
    mac: MacAddress,
    /// One per receive queue.
    rx: Vec<RxRing>,
    tx: TxRing,
    interrupts: Interrupts,
    /// Longest frame, without FCS.
    max_frame: usize,
    /// The receive queue to look at next.
    turn: usize,
    link: Link,
    counters: NicCounters,
    watchdog: Watchdog,
    /// When the link was last looked at.
    checked: Instant,
    /// The link has changed.
    look: bool,
    state: State,
}

impl<R: Mmio, C: Clock> Intel<R, C> {
    /// Programs a card that has been reset.
    fn bring_up(&mut self) -> Result<(), NicError> {
        setup::configure(&self.regs, &self.clock)?;
        self.interrupts.configure(&self.regs);
        let lost = self.tx.start(&self.regs);
        self.counters.tx_dropped = self.counters.tx_dropped.wrapping_add(lost);
        // From here on it may do DMA.
        self.state = State::Failed(NicError::TimedOut("start"));
        for ring in &mut self.rx {
            ring.start(&self.regs, &self.clock)?;
        }
        setup::switch_on(&self.regs, self.regs.model.tx_queue(), &self.clock)?;
        let buffer = if self.max_frame > usize::from(BUFFER) { LONG_BUFFER } else { BUFFER };
        setup::enable(&self.regs, self.max_frame, buffer);
        self.state = State::Running;
        self.link = setup::link(&self.regs)?;
        self.watchdog.note_progress();
        Ok(())
    }

    fn fail(&mut self, error: NicError) -> NicError {
        self.state = State::Failed(error);
        error
    }

    /// Whether a received frame is there to be taken. No register is read.
    pub fn has_received(&self) -> bool {
        self.state == State::Running && self.rx.iter().any(RxRing::is_ready)
    }

    /// Lets go of frames that were sent; whether there were any.
    fn reclaim(&mut self) -> bool {
        let mut any = false;
        if self.tx.is_waiting() {
            let (frames, bytes) = self.tx.reclaim();
            if frames > 0 {
                any = true;
                self.counters.tx_frames = self.counters.tx_frames.wrapping_add(frames);
                self.counters.tx_bytes = self.counters.tx_bytes.wrapping_add(bytes);
                self.watchdog.note_progress();
            }
        }
        any
    }

    /// The watchdog and, once in a while, the link.
    fn check_health(&mut self) -> Result<(), NicError> {
        let now = self.clock.now();
        if self.look || now.saturating_since(self.checked) >= HEALTH {
            (self.look, self.checked) = (false, now);
            self.link = setup::link(&self.regs)?;
            let missed = setup::take_missed(&self.regs);
            self.counters.rx_missed = self.counters.rx_missed.wrapping_add(missed);
            let damaged = setup::take_damaged(&self.regs);
            self.counters.rx_dropped = self.counters.rx_dropped.wrapping_add(damaged);
        }
        // What waits for the link is not the card's fault.
        if self.watchdog.is_due(self.tx.is_waiting() && self.link != Link::Down, now) {
            self.counters.resets = self.counters.resets.wrapping_add(1);
            setup::reset(&self.regs, &self.clock)?;
            self.state = State::Stopped;
            self.bring_up()?;
        }
        Ok(())
    }
}

/// Pads a frame to the shortest there may be. Returns whether that was possible.
///
/// A blank checksum in it is filled in before: QEMU's 82574 and 82576 make the sum of the pseudo-header anew and
/// take the padding for a part of the packet. It is a few bytes.
fn lengthen(frame: &mut Frame) -> bool {
    let short = frame.len() < MIN_FRAME;
    let blank = matches!(frame.checksum, Checksum::Blank { .. });
    (!short || !blank || checksum::complete(frame)) && frame.pad(MIN_FRAME)
}

impl<R: Mmio, C: Clock> Nic for Intel<R, C> {
    fn mac(&self) -> MacAddress {
        self.mac
    }
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            tx_checksum: true,
            tso4: true,
            tso6: self.regs.model.cuts_ipv6(),
            max_segments: MAX_SEGMENTS,
            max_frame: self.max_frame,
        }
    }
    fn link(&self) -> Link {
        self.link
    }
    fn counters(&self) -> NicCounters {
        self.counters
    }

    fn transmit(&mut self, mut frame: Frame) -> Result<(), Frame> {
        if self.state != State::Running {
            return Err(frame);
        }
        if !self.tx.has_room(&frame) {
            self.flush();
            self.reclaim();
            if !self.tx.has_room(&frame) {
                return Err(frame);
            }
        }
        // Not before there is room: this changes the frame.
        let format = self.regs.model.tx_format();
        let offload = match frame.gso {
            None => lengthen(&mut frame).then_some(()).and_then(|()| Offload::whole(&frame, format)),
            Some(gso) => segment::prepare(&mut frame, gso, format),
        };
        match offload {
            Some(offload) => self.tx.push(frame, offload),
            None => {
                self.counters.tx_dropped = self.counters.tx_dropped.wrapping_add(1);
                Ok(())
            }
        }
    }

    fn flush(&mut self) {
        if self.state != State::Running {
            return;
        }
        self.tx.flush(&self.regs);
        // Somebody may be waiting for the buffers, and a loop that is busy comes by here only.
        self.reclaim();
    }

    fn receive(&mut self) -> Option<Frame> {
        if self.state != State::Running {
            return None;
        }
        // A frame from each queue in turn.
        for _ in 0..self.rx.len() {
            let ring = self.rx.get_mut(self.turn);
            let frame = ring.and_then(|ring| ring.receive(&self.regs, &mut self.counters));
            self.turn = self.turn.wrapping_add(1);
            if self.turn >= self.rx.len() {
                self.turn = 0;
            }
            if frame.is_some() {
                return frame;
            }
        }
        None
    }

    fn note_interrupts(&mut self, vectors: u32) {
        if self.state == State::Running {
            match self.interrupts.note(&self.regs, vectors) {
                Ok(look) => self.look |= look,
                Err(error) => {
                    self.fail(error);
                }
            }
        }
    }

    fn poll(&mut self) -> Result<(), NicError> {
        match self.state {
            State::Running => {
                self.reclaim();
                self.check_health().map_err(|error| self.fail(error))
            }
            State::Stopped => Ok(()),
            State::Failed(error) => Err(error),
        }
    }

    fn enable_interrupts(&mut self) -> bool {
        if self.state != State::Running {
            return matches!(self.state, State::Failed(_));
        }
        let freed = self.reclaim();
        match self.interrupts.enable(&self.regs, self.tx.used() >= TX_CROWDED) {
            Ok(look) => self.look |= look,
            Err(error) => {
                self.fail(error);
                return true;
            }
        }
        let freed = self.reclaim() || freed;
        freed || self.look || self.has_received()
    }

    fn quiesce(&mut self) {
        match setup::reset(&self.regs, &self.clock) {
            Ok(()) => self.state = State::Stopped,
            Err(error) => {
                self.fail(error);
            }
        }
    }
}

impl<R: Mmio, C: Clock> Drop for Intel<R, C> {
    fn drop(&mut self) {
        if self.state != State::Stopped {
            self.quiesce();
        }
        if self.state != State::Stopped {
            // It may still do DMA: its memory must never be used for anything else.
            self.rx.iter_mut().for_each(RxRing::leak);
            self.tx.leak();
        }
    }
}
