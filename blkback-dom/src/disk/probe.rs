//! From a passed-through function to a controller in service.

use core::fmt;
use core::time::Duration;

use pciback::{InterruptKind, Interrupts, PciCause, PciDevice, PciError, Sbdf};
use xen_pv_rt::hyp::{Instant, Platform, sleep};

use virtio_pci::VirtioPci;

use super::{
    Command, Controller, Disk, DiskCounters, DiskError, DiskEvent, DiskId, Failure, Health, SubmitError, Tag, ahci,
    nvme, virtio,
};

/// Interrupt vectors asked for: all queues of a controller are served by one loop.
const VECTORS: u16 = 1;
/// Revision and class code in configuration space.
const CLASS: u16 = 0x08;
/// How often a starting controller is looked at.
const STEP: Duration = Duration::from_millis(1);

/// A family of controllers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    Nvme,
    Ahci,
    Virtio,
}

/// What a command is given by default before something is done about it.
pub const COMMAND_TIME: Duration = Duration::from_secs(30);

/// By class code (base class, subclass, programming interface), or by vendor and device id.
const fn family(class: u32, vendor: u16, device: u16) -> Option<Family> {
    match (class, vendor, device) {
        (0x01_08_02, _, _) => Some(Family::Nvme),
        (0x01_06_01, _, _) => Some(Family::Ahci),
        (_, 0x1af4, 0x1001 | 0x1042) => Some(Family::Virtio),
        _ => None,
    }
}

/// Why a function was not put into service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeError {
    /// Something about the function or its connection to xen-pciback.
    Pci(PciError),
    /// The controller behind it.
    Controller(Sbdf, Failure),
}

impl fmt::Display for ProbeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pci(error) => error.fmt(f),
            Self::Controller(sbdf, error) => write!(f, "PCI device {sbdf}: {error}"),
        }
    }
}

impl From<PciError> for ProbeError {
    fn from(error: PciError) -> Self {
        Self::Pci(error)
    }
}

/// A controller of any supported family.
pub enum AnyController<H: Platform> {
    /// See [`nvme`].
    Nvme(nvme::Nvme<H::Region, H>),
    /// See [`ahci`].
    Ahci(ahci::Ahci<H::Region, H>),
    /// See [`virtio`].
    Virtio(virtio::VirtioBlk<VirtioPci<H::Region>, H>),
}

/// A controller that was reset and is not at work yet.
enum QuietController<H: Platform> {
    Nvme(nvme::Quiet<H::Region, H>),
    Ahci(ahci::Quiet<H::Region, H>),
    Virtio(virtio::Quiet<VirtioPci<H::Region>, H>),
}

/// A controller in service, with what it came from. Dropping it stops the controller, then its interrupts, then
/// its DMA.
pub struct AttachedController<H: Platform> {
    // Fields are dropped in this order.
    controller: AnyController<H>,
    interrupts: Interrupts<H>,
    device: PciDevice<H>,
    /// Whether it was said that commands stay unanswered.
    complained: bool,
}

impl<H: Platform> AttachedController<H> {
    /// Resets the controller and puts it into service, with its disks found. `time` is what a command is given.
    ///
    /// # Errors
    /// [`PciCause::Unsupported`] if there is no driver for it, or whatever failed.
    pub async fn attach(device: PciDevice<H>, time: Duration) -> Result<Self, ProbeError> {
        let unsupported = PciCause::Unsupported { vendor: device.vendor_id(), device: device.device_id() };
        let class = device.read32(CLASS)? >> 8;
        let family = family(class, device.vendor_id(), device.device_id()).ok_or_else(|| device.error(unsupported))?;
        device.enable_memory()?;
        let mut quiet = reset(family, &device).await;
        if let Err(ProbeError::Controller(_, Failure::TimedOut(what))) = &quiet {
            log::warn!("PCI device {}: timed out waiting for {what}, trying a function level reset", device.sbdf());
            if device.function_level_reset().await.is_ok() {
                quiet = reset(family, &device).await;
            }
        }
        let quiet = quiet?;
        let interrupts = device.enable_interrupts(VECTORS)?;
        device.enable_bus_master()?;
        let hyp = device.platform();
        let controller =
            start(quiet, interrupts.kind(), time, hyp).map_err(|error| ProbeError::Controller(device.sbdf(), error))?;
        let mut this = Self { controller, interrupts, device, complained: false };
        this.await_service().await?;
        Ok(this)
    }

    async fn await_service(&mut self) -> Result<(), ProbeError> {
        let hyp = self.device.platform().clone();
        loop {
            self.poll(hyp.now(), &mut |_, _| {});
            match self.controller.health() {
                Health::Running => return Ok(()),
                Health::Recovering => sleep(&hyp, STEP).await,
                Health::Failed(failure) | Health::Stuck(failure) => {
                    return Err(ProbeError::Controller(self.sbdf(), failure));
                }
                Health::Stopped => return Err(ProbeError::Controller(self.sbdf(), Failure::Gone)),
            }
        }
    }

    /// Polls the controller; one that cannot be stopped is cut off from memory, so that its commands are answered.
    pub fn poll(&mut self, now: Instant, done: &mut dyn FnMut(Tag, Result<(), DiskError>)) {
        self.controller.poll(now, done);
        if let Health::Stuck(_) = self.controller.health() {
            match self.device.disable_bus_master() {
                Ok(()) => self.controller.abandon(done),
                // The function may still write to memory: its commands stay unanswered.
                Err(error) if !self.complained => {
                    self.complained = true;
                    log::error!("be=hw {error} cause=DMA_ON action=hold");
                }
                Err(_) => {}
            }
        }
    }

    /// The controller. Poll it with [`poll`](Self::poll).
    pub fn controller(&mut self) -> &mut AnyController<H> {
        &mut self.controller
    }
    /// Its disks.
    pub fn disks(&self) -> &[Disk] {
        self.controller.disks()
    }
    /// Its interrupts.
    pub fn interrupts(&self) -> &Interrupts<H> {
        &self.interrupts
    }
    /// How it interrupts.
    pub fn interrupt_kind(&self) -> InterruptKind {
        self.interrupts.kind()
    }
    /// Its address.
    pub fn sbdf(&self) -> Sbdf {
        self.device.sbdf()
    }
    /// What kind of controller it is.
    pub fn name(&self) -> &'static str {
        match self.controller {
            AnyController::Nvme(_) => "NVMe",
            AnyController::Ahci(_) => "AHCI",
            AnyController::Virtio(_) => "virtio-blk",
        }
    }
}

/// Stops whatever a previous owner left the controller doing.
async fn reset<H: Platform>(family: Family, device: &PciDevice<H>) -> Result<QuietController<H>, ProbeError> {
    let clock = device.platform().clone();
    match family {
        Family::Nvme => {
            let window = device.map_bar(0, nvme::WINDOW)?;
            nvme::Quiet::reset(window, clock).await.map(QuietController::Nvme)
        }
        Family::Ahci => {
            let window = device.map_bar(ahci::BAR, ahci::WINDOW)?;
            ahci::Quiet::reset(window, clock).await.map(QuietController::Ahci)
        }
        Family::Virtio => virtio::Quiet::reset(VirtioPci::new(device)?, clock).await.map(QuietController::Virtio),
    }
    .map_err(|error| ProbeError::Controller(device.sbdf(), error))
}

fn start<H: Platform>(
    quiet: QuietController<H>,
    interrupts: InterruptKind,
    time: Duration,
    hyp: &H,
) -> Result<AnyController<H>, Failure> {
    match quiet {
        QuietController::Nvme(quiet) => {
            let patience = nvme::Patience { command: time, ..nvme::Patience::default() };
            quiet.start(hyp, patience).map(AnyController::Nvme)
        }
        QuietController::Ahci(quiet) => quiet.start(hyp, time).map(AnyController::Ahci),
        QuietController::Virtio(mut quiet) => {
            quiet.transport().use_msix(interrupts == InterruptKind::MsiX);
            quiet.start(hyp, time).map(AnyController::Virtio)
        }
    }
}

macro_rules! each {
    ($self:expr, $controller:ident => $call:expr) => {
        match $self {
            Self::Nvme($controller) => $call,
            Self::Ahci($controller) => $call,
            Self::Virtio($controller) => $call,
        }
    };
}

impl<H: Platform> Controller for AnyController<H> {
    fn disks(&self) -> &[Disk] {
        each!(self, controller => controller.disks())
    }
    fn submit(&mut self, disk: DiskId, command: &Command<'_>) -> Result<(), SubmitError> {
        each!(self, controller => controller.submit(disk, command))
    }
    fn kick(&mut self) {
        each!(self, controller => controller.kick());
    }
    fn poll(&mut self, now: Instant, done: &mut dyn FnMut(Tag, Result<(), DiskError>)) {
        each!(self, controller => controller.poll(now, done));
    }
    fn in_flight(&self) -> usize {
        each!(self, controller => controller.in_flight())
    }
    fn take_event(&mut self) -> Option<DiskEvent> {
        each!(self, controller => controller.take_event())
    }
    fn is_ready(&self) -> bool {
        each!(self, controller => controller.is_ready())
    }

    fn enable_interrupts(&mut self) -> bool {
        each!(self, controller => controller.enable_interrupts())
    }
    fn next_deadline(&self) -> Option<Instant> {
        each!(self, controller => controller.next_deadline())
    }
    fn health(&self) -> Health {
        each!(self, controller => controller.health())
    }
    fn counters(&self) -> DiskCounters {
        each!(self, controller => controller.counters())
    }
    fn abandon(&mut self, done: &mut dyn FnMut(Tag, Result<(), DiskError>)) {
        each!(self, controller => controller.abandon(done));
    }
    fn quiesce(&mut self) {
        each!(self, controller => controller.quiesce());
    }
}
