//! AHCI controllers: SATA disks and CD-ROMs.
//!
//! [`Quiet::reset`] takes the controller from its previous owner and resets it, [`Quiet::start`] puts it to work
//! as an [`Ahci`]; between the two the caller lets it do DMA. Each port is a disk of its own that starts, fails
//! and recovers by itself (`port`); they share the registers and the tables of callers' commands (`Context`).
//!
//! Disks with a queue run up to 32 commands side by side; flush and trim run alone (`slots`). Completions are
//! seen in memory, where the device leaves its reports; then, and when asked for an interrupt, one register says
//! which commands are over.
//!
//! Serial ATA AHCI 1.3.1. Not here: port multipliers, enclosures, power management, media change of CD-ROMs.

mod command;
mod context;
mod identify;
mod io;
mod memory;
mod port;
mod recover;
mod regs;
mod slots;

use alloc::vec::Vec;
use core::time::Duration;

use xen_pv_rt::hyp::{Clock, Dma, Instant, Mmio, sleep};

use self::context::Context;
use self::port::{Port, Stage};
use self::regs::{GONE, Hba, Port as Reg, Registers, bohc, cap, ghc};
use self::slots::{SLOTS, of_mask};
use super::{Command, Controller, Disk, DiskCounters, DiskError, DiskEvent, DiskId, Failure, Health, SubmitError, Tag};

/// The BAR with the registers.
pub const BAR: u8 = 5;
/// The least length of the register window.
pub const WINDOW: usize = 0x180;

/// How often a waiting controller or port is looked at.
const STEP: Duration = Duration::from_millis(1);
/// How long the controller may take for a reset.
const RESET_TIME: Duration = Duration::from_secs(1);
/// How long the firmware may take to let go.
const HANDOFF_TIME: Duration = Duration::from_secs(2);

/// What to hand completions to.
type Done<'a> = &'a mut dyn FnMut(Tag, Result<(), DiskError>);

/// A controller that has been reset and does nothing.
pub struct Quiet<R, C> {
    regs: Registers<R>,
    clock: C,
}

async fn wait<C: Clock>(clock: &C, time: Duration, mut done: impl FnMut() -> bool) -> bool {
    let deadline = clock.now().saturating_add(time);
    loop {
        if done() {
            return true;
        }
        if clock.now() >= deadline {
            return false;
        }
        sleep(clock, STEP).await;
    }
}

impl<R: Mmio, C: Clock> Quiet<R, C> {
    /// Takes over the controller behind `window` and resets it.
    ///
    /// # Errors
    /// [`Failure::Gone`], [`Failure::Unsupported`], or [`Failure::TimedOut`].
    pub async fn reset(window: R, clock: C) -> Result<Self, Failure> {
        let regs = Registers::new(window);
        let capabilities = regs.read(Hba::Cap);
        if capabilities == GONE {
            return Err(Failure::Gone);
        }
        if capabilities & cap::S64A == 0 {
            return Err(Failure::Unsupported("64-bit addresses"));
        }
        if regs.read(Hba::Cap2) & bohc::SUPPORTED != 0 {
            regs.write(Hba::Bohc, regs.read(Hba::Bohc) | bohc::OURS);
            // Firmware that does not let go is overruled by the reset.
            wait(&clock, HANDOFF_TIME, || regs.read(Hba::Bohc) & bohc::FIRMWARE == 0).await;
        }
        regs.write(Hba::Ghc, ghc::AE);
        regs.write(Hba::Ghc, ghc::AE | ghc::HR);
        if !wait(&clock, RESET_TIME, || regs.read(Hba::Ghc) & ghc::HR == 0).await {
            return Err(Failure::TimedOut("reset"));
        }
        match regs.read(Hba::Ghc) {
            GONE => Err(Failure::Gone),
            _ => Ok(Self { regs, clock }),
        }
    }

    /// Starts looking for disks. The controller is [`Health::Recovering`] until [`poll`](Controller::poll) has
    /// found what is there. `time` is what a command is given.
    ///
    /// # Errors
    /// [`Failure::NoMemory`], or [`Failure::Confused`] about its registers.
    pub fn start(self, dma: &impl Dma, time: Duration) -> Result<Ahci<R, C>, Failure> {
        let regs = self.regs;
        let (capabilities, implemented) = (regs.read(Hba::Cap), regs.read(Hba::Pi));
        if implemented == 0 || implemented == GONE {
            return Err(Failure::Confused("set of ports"));
        }
        let made: Result<Vec<_>, Failure> = of_mask(implemented).map(|number| Port::new(dma, number)).collect();
        let mut ports = made?;
        let now = self.clock.now();
        let slots = (capabilities >> 8 & 0x1f).saturating_add(1);
        let requests = u16::try_from(ports.len().saturating_mul(SLOTS)).unwrap_or(u16::MAX);
        let context = Context::new(now, time, slots, capabilities & cap::SNCQ != 0, requests);
        regs.write(Hba::Ghc, ghc::AE | ghc::IE);
        for port in &mut ports {
            port.begin(&regs, now, false);
        }
        Ok(Ahci {
            regs,
            clock: self.clock,
            ports,
            context,
            health: Health::Recovering,
            resetting: None,
            next_tick: now,
            look: false,
        })
    }
}

/// A controller in service.
pub struct Ahci<R: Mmio, C: Clock> {
    regs: Registers<R>,
    clock: C,
    ports: Vec<Port>,
    context: Context,
    health: Health,
    /// Until when a reset of the whole controller may take.
    resetting: Option<Instant>,
    next_tick: Instant,
    /// Registers are to be looked at even without a report.
    look: bool,
}

impl<R: Mmio, C: Clock> Controller for Ahci<R, C> {
    fn disks(&self) -> &[Disk] {
        &self.context.disks
    }

    fn submit(&mut self, disk: DiskId, command: &Command<'_>) -> Result<(), SubmitError> {
        match self.health {
            Health::Running => {}
            Health::Recovering => return Err(SubmitError::Full),
            Health::Failed(_) | Health::Stuck(_) | Health::Stopped => return Err(SubmitError::Gone),
        }
        let about = self.context.disks.get(usize::from(disk.0)).ok_or(SubmitError::Gone)?;
        about.check(command)?;
        let block = about.geometry.logical_bytes;
        let port = self.ports.iter_mut().find(|port| port.disk == Some(disk.0)).ok_or(SubmitError::Gone)?;
        port.submit(&mut self.context, disk, block, command)
    }

    fn kick(&mut self) {
        if self.health == Health::Running {
            for port in &mut self.ports {
                port.start_waiting(&self.regs, self.context.now);
            }
        }
    }

    fn poll(&mut self, now: Instant, done: Done<'_>) {
        self.context.now = now;
        match self.health {
            Health::Running | Health::Recovering => self.serve(done),
            Health::Failed(_) | Health::Stopped => self.answer_all(done),
            Health::Stuck(_) => {}
        }
    }

    fn in_flight(&self) -> usize {
        self.context.requests.in_use()
    }

    fn take_event(&mut self) -> Option<DiskEvent> {
        self.context.take_event()
    }

    fn is_ready(&self) -> bool {
        let reported = self.ports.iter().any(|port| port.slots.active != 0 && port.memory.has_report());
        self.health == Health::Running && reported
    }

    fn enable_interrupts(&mut self) -> bool {
        match self.health {
            Health::Running => {}
            Health::Failed(_) | Health::Stopped => return self.in_flight() > 0,
            Health::Recovering | Health::Stuck(_) => return false,
        }
        // The line stays asserted until the causes are cleared: those of the ports, then the controller's.
        let causes = self.regs.read(Hba::Is);
        if causes == 0 {
            return self.is_ready();
        }
        if causes == GONE {
            self.give_up(Failure::Gone);
            return true;
        }
        for port in self.ports.iter().filter(|port| causes & slots::bit(port.number) != 0) {
            let cause = self.regs.port_read(port.number, Reg::Is);
            // Errors stay until the port was restarted.
            self.regs.port_write(port.number, Reg::Is, cause & !regs::is::ERRORS);
            if cause & regs::is::LINK != 0 {
                self.regs.port_write(port.number, Reg::Serr, u32::MAX);
                self.next_tick = self.context.now;
            }
        }
        self.regs.write(Hba::Is, causes);
        self.look = true;
        true
    }

    fn next_deadline(&self) -> Option<Instant> {
        match self.health {
            Health::Running if self.resetting.is_none() && !self.ports.iter().any(Port::is_busy) => {
                Some(self.next_tick)
            }
            Health::Running | Health::Recovering => Some(self.context.now.saturating_add(STEP)),
            Health::Failed(_) | Health::Stopped if self.in_flight() > 0 => Some(self.context.now),
            Health::Failed(_) | Health::Stopped | Health::Stuck(_) => None,
        }
    }

    fn health(&self) -> Health {
        self.health
    }

    fn counters(&self) -> DiskCounters {
        self.context.counters
    }

    fn abandon(&mut self, done: Done<'_>) {
        if let Health::Stuck(failure) = self.health {
            self.health = Health::Failed(failure);
        }
        if matches!(self.health, Health::Failed(_) | Health::Stopped) {
            self.answer_all(done);
        }
    }

    fn quiesce(&mut self) {
        self.shut_down();
    }
}

impl<R: Mmio, C: Clock> Drop for Ahci<R, C> {
    fn drop(&mut self) {
        if !matches!(self.health, Health::Failed(_) | Health::Stopped) {
            self.shut_down();
        }
        if self.health != Health::Stopped {
            // It may still do DMA: its memory must never be used for anything else.
            self.ports.iter().for_each(|port| port.memory.leak());
        }
    }
}

/// Whether the first search for disks is over.
fn all_settled(ports: &[Port]) -> bool {
    ports.iter().all(|port| matches!(port.stage, Stage::Empty | Stage::Dead | Stage::Running))
}
