//! From a passed-through function to a card in service.

use core::fmt;

use pciback::{InterruptKind, Interrupts, PciCause, PciDevice, PciError, Sbdf, Trust};
use xen_pv_rt::hyp::Platform;

use super::intel::Model;
use super::virtio::{self, VirtioPci};
use super::{Capabilities, Link, MacAddress, Nic, NicCounters, NicError, Settings, intel};
use crate::frame::Frame;

/// A family of cards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    Intel(Model),
    Virtio,
}

impl Family {
    /// Interrupt vectors that it has a use for.
    const fn vectors(self) -> u16 {
        match self {
            Self::Intel(model) => model.vectors(),
            Self::Virtio => 1,
        }
    }
}

/// The cards there are drivers for: vendor id, device id, name.
const SUPPORTED: &[(u16, u16, Family, &str)] = &[
    (0x8086, 0x100e, Family::Intel(Model::I8254x), "Intel 82540EM"),
    (0x8086, 0x100f, Family::Intel(Model::I8254x), "Intel 82545EM"),
    (0x8086, 0x10d3, Family::Intel(Model::I82574), "Intel 82574L"),
    (0x8086, 0x10c9, Family::Intel(Model::I82576), "Intel 82576"),
    (0x1af4, 0x1041, Family::Virtio, "virtio-net"),
];

fn supported(vendor: u16, device: u16) -> Option<(Family, &'static str)> {
    let known = SUPPORTED.iter().find(|known| (known.0, known.1) == (vendor, device));
    known.map(|(_, _, family, name)| (*family, *name))
}

/// Why a function was not put into service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeError {
    /// Something about the function or its connection to xen-pciback.
    Pci(PciError),
    /// The card behind it.
    Nic(Sbdf, NicError),
}

impl fmt::Display for ProbeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pci(error) => error.fmt(f),
            Self::Nic(sbdf, error) => write!(f, "PCI device {sbdf}: {error}"),
        }
    }
}

impl From<PciError> for ProbeError {
    fn from(error: PciError) -> Self {
        Self::Pci(error)
    }
}

/// A card of any supported family.
pub enum Card<H: Platform> {
    /// See [`intel`].
    Intel(intel::Intel<H::Region, H>),
    /// See [`virtio`].
    Virtio(virtio::VirtioNet<VirtioPci<H::Region>, H>),
}

/// A card that was reset and is not at work yet.
enum QuietCard<H: Platform> {
    Intel(intel::Quiet<H::Region, H>),
    Virtio(virtio::Quiet<VirtioPci<H::Region>, H>),
}

/// A card in service, with what it came from. Dropping it stops the card, then its interrupts, then its DMA.
pub struct AttachedNic<H: Platform> {
    // Fields are dropped in this order.
    card: Card<H>,
    interrupts: Interrupts<H>,
    device: PciDevice<H>,
    trust: Trust,
}

impl<H: Platform> AttachedNic<H> {
    /// Resets the card and puts it into service.
    ///
    /// # Errors
    /// [`PciCause::Unsupported`] if there is no driver for it, or whatever failed.
    pub async fn attach(device: PciDevice<H>, settings: Settings) -> Result<Self, ProbeError> {
        let (vendor, id) = (device.vendor_id(), device.device_id());
        let (family, _) =
            supported(vendor, id).ok_or_else(|| device.error(PciCause::Unsupported { vendor, device: id }))?;
        device.enable_memory()?;
        let mut quiet = reset(family, &device);
        if let Err(ProbeError::Nic(_, NicError::TimedOut(what))) = &quiet {
            log::warn!("PCI device {}: timed out waiting for {what}, trying a function level reset", device.sbdf());
            if device.function_level_reset().await.is_ok() {
                quiet = reset(family, &device);
            }
        }
        let quiet = quiet?;
        let interrupts = device.enable_interrupts(family.vectors())?;
        device.enable_bus_master()?;
        let card = start(quiet, &interrupts, device.platform(), settings)
            .map_err(|error| ProbeError::Nic(device.sbdf(), error))?;
        Ok(Self { card, interrupts, device, trust: Trust::default() })
    }

    /// The card.
    pub fn card(&mut self) -> &mut Card<H> {
        &mut self.card
    }
    /// Its interrupts.
    pub fn interrupts(&self) -> &Interrupts<H> {
        &self.interrupts
    }
    /// Whether its interrupts are known to arrive.
    pub fn is_trusted(&self) -> bool {
        self.trust.is_earned()
    }
    /// Learns from a look at the card: whether it has interrupted, and whether it was the slow timer that looked.
    pub fn learn(&mut self, interrupted: bool, overdue: bool) {
        if self.card.has_received() {
            self.trust.learn(interrupted, overdue);
        }
    }
    /// Its address.
    pub fn sbdf(&self) -> Sbdf {
        self.device.sbdf()
    }
    /// What it is called.
    pub fn name(&self) -> &'static str {
        supported(self.device.vendor_id(), self.device.device_id()).map_or("card", |(_, name)| name)
    }
    /// How it interrupts.
    pub fn interrupt_kind(&self) -> InterruptKind {
        self.interrupts.kind()
    }
}

/// Stops whatever a previous owner left the card doing.
fn reset<H: Platform>(family: Family, device: &PciDevice<H>) -> Result<QuietCard<H>, ProbeError> {
    let clock = device.platform().clone();
    match family {
        Family::Intel(model) => {
            intel::Quiet::reset(model, device.map_bar(0, intel::WINDOW)?, clock).map(QuietCard::Intel)
        }
        Family::Virtio => virtio::Quiet::reset(VirtioPci::new(device)?, clock).map(QuietCard::Virtio),
    }
    .map_err(|error| ProbeError::Nic(device.sbdf(), error))
}

fn start<H: Platform>(
    quiet: QuietCard<H>,
    interrupts: &Interrupts<H>,
    platform: &H,
    settings: Settings,
) -> Result<Card<H>, NicError> {
    match quiet {
        QuietCard::Intel(quiet) => {
            quiet.start(platform, settings, (interrupts.kind(), interrupts.count())).map(Card::Intel)
        }
        QuietCard::Virtio(mut quiet) => {
            quiet.transport().use_msix(interrupts.kind() == InterruptKind::MsiX);
            quiet.start(platform, settings).map(Card::Virtio)
        }
    }
}

macro_rules! each {
    ($self:expr, $card:ident => $call:expr) => {
        match $self {
            Self::Intel($card) => $call,
            Self::Virtio($card) => $call,
        }
    };
}

impl<H: Platform> Card<H> {
    /// Whether a received frame is there to be taken.
    fn has_received(&self) -> bool {
        each!(self, card => card.has_received())
    }
}

impl<H: Platform> Nic for Card<H> {
    fn mac(&self) -> MacAddress {
        each!(self, card => card.mac())
    }
    fn capabilities(&self) -> Capabilities {
        each!(self, card => card.capabilities())
    }
    fn link(&self) -> Link {
        each!(self, card => card.link())
    }
    fn counters(&self) -> NicCounters {
        each!(self, card => card.counters())
    }
    fn transmit(&mut self, frame: Frame) -> Result<(), Frame> {
        each!(self, card => card.transmit(frame))
    }
    fn flush(&mut self) {
        each!(self, card => card.flush());
    }
    fn receive(&mut self) -> Option<Frame> {
        each!(self, card => card.receive())
    }
    fn note_interrupts(&mut self, vectors: u32) {
        each!(self, card => card.note_interrupts(vectors));
    }
    fn poll(&mut self) -> Result<(), NicError> {
        each!(self, card => card.poll())
    }
    fn enable_interrupts(&mut self) -> bool {
        each!(self, card => card.enable_interrupts())
    }
    fn quiesce(&mut self) {
        each!(self, card => card.quiesce());
    }
}
