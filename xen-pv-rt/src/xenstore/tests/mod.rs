//! The client against a model of xenstored, on real page words.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    reason = "tests may fail loudly"
)]

pub(crate) mod daemon;
mod faults;
mod lists;
mod operations;
mod random;
mod successor;
mod watching;

use alloc::rc::Rc;
use core::cell::RefCell;
use core::future::Future;

use crate::hyp::{Instant, Xenstore};
use crate::task::Tasks;

use super::Client;
use daemon::{Daemon, SharedPage};

pub(crate) type Xs = Client<Rc<SharedPage>>;

/// What a spawned task has returned so far.
pub(crate) struct Outcome<T>(Rc<RefCell<Option<T>>>);

impl<T> Outcome<T> {
    pub(crate) fn is_pending(&self) -> bool {
        self.0.borrow().is_none()
    }

    /// The result. Panics if there is none yet.
    #[track_caller]
    pub(crate) fn get(&self) -> T {
        self.0.borrow_mut().take().expect("the task has finished")
    }
}

/// Client, xenstored and the event loop.
pub(crate) struct Bench {
    pub(crate) xs: Xs,
    pub(crate) daemon: Daemon,
    pub(crate) tasks: Tasks,
    seconds: u64,
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self::on(Daemon::new(&SharedPage::new()))
    }

    /// Connects to `daemon`, whose page may be in any state.
    fn on(daemon: Daemon) -> Self {
        Self { xs: Client::new(daemon.page.clone()), daemon, tasks: Tasks::new(), seconds: 1 }
    }

    pub(crate) fn with_reconnection() -> Self {
        let page = SharedPage::new();
        page.set(daemon::FEATURES, 3);
        Self::on(Daemon::new(&page))
    }

    /// Starts a task on the client.
    pub(crate) fn spawn<T: 'static, F: Future<Output = T> + 'static>(&self, task: impl FnOnce(Xs) -> F) -> Outcome<T> {
        let outcome = Rc::new(RefCell::new(None));
        let (future, result) = (task(self.xs.clone()), outcome.clone());
        self.tasks.spawn(async move {
            let value = future.await;
            *result.borrow_mut() = Some(value);
        });
        self.tasks.poll();
        Outcome(outcome)
    }

    /// One turn of the domain's event loop.
    pub(crate) fn turn(&mut self) -> bool {
        let news = self.xs.poll(Instant::from_nanos(self.seconds * 1_000_000_000));
        if news {
            self.tasks.poll();
        }
        news
    }

    /// Turns both sides until neither moves.
    pub(crate) fn settle(&mut self) {
        for _ in 0..100_000 {
            let notified = self.daemon.page.notified.get();
            let moved = self.daemon.run();
            if !self.turn() && !moved && self.daemon.page.notified.get() == notified {
                return;
            }
        }
        panic!("client and xenstored never come to rest");
    }

    /// Runs a task to its end.
    #[track_caller]
    pub(crate) fn run<T: 'static, F: Future<Output = T> + 'static>(&mut self, task: impl FnOnce(Xs) -> F) -> T {
        let outcome = self.spawn(task);
        self.settle();
        outcome.get()
    }

    /// Nothing is left behind in the client.
    #[track_caller]
    fn assert_idle(&self) {
        assert!(self.xs.0.connection.borrow().requests.is_empty());
    }
}
