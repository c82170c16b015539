//! virtio-net, behind any virtio-drivers [`Transport`].
//!
//! Feature negotiation, configuration space and queue set-up go through the transport; the queues are ours
//! ([`virtio_pci::Queue`] says why), and so is the PCI transport ([`VirtioPci`]). [`Quiet::reset`] stops the device,
//! [`Quiet::start`] puts it to work as a [`VirtioNet`]; between the two the caller lets it do DMA.
//!
//! Up to four queue pairs, one vCPU (`queues.rs` says what several are good for). With MSI-X the hot path accesses no
//! register but the notification, and that only when the device asks for it; with an interrupt line, its cause is read
//! once before going to sleep. All queues share one vector: the one vCPU looks at all of them whichever has interrupted,
//! which takes a word of each, no register.
//!
//! Received frames may be spread over several buffers: long ones, and TCP packets that the device or its host has
//! not cut up, which go to guests as they are if those take them. A device with a control queue is told to be
//! promiscuous; one without is so anyway.
//!
//! Virtio 1.2, section 5.1. Not here: receive-side scaling by our own key, legacy devices.

mod config;
mod control;
mod features;
mod header;
mod queues;
mod rx;
mod tx;
mod wait;

use core::time::Duration;

use virtio_drivers::transport::{DeviceStatus, Transport};
use xen_pv_rt::hyp::{Clock, Dma, Instant};

use self::control::Control;
use self::features::{Agreed, Features, negotiate};
use self::queues::{MAX_PAIRS, Queues};
use self::wait::{GONE, reset};
use super::{
    Capabilities, LONGEST_FRAME, Link, MIN_FRAME, MacAddress, Nic, NicCounters, NicError, STANDARD_FRAME, Settings,
};
use crate::frame::Frame;
pub use virtio_pci::{VirtioPci, Window, Windows};

/// How often link and status are looked at.
const HEALTH: Duration = Duration::from_secs(1);

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
        let Self { mut transport, clock } = self;
        let agreed = negotiate(&mut transport, MAX_PAIRS)?;
        let mut card = VirtioNet {
            queues: Queues::new(dma, agreed.pairs, settings.spare)?,
            control: Control::new(dma)?,
            wanted_frame: settings.max_frame.clamp(STANDARD_FRAME, LONGEST_FRAME),
            max_frame: STANDARD_FRAME,
            checked: clock.now(),
            transport,
            clock,
            mac: MacAddress::BROADCAST,
            features: agreed.features,
            link: Link::Down,
            counters: NicCounters::default(),
            state: State::Stopped,
        };
        card.bring_up(&agreed)?;
        if !card.features.contains(Features::ACCESS_PLATFORM) {
            log::warn!("virtio-net {}: the IOMMU does not confine it (give it iommu_platform=on)", card.mac);
        }
        if card.queues.count() > 1 {
            log::info!("virtio-net {}: {} queue pairs", card.mac, card.queues.count());
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
    queues: Queues,
    control: Control,
    /// Longest frame that we want, and that we and the device agree on.
    wanted_frame: usize,
    max_frame: usize,
    mac: MacAddress,
    features: Features,
    link: Link,
    counters: NicCounters,
    /// When link and status were last looked at.
    checked: Instant,
    state: State,
}

impl<T: Transport, C: Clock> VirtioNet<T, C> {
    /// Puts a device to work with which features are agreed on. Virtio 1.2, 3.1.1, steps 7 and 8.
    fn bring_up(&mut self, agreed: &Agreed) -> Result<(), NicError> {
        self.program(agreed)?;
        let pairs = self.queues.count();
        if pairs > 1 && !self.control.use_pairs(&mut self.transport, &self.clock, pairs)? {
            log::warn!("virtio-net {}: the device refuses to use {pairs} queue pairs, it gets one", self.mac);
            // All over again, so that the one pair has all the descriptors.
            self.stop()?;
            let agreed = negotiate(&mut self.transport, 1)?;
            self.program(&agreed)?;
        }
        self.queues.refill(&mut self.transport);
        if self.features.contains(Features::CTRL_RX) {
            self.control.receive_everything(&mut self.transport, &self.clock)?;
        }
        self.link = config::link(&self.transport, self.features)?;
        Ok(())
    }

    /// Gives the queues to the device.
    fn program(&mut self, agreed: &Agreed) -> Result<(), NicError> {
        self.features = agreed.features;
        self.mac = config::mac(&self.transport, self.features)?;
        let wanted = config::max_frame(&self.transport, self.features, self.wanted_frame);
        self.max_frame = self.queues.start(&mut self.transport, agreed, wanted, &mut self.counters)?;
        if self.features.intersects(Features::CTRL_RX | Features::MQ) {
            let event_idx = self.features.contains(Features::EVENT_IDX);
            self.control.start(&mut self.transport, agreed.control, event_idx)?;
        }
        // From here on it may do DMA.
        self.state = State::Running;
        self.transport.finish_init();
        Ok(())
    }

    /// Resets the device.
    fn stop(&mut self) -> Result<(), NicError> {
        reset(&mut self.transport, &self.clock)?;
        self.state = State::Stopped;
        Ok(())
    }

    fn fail(&mut self, error: NicError) {
        self.state = State::Failed(error);
    }

    /// Whether a received frame is there to be taken. No register is read.
    pub fn has_received(&self) -> bool {
        self.state == State::Running && self.queues.has_received()
    }

    /// Lets go of frames that were sent; whether there were any.
    fn reclaim(&mut self) -> bool {
        self.queues.reclaim(&mut self.counters).unwrap_or_else(|error| {
            self.fail(error);
            true
        })
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
        let stuck = self.queues.is_stuck(self.link != Link::Down, now);
        if broken || stuck {
            self.counters.resets = self.counters.resets.wrapping_add(1);
            self.stop()?;
            let agreed = negotiate(&mut self.transport, self.queues.count())?;
            self.bring_up(&agreed)?;
        }
        Ok(())
    }
}

impl<T: Transport, C: Clock> Nic for VirtioNet<T, C> {
    fn mac(&self) -> MacAddress {
        self.mac
    }
    fn capabilities(&self) -> Capabilities {
        self.features.capabilities(self.max_frame)
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
        let Some(header) = header::for_sending(&frame, self.capabilities()).filter(|_| frame.pad(MIN_FRAME)) else {
            self.counters.tx_dropped = self.counters.tx_dropped.wrapping_add(1);
            return Ok(());
        };
        match self.queues.push(frame, header) {
            Ok(()) => Ok(()),
            Err(frame) => {
                self.flush();
                self.reclaim();
                self.queues.push(frame, header)
            }
        }
    }

    fn flush(&mut self) {
        if self.state == State::Running {
            self.queues.flush(&mut self.transport);
            // Somebody may be waiting for the buffers, and a loop that is busy comes by here only.
            self.reclaim();
        }
    }

    fn receive(&mut self) -> Option<Frame> {
        if self.state != State::Running {
            return None;
        }
        self.queues.receive(&mut self.transport, &mut self.counters).unwrap_or_else(|error| {
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
        self.queues.refill(&mut self.transport);
        self.transport.ack_interrupt();
        self.queues.enable_receive_interrupts();
        let freed = self.reclaim();
        self.queues.enable_transmit_interrupts() || freed
    }

    fn quiesce(&mut self) {
        if let Err(error) = self.stop() {
            self.fail(error);
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
            self.queues.leak();
            self.control.leak();
        }
    }
}
