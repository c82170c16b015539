//! The control plane of an event loop: its tasks, when they are due, and what the toolstack asked for.
//!
//! A loop calls [`ControlPlane::poll`] once per turn, which costs next to nothing while there is nothing to do, and
//! before it sleeps looks at [`ControlPlane::is_dirty`] and [`ControlPlane::deadline`].

use alloc::rc::Rc;
use core::cell::Cell;

use crate::control::{self, Request};
use crate::hyp::{Hypervisor, Instant};
use crate::task::{Signal, Tasks};

/// Tasks, their timers, and the watch on `control/shutdown`.
pub struct ControlPlane<H: Hypervisor> {
    hyp: H,
    tasks: Tasks,
    /// What the toolstack asked for last.
    request: Rc<Cell<Option<Request>>>,
    /// When a task wants to be polled.
    wake_at: Option<Instant>,
}

impl<H: Hypervisor> ControlPlane<H> {
    /// Takes over `tasks` and begins to listen to the toolstack.
    pub fn new(hyp: H, tasks: Tasks) -> Self {
        let request = Rc::new(Cell::new(None));
        tasks.spawn(watch_control(hyp.clone(), request.clone(), tasks.signal()));
        Self { hyp, tasks, request, wake_at: Some(Instant::default()) }
    }

    /// Polls the tasks if xenstored has answered, a timer is due or one of them was signalled, and returns what the
    /// toolstack has asked for since the last call.
    pub fn poll(&mut self, now: Instant) -> Option<Request> {
        let answered = self.hyp.poll(now);
        if answered || self.tasks.is_dirty() || self.wake_at.is_some_and(|at| now >= at) {
            self.tasks.poll();
            self.wake_at = self.hyp.take_wake_at();
        }
        self.request.take()
    }

    /// Whether [`poll`](Self::poll) has something to do right away, so that the loop must not sleep.
    pub fn is_dirty(&self) -> bool {
        self.tasks.is_dirty()
    }

    /// When [`poll`](Self::poll) is due at the latest.
    pub fn deadline(&self) -> Option<Instant> {
        self.wake_at
    }
}

async fn watch_control<H: Hypervisor>(hyp: H, request: Rc<Cell<Option<Request>>>, wake: Signal) {
    request.set(Some(control::requested(&hyp, &hyp).await));
    wake.raise();
}
