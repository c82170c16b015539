//! What the tests of disk drivers share: time, memory to transfer, polling futures. The device models are
//! beside it, one per test file.

pub mod ahci;
pub mod nvme;
pub mod nvme_bench;
pub mod virtio;

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use blkback_dom::disk::{Command, Controller, DiskError, DiskId, Op, Span, SubmitError, Tag};
use xen_pv_rt::hyp::{Clock, Dma, DmaBuf, DmaPool, HostMemory, Instant, Maddr};

/// Time that only tests advance.
#[derive(Clone, Default)]
pub struct TestClock(Rc<Cell<u64>>);

impl TestClock {
    pub fn advance(&self, by: Duration) {
        self.0.set(self.0.get() + by.as_nanos() as u64);
    }
}

impl Clock for TestClock {
    fn now(&self) -> Instant {
        Instant::from_nanos(self.0.get())
    }
    fn wake_at(&self, _at: Instant) {}
    fn take_wake_at(&self) -> Option<Instant> {
        None
    }
}

/// A clock for code that spins: each look takes a millisecond.
#[derive(Clone, Default)]
pub struct RunningClock(pub TestClock, pub Rc<Cell<bool>>);

impl Clock for RunningClock {
    fn now(&self) -> Instant {
        if self.1.get() {
            self.0.advance(Duration::from_millis(1));
        }
        self.0.now()
    }
    fn wake_at(&self, _at: Instant) {}
    fn take_wake_at(&self) -> Option<Instant> {
        None
    }
}

/// Polls a future, a millisecond at a time, for at most ten virtual minutes.
pub fn run<T>(clock: &TestClock, future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    for _ in 0..600_000 {
        if let Poll::Ready(value) = future.as_mut().poll(&mut context) {
            return value;
        }
        clock.advance(Duration::from_millis(1));
    }
    panic!("nothing has a deadline of more than ten minutes");
}

/// Pages to transfer.
pub struct Pages {
    _pool: DmaPool,
    pub pages: Vec<DmaBuf>,
}

impl Pages {
    pub fn new(memory: &HostMemory, count: usize) -> Self {
        let pool = memory.dma_pool(count).unwrap();
        let pages = (0..count).map(|_| pool.take().unwrap()).collect();
        Self { _pool: pool, pages }
    }
    /// Part of a page.
    pub fn span(&self, page: usize, offset: u32, len: u32) -> Span {
        Span { maddr: Maddr::from_raw(self.pages[page].maddr().into_raw() + u64::from(offset)), len }
    }
    /// Whole pages from the first on, as many as hold `bytes`.
    pub fn whole(&self, bytes: u32) -> Vec<Span> {
        (0..bytes.div_ceil(4096)).map(|page| self.span(page as usize, 0, (bytes - page * 4096).min(4096))).collect()
    }
}

/// What spans hold.
pub fn gather(memory: &HostMemory, spans: &[Span]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for span in spans {
        let mut part = vec![0; span.len as usize];
        memory.read(span.maddr, &mut part).unwrap();
        bytes.extend(part);
    }
    bytes
}

/// Fills spans.
pub fn scatter(memory: &HostMemory, spans: &[Span], bytes: &[u8]) {
    let mut at = 0;
    for span in spans {
        memory.write(span.maddr, &bytes[at..at + span.len as usize]).unwrap();
        at += span.len as usize;
    }
}

/// Bytes that differ from sector to sector and from seed to seed.
pub fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        })
        .collect()
}

/// A completion.
pub type Answer = (u64, Result<(), DiskError>);

/// Completions in the order in which they came.
#[derive(Clone, Default)]
pub struct Answers(Rc<RefCell<Vec<Answer>>>);

impl Answers {
    pub fn poll(&self, controller: &mut impl Controller, clock: &TestClock) {
        let mut got = self.0.borrow_mut();
        controller.poll(clock.now(), &mut |tag, result| got.push((tag.0, result)));
    }
    pub fn abandon(&self, controller: &mut impl Controller) {
        let mut got = self.0.borrow_mut();
        controller.abandon(&mut |tag, result| got.push((tag.0, result)));
    }
    pub fn take(&self) -> Vec<Answer> {
        std::mem::take(&mut *self.0.borrow_mut())
    }
    pub fn len(&self) -> usize {
        self.0.borrow().len()
    }
}

/// Submits a command for disk `disk` with the tag `tag`, in lane 0.
pub fn submit(
    controller: &mut impl Controller,
    disk: u16,
    tag: u64,
    op: Op,
    sector: u64,
    spans: &[Span],
) -> Result<(), SubmitError> {
    controller.submit(DiskId(disk), &Command { tag: Tag(tag), op, sector, spans, lane: 0 })
}
