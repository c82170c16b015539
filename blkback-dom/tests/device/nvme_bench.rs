//! A driver, a model of its controller, memory and time.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use blkback_dom::disk::nvme::{Nvme, Patience, Quiet};
use blkback_dom::disk::{Command, Controller, DiskError, DiskId, Failure, Health, Op, Span, SubmitError, Tag};
use xen_pv_rt::hyp::HostMemory;

use super::nvme::{Fate, Fetched, Model, Registers};
use super::{Answers, Pages, RunningClock, TestClock, run, scatter};

pub struct Bench {
    pub nvme: Nvme<Registers, RunningClock>,
    pub pages: Pages,
    pub memory: HostMemory,
    pub clock: TestClock,
    pub running: RunningClock,
    pub model: Rc<RefCell<Model>>,
    pub answers: Answers,
}

/// Pages to transfer: the longest request.
const PAGES: usize = 256;

impl Bench {
    /// A driver in service.
    pub fn start(model: impl FnOnce(&HostMemory) -> Model) -> Self {
        Self::start_in(&HostMemory::new(), model)
    }

    pub fn start_in(memory: &HostMemory, model: impl FnOnce(&HostMemory) -> Model) -> Self {
        let mut this = Self::attach(memory, model(memory)).unwrap();
        this.until(|bench| bench.nvme.health() == Health::Running);
        this
    }

    /// A driver that has just been started.
    pub fn attach(memory: &HostMemory, model: Model) -> Result<Self, Failure> {
        let clock = TestClock::default();
        let running = RunningClock(clock.clone(), Rc::default());
        let model = Rc::new(RefCell::new(model));
        let quiet = run(&clock, Quiet::reset(Registers(model.clone()), running.clone()))?;
        let nvme = quiet.start(memory, Patience::default())?;
        let pages = Pages::new(memory, PAGES);
        Ok(Self { nvme, pages, memory: memory.clone(), clock, running, model, answers: Answers::default() })
    }

    pub fn judge(&self, judge: impl FnMut(&Fetched) -> Fate + 'static) {
        self.model.borrow_mut().judge = Some(Box::new(judge));
    }

    /// Polls whenever the driver wants to be polled, until something is the case; ten virtual minutes at most.
    pub fn until(&mut self, done: impl Fn(&Self) -> bool) {
        let end = Duration::from_secs(600);
        let start = self.clock.clone();
        let mut passed = Duration::ZERO;
        loop {
            self.answers.poll(&mut self.nvme, &self.clock);
            if done(self) {
                return;
            }
            assert!(passed < end, "still not: health {:?}, {} in flight", self.nvme.health(), self.nvme.in_flight());
            start.advance(Duration::from_millis(5));
            passed += Duration::from_millis(5);
        }
    }

    /// Lets so many seconds pass.
    pub fn idle(&mut self, seconds: u32) {
        for _ in 0..seconds * 200 {
            self.answers.poll(&mut self.nvme, &self.clock);
            self.clock.advance(Duration::from_millis(5));
        }
    }

    /// Kicks, and polls until all is answered.
    pub fn settle(&mut self) {
        self.nvme.kick();
        self.until(|bench| bench.nvme.in_flight() == 0);
    }

    pub fn execute_or_refuse(
        &mut self,
        disk: u16,
        op: Op,
        sector: u64,
        spans: &[Span],
    ) -> Result<Result<(), DiskError>, SubmitError> {
        self.until(|bench| bench.nvme.in_flight() == 0 && bench.nvme.health() != Health::Recovering);
        super::submit(&mut self.nvme, disk, 77, op, sector, spans)?;
        self.settle();
        let answers = self.answers.take();
        let [(77, result)] = answers[..] else { panic!("one answer: {answers:?}") };
        Ok(result)
    }

    pub fn execute(&mut self, disk: u16, op: Op, sector: u64, spans: &[Span]) -> Result<(), DiskError> {
        self.execute_or_refuse(disk, op, sector, spans).expect("accepted")
    }

    pub fn submit_in_lane(
        &mut self,
        lane: u16,
        tag: u64,
        op: Op,
        sector: u64,
        spans: &[Span],
    ) -> Result<(), SubmitError> {
        self.nvme.submit(DiskId(0), &Command { tag: Tag(tag), op, sector, spans, lane })
    }

    /// Commands of a kind that reached the device.
    pub fn count(&self, opcode: u8) -> usize {
        self.model.borrow().trace.iter().filter(|command| command.opcode() == opcode).count()
    }

    pub fn fill_pages(&self, byte: u8) {
        for page in 0..self.pages.pages.len() {
            scatter(&self.memory, &[self.pages.span(page, 0, 4096)], &[byte; 4096]);
        }
    }
}
