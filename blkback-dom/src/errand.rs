//! Reads of the domain's own, such as of partition tables, between those of its guests.
//!
//! The task that wants something read and the loop that has the disks meet at an [`Errand`]. There is one read at a
//! time; it takes one command's place at the disk and waits like any other while the disk's queue is full.

use core::cell::RefCell;
use core::future::{Future, poll_fn};
use core::pin::pin;
use core::task::Poll;
use core::time::Duration;

use xen_pv_rt::hyp::{Clock, DmaBuf, Instant, sleep};
use xen_pv_rt::task::Signal;

use crate::disk::{Command, Controller, DiskError, Op, SECTOR_BYTES, Span, SubmitError, Tag};
use crate::vbd::Controllers;
use crate::volume::Piece;

/// Pages of one read: what every disk takes, whatever its sectors.
pub const PAGES: usize = 4;
/// Tells these reads from commands of vbds, which count from 0.
const TAG: Tag = Tag(u64::MAX);
/// How often a disk is looked at when there is no loop yet.
const STEP: Duration = Duration::from_millis(1);
const PAGE: u32 = 4096;

/// Whole pages for what is read.
pub type Buffers = heapless::Vec<DmaBuf, PAGES>;

struct Read {
    piece: Piece,
    buffers: Buffers,
}

#[derive(Default)]
enum State {
    #[default]
    Idle,
    /// No disk has it yet.
    Wanted(Read),
    /// A disk may write to its buffers until it answers.
    UnderWay(Read),
    Answered(Result<Buffers, DiskError>),
}

/// Where a task leaves what it wants read.
pub struct Errand {
    state: RefCell<State>,
    wake: Signal,
}

impl Errand {
    /// Nothing to do yet. `wake` has the loop take a turn.
    pub fn new(wake: Signal) -> Self {
        Self { state: RefCell::default(), wake }
    }

    /// Reads `piece` into `buffers`, which have room for it, and gives them back. For one task, one read after the other.
    ///
    /// # Errors
    /// What the disk answered; [`DiskError::Gone`] if it cannot be asked, or still has a read that nobody waits for any more.
    pub async fn read(&self, piece: Piece, buffers: Buffers) -> Result<Buffers, DiskError> {
        if matches!(*self.state.borrow(), State::UnderWay(_)) {
            return Err(DiskError::Gone);
        }
        self.state.replace(State::Wanted(Read { piece, buffers }));
        self.wake.raise();
        poll_fn(|_| {
            let mut state = self.state.borrow_mut();
            match core::mem::take(&mut *state) {
                State::Answered(outcome) => Poll::Ready(outcome),
                other => {
                    *state = other;
                    Poll::Pending
                }
            }
        })
        .await
    }

    /// Hands to its disk what is wanted, unless the disk's queue is full.
    fn submit(&self, controllers: &mut (impl Controllers + ?Sized)) {
        let mut state = self.state.borrow_mut();
        *state = match core::mem::take(&mut *state) {
            State::Wanted(read) => match submit(&read, controllers) {
                Ok(()) => State::UnderWay(read),
                Err(SubmitError::Full) => State::Wanted(read),
                Err(_) => {
                    self.wake.raise();
                    State::Answered(Err(DiskError::Gone))
                }
            },
            other => other,
        };
    }

    /// Takes the answer to it.
    fn answer(&self, outcome: Result<(), DiskError>) {
        let mut state = self.state.borrow_mut();
        *state = match core::mem::take(&mut *state) {
            State::UnderWay(read) => State::Answered(outcome.map(|()| read.buffers)),
            other => other,
        };
        self.wake.raise();
    }

    fn is_answered(&self) -> bool {
        matches!(*self.state.borrow(), State::Answered(_))
    }

    /// Runs a future that reads, for as long as there is no loop that serves guests.
    pub async fn serve<H: Clock, T>(
        &self,
        hyp: &H,
        controllers: &mut (impl Controllers + ?Sized),
        future: impl Future<Output = T>,
    ) -> T {
        let mut future = pin!(future);
        loop {
            if let Poll::Ready(value) = poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await {
                return value;
            }
            // Nothing else is under way.
            WithErrand { controllers, errand: self }.poll(hyp.now(), &mut |_, _| {});
            if !self.is_answered() {
                sleep(hyp, STEP).await;
            }
        }
    }
}

fn submit(read: &Read, controllers: &mut (impl Controllers + ?Sized)) -> Result<(), SubmitError> {
    let mut left = u32::try_from(read.piece.sectors).unwrap_or(u32::MAX).saturating_mul(SECTOR_BYTES);
    let mut spans: heapless::Vec<Span, PAGES> = heapless::Vec::new();
    for buffer in &read.buffers {
        let len = left.min(PAGE);
        left = left.saturating_sub(len);
        // As many spans as buffers.
        let _ = spans.push(Span { maddr: buffer.maddr(), len });
    }
    if left > 0 {
        return Err(SubmitError::BadSpans);
    }
    let controller = controllers.get(read.piece.disk.controller).ok_or(SubmitError::Gone)?;
    let command = Command { tag: TAG, op: Op::Read, sector: read.piece.sector, spans: &spans, lane: 0 };
    controller.submit(read.piece.disk.disk, &command)?;
    controller.kick();
    Ok(())
}

/// The controllers of the domain, which carry out an errand besides the commands of vbds.
pub struct WithErrand<'a, C: ?Sized> {
    /// The controllers.
    pub controllers: &'a mut C,
    /// What else there is to do.
    pub errand: &'a Errand,
}

impl<C: Controllers + ?Sized> Controllers for WithErrand<'_, C> {
    fn get(&mut self, number: u8) -> Option<&mut dyn Controller> {
        self.controllers.get(number)
    }

    fn count(&self) -> u8 {
        self.controllers.count()
    }

    fn poll(&mut self, now: Instant, done: &mut dyn FnMut(Tag, Result<(), DiskError>)) {
        self.errand.submit(self.controllers);
        self.controllers.poll(now, &mut |tag, outcome| {
            if tag == TAG { self.errand.answer(outcome) } else { done(tag, outcome) }
        });
    }
}
