//! A driver domain on the fake Xen: toolstack, guests, disks in memory, and the domain's event loop.
//!
//! The loop sleeps as the real one does: it runs only when an event, xenstored, a disk or a deadline wakes it,
//! so a lost wake-up leaves a test hanging until its limit.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use blkback_dom::disk::Controller;
use blkback_dom::errand::{self, Errand, WithErrand};
use blkback_dom::rescan;
use blkback_dom::vbd::{Blkback, Budget, Controllers, Options, Turn};
use blkback_dom::volume::Catalogue;
use fake_xen::{
    BlkRequest, BlkSegment, Blkfront, BlkfrontOptions, DeviceId, FakeHyp, FakeXen, Page, Toolstack, Usage, VbdConfig,
};
use xen_pv_rt::hyp::{Access, Clock, Dma, Instant, Xenstore};
use xen_pv_rt::task::Tasks;

use crate::ram::{RamDisk, disk};

const TICK: Duration = Duration::from_millis(1);
/// Turns of the domain in one step, after which the others have their turn.
const TURNS: usize = 64;
/// How long requests may wait for answers of the disks.
const PATIENCE: Duration = Duration::from_millis(10);
/// How long anything may take.
const LIMIT: Duration = Duration::from_secs(30);

/// Sectors of the first disk.
pub const DISK: u64 = 4096;

thread_local! {
    static LOG: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

struct Capture;

impl log::Log for Capture {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }
    fn log(&self, record: &log::Record<'_>) {
        LOG.with_borrow_mut(|log| log.push(record.args().to_string()));
    }
    fn flush(&self) {}
}

pub struct Rig {
    pub xen: FakeXen,
    pub toolstack: Toolstack,
    pub ram: RamDisk,
    /// Controllers that serve in place of `ram`.
    pub instead: Option<Box<dyn Controllers>>,
    pub fronts: Vec<Blkfront>,
    pub blkback: Blkback<FakeHyp>,
    errand: Rc<Errand>,
    tasks: Tasks,
    hyp: FakeHyp,
    wake_at: Option<Instant>,
    asleep: Option<Option<Instant>>,
    next_id: u64,
}

/// The number of a guest in [`Rig::fronts`].
pub type Guest = usize;

impl Rig {
    /// Two disks: `nvme0n1` with 512-byte sectors and `nvme0n2` with 4096-byte ones.
    pub fn new() -> Self {
        Self::with(Budget::default(), |_| {})
    }

    pub fn with(budget: Budget, change: impl FnOnce(&mut Catalogue)) -> Self {
        let _ = log::set_logger(&Capture);
        log::set_max_level(log::LevelFilter::Info);
        LOG.with_borrow_mut(Vec::clear);
        let xen = FakeXen::new();
        let toolstack = Toolstack::new(&xen);
        let hyp = xen.hyp();
        let tasks = Tasks::new();
        let ram = RamDisk::new(xen.memory(), vec![disk(1, DISK, 512), disk(2, 1024, 4096)]);
        let mut catalogue = Catalogue { disks: ram.named(), ..Catalogue::default() };
        change(&mut catalogue);
        let options = Options { budget, ..Options::default() };
        let blkback = Blkback::new(hyp.clone(), tasks.clone(), catalogue, &options);
        blkback.spawn_hotplug();
        let wake_at = Some(Instant::default());
        let errand = Rc::new(Errand::new(tasks.signal()));
        Self {
            xen,
            toolstack,
            ram,
            instead: None,
            fronts: Vec::new(),
            blkback,
            errand,
            tasks,
            hyp,
            wake_at,
            asleep: None,
            next_id: 1000,
        }
    }

    /// Has the domain read the tables on its disks again when Dom0 asks, which [`rescan`](Self::rescan) does.
    pub fn follow_rescans(&mut self) {
        let buffers = self.hyp.dma_pool(errand::PAGES).unwrap();
        let lines = self.blkback.catalogue().lines();
        let follow = rescan::follow(self.hyp.clone(), self.blkback.clone(), self.errand.clone(), buffers, lines);
        self.tasks.spawn(follow);
        self.wake();
    }

    /// Asks for the tables to be read again, and waits until they were.
    pub fn rescan(&mut self) {
        let path = self.ask_to_rescan();
        self.until("the tables are read", |rig| rig.xen.read_store(&path).is_none());
    }

    /// Asks for it. The path is gone when it is done.
    pub fn ask_to_rescan(&mut self) -> String {
        let path = format!("/local/domain/{}/data/rescan", self.xen.backend());
        self.xen.write_store(&path, "1");
        path
    }

    /// Creates a domain with a vbd, without letting time pass.
    pub fn add(&mut self, config: &VbdConfig, options: BlkfrontOptions) -> Guest {
        let guest = self.fronts.len();
        let domid = self.toolstack.create_domain(&format!("guest{guest}"));
        let device = self.toolstack.create_vbd(domid, 51712, config);
        self.fronts.push(Blkfront::new(&self.xen, device, options));
        guest
    }

    pub fn guest_with(&mut self, config: &VbdConfig, options: BlkfrontOptions) -> Guest {
        let guest = self.add(config, options);
        self.until("the guest is connected", |rig| rig.is_connected(guest));
        guest
    }

    /// A guest with a slice of the first disk, 1024 sectors from `1024 * number` on.
    pub fn guest(&mut self) -> Guest {
        let start = self.fronts.len() * 1024;
        self.guest_on(&format!("nvme0n1@{start}+1024"))
    }

    pub fn guest_on(&mut self, target: &str) -> Guest {
        self.guest_with(&target_config(target), BlkfrontOptions::default())
    }

    pub fn is_connected(&self, guest: Guest) -> bool {
        self.fronts[guest].backend_state() == 4 && self.fronts[guest].state() == 4
    }

    pub fn device(&self, guest: Guest) -> DeviceId {
        self.fronts[guest].device()
    }

    pub fn error_node(&self, guest: Guest) -> Option<String> {
        self.xen.read_store(&format!("/local/domain/{}/error/{}/error", self.xen.backend(), self.device(guest)))
    }

    pub fn step(&mut self) {
        for front in &mut self.fronts {
            front.step();
        }
        self.toolstack.step();
        self.run_domain();
        self.xen.advance(TICK);
    }

    pub fn run(&mut self, time: Duration) {
        let end = self.xen.now().saturating_add(time);
        while self.xen.now() < end {
            self.step();
        }
    }

    pub fn until(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        let end = self.xen.now().saturating_add(LIMIT);
        while !done(self) {
            assert!(self.xen.now() < end, "not within {LIMIT:?}: {what}\n{}", self.state());
            self.step();
        }
    }

    fn run_domain(&mut self) {
        if let Some(mut disks) = self.instead.take() {
            self.run_awake(&mut *disks);
            self.instead = Some(disks);
            return;
        }
        if let Some(deadline) = self.asleep {
            let due = deadline.is_some_and(|at| self.xen.now() >= at);
            let interrupt = self.ram.in_flight() > 0 && !self.ram.hold && self.ram.quota != Some(0);
            if !due && !self.xen.driver_wakes() && !interrupt {
                return;
            }
            self.asleep = None;
        }
        for _ in 0..TURNS {
            self.poll_tasks();
            let mut disks = WithErrand { controllers: &mut self.ram, errand: &self.errand };
            if self.blkback.poll(self.hyp.now(), &mut disks) == Turn::Busy {
                continue;
            }
            if self.blkback.arm() == Turn::Busy || self.tasks.is_dirty() || self.ram.enable_interrupts() {
                continue;
            }
            let patience = self.blkback.is_patient().then(|| self.xen.now().saturating_add(PATIENCE));
            self.asleep = Some([self.wake_at, patience].into_iter().flatten().min());
            return;
        }
    }

    /// A step of a domain that does not sleep.
    fn run_awake(&mut self, disks: &mut dyn Controllers) {
        for _ in 0..TURNS {
            self.poll_tasks();
            let mut disks = WithErrand { controllers: &mut *disks, errand: &self.errand };
            let turn = self.blkback.poll(self.hyp.now(), &mut disks);
            if turn == Turn::Idle && self.blkback.arm() == Turn::Idle && !self.tasks.is_dirty() {
                break;
            }
        }
    }

    fn poll_tasks(&mut self) {
        let now = self.hyp.now();
        if self.hyp.poll(now) || self.tasks.is_dirty() || self.wake_at.is_some_and(|at| now >= at) {
            self.tasks.poll();
            self.wake_at = self.hyp.take_wake_at();
        }
    }

    /// The domain is woken by something that the fake machine does not know of.
    pub fn wake(&mut self) {
        self.asleep = None;
    }

    pub fn log(&self) -> Vec<String> {
        LOG.with_borrow(Vec::clone)
    }

    /// Log lines about one guest and cause.
    pub fn lines(&self, guest: Guest, cause: &str) -> Vec<String> {
        let device = self.device(guest);
        let parts =
            [format!(" dom={} ", device.frontend), format!(" dev={} ", device.devid), format!(" cause={cause} ")];
        self.log().into_iter().filter(|line| parts.iter().all(|part| line.contains(part))).collect()
    }

    pub fn usage(&self) -> Usage {
        self.xen.usage()
    }

    pub fn id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// Submits requests and waits for all answers: their statuses in the order of the requests.
    pub fn ask(&mut self, guest: Guest, requests: &[BlkRequest]) -> Vec<i16> {
        self.fronts[guest].take_answers();
        self.fronts[guest].submit(requests);
        self.until("the requests are answered", |rig| rig.fronts[guest].unanswered() == 0);
        let answers = self.fronts[guest].take_answers();
        let status = |request: &BlkRequest| answers.iter().find(|answer| answer.id == request.id()).unwrap().status;
        requests.iter().map(status).collect()
    }

    /// `count` whole pages of a guest's, filled by `fill` with the page's number.
    pub fn pages(&self, guest: Guest, count: usize, fill: impl Fn(usize) -> u8) -> (Vec<BlkSegment>, Vec<Page>) {
        let page = |number| {
            let (gref, page) = self.fronts[guest].page(Access::ReadWrite);
            page.write(0, &[fill(number); 4096]);
            ((gref, 0, 7), page)
        };
        (0..count).map(page).unzip()
    }

    /// Writes `bytes`, whole sectors of at most 11 pages, and waits for the answer.
    pub fn write(&mut self, guest: Guest, sector: u64, bytes: &[u8]) -> i16 {
        let (request, pages) = self.transfer(guest, 1, sector, bytes.len());
        for (page, chunk) in pages.iter().zip(bytes.chunks(4096)) {
            page.write(0, chunk);
        }
        self.ask(guest, &[request])[0]
    }

    /// Reads `len` bytes, whole sectors of at most 11 pages.
    pub fn read(&mut self, guest: Guest, sector: u64, len: usize) -> Result<Vec<u8>, i16> {
        let (request, pages) = self.transfer(guest, 0, sector, len);
        match self.ask(guest, &[request])[0] {
            0 => {
                let mut bytes = vec![0; pages.len() * 4096];
                for (page, chunk) in pages.iter().zip(bytes.chunks_mut(4096)) {
                    page.read(0, chunk);
                }
                bytes.truncate(len);
                Ok(bytes)
            }
            status => Err(status),
        }
    }

    pub fn transfer(&mut self, guest: Guest, operation: u8, sector: u64, len: usize) -> (BlkRequest, Vec<Page>) {
        let (mut segments, pages) = self.pages(guest, len.div_ceil(4096), |_| 0xee);
        if let (Some(last), rest @ 1..) = (segments.last_mut(), len % 4096) {
            last.2 = (rest / 512 - 1) as u8;
        }
        (BlkRequest::direct(operation, self.id(), sector, &segments), pages)
    }

    /// Two guests with slices of their own, the first of which is about to misbehave.
    pub fn attacker_and_victim() -> (Self, Guest, Guest) {
        let mut rig = Self::new();
        let (attacker, victim) = (rig.guest(), rig.guest());
        rig.assert_works(attacker);
        rig.assert_works(victim);
        (rig, attacker, victim)
    }

    /// What a guest writes it reads back.
    pub fn assert_works(&mut self, guest: Guest) {
        let seed = self.id() as u8;
        let bytes: Vec<u8> = (0..3 * 4096 + 512).map(|at| (at / 512) as u8 ^ seed ^ at as u8).collect();
        assert_eq!(self.write(guest, 8, &bytes), 0, "{}", self.state());
        assert_eq!(self.read(guest, 8, bytes.len()), Ok(bytes), "guest {guest}");
        let flush = BlkRequest::flush(self.id());
        assert_eq!(self.ask(guest, &[flush]), [0]);
    }

    /// The attacker's requests are answered with an error for `cause`, at most one line per second is logged,
    /// and everybody goes on.
    pub fn assert_errors(&mut self, attacker: Guest, victim: Guest, cause: &str, requests: &[BlkRequest]) {
        // What was reported before must not suppress the line.
        self.run(Duration::from_millis(1100));
        let status = if cause == "OP" { -2 } else { -1 };
        let before = self.lines(attacker, cause).len();
        let trace = self.ram.trace.len();
        assert_eq!(self.ask(attacker, requests), vec![status; requests.len()], "{}", self.state());
        assert_eq!(self.ram.trace.len(), trace, "a bad request has reached the disk");
        self.run(Duration::from_millis(100));
        let lines = self.lines(attacker, cause);
        assert_eq!(lines.len(), before + 1, "{}", self.state());
        assert!(lines[before].contains("action=err"), "{lines:?}");
        assert!(self.is_connected(attacker));
        self.assert_works(attacker);
        self.assert_works(victim);
    }

    /// The attacker is taken out of service for `cause`, once and with one line; the victim does not notice;
    /// and when the frontend starts over it is served again.
    pub fn assert_killed(&mut self, attacker: Guest, victim: Guest, cause: &str) {
        self.until("the attacker is closed", |rig| rig.fronts[attacker].backend_state() == 6);
        self.until("the attacker has its pages back", |rig| !rig.fronts[attacker].is_connected());
        let lines = self.lines(attacker, cause);
        assert_eq!(lines.len(), 1, "{}", self.state());
        assert!(lines[0].contains("action=kill"), "{lines:?}");
        assert!(self.error_node(attacker).is_some_and(|text| text.contains(cause)), "{}", self.state());
        let usage = self.usage();
        assert_eq!((usage.mapped, usage.ports), (1, 1), "what the victim has is what there is");
        self.assert_works(victim);
        let device = self.device(attacker);
        self.fronts[attacker] = Blkfront::new(&self.xen, device, BlkfrontOptions::default());
        self.fronts[attacker].reopen();
        self.until("the attacker is connected again", |rig| rig.is_connected(attacker));
        self.assert_works(attacker);
        self.assert_works(victim);
    }

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

pub fn target_config(target: &str) -> VbdConfig {
    VbdConfig { target: target.to_string(), ..VbdConfig::default() }
}
