//! A driver domain on the fake Xen: toolstack, guests, a wire, and the domain's event loop.
//!
//! The loop sleeps as the real one does: it runs only when an event, xenstored or a deadline wakes it, so a
//! lost wake-up leaves a test hanging until its limit.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use fake_xen::{DeviceId, FakeHyp, FakeXen, Netfront, Toolstack, Usage};
use netback_dom::config::Config;
use netback_dom::dataplane::{Memory, Turn};
use netback_dom::frame::TailPool;
use netback_dom::netback::{Netback, Options};
use netback_dom::publish::{Board, Work, publish};
use netback_dom::switch::bridges::Bridges;
use xen_pv_rt::hyp::{Clock, Dma, Domid, Instant, MemoryUse, Xenstore};
use xen_pv_rt::task::Tasks;

use crate::wire::{Wire, Wires};

mod guests;
mod verdicts;

/// How far time moves per step.
const TICK: Duration = Duration::from_millis(1);
/// How far at most while the domain sleeps.
const IDLE_TICK: Duration = Duration::from_millis(10);
/// Turns of the domain in one step, after which the others have their turn.
const TURNS: usize = 64;
/// How long anything may take.
const LIMIT: Duration = Duration::from_secs(30);

thread_local! {
    static LOG: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
    static SEVERE: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Settings of a property test: `count` cases, or as many as `CASES` in the environment says.
pub fn cases(count: u32) -> proptest::test_runner::Config {
    let count = std::env::var("CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(count);
    proptest::test_runner::Config {
        cases: count,
        max_shrink_iters: 400,
        failure_persistence: None,
        ..Default::default()
    }
}

struct Capture;

impl log::Log for Capture {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }
    fn log(&self, record: &log::Record<'_>) {
        LOG.with_borrow_mut(|log| log.push(record.args().to_string()));
        if record.level() <= log::Level::Warn {
            SEVERE.with_borrow_mut(|log| log.push(record.args().to_string()));
        }
    }
    fn flush(&self) {}
}

/// Everything.
pub struct Rig {
    pub xen: FakeXen,
    pub toolstack: Toolstack,
    pub wire: Wire,
    /// Further cards.
    pub more_wires: Vec<Wire>,
    pub fronts: Vec<Netfront>,
    pub netback: Netback<FakeHyp>,
    pub buffers: xen_pv_rt::hyp::DmaPool,
    board: Rc<Board>,
    tasks: Tasks,
    hyp: FakeHyp,
    wake_at: Option<Instant>,
    /// Set while the domain sleeps: until when.
    asleep: Option<Option<Instant>>,
}

/// The number of a guest in [`Rig::fronts`].
pub type Guest = usize;

impl Rig {
    pub fn new() -> Self {
        Self::with_buffers(512)
    }

    pub fn with_buffers(count: usize) -> Self {
        Self::with(count, 1, Options::default())
    }

    /// A domain that was started with these options and so many cards.
    pub fn with_options(words: &str, cards: u8) -> Self {
        let config = Config::parse(words).unwrap();
        let bridges = Bridges::new(config.bridges.clone(), cards).unwrap();
        Self::with(512, cards, config.options(bridges))
    }

    fn with(count: usize, cards: u8, options: Options) -> Self {
        // The first test of the process sets it; lines go to the thread that runs the test.
        let _ = log::set_logger(&Capture);
        log::set_max_level(log::LevelFilter::Info);
        LOG.with_borrow_mut(Vec::clear);
        SEVERE.with_borrow_mut(Vec::clear);
        let xen = FakeXen::new();
        let toolstack = Toolstack::new(&xen);
        let hyp = xen.hyp();
        let tasks = Tasks::new();
        let buffers = hyp.dma_pool(count).unwrap();
        let memory = Memory { buffers: buffers.clone(), tails: TailPool::new(64), held_pages: count / 2 };
        let bridges = options.policy.bridges.clone();
        let mut netback = Netback::new(hyp.clone(), tasks.clone(), memory, options);
        (0..cards).for_each(|card| netback.add_uplink(bridges.of_card(card).unwrap()));
        netback.spawn_hotplug();
        let wire = Wire::new(hyp.dma_pool(64).unwrap());
        let more_wires = (1..cards).map(|_| Wire::new(hyp.dma_pool(64).unwrap())).collect();
        let fronts = Vec::new();
        let wake_at = Some(Instant::default());
        let board = Rc::default();
        Self { xen, toolstack, wire, more_wires, fronts, netback, buffers, board, tasks, hyp, wake_at, asleep: None }
    }

    /// From now on, counters are published in xenstore.
    pub fn publish(&mut self) {
        let memory = || MemoryUse { total: 4096, used: 1024, heap_bytes: 5000 };
        self.tasks.spawn(publish(self.hyp.clone(), self.board.clone(), memory));
    }

    /// A node of the published statistics.
    pub fn statistics(&self, node: &str) -> Option<String> {
        self.xen.read_store(&format!("/local/domain/{}/data/statistics/{node}", self.xen.backend()))
    }

    /// The MAC address of a guest made by [`Self::guest`].
    pub fn mac(guest: Guest) -> [u8; 6] {
        [0, 0x16, 0x3e, 0, 1, u8::try_from(guest).unwrap()]
    }

    pub fn is_connected(&self, guest: Guest) -> bool {
        self.fronts[guest].backend_state() == 4 && self.fronts[guest].state() == 4
    }

    pub fn device(&self, guest: Guest) -> DeviceId {
        self.fronts[guest].device()
    }

    pub fn domid(&self, guest: Guest) -> Domid {
        self.device(guest).frontend
    }

    /// A key of a guest's backend directory.
    pub fn backend_key(&self, guest: Guest, key: &str) -> Option<String> {
        self.xen.read_store(&format!("{}/{key}", self.toolstack.backend_path(&self.device(guest))))
    }

    /// What the xenbus `error` node says about a guest's vif.
    pub fn error_node(&self, guest: Guest) -> Option<String> {
        self.xen.read_store(&format!("/local/domain/{}/error/{}/error", self.xen.backend(), self.device(guest)))
    }

    /// One step of everything.
    pub fn step(&mut self) {
        self.step_until(self.xen.now().saturating_add(TICK));
    }

    /// One step of everything. While nobody has anything to do, time moves faster, but not beyond `end`.
    fn step_until(&mut self, end: Instant) {
        for front in &mut self.fronts {
            front.step();
        }
        self.toolstack.step();
        self.run_domain();
        let now = self.xen.now();
        let quiet = !self.xen.driver_wakes() && !self.has_interrupt();
        let next = match self.asleep {
            Some(deadline) if quiet => deadline.unwrap_or(end).min(end).min(now.saturating_add(IDLE_TICK)),
            _ => now,
        };
        self.xen.advance(next.saturating_since(now).max(TICK));
    }

    /// Lets `time` pass.
    pub fn run(&mut self, time: Duration) {
        let end = self.xen.now().saturating_add(time);
        while self.xen.now() < end {
            self.step_until(end);
        }
        // What arrived last is looked at.
        self.fronts.iter_mut().for_each(Netfront::step);
    }

    /// Lets time pass until something is so.
    pub fn until(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        let end = self.xen.now().saturating_add(LIMIT);
        while !done(self) {
            assert!(self.xen.now() < end, "not within {LIMIT:?}: {what}\n{}", self.state());
            self.step_until(end);
        }
    }

    /// One turn of the domain's event loop, or several as long as there is work.
    fn run_domain(&mut self) {
        if let Some(deadline) = self.asleep {
            let due = deadline.is_some_and(|at| self.xen.now() >= at);
            if !due && !self.xen.driver_wakes() && !self.has_interrupt() {
                return;
            }
            self.asleep = None;
        }
        for _ in 0..TURNS {
            self.poll_tasks();
            if self.board.is_asked() {
                self.board.post(Work::default(), self.wire.reports(), self.netback.reports());
            }
            let mut wires = Wires(&mut self.wire, &mut self.more_wires);
            if self.netback.poll(&mut wires, self.hyp.now()) == Turn::Busy {
                continue;
            }
            if self.netback.arm() == Turn::Busy || self.tasks.is_dirty() {
                continue;
            }
            self.asleep = Some([self.wake_at, self.netback.next_deadline(self.hyp.now())].into_iter().flatten().min());
            return;
        }
    }

    fn has_interrupt(&self) -> bool {
        self.wire.has_interrupt() || self.more_wires.iter().any(Wire::has_interrupt)
    }

    fn poll_tasks(&mut self) {
        let now = self.hyp.now();
        if self.hyp.poll(now) || self.tasks.is_dirty() || self.wake_at.is_some_and(|at| now >= at) {
            self.tasks.poll();
            self.wake_at = self.hyp.take_wake_at();
        }
    }

    /// The log so far.
    pub fn log(&self) -> Vec<String> {
        LOG.with_borrow(Vec::clone)
    }

    /// Its warnings and errors.
    pub fn severe(&self) -> Vec<String> {
        SEVERE.with_borrow(Vec::clone)
    }

    /// Log lines about one guest and cause.
    pub fn lines(&self, guest: Guest, cause: &str) -> Vec<String> {
        let device = self.device(guest);
        let (domid, devid) = (format!(" dom={} ", device.frontend), format!(" dev={} ", device.devid));
        let cause = format!(" cause={cause} ");
        self.log().into_iter().filter(|line| [&domid, &devid, &cause].iter().all(|part| line.contains(*part))).collect()
    }

    /// What the domain holds.
    pub fn usage(&self) -> Usage {
        self.xen.usage()
    }

    /// All there is to know, for messages.
    pub fn state(&self) -> String {
        let mut text = String::new();
        for (path, value) in self.xen.dump_store("/local/domain") {
            text += &format!("{path} = {value:?}\n");
        }
        for line in self.log() {
            text += &format!("log: {line}\n");
        }
        text
    }
}
