//! The domain: start, event loop, end.
//!
//! One turn of the loop serves the control plane if it has something to do and lets the data plane take
//! completions and requests. Only when nothing moved are controllers and frontends asked for an event each, and
//! then the domain sleeps in one hypercall.

use core::fmt;
use core::time::Duration;

use xen_pv_rt::control::Request;
use xen_pv_rt::control_plane::ControlPlane;
use xen_pv_rt::hyp::{DmaError, Instant, Platform};
use xen_pv_rt::task::{Tasks, block_on};

use crate::config::{Config, ConfigError};
use crate::controllers::{NoControllers, PciControllers};
use crate::patience::Patience;
use crate::scan;
use crate::vbd::{Blkback, Options, Turn};
use crate::volume::listing;

/// How long frontends may take to let go when the domain shuts down.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);

/// Turns for which a reading of the clock serves. A turn without a sleep takes well below a millisecond.
const TIME_TURNS: u32 = 8;
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
    blkback: Blkback<H>,
    patience: Patience,
    /// The time, as of some turns ago: reading the clock can be an exit to Xen.
    now: Instant,
    /// Turns since then.
    age: u32,
}

impl<H: Platform> Domain<H> {
    /// Reads the command line, starts the controllers, reads the tables on their disks, and begins to serve
    /// vbds.
    ///
    /// # Errors
    /// [`StartError`]: one line that says what is wrong with the domain's configuration.
    pub fn start(hyp: H, command_line: &str) -> Result<Self, StartError> {
        let config = Config::parse(command_line).map_err(StartError::Config)?;
        log::set_max_level(config.log);
        let mut controllers =
            block_on(&hyp, PciControllers::start(&hyp, config.disk_timeout)).map_err(StartError::Controllers)?;
        let disks = controllers.disks();
        let catalogue = block_on(&hyp, scan::catalogue(&hyp, &mut controllers, disks)).map_err(StartError::Memory)?;
        let tasks = Tasks::new();
        let lines = catalogue.lines();
        lines.iter().for_each(|line| log::info!("{line}"));
        let xs = hyp.clone();
        tasks.spawn(async move { listing::publish(&xs, lines).await });
        let options = Options { budget: config.budget, ..Options::default() };
        let blkback = Blkback::new(hyp.clone(), tasks.clone(), catalogue, &options);
        blkback.spawn_hotplug();
        let control = ControlPlane::new(hyp.clone(), tasks);
        let now = hyp.now();
        Ok(Self { hyp, control, controllers, blkback, patience: Patience::default(), now, age: 0 })
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
        if self.age >= TIME_TURNS {
            self.read_clock();
        }
        self.age = self.age.saturating_add(1);
        let request = self.control.poll(self.now);
        let turn = self.blkback.poll(self.now, &mut self.controllers);
        while let Some((disk, sectors, present)) = self.controllers.take_event() {
            self.blkback.disk_changed(disk, sectors, present);
        }
        if turn == Turn::Idle && request.is_none() {
            self.sleep(until);
        }
        request
    }

    /// Sleeps, unless something arrives while everybody is asked for an event.
    fn sleep(&mut self, until: Option<Instant>) {
        let busy = self.controllers.is_busy();
        if busy {
            self.read_clock();
        }
        let asleep = self.now;
        if busy && self.look() {
            return;
        }
        // Frontends first: asking them costs no exit to Xen.
        if self.blkback.arm() == Turn::Busy || self.control.is_dirty() || self.controllers.arm() {
            return;
        }
        let deadlines = [until, self.control.deadline(), Some(self.controllers.next_poll())];
        self.hyp.wait(deadlines.into_iter().flatten().min());
        self.read_clock();
        if busy {
            self.patience.learn(self.now.saturating_since(asleep));
        }
    }

    /// Looks for completions and requests for as long as fast disks make it worth while. Returns whether there
    /// are any.
    fn look(&mut self) -> bool {
        let window = self.patience.window();
        let end = self.now.saturating_add(window);
        while !window.is_zero() && self.now < end {
            for _ in 0..LOOKS {
                if self.controllers.is_ready() || self.blkback.has_requests() {
                    return true;
                }
                core::hint::spin_loop();
            }
            self.read_clock();
        }
        false
    }

    fn read_clock(&mut self) {
        (self.now, self.age) = (self.hyp.now(), 0);
    }
}
