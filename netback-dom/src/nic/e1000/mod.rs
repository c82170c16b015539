//! Intel 82540EM and 82545EM, which QEMU models as `e1000`.
//!
//! [`Quiet::reset`] stops the card and reads its address; [`Quiet::start`] puts it to work as an [`E1000`].
//! Between the two the caller lets it do DMA. The hot path reads no register and writes one tail register per
//! batch, because each access is slow, on a PCI bus and even more so on an emulated one.
//!
//! Interrupts: the line is level triggered and stays asserted until its cause is read, which happens in
//! [`enable_interrupts`](Nic::enable_interrupts) only. Until the caller then signals end of interrupt, Xen
//! keeps the line quiet, so a busy card does not interrupt at all and nothing needs to be masked.
//!
//! Not here: VLAN offload, jumbo frames, several queues.

mod desc;
mod regs;
mod rx;
mod segment;
mod setup;
mod tx;

use core::time::Duration;

use xen_pv_rt::hyp::{Clock, Dma, Instant, Mmio};

use self::desc::Offload;
use self::regs::{GONE, Reg, Registers, cause};
use self::rx::RxRing;
use self::tx::TxRing;
use super::{Capabilities, Link, MIN_FRAME, MacAddress, Nic, NicCounters, NicError};
use crate::frame::{Frame, MAX_SEGMENTS};

/// The length of the register window, BAR 0.
pub const WINDOW: usize = regs::WINDOW;

/// Causes that always interrupt. Sent frames do only when the ring fills up: nobody waits for them otherwise.
const CAUSES: u32 = cause::RXT0 | cause::RXO | cause::LSC;
/// Used transmit descriptors from which on the card is asked to interrupt for sent frames.
const TX_CROWDED: u8 = 128;
/// How long a frame may take to be sent while the link is up.
const WATCHDOG: Duration = Duration::from_secs(5);
/// How often the link is looked at without being asked to.
const HEALTH: Duration = Duration::from_secs(1);
/// Longest frame without jumbo frames: a VLAN tag on top of 1514.
const MAX_FRAME: usize = 1518;

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
    pub fn reset(window: R, clock: C) -> Result<Self, NicError> {
        let regs = Registers::new(window);
        setup::reset(&regs, &clock)?;
        let mac = setup::mac(&regs, &clock)?;
        Ok(Self { regs, clock, mac })
    }

    /// Puts the card to work. `spare` is the number of received frames that may be on their way at a time.
    ///
    /// # Errors
    /// [`NicError::NoMemory`], or what the card does not do within its deadline.
    pub fn start(self, dma: &impl Dma, spare: usize) -> Result<E1000<R, C>, NicError> {
        let (rx, tx) = (RxRing::new(dma, spare)?, TxRing::new(dma)?);
        let now = self.clock.now();
        let mut card = E1000 {
            regs: self.regs,
            clock: self.clock,
            mac: self.mac,
            rx,
            tx,
            link: Link::Down,
            counters: NicCounters::default(),
            enabled: 0,
            progress: now,
            checked: now,
            look: false,
            state: State::Stopped,
        };
        card.bring_up()?;
        Ok(card)
    }
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
pub struct E1000<R: Mmio, C: Clock> {
    regs: Registers<R>,
    clock: C,
    mac: MacAddress,
    rx: RxRing,
    tx: TxRing,
    link: Link,
    counters: NicCounters,
    /// The causes that are enabled in the card.
    enabled: u32,
    /// When a sent frame was last reported, or became the only one on its way.
    progress: Instant,
    /// When the link was last looked at.
    checked: Instant,
    /// The link has changed.
    look: bool,
    state: State,
}

impl<R: Mmio, C: Clock> E1000<R, C> {
    /// Programs a card that has been reset.
    fn bring_up(&mut self) -> Result<(), NicError> {
        setup::configure(&self.regs, &self.clock)?;
        self.rx.start(&self.regs);
        let lost = self.tx.start(&self.regs);
        self.counters.tx_dropped = self.counters.tx_dropped.wrapping_add(lost);
        self.state = State::Running;
        setup::enable(&self.regs);
        self.link = setup::link(&self.regs)?;
        self.progress = self.clock.now();
        self.enabled = 0;
        Ok(())
    }

    fn fail(&mut self, error: NicError) -> NicError {
        self.state = State::Failed(error);
        error
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
                self.progress = self.clock.now();
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
            if self.link == Link::Down {
                // Frames wait for the link; that is not the card's fault.
                self.progress = now;
            }
        }
        if self.tx.is_waiting() && now.saturating_since(self.progress) >= WATCHDOG {
            self.counters.resets = self.counters.resets.wrapping_add(1);
            setup::reset(&self.regs, &self.clock)?;
            self.state = State::Stopped;
            self.bring_up()?;
        }
        Ok(())
    }
}

impl<R: Mmio, C: Clock> Nic for E1000<R, C> {
    fn mac(&self) -> MacAddress {
        self.mac
    }
    fn capabilities(&self) -> Capabilities {
        Capabilities { tx_checksum: true, tso4: true, tso6: true, max_segments: MAX_SEGMENTS, max_frame: MAX_FRAME }
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
        // Not before there is room: this changes headers.
        let offload = match frame.gso {
            None => Offload::checksum(frame.checksum),
            Some(gso) => segment::prepare(&mut frame, gso),
        };
        match offload.filter(|_| frame.pad(MIN_FRAME)) {
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
        if !self.tx.is_waiting() {
            self.progress = self.clock.now();
        }
        self.tx.flush(&self.regs);
        // Somebody may be waiting for the buffers, and a loop that is busy comes by here only.
        self.reclaim();
    }

    fn receive(&mut self) -> Option<Frame> {
        if self.state != State::Running {
            return None;
        }
        self.rx.receive(&self.regs, &mut self.counters)
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
        let mut freed = self.reclaim();
        let wanted = if self.tx.used() >= TX_CROWDED { CAUSES | cause::TXDW } else { CAUSES };
        if wanted != self.enabled {
            self.regs.write(Reg::IMC, !wanted);
            self.regs.write(Reg::IMS, wanted);
            self.enabled = wanted;
        }
        // Deasserts the line. What happens from here on asserts it again, so the rings are looked at after.
        let causes = self.regs.read(Reg::ICR);
        if causes == GONE {
            self.fail(NicError::Gone);
            return true;
        }
        freed |= self.reclaim();
        self.look |= causes & cause::LSC != 0;
        freed || self.look || self.rx.is_ready()
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

impl<R: Mmio, C: Clock> Drop for E1000<R, C> {
    fn drop(&mut self) {
        if self.state != State::Stopped {
            self.quiesce();
        }
        if self.state != State::Stopped {
            // It may still do DMA: its memory must never be used for anything else.
            self.rx.leak();
            self.tx.leak();
        }
    }
}
