//! The control plane's tasks.
//!
//! Handshakes and hotplug are futures, written so that they read from top to bottom. The event loop polls
//! all of them when xenstore has spoken, a timer is due, or the data plane has something to report
//! ([`Signal`]); in between, the data plane runs. Tasks are few and wake-ups rare, so there are no wakers:
//! every task is polled in each round.

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::future::{Future, poll_fn};
use core::pin::Pin;
use core::task::{Context, Poll, Waker};

use crate::hyp::Hypervisor;

type Task = Pin<Box<dyn Future<Output = ()>>>;

/// The set of running tasks. Cloning gives another handle to the same set.
#[derive(Clone, Default)]
pub struct Tasks {
    running: Rc<RefCell<Vec<Task>>>,
    spawned: Rc<RefCell<Vec<Task>>>,
    dirty: Rc<Cell<bool>>,
}

impl Tasks {
    /// An empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a task; it is polled in this round or the next.
    pub fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.spawned.borrow_mut().push(Box::pin(task));
        self.dirty.set(true);
    }

    /// Polls every task once, and again for as long as one of them asked for it.
    ///
    /// A task that is being polled may [`spawn`](Self::spawn), but not call this.
    pub fn poll(&self) {
        // Bounded: two tasks that signal each other for ever must not hold up the data plane.
        for _ in 0..8 {
            self.dirty.set(false);
            self.round();
            if !self.dirty.get() {
                break;
            }
        }
    }

    fn round(&self) {
        let mut running = core::mem::take(&mut *self.running.borrow_mut());
        running.append(&mut self.spawned.borrow_mut());
        let mut cx = Context::from_waker(Waker::noop());
        running.retain_mut(|task| task.as_mut().poll(&mut cx).is_pending());
        *self.running.borrow_mut() = running;
    }

    /// Whether [`poll`](Self::poll) has something to do right away.
    pub fn is_dirty(&self) -> bool {
        self.dirty.get()
    }

    /// Tasks that have not finished.
    pub fn len(&self) -> usize {
        self.running.borrow().len().saturating_add(self.spawned.borrow().len())
    }

    /// Whether every task has finished.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A flag that wakes these tasks.
    pub fn signal(&self) -> Signal {
        Signal { set: Rc::default(), dirty: self.dirty.clone() }
    }
}

/// Runs one future to its end, sleeping in between. For start-up and shutdown, when there is nothing else to do.
pub fn block_on<H: Hypervisor, T>(hyp: &H, future: impl Future<Output = T>) -> T {
    let mut future = core::pin::pin!(future);
    let mut cx = Context::from_waker(Waker::noop());
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut cx) {
            return value;
        }
        let deadline = hyp.take_wake_at();
        if !hyp.poll(hyp.now()) {
            // Interrupts of functions that were started already are pending until the data plane runs.
            hyp.wait_for_xenstored(deadline);
        }
    }
}

/// A flag from anywhere to one task. Setting it again before it was seen changes nothing.
#[derive(Clone)]
pub struct Signal {
    set: Rc<Cell<bool>>,
    dirty: Rc<Cell<bool>>,
}

impl Signal {
    /// Raises the flag and has the tasks polled.
    pub fn raise(&self) {
        self.set.set(true);
        self.dirty.set(true);
    }

    /// Waits for the flag and lowers it.
    pub async fn wait(&self) {
        poll_fn(|_| if self.set.take() { Poll::Ready(()) } else { Poll::Pending }).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_runs_until_it_finishes() {
        let tasks = Tasks::new();
        let signal = tasks.signal();
        let seen = Rc::new(Cell::new(0));
        let (inner, count) = (signal.clone(), seen.clone());
        tasks.spawn(async move {
            inner.wait().await;
            count.set(count.get() + 1);
            inner.wait().await;
            count.set(count.get() + 1);
        });
        tasks.poll();
        assert_eq!((seen.get(), tasks.len()), (0, 1));
        signal.raise();
        tasks.poll();
        assert_eq!((seen.get(), tasks.len()), (1, 1));
        signal.raise();
        tasks.poll();
        assert_eq!((seen.get(), tasks.len()), (2, 0));
    }

    #[test]
    fn a_task_may_spawn_and_the_child_runs_in_the_same_call() {
        let tasks = Tasks::new();
        let done = Rc::new(Cell::new(false));
        let (handle, flag) = (tasks.clone(), done.clone());
        tasks.spawn(async move { handle.spawn(async move { flag.set(true) }) });
        tasks.poll();
        assert!(done.get());
        assert!(tasks.is_empty());
    }

    #[test]
    fn tasks_that_wake_each_other_for_ever_do_not_hold_the_caller() {
        let tasks = Tasks::new();
        let (a, b) = (tasks.signal(), tasks.signal());
        for (mine, other) in [(a.clone(), b.clone()), (b, a.clone())] {
            tasks.spawn(async move {
                loop {
                    mine.wait().await;
                    other.raise();
                }
            });
        }
        a.raise();
        tasks.poll();
        assert!(tasks.is_dirty());
    }
}
