//! A driver domain on the fake Xen: toolstack, guests, a wire, and the domain's event loop.
//!
//! The loop sleeps as the real one does: it runs only when an event, xenstored or a deadline wakes it, so a
//! lost wake-up leaves a test hanging until its limit.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use fake_xen::{DeviceId, FakeHyp, FakeXen, Netfront, NetfrontOptions, Toolstack, Usage, VifConfig};
use netback_dom::config::Config;
use netback_dom::dataplane::{Memory, Turn};
use netback_dom::frame::TailPool;
use netback_dom::netback::{Netback, Options};
use netback_dom::publish::{Board, publish};
use netback_dom::switch::bridges::Bridges;
use xen_pv_rt::hyp::{Clock, Dma, Domid, Instant, MemoryUse, Xenstore};
use xen_pv_rt::task::Tasks;

use crate::packets::{REMOTE, frame};
use crate::wire::{Wire, Wires};

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

    /// Creates a domain with a vif, without letting time pass.
    pub fn add(&mut self, options: NetfrontOptions) -> Guest {
        let guest = self.fronts.len();
        let domid = self.toolstack.create_domain(&format!("guest{guest}"));
        let device = self.toolstack.create_vif(domid, 0, &Self::vif_config(guest));
        self.fronts.push(Netfront::new(&self.xen, device, options));
        guest
    }

    /// Creates a domain with a vif that has these keys, without letting time pass.
    pub fn add_with_keys(&mut self, keys: &[(&str, &str)]) -> Guest {
        let guest = self.fronts.len();
        let mut config = Self::vif_config(guest);
        for (key, value) in keys {
            match *key {
                "bridge" => config.bridge = (*value).to_string(),
                key => config.more.push((key.to_string(), (*value).to_string())),
            }
        }
        let domid = self.toolstack.create_domain(&format!("guest{guest}"));
        let device = self.toolstack.create_vif(domid, 0, &config);
        self.fronts.push(Netfront::new(&self.xen, device, NetfrontOptions::default()));
        guest
    }

    /// Creates a domain with a vif that has these keys and waits until it is connected.
    pub fn guest_keyed(&mut self, keys: &[(&str, &str)]) -> Guest {
        let guest = self.add_with_keys(keys);
        self.until("the guest is connected", |rig| rig.is_connected(guest));
        guest
    }

    /// A vif is refused for `cause`, in one line that holds `word`, and nothing is held for it.
    pub fn assert_refused(&mut self, guest: Guest, cause: &str, word: &str) {
        self.until("the vif is refused", |rig| rig.fronts[guest].backend_state() == 6);
        let lines = self.lines(guest, cause);
        assert_eq!(lines.len(), 1, "{}", self.state());
        assert!(lines[0].contains("action=refuse") && lines[0].contains(word), "{lines:?}");
        assert_eq!(self.backend_key(guest, "hotplug-status").as_deref(), Some("error"));
    }

    pub fn vif_config(guest: Guest) -> VifConfig {
        let [a, b, c, d, e, f] = Self::mac(guest);
        VifConfig { mac: format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}"), ..VifConfig::default() }
    }

    /// Creates a domain with a vif that the toolstack says more about, and waits until it is connected.
    pub fn guest_with_keys(&mut self, options: NetfrontOptions, keys: &[(&str, &str)]) -> Guest {
        let guest = self.fronts.len();
        let domid = self.toolstack.create_domain(&format!("guest{guest}"));
        let more = keys.iter().map(|(key, value)| ((*key).to_string(), (*value).to_string())).collect();
        let config = VifConfig { more, ..Self::vif_config(guest) };
        let device = self.toolstack.create_vif(domid, 0, &config);
        self.fronts.push(Netfront::new(&self.xen, device, options));
        self.until("the guest is connected", |rig| rig.is_connected(guest));
        guest
    }

    /// Creates a domain with a vif and waits until it is connected.
    pub fn guest_with(&mut self, options: NetfrontOptions) -> Guest {
        let guest = self.add(options);
        self.until("the guest is connected", |rig| rig.is_connected(guest));
        guest
    }

    pub fn guest(&mut self) -> Guest {
        self.guest_with(NetfrontOptions::default())
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
                self.board.post(self.wire.reports(), self.netback.reports());
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

    /// Two guests that trade packets, the first of which is about to misbehave.
    pub fn attacker_and_victim() -> (Self, Guest, Guest) {
        let mut rig = Self::new();
        let (attacker, victim) = (rig.guest(), rig.guest());
        rig.assert_works(attacker);
        rig.assert_works(victim);
        (rig, attacker, victim)
    }

    /// A guest exchanges packets with the wire.
    pub fn assert_works(&mut self, guest: Guest) {
        let out = frame(REMOTE, Self::mac(guest), 300, 1);
        let back = frame(Self::mac(guest), REMOTE, 300, 2);
        self.fronts[guest].take_answers();
        self.fronts[guest].receive_all();
        let sent = self.wire.sent.len();
        let id = self.fronts[guest].send(&out);
        self.until("the packet is answered", |rig| rig.fronts[guest].tx_unanswered() == 0);
        let answers = self.fronts[guest].take_answers();
        assert_eq!(answers.iter().map(|answer| (answer.id, answer.status)).collect::<Vec<_>>(), [(id, 0)]);
        assert_eq!(
            self.wire.sent.get(sent).map(|sent| &sent.bytes),
            Some(&out),
            "guest {guest} does not reach the wire"
        );
        self.wire.inject(&back);
        self.run(Duration::from_millis(20));
        let received: Vec<_> = self.fronts[guest].receive_all().into_iter().map(|packet| packet.bytes).collect();
        assert_eq!(received, [back], "the wire does not reach guest {guest}");
    }

    /// The attacker is taken out of service for `cause`, once and with one line; nothing of it is left; the
    /// victim does not notice; and when the frontend starts over it is served again.
    pub fn assert_killed(&mut self, attacker: Guest, victim: Guest, cause: &str) {
        self.until("the attacker is closed", |rig| rig.fronts[attacker].backend_state() == 6);
        self.until("the attacker has its pages back", |rig| !rig.fronts[attacker].is_connected());
        let lines = self.lines(attacker, cause);
        assert_eq!(lines.len(), 1, "{}", self.state());
        assert!(lines[0].contains("action=kill"), "{lines:?}");
        assert!(self.error_node(attacker).is_some_and(|text| text.contains(cause)), "{}", self.state());
        let usage = self.usage();
        assert_eq!((usage.mapped, usage.ports), (2, 2), "what the victim has is what there is");
        self.assert_works(victim);
        self.fronts[attacker].reopen();
        self.until("the attacker is connected again", |rig| rig.is_connected(attacker));
        self.assert_works(attacker);
        self.assert_works(victim);
    }

    /// The attacker's packet is dropped for `cause`: each of its `slots` requests is answered with an error, one line is
    /// logged, and everybody goes on.
    pub fn assert_dropped(&mut self, attacker: Guest, victim: Guest, cause: &str, slots: usize) {
        self.until("the slots are answered", |rig| rig.fronts[attacker].tx_unanswered() == 0);
        let answers: Vec<i16> = self.fronts[attacker].take_answers().iter().map(|answer| answer.status).collect();
        assert_eq!(answers, vec![-1; slots]);
        // A line may wait for its second.
        self.run(Duration::from_millis(1100));
        let lines = self.lines(attacker, cause);
        assert_eq!(lines.len(), 1, "{}", self.state());
        assert!(lines[0].contains("action=drop"), "{lines:?}");
        assert!(self.is_connected(attacker));
        self.assert_works(attacker);
        self.assert_works(victim);
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
