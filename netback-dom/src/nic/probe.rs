//! From a passed-through function to a card in service.

use core::fmt;

use pciback::{InterruptKind, Interrupts, PciCause, PciDevice, PciError, Sbdf};
use xen_pv_rt::hyp::Platform;

use super::{Capabilities, Link, MacAddress, Nic, NicCounters, NicError, e1000};
use crate::frame::Frame;

/// Received frames of one card that may be on their way to guests; beyond, frames are dropped.
const SPARE_BUFFERS: usize = 256;
/// Interrupt vectors asked for: one queue has no use for more.
const VECTORS: u16 = 1;

/// A family of cards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    E1000,
}

/// The cards there are drivers for: vendor id, device id, name.
pub const SUPPORTED: &[(u16, u16, &str)] =
    &[(0x8086, 0x100e, "Intel 82540EM (QEMU e1000)"), (0x8086, 0x100f, "Intel 82545EM")];

const fn family(vendor: u16, device: u16) -> Option<Family> {
    match (vendor, device) {
        (0x8086, 0x100e | 0x100f) => Some(Family::E1000),
        _ => None,
    }
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
    /// See [`e1000`].
    E1000(e1000::E1000<H::Region, H>),
}

/// A card in service, with what it came from. Dropping it stops the card, then its interrupts, then its DMA.
pub struct AttachedNic<H: Platform> {
    // Fields are dropped in this order.
    card: Card<H>,
    interrupts: Interrupts<H>,
    device: PciDevice<H>,
}

impl<H: Platform> AttachedNic<H> {
    /// Resets the card and puts it into service.
    ///
    /// # Errors
    /// [`PciCause::Unsupported`] if there is no driver for it, or whatever failed.
    pub async fn attach(device: PciDevice<H>) -> Result<Self, ProbeError> {
        let (vendor, id) = (device.vendor_id(), device.device_id());
        let family =
            family(vendor, id).ok_or_else(|| device.error(PciCause::Unsupported { vendor, device: id }))?;
        device.enable_memory()?;
        let mut card = start(family, &device);
        if let Err(ProbeError::Nic(_, NicError::TimedOut(what))) = &card {
            log::warn!("PCI device {}: timed out waiting for {what}, trying a function level reset", device.sbdf());
            if device.function_level_reset().await.is_ok() {
                card = start(family, &device);
            }
        }
        let card = card?;
        let interrupts = device.enable_interrupts(VECTORS)?;
        Ok(Self { card, interrupts, device })
    }

    /// The card.
    pub fn card(&mut self) -> &mut Card<H> {
        &mut self.card
    }
    /// Its interrupts.
    pub fn interrupts(&self) -> &Interrupts<H> {
        &self.interrupts
    }
    /// Its address.
    pub fn sbdf(&self) -> Sbdf {
        self.device.sbdf()
    }
    /// What it is called.
    pub fn name(&self) -> &'static str {
        let ids = (self.device.vendor_id(), self.device.device_id());
        SUPPORTED.iter().find(|(vendor, device, _)| (*vendor, *device) == ids).map_or("card", |(_, _, name)| name)
    }
    /// How it interrupts.
    pub fn interrupt_kind(&self) -> InterruptKind {
        self.interrupts.kind()
    }
}

fn start<H: Platform>(family: Family, device: &PciDevice<H>) -> Result<Card<H>, ProbeError> {
    let platform = device.platform();
    let nic = |error| ProbeError::Nic(device.sbdf(), error);
    match family {
        Family::E1000 => {
            let window = device.map_bar(0, e1000::WINDOW)?;
            let quiet = e1000::Quiet::reset(window, platform.clone()).map_err(nic)?;
            device.enable_bus_master()?;
            quiet.start(platform, SPARE_BUFFERS).map(Card::E1000).map_err(nic)
        }
    }
}

macro_rules! each {
    ($self:expr, $card:ident => $call:expr) => {
        match $self {
            Self::E1000($card) => $call,
        }
    };
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
