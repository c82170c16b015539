//! A limit on how many tasks do something at a time.

use core::cell::Cell;
use core::future::poll_fn;
use core::task::Poll;

use crate::task::{Signal, Tasks};

/// Lets a bounded number of tasks in.
pub(super) struct Gate {
    free: Cell<usize>,
    /// Has the tasks polled when one leaves; nobody waits for it in particular.
    left: Signal,
}

impl Gate {
    /// A gate for `places` tasks of `tasks`.
    pub(super) fn new(tasks: &Tasks, places: usize) -> Self {
        Self { free: Cell::new(places), left: tasks.signal() }
    }

    /// Waits until there is a place.
    pub(super) async fn enter(&self) -> Pass<'_> {
        poll_fn(|_| match self.free.get().checked_sub(1) {
            Some(free) => {
                self.free.set(free);
                Poll::Ready(())
            }
            None => Poll::Pending,
        })
        .await;
        Pass(self)
    }
}

/// A place behind the gate, given up on drop.
pub(super) struct Pass<'a>(&'a Gate);

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        self.0.free.set(self.0.free.get().saturating_add(1));
        self.0.left.raise();
    }
}

#[cfg(test)]
mod tests {
    use alloc::rc::Rc;

    use super::*;

    #[test]
    fn a_task_waits_until_there_is_a_place() {
        let tasks = Tasks::new();
        let gate = Rc::new(Gate::new(&tasks, 1));
        let (hold, inside) = (tasks.signal(), Rc::new(Cell::new(0)));
        for _ in 0..2 {
            let (gate, hold, inside) = (gate.clone(), hold.clone(), inside.clone());
            tasks.spawn(async move {
                let _pass = gate.enter().await;
                inside.set(inside.get() + 1);
                hold.wait().await;
            });
        }
        tasks.poll();
        assert_eq!(inside.get(), 1);
        hold.raise();
        tasks.poll();
        assert_eq!((inside.get(), tasks.len()), (2, 1));
    }
}
