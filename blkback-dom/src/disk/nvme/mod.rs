//! NVMe controllers.
//!
//! [`Quiet::reset`] stops the controller, whatever a previous owner left running; [`Quiet::start`] puts it to
//! work as an [`Nvme`]. Between the two the caller lets it do DMA. Starting, and starting over after a reset,
//! is a sequence of admin commands that [`poll`](Controller::poll) goes through step by step (`setup`), so
//! that a slow controller delays nobody else.
//!
//! The data path (`io`) allocates nothing and touches one register per queue and batch. What goes wrong with
//! single commands and with the controller is the business of `recover`.
//!
//! NVM Express Base 1.4. Not here: metadata and protection information, several controllers of one subsystem,
//! zoned namespaces, controller memory buffers.

mod admin;
mod command;
mod identify;
mod io;
pub mod pointer;
mod queue;
mod recover;
mod regs;
mod setup;
mod slots;
mod status;

use alloc::vec::Vec;
use core::time::Duration;

use xen_pv_rt::hyp::{Clock, Dma, Instant, Mmio, sleep};

use self::admin::Admin;
use self::identify::ControllerData;
use self::queue::QueuePair;
use self::regs::{Registers, csts};
use self::slots::{MAX_SLOTS, Slots};
use super::lists::Lists;
use super::requests::Requests;
use super::{Command, Controller, Disk, DiskCounters, DiskError, DiskEvent, DiskId, Failure, Health, SubmitError, Tag};

/// Bytes of the register window that hold the registers and the doorbells of a few queues.
pub const WINDOW: usize = 0x2000;

/// I/O queues that are asked for.
const QUEUES: u16 = 4;
/// Lists, shared by all queues. A command of up to two pages takes none.
const LISTS: u16 = 128;
/// How often a waiting controller is looked at.
const STEP: Duration = Duration::from_millis(1);

/// What to hand completions to.
type Done<'a> = &'a mut dyn FnMut(Tag, Result<(), DiskError>);

/// Times that can be chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// What a command is given before the controller is asked to give it up.
    pub command: Duration,
    /// What the controller is given for that, and for any admin command.
    pub admin: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { command: Duration::from_secs(30), admin: Duration::from_secs(5) }
    }
}

/// A controller that has been reset and does nothing.
pub struct Quiet<R, C> {
    regs: Registers<R>,
    clock: C,
}

impl<R: Mmio, C: Clock> Quiet<R, C> {
    /// Resets the controller behind `window` and waits until it has stopped.
    ///
    /// # Errors
    /// [`Failure::Gone`], [`Failure::Unsupported`], or [`Failure::TimedOut`] after the time that the controller
    /// asks for.
    pub async fn reset(window: R, clock: C) -> Result<Self, Failure> {
        let regs = Registers::new(window)?;
        regs.disable();
        let deadline = clock.now().saturating_add(regs.capability().ready_time);
        while regs.status()? & csts::RDY != 0 {
            if clock.now() >= deadline {
                return Err(Failure::TimedOut("reset"));
            }
            sleep(&clock, STEP).await;
        }
        Ok(Self { regs, clock })
    }

    /// Starts putting the controller to work. It is [`Health::Recovering`] until [`poll`](Controller::poll) has
    /// found it and its namespaces ready.
    ///
    /// # Errors
    /// [`Failure::NoMemory`], or [`Failure::Confused`] about its registers.
    pub fn start(self, dma: &impl Dma, patience: Patience) -> Result<Nvme<R, C>, Failure> {
        let most = self.regs.capability().entries;
        if !self.regs.has_doorbells(QUEUES.saturating_add(1)) {
            return Err(Failure::Confused("register window"));
        }
        let io: Result<Vec<_>, Failure> = (1..=QUEUES).map(|id| IoQueue::new(dma, id, most)).collect();
        let io = io?;
        let requests = io.iter().fold(0_u16, |sum, queue| sum.saturating_add(queue.slots.count()));
        let now = self.clock.now();
        let mut this = Nvme {
            regs: self.regs,
            clock: self.clock,
            now,
            patience,
            admin: Admin::new(dma)?,
            io,
            requests: Requests::new(requests),
            lists: Lists::new(dma, LISTS, pointer::LIST_WORDS)?,
            data: None,
            disks: Vec::new(),
            namespaces: Vec::new(),
            events: Vec::new(),
            found: heapless::Vec::new(),
            counters: DiskCounters::default(),
            health: Health::Recovering,
            doomed: None,
            attempts: 0,
            served_before: false,
            next_tick: now,
            next_retry: None,
        };
        this.enable();
        Ok(this)
    }
}

/// A pair of I/O queues and the commands in it.
struct IoQueue {
    pair: QueuePair,
    slots: Slots,
}

impl IoQueue {
    fn new(dma: &impl Dma, id: u16, most: u32) -> Result<Self, Failure> {
        let pair = QueuePair::new(dma, id, MAX_SLOTS, most)?;
        // A full submission queue has one free entry, and every command has room for its completion.
        let slots = Slots::new(pair.sq_entries().min(pair.cq_entries()).saturating_sub(1));
        Ok(Self { pair, slots })
    }
}

/// What the driver needs to know about a namespace, at the index of its disk.
#[derive(Clone, Copy)]
struct Namespace {
    nsid: u32,
    /// Logical blocks are 512 bytes shifted by this.
    shift: u32,
}

/// A controller in service.
pub struct Nvme<R: Mmio, C: Clock> {
    regs: Registers<R>,
    clock: C,
    /// The time of the last poll: exact enough for deadlines of seconds.
    now: Instant,
    patience: Patience,
    admin: Admin,
    io: Vec<IoQueue>,
    requests: Requests,
    lists: Lists,
    data: Option<ControllerData>,
    disks: Vec<Disk>,
    namespaces: Vec<Namespace>,
    /// By disk, what its users have not been told.
    events: Vec<Option<DiskEvent>>,
    /// Namespace ids of the list that is being gone through.
    found: heapless::Vec<u32, { identify::MAX_NAMESPACES }>,
    counters: DiskCounters,
    health: Health,
    /// Why it is out of service as soon as it has stopped.
    doomed: Option<Failure>,
    /// Resets without a completed command since.
    attempts: u8,
    /// Whether it has been in service.
    served_before: bool,
    next_tick: Instant,
    /// When the first waiting slot is to be repeated.
    next_retry: Option<Instant>,
}

impl<R: Mmio, C: Clock> Controller for Nvme<R, C> {
    fn disks(&self) -> &[Disk] {
        &self.disks
    }

    fn submit(&mut self, disk: DiskId, command: &Command<'_>) -> Result<(), SubmitError> {
        self.submit_command(disk, command)
    }

    fn kick(&mut self) {
        if self.health == Health::Running {
            for queue in &mut self.io {
                queue.pair.kick(&self.regs);
            }
        }
    }

    fn poll(&mut self, now: Instant, done: Done<'_>) {
        self.now = now;
        if self.health == Health::Running {
            self.reap(done);
        }
        self.serve_admin(done);
        if self.health == Health::Running {
            self.retry_waiting();
            if self.now >= self.next_tick {
                self.tick();
            }
            for queue in &mut self.io {
                queue.pair.kick(&self.regs);
            }
        }
        if matches!(self.health, Health::Failed(_) | Health::Stopped) {
            self.answer_all(done);
        }
    }

    fn in_flight(&self) -> usize {
        self.requests.in_use()
    }

    fn take_event(&mut self) -> Option<DiskEvent> {
        self.events.iter_mut().find_map(Option::take)
    }

    fn is_ready(&self) -> bool {
        self.health == Health::Running && self.io.iter().any(|queue| queue.pair.is_ready())
    }

    fn enable_interrupts(&mut self) -> bool {
        match self.health {
            Health::Running => {}
            Health::Recovering => return false,
            Health::Failed(_) | Health::Stopped => return self.in_flight() > 0,
            Health::Stuck(_) => return false,
        }
        // An interrupt line stays asserted until the controller knows that completions were taken.
        for queue in &mut self.io {
            queue.pair.acknowledge(&self.regs);
        }
        self.admin.queue.is_ready() || self.is_ready()
    }

    fn next_deadline(&self) -> Option<Instant> {
        match self.health {
            Health::Running => Some(self.next_retry.map_or(self.next_tick, |at| at.min(self.next_tick))),
            Health::Recovering => Some(self.now.saturating_add(STEP)),
            Health::Failed(_) | Health::Stopped if self.in_flight() > 0 => Some(self.now),
            Health::Failed(_) | Health::Stopped | Health::Stuck(_) => None,
        }
    }

    fn health(&self) -> Health {
        self.health
    }

    fn counters(&self) -> DiskCounters {
        self.counters
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

impl<R: Mmio, C: Clock> Drop for Nvme<R, C> {
    fn drop(&mut self) {
        if !matches!(self.health, Health::Failed(_) | Health::Stopped) {
            self.shut_down();
        }
        if self.health != Health::Stopped {
            // It may still do DMA: its memory must never be used for anything else.
            self.admin.leak();
            self.lists.leak();
            for queue in &self.io {
                queue.pair.leak();
            }
        }
    }
}
