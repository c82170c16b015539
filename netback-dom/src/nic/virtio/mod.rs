//! virtio-net, behind any virtio-drivers [`Transport`].
//!
//! Feature negotiation, configuration space and queue set-up go through the transport; the queues are ours
//! ([`Queue`] says why), and so is the PCI transport ([`VirtioPci`]). [`Quiet::reset`] stops the device,
//! [`Quiet::start`] puts it to work as a [`VirtioNet`]; between the two the caller lets it do DMA.
//!
//! One queue pair, one vCPU. With MSI-X the hot path accesses no register but the notification, and that only when the
//! device asks for it; with an interrupt line, its cause is read once before going to sleep.
//!
//! Received frames may be spread over several buffers: long ones, and TCP packets that the device or its host has
//! not cut up, which go to guests as they are if those take them. A device with a control queue is told to be
//! promiscuous; one without is so anyway.
//!
//! Virtio 1.2, section 5.1. Not here: several queue pairs.

mod config;
mod control;
mod features;
mod rx;
mod tx;
mod wait;

use alloc::boxed::Box;
use core::time::Duration;

use virtio_drivers::transport::{DeviceStatus, Transport};
use xen_pv_rt::hyp::{Clock, Dma, Instant};

use self::control::Control;
use self::features::Features;
use self::rx::Receiver;
use self::tx::Transmitter;
use self::wait::{GONE, reset};
use super::watchdog::Watchdog;
use super::{
    Capabilities, LONGEST_FRAME, Link, MIN_FRAME, MacAddress, Nic, NicCounters, NicError, STANDARD_FRAME, Settings,
};
use crate::frame::{Frame, MAX_SEGMENTS};
use virtio_pci::{Queue, QueueError};
pub use virtio_pci::{VirtioPci, Window, Windows};

/// Queue numbers; that of the control queue is for devices with one queue pair.
const RX: u16 = 0;
const TX: u16 = 1;
const CONTROL: u16 = 2;
/// Length of `struct virtio_net_hdr_v1` in bytes.
const HEADER: u16 = 12;
/// How often link and status are looked at.
const HEALTH: Duration = Duration::from_secs(1);

impl From<QueueError> for NicError {
    fn from(error: QueueError) -> Self {
        match error {
            QueueError::NoMemory => Self::NoMemory,
            QueueError::TooSmall => Self::Unsupported("queues of at least two descriptors"),
            QueueError::Confused(what) => Self::Confused(what),
        }
    }
}

/// A device that has been reset and does nothing.
pub struct Quiet<T, C> {
    transport: T,
    clock: C,
}

impl<T: Transport, C: Clock> Quiet<T, C> {
    /// Resets the device.
    ///
    /// # Errors
    /// [`NicError::Gone`], or [`NicError::TimedOut`] if it does not come out of the reset.
    pub fn reset(mut transport: T, clock: C) -> Result<Self, NicError> {
        reset(&mut transport, &clock)?;
        Ok(Self { transport, clock })
    }

    /// The transport, to set up how it interrupts.
    pub fn transport(&mut self) -> &mut T {
        &mut self.transport
    }

    /// Puts the device to work.
    ///
    /// # Errors
    /// [`NicError::NoMemory`]; [`NicError::Unsupported`] if the device lacks a feature that the driver needs.
    pub fn start(self, dma: &impl Dma, settings: Settings) -> Result<VirtioNet<T, C>, NicError> {
        let now = self.clock.now();
        let mut card = VirtioNet {
            rx: Receiver::new(Queue::new(dma)?, dma, settings.spare)?,
            tx: Transmitter::new(Queue::new(dma)?, dma)?,
            control: Box::new(Control::new(dma)?),
            wanted_frame: settings.max_frame.clamp(STANDARD_FRAME, LONGEST_FRAME),
            max_frame: STANDARD_FRAME,
            transport: self.transport,
            clock: self.clock,
            mac: MacAddress::BROADCAST,
            features: Features::empty(),
            link: Link::Down,
            counters: NicCounters::default(),
            watchdog: Watchdog::default(),
            checked: now,
            state: State::Stopped,
        };
        card.bring_up()?;
        if !card.features.contains(Features::ACCESS_PLATFORM) {
            log::warn!("virtio-net {}: the IOMMU does not confine it (give it iommu_platform=on)", card.mac);
        }
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

/// A device in service.
pub struct VirtioNet<T: Transport, C: Clock> {
    transport: T,
    clock: C,
    rx: Receiver,
    tx: Transmitter,
    /// Boxed, since it is not needed after start.
    control: Box<Control>,
    /// Longest frame that we want, and that we and the device agree on.
    wanted_frame: usize,
    max_frame: usize,
    mac: MacAddress,
    features: Features,
    link: Link,
    counters: NicCounters,
    watchdog: Watchdog,
    /// When link and status were last looked at.
    checked: Instant,
    state: State,
}

impl<T: Transport, C: Clock> VirtioNet<T, C> {
    /// Sets up a device that has been reset. Virtio 1.2, 3.1.1.
    fn bring_up(&mut self) -> Result<(), NicError> {
        self.features = features::negotiate(&mut self.transport)?;
        self.mac = config::mac(&self.transport, self.features)?;
        let event_idx = self.features.contains(Features::EVENT_IDX);
        let lost = self.tx.start(&mut self.transport, event_idx)?;
        self.counters.tx_dropped = self.counters.tx_dropped.wrapping_add(lost);
        let wanted = config::max_frame(&self.transport, self.features, self.wanted_frame);
        self.max_frame = self.rx.start(&mut self.transport, self.features, wanted)?;
        if self.features.contains(Features::CTRL_RX) {
            self.control.start(&mut self.transport, event_idx)?;
        }
        // From here on it may do DMA.
        self.state = State::Running;
        self.transport.finish_init();
        self.rx.flush(&mut self.transport);
        if self.features.contains(Features::CTRL_RX) {
            self.control.receive_everything(&mut self.transport, &self.clock)?;
        }
        self.link = config::link(&self.transport, self.features)?;
        self.watchdog.note_progress();
        Ok(())
    }

    fn fail(&mut self, error: NicError) {
        self.state = State::Failed(error);
    }

    /// Lets go of frames that were sent; whether there were any.
    fn reclaim(&mut self) -> bool {
        match self.tx.reclaim(&mut self.counters) {
            Ok(0) => return false,
            Ok(_) => self.watchdog.note_progress(),
            Err(error) => self.fail(error),
        }
        true
    }

    /// The watchdog and, once in a while, status and link.
    fn check_health(&mut self) -> Result<(), NicError> {
        let now = self.clock.now();
        let mut broken = false;
        if now.saturating_since(self.checked) >= HEALTH {
            self.checked = now;
            let status = self.transport.get_status();
            if status == GONE {
                return Err(NicError::Gone);
            }
            broken = status.contains(DeviceStatus::DEVICE_NEEDS_RESET);
            self.link = config::link(&self.transport, self.features)?;
        }
        // What waits for the link is not the device's fault.
        let stuck = self.watchdog.is_due(self.tx.is_busy() && self.link != Link::Down, now);
        if broken || stuck {
            self.counters.resets = self.counters.resets.wrapping_add(1);
            reset(&mut self.transport, &self.clock)?;
            self.state = State::Stopped;
            self.bring_up()?;
        }
        Ok(())
    }
}

impl<T: Transport, C: Clock> Nic for VirtioNet<T, C> {
    fn mac(&self) -> MacAddress {
        self.mac
    }
    fn capabilities(&self) -> Capabilities {
        let tx_checksum = self.features.contains(Features::CSUM);
        Capabilities {
            tx_checksum,
            tso4: tx_checksum && self.features.contains(Features::HOST_TSO4),
            tso6: tx_checksum && self.features.contains(Features::HOST_TSO6),
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
        let Some(header) = tx::header(&frame, self.capabilities()).filter(|_| frame.pad(MIN_FRAME)) else {
            self.counters.tx_dropped = self.counters.tx_dropped.wrapping_add(1);
            return Ok(());
        };
        match self.tx.push(frame, header) {
            Ok(()) => Ok(()),
            Err(frame) => {
                self.flush();
                self.reclaim();
                self.tx.push(frame, header)
            }
        }
    }

    fn flush(&mut self) {
        if self.state == State::Running {
            self.tx.flush(&mut self.transport);
            // Somebody may be waiting for the buffers, and a loop that is busy comes by here only.
            self.reclaim();
        }
    }

    fn receive(&mut self) -> Option<Frame> {
        if self.state != State::Running {
            return None;
        }
        let received = self.rx.receive(&mut self.counters);
        if self.rx.is_hungry() || matches!(received, Ok(None)) {
            self.rx.flush(&mut self.transport);
        }
        received.unwrap_or_else(|error| {
            self.fail(error);
            None
        })
    }

    fn poll(&mut self) -> Result<(), NicError> {
        if self.state == State::Running {
            self.reclaim();
        }
        match self.state {
            State::Running => self.check_health().inspect_err(|error| self.state = State::Failed(*error)),
            State::Stopped => Ok(()),
            State::Failed(error) => Err(error),
        }
    }

    fn enable_interrupts(&mut self) -> bool {
        if self.state != State::Running {
            return matches!(self.state, State::Failed(_));
        }
        self.rx.flush(&mut self.transport);
        self.transport.ack_interrupt();
        self.rx.enable_interrupts();
        let freed = self.reclaim();
        let crowded = self.tx.enable_interrupts_if_crowded();
        freed || self.rx.is_ready() || crowded && self.tx.is_ready()
    }

    fn quiesce(&mut self) {
        match reset(&mut self.transport, &self.clock) {
            Ok(()) => self.state = State::Stopped,
            Err(error) => self.fail(error),
        }
    }
}

impl<T: Transport, C: Clock> Drop for VirtioNet<T, C> {
    fn drop(&mut self) {
        if self.state != State::Stopped {
            self.quiesce();
        }
        if self.state != State::Stopped {
            // It may still do DMA: its memory must never be used for anything else.
            self.rx.leak();
            self.tx.leak();
            self.control.leak();
        }
    }
}
