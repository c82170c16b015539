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

mod control;
mod rx;
mod tx;

use alloc::boxed::Box;
use core::time::Duration;

use virtio_drivers::transport::{DeviceStatus, Transport};
use xen_pv_rt::hyp::{Clock, Dma, Instant};

use self::control::Control;
use self::rx::Receiver;
use self::tx::Transmitter;
use super::watchdog::Watchdog;
use super::{
    Capabilities, LONGEST_FRAME, Link, MIN_FRAME, MacAddress, Nic, NicCounters, NicError, STANDARD_FRAME, Settings,
};
use crate::frame::{Frame, MAX_SEGMENTS};
use virtio_pci::{Queue, QueueError};
pub use virtio_pci::{VirtioPci, Window, Windows};

bitflags::bitflags! {
    /// Features that this driver uses. Virtio 1.2, 5.1.3 and 6.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct Features: u64 {
        /// The device fills in checksums.
        const CSUM = 1 << 0;
        /// The device passes blank and verified checksums on to us.
        const GUEST_CSUM = 1 << 1;
        /// There is an MTU in configuration space.
        const MTU = 1 << 3;
        /// There is an address in configuration space.
        const MAC = 1 << 5;
        /// The device passes on TCP over IPv4 that is not cut up.
        const GUEST_TSO4 = 1 << 7;
        /// The device passes on TCP over IPv6 that is not cut up.
        const GUEST_TSO6 = 1 << 8;
        /// The device cuts up TCP over IPv4.
        const HOST_TSO4 = 1 << 11;
        /// The device cuts up TCP over IPv6.
        const HOST_TSO6 = 1 << 12;
        /// Frames may arrive in several buffers.
        const MRG_RXBUF = 1 << 15;
        /// There is a link state in configuration space.
        const STATUS = 1 << 16;
        /// There is a control queue.
        const CTRL_VQ = 1 << 17;
        /// It takes commands about which frames are received.
        const CTRL_RX = 1 << 18;
        /// Notifications and interrupts by index.
        const EVENT_IDX = 1 << 29;
        /// Not a legacy device.
        const VERSION_1 = 1 << 32;
        /// The device's accesses go through the IOMMU.
        const ACCESS_PLATFORM = 1 << 33;
    }
}

impl Features {
    /// What we take of an offer: nothing that depends on something that is not in it.
    fn chosen_from(offer: u64) -> Self {
        let mut chosen = Self::from_bits_truncate(offer);
        for (feature, needs) in [
            (Self::HOST_TSO4 | Self::HOST_TSO6, Self::CSUM),
            // Without, each buffer would have to hold 64 KiB.
            (Self::GUEST_TSO4 | Self::GUEST_TSO6, Self::GUEST_CSUM | Self::MRG_RXBUF),
            (Self::CTRL_RX, Self::CTRL_VQ),
        ] {
            if !chosen.contains(needs) {
                chosen.remove(feature);
            }
        }
        chosen
    }
}

/// Queue numbers; that of the control queue is for devices with one queue pair.
const RX: u16 = 0;
const TX: u16 = 1;
const CONTROL: u16 = 2;
/// Offsets in configuration space.
const CONFIG_MAC: usize = 0;
const CONFIG_STATUS: usize = 6;
const CONFIG_MTU: usize = 10;
/// The smallest MTU there is.
const MIN_MTU: u16 = 68;
/// Bit of the link state.
const LINK_UP: u16 = 1;
/// Length of `struct virtio_net_hdr_v1` in bytes.
const HEADER: u16 = 12;
/// What every register of a device that has gone reads as.
const GONE: DeviceStatus = DeviceStatus::from_bits_retain(0xff);
/// How long the device may take for a reset.
const DEADLINE: Duration = Duration::from_millis(100);
/// How often link and status are looked at.
const HEALTH: Duration = Duration::from_secs(1);
/// Bytes of an Ethernet header with a VLAN tag.
const TAGGED_HEADER: usize = 18;

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

/// Waits until `done`, with a deadline.
fn wait<C: Clock>(clock: &C, what: &'static str, mut done: impl FnMut() -> bool) -> Result<(), NicError> {
    let deadline = clock.now().saturating_add(DEADLINE);
    while !done() {
        if clock.now() >= deadline {
            return Err(NicError::TimedOut(what));
        }
        core::hint::spin_loop();
    }
    Ok(())
}

/// Resets the device. Returning `Ok` means that it no longer touches memory.
fn reset<T: Transport, C: Clock>(transport: &mut T, clock: &C) -> Result<(), NicError> {
    transport.set_status(DeviceStatus::empty());
    let deadline = clock.now().saturating_add(DEADLINE);
    loop {
        match transport.get_status() {
            status if status.is_empty() => return Ok(()),
            GONE => return Err(NicError::Gone),
            _ if clock.now() >= deadline => return Err(NicError::TimedOut("reset")),
            _ => core::hint::spin_loop(),
        }
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
        self.negotiate()?;
        self.mac = self.read_mac()?;
        let event_idx = self.features.contains(Features::EVENT_IDX);
        let lost = self.tx.start(&mut self.transport, event_idx)?;
        self.counters.tx_dropped = self.counters.tx_dropped.wrapping_add(lost);
        let wanted = self.read_max_frame();
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
        self.link = self.read_link()?;
        self.watchdog.note_progress();
        Ok(())
    }

    /// Agrees on features. Virtio 1.2, 3.1.1, steps 2 to 6.
    fn negotiate(&mut self) -> Result<(), NicError> {
        let driver = DeviceStatus::ACKNOWLEDGE | DeviceStatus::DRIVER;
        self.transport.set_status(driver);
        self.features = Features::chosen_from(self.transport.read_device_features());
        if !self.features.contains(Features::VERSION_1) {
            return Err(NicError::Unsupported("virtio 1.0"));
        }
        self.transport.write_driver_features(self.features.bits());
        self.transport.set_status(driver | DeviceStatus::FEATURES_OK);
        if self.transport.get_status().contains(DeviceStatus::FEATURES_OK) {
            Ok(())
        } else {
            Err(NicError::Unsupported("the features that the driver chose from its offer"))
        }
    }

    /// The longest frame that we want and the device, if it says so, takes.
    fn read_max_frame(&self) -> usize {
        let mtu: Option<u16> =
            self.transport.read_config_space(CONFIG_MTU).ok().filter(|_| self.features.contains(Features::MTU));
        match mtu.filter(|mtu| *mtu >= MIN_MTU) {
            Some(mtu) => self.wanted_frame.min(usize::from(mtu).saturating_add(TAGGED_HEADER)),
            None => self.wanted_frame,
        }
    }

    fn read_mac(&self) -> Result<MacAddress, NicError> {
        let mac = self.transport.read_config_space(CONFIG_MAC).map(MacAddress).ok();
        mac.filter(|mac| self.features.contains(Features::MAC) && mac.is_station())
            .ok_or(NicError::Unsupported("a station address"))
    }

    fn read_link(&self) -> Result<Link, NicError> {
        if !self.features.contains(Features::STATUS) {
            return Ok(Link::Up(0));
        }
        let status: u16 =
            self.transport.read_config_space(CONFIG_STATUS).map_err(|_| NicError::Unsupported("a link state"))?;
        Ok(if status & LINK_UP == 0 { Link::Down } else { Link::Up(0) })
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
            self.link = self.read_link()?;
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
