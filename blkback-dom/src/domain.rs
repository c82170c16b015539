//! The domain: start, event loop, end.
//!
//! One turn of the loop serves the control plane if it has something to do and lets the data plane take
//! completions and requests. Only when nothing moved are controllers and frontends asked for an event each, and
//! then the domain sleeps in one hypercall.

use alloc::rc::Rc;
use core::fmt;
use core::time::Duration;

use xen_pv_rt::control::Request;
use xen_pv_rt::control_plane::ControlPlane;
use xen_pv_rt::hyp::{Copied, DmaError, Instant, MemoryUse, Platform};
use xen_pv_rt::task::{Tasks, block_on};
use xen_pv_rt::timekeeper::Timekeeper;

use crate::config::{Config, ConfigError};
use crate::controllers::{NoControllers, PciControllers};
use crate::errand::{self, Errand, WithErrand};
use crate::patience::Patience;
use crate::publish::{Board, VbdReport, Work, publish};
use crate::vbd::{Blkback, Options, Turn};
use crate::volume::Catalogue;
use crate::{rescan, scan};

/// How long frontends may take to let go when the domain shuts down.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);

/// How long requests may wait for commands at the disks to be answered.
const MOST_PATIENCE: Duration = Duration::from_millis(10);
/// Looks for a completion for each reading of the clock.
const LOOKS: u32 = 32;

/// Why the domain does not serve.
#[derive(Debug)]
pub enum StartError {
    /// The command line.
    Config(ConfigError),
    /// The controllers.
    Controllers(NoControllers),
    /// The memory for buffers.
    Memory(DmaError),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(error) => error.fmt(f),
            Self::Controllers(error) => error.fmt(f),
            Self::Memory(error) => error.fmt(f),
        }
    }
}

/// The domain in service.
pub struct Domain<H: Platform> {
    hyp: H,
    control: ControlPlane<H>,
    controllers: PciControllers<H>,
    errand: Rc<Errand>,
    blkback: Blkback<H>,
    board: Rc<Board>,
    patience: Patience,
    time: Timekeeper<H>,
    /// Sleeps that ended with something to do.
    wakeups: u64,
    /// It has slept since there was something to do.
    slept: bool,
}

impl<H: Platform> Domain<H> {
    /// Reads the command line, starts the controllers, reads the tables on their disks, and begins to serve
    /// vbds. `memory_use` is asked when that is reported.
    ///
    /// # Errors
    /// [`StartError`]: one line that says what is wrong with the domain's configuration.
    pub fn start(hyp: H, command_line: &str, memory_use: fn() -> MemoryUse) -> Result<Self, StartError> {
        let config = Config::parse(command_line).map_err(StartError::Config)?;
        log::set_max_level(config.log);
        let mut controllers =
            block_on(&hyp, PciControllers::start(&hyp, config.disk_timeout)).map_err(StartError::Controllers)?;
        let tasks = Tasks::new();
        let errand = Rc::new(Errand::new(tasks.signal()));
        let pages = hyp.dma_pool(errand::PAGES).map_err(StartError::Memory)?;
        let known = Catalogue { disks: controllers.disks(), ..Catalogue::default() };
        // Nobody else is served yet.
        let survey = scan::survey(&errand, &pages, &known, &|_| true);
        let catalogue = block_on(&hyp, errand.serve(&hyp, &mut controllers, survey));
        let lines = catalogue.lines();
        lines.iter().for_each(|line| log::info!("{line}"));
        let options = Options { budget: config.budget, ..Options::default() };
        let blkback = Blkback::new(hyp.clone(), tasks.clone(), catalogue, &options);
        blkback.spawn_hotplug();
        let board = Rc::new(Board::default());
        tasks.spawn(publish(hyp.clone(), board.clone(), memory_use));
        tasks.spawn(rescan::follow(hyp.clone(), blkback.clone(), errand.clone(), pages, lines));
        let control = ControlPlane::new(hyp.clone(), tasks);
        let time = Timekeeper::new(hyp.clone());
        let patience = Patience::default();
        Ok(Self { hyp, control, controllers, errand, blkback, board, patience, time, wakeups: 0, slept: false })
    }

    /// Serves until the toolstack asks for the end, and says how.
    ///
    /// `each_turn` is called once per turn of the loop.
    pub fn serve(&mut self, each_turn: impl Fn()) -> Request {
        loop {
            each_turn();
            if let Some(request) = self.turn(None) {
                return request;
            }
        }
    }

    /// Closes every vbd, stops the controllers and lets go of them, for the end of the domain.
    pub fn stop(mut self) {
        self.blkback.stop();
        let deadline = self.hyp.now().saturating_add(STOP_TIMEOUT);
        while !self.blkback.is_stopped() && self.hyp.now() < deadline {
            // Stopping already: whatever else is asked for comes too late.
            let _ = self.turn(Some(deadline));
        }
        // Tells the disks to write out their caches.
        self.controllers.stop();
    }

    /// One turn of the loop, which sleeps no longer than `until`. Returns what the toolstack asked for.
    fn turn(&mut self, until: Option<Instant>) -> Option<Request> {
        self.time.begin_turn();
        let request = self.control.poll(self.time.now());
        if self.board.is_asked() {
            self.post();
        }
        let mut controllers = WithErrand { controllers: &mut self.controllers, errand: &self.errand };
        let turn = self.blkback.poll(self.time.now(), &mut controllers);
        while let Some(disk) = self.controllers.take_event() {
            self.blkback.disk_changed(disk);
        }
        match turn {
            Turn::Busy => self.wakeups = self.wakeups.wrapping_add(u64::from(core::mem::take(&mut self.slept))),
            Turn::Idle if request.is_none() => self.sleep(until),
            Turn::Idle => {}
        }
        request
    }

    /// Leaves the latest numbers for those who report them.
    fn post(&mut self) {
        let Copied { calls: copy_calls, operations: copies } = self.blkback.copied();
        let vbds = self.blkback.counters().into_iter();
        let vbds = vbds.map(|(frontend, devid, counters)| VbdReport { frontend, devid, counters });
        let work = Work { wakeups: self.wakeups, copy_calls, copies };
        self.board.post(work, self.controllers.reports(), vbds.collect());
    }

    /// Sleeps, unless something arrives while everybody is asked for an event.
    fn sleep(&mut self, until: Option<Instant>) {
        let (busy, idle_since) = (self.controllers.is_busy(), self.time.now());
        if busy && self.look() {
            return;
        }
        // Frontends first: asking them costs no exit to Xen.
        if self.blkback.arm() == Turn::Busy || self.control.is_dirty() || self.controllers.arm() {
            return;
        }
        let patience = self.blkback.is_patient().then(|| self.time.now().saturating_add(MOST_PATIENCE));
        let deadlines = [until, self.control.deadline(), Some(self.controllers.next_poll()), patience];
        self.hyp.wait(deadlines.into_iter().flatten().min());
        // An event that was there already says nothing about how long a disk takes.
        self.slept = self.time.note_wake_up();
        if self.slept && busy {
            self.patience.learn(self.time.now().saturating_since(idle_since));
        }
    }

    /// Looks for completions and requests for as long as fast disks make it worth while. Returns whether there
    /// are any.
    fn look(&mut self) -> bool {
        let window = self.patience.window();
        if window.is_zero() {
            return false;
        }
        self.time.read();
        let end = self.time.now().saturating_add(window);
        while self.time.now() < end {
            for _ in 0..LOOKS {
                if self.controllers.is_ready() || self.blkback.has_requests() {
                    return true;
                }
                core::hint::spin_loop();
            }
            self.time.read();
        }
        false
    }
}
