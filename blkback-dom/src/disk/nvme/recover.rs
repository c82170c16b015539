//! When something goes wrong: deadlines, retries, resets, the end.
//!
//! A command that exceeds its time is aborted; one that the controller does not give up either, a fatal status,
//! a controller that reset itself or that completes what it was not given, all lead to a reset. The controller
//! is stopped first; then what has exceeded its time is answered with an error, and the other commands in flight
//! are given to the controller once more.
//!
//! What the volatile cache of a controller held when it reset *itself* is out of our hands.

use core::time::Duration;

use xen_pv_rt::hyp::{Clock, Mmio};

use super::admin::Task;
use super::regs::csts;
use super::slots::{Place, Slot};
use super::{Done, Nvme, STEP, command};
use crate::disk::{DiskError, Failure, Health};

/// How often a device command is repeated.
pub(super) const MAX_RETRIES: u8 = 5;
/// When it is repeated.
pub(super) const RETRY_DELAY: Duration = Duration::from_millis(100);
/// How often the controller's health is looked at.
const TICK: Duration = Duration::from_secs(1);
/// Resets without a successful command in between.
const MAX_ATTEMPTS: u8 = 5;
/// Limits of the time that a shutdown may take.
const SHUTDOWN: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(10));

impl<R: Mmio, C: Clock> Nvme<R, C> {
    /// Resets the controller and goes on.
    pub(super) fn recover(&mut self, why: Failure) {
        log::warn!("nvme: {why}; resetting the controller");
        self.health = Health::Recovering;
        self.counters.resets = self.counters.resets.wrapping_add(1);
        self.attempts = self.attempts.saturating_add(1);
        if self.attempts > MAX_ATTEMPTS {
            self.doomed = Some(Failure::Unstable);
        }
        if self.regs.status().is_err() {
            return self.give_up(Failure::Gone);
        }
        self.disable();
    }

    /// Out of service. The controller has stopped, or is no longer there.
    pub(super) fn give_up(&mut self, failure: Failure) {
        self.health = Health::Failed(failure);
        self.admin.task = Task::Idle;
        for disk in &mut self.disks {
            disk.present = false;
        }
    }

    /// The controller has stopped: answers what is not going to be repeated.
    pub(super) fn settle(&mut self, done: Done<'_>) {
        for queue in 0..self.io.len() {
            for slot in 0..self.io.get(queue).map_or(0, |queue| queue.slots.count()) {
                if let Some(error) = self.why_lost(queue, slot) {
                    self.finish_slot(queue, slot, Err(error), done);
                }
            }
        }
    }

    fn why_lost(&self, queue: usize, slot: u16) -> Option<DiskError> {
        let slot = self.io.get(queue)?.slots.get(slot)?;
        let late = self.now.saturating_since(slot.since) >= self.patience.command;
        match slot.place {
            Place::Queued if slot.aborting || late => Some(DiskError::TimedOut),
            Place::Free | Place::Queued | Place::Waiting(_) => None,
        }
    }

    /// The controller is ready: gives it what was in flight, and whatever comes.
    pub(super) fn enter_service(&mut self, done: Done<'_>) {
        // Answers to requests with lost parts may have come since; nothing else has.
        self.settle(done);
        self.health = Health::Running;
        self.served_before = true;
        self.next_tick = self.now.saturating_add(TICK);
        self.next_retry = None;
        for queue in &mut self.io {
            for index in 0..queue.slots.count() {
                if queue.slots.get(index).is_some_and(|slot| slot.place != Place::Free) {
                    self.counters.retries = self.counters.retries.wrapping_add(1);
                    if let Some(sqe) = queue.slots.reissue(index, self.now) {
                        queue.pair.push(&sqe);
                    }
                }
            }
            queue.pair.kick(&self.regs);
        }
        self.admin.await_event(&self.regs);
    }

    /// Repeats what has waited long enough.
    pub(super) fn retry_waiting(&mut self) {
        if self.next_retry.is_none_or(|at| self.now < at) {
            return;
        }
        let mut next = None;
        for queue in &mut self.io {
            for index in 0..if queue.slots.waiting > 0 { queue.slots.count() } else { 0 } {
                let Some(Place::Waiting(until)) = queue.slots.get(index).map(|slot| slot.place) else { continue };
                if self.now < until {
                    next = Some(next.map_or(until, |at: xen_pv_rt::hyp::Instant| at.min(until)));
                } else if let Some(sqe) = queue.slots.reissue(index, self.now) {
                    queue.pair.push(&sqe);
                }
            }
        }
        self.next_retry = next;
    }

    /// Looks at the controller's health, at deadlines, and at what it wanted to tell.
    pub(super) fn tick(&mut self) {
        self.next_tick = self.now.saturating_add(TICK);
        match self.regs.status() {
            Err(failure) => return self.give_up(failure),
            Ok(status) if status & csts::CFS != 0 => return self.recover(Failure::Confused("status: fatal")),
            Ok(status) if status & csts::RDY == 0 => return self.recover(Failure::Confused("status: not ready")),
            Ok(_) => {}
        }
        if !self.check_deadlines() || self.admin.task != Task::Idle {
            return;
        }
        // At most one of these each tick, however many events there are.
        match self.admin.log.take() {
            Some(page) => {
                let bytes = if page == 4 { 4096 } else { 512 };
                let sqe = command::get_log(page, bytes, self.admin.data_maddr());
                self.start_task(Task::Log(page), sqe);
            }
            None => self.admin.await_event(&self.regs),
        }
    }

    /// Whether all is well, or was made so without a reset.
    fn check_deadlines(&mut self) -> bool {
        let (now, patience) = (self.now, self.patience);
        let age =
            |slot: &Slot| if slot.place == Place::Queued { now.saturating_since(slot.since) } else { Duration::ZERO };
        let last = patience.command.saturating_add(patience.admin);
        if self.io.iter().any(|queue| queue.slots.busy().any(|(_, slot)| age(slot) >= last)) {
            self.recover(Failure::TimedOut("a command"));
            return false;
        }
        if self.admin.task != Task::Idle {
            return true;
        }
        let late = self.io.iter_mut().find_map(|queue| {
            let id = queue.pair.id();
            let (index, _) = queue.slots.busy().find(|(_, slot)| !slot.aborting && age(slot) >= patience.command)?;
            let slot = queue.slots.get_mut(index)?;
            slot.aborting = true;
            Some((id, slot.cid(index)))
        });
        if let Some((sqid, cid)) = late {
            self.counters.timeouts = self.counters.timeouts.wrapping_add(1);
            log::warn!("nvme: a command takes more than {} s; aborting it", patience.command.as_secs());
            self.start_task(Task::Abort, command::abort(sqid, cid));
            // The next one does not have to wait for a whole tick.
            self.next_tick = now.saturating_add(STEP.saturating_mul(10));
        }
        true
    }

    /// Answers whatever is in flight. The controller no longer touches memory.
    pub(super) fn answer_all(&mut self, done: Done<'_>) {
        let error = if let Health::Failed(failure) = self.health { failure.of_commands() } else { DiskError::Gone };
        for queue in 0..self.io.len() {
            while let Some(slot) = self.io.get(queue).and_then(|queue| queue.slots.busy().next()).map(|(slot, _)| slot)
            {
                self.finish_slot(queue, slot, Err(error), done);
            }
        }
    }

    /// Tells the controller that it is about to lose power, and stops it.
    pub(super) fn shut_down(&mut self) {
        match self.health {
            Health::Failed(_) | Health::Stopped => return,
            Health::Running => {
                let (least, most) = SHUTDOWN;
                let time = self.data.as_ref().map_or(least, |data| data.shutdown_time.clamp(least, most));
                self.regs.notify_shutdown();
                if !self.spin(time, |status| status & csts::SHST_MASK == csts::SHST_COMPLETE) {
                    log::warn!("nvme: the controller did not finish its shutdown in time");
                }
            }
            Health::Recovering | Health::Stuck(_) => {}
        }
        self.regs.disable();
        let time = self.regs.capability().ready_time;
        let stopped = self.spin(time, |status| status & csts::RDY == 0);
        self.admin.task = Task::Idle;
        self.health = if stopped { Health::Stopped } else { Health::Stuck(Failure::TimedOut("shutdown")) };
    }

    /// Waits until the status is as wanted. A controller that is gone has done all it is going to do.
    fn spin(&self, time: Duration, wanted: impl Fn(u32) -> bool) -> bool {
        let deadline = self.clock.now().saturating_add(time);
        loop {
            match self.regs.status() {
                Err(_) => return true,
                Ok(status) if wanted(status) => return true,
                Ok(_) if self.clock.now() >= deadline => return false,
                Ok(_) => core::hint::spin_loop(),
            }
        }
    }
}
