//! The controller as a whole: health, deadlines, reset, the end.

use core::time::Duration;

use xen_pv_rt::hyp::{Clock, Mmio};

use super::command;
use super::port::{After, Kind, Port, Stage};
use super::regs::{GONE, Hba, Port as Reg, cmd, ghc};
use super::{Ahci, Done, RESET_TIME, all_settled};
use crate::disk::{DiskError, Failure, Health};

/// How often links, health and deadlines are looked at.
const TICK: Duration = Duration::from_secs(1);
/// How long a disk may take to write out its cache at shutdown.
const FLUSH_TIME: Duration = Duration::from_secs(10);

impl<R: Mmio, C: Clock> Ahci<R, C> {
    /// Goes on with everything that is under way.
    pub(super) fn serve(&mut self, done: Done<'_>) {
        if self.resetting.is_some() {
            return self.await_reset(done);
        }
        let look = core::mem::take(&mut self.look);
        for port in &mut self.ports {
            port.reap(&self.regs, &mut self.context, look, done);
            if port.is_busy() {
                port.step(&self.regs, &mut self.context, done);
            }
        }
        if self.ports.iter().any(|port| port.stage == Stage::WontStop) {
            return self.reset();
        }
        if self.health == Health::Recovering && all_settled(&self.ports) {
            self.health = Health::Running;
            self.context.served = true;
        }
        if self.context.now >= self.next_tick {
            self.tick(done);
        }
    }

    fn tick(&mut self, done: Done<'_>) {
        self.next_tick = self.context.now.saturating_add(TICK);
        if self.regs.read(Hba::Ghc) == GONE {
            self.give_up(Failure::Gone);
            return self.answer_all(done);
        }
        let (now, time) = (self.context.now, self.context.time);
        for port in &mut self.ports {
            // A report that was lost, with its interrupt.
            port.reap(&self.regs, &mut self.context, true, done);
            port.check_link(&self.regs, now);
            if port.stage == Stage::Running && port.is_late(now, time) {
                log::warn!("ahci: port {}: a command takes more than {} s; resetting it", port.number, time.as_secs());
                self.context.counters.timeouts = self.context.counters.timeouts.wrapping_add(1);
                self.context.counters.resets = self.context.counters.resets.wrapping_add(1);
                port.stop(&self.regs, now, After::Reset);
            }
        }
    }

    /// Resets the whole controller, as one of its ports does not stop.
    fn reset(&mut self) {
        log::warn!("ahci: a port does not stop; resetting the controller");
        self.context.counters.resets = self.context.counters.resets.wrapping_add(1);
        self.regs.write(Hba::Ghc, ghc::AE | ghc::HR);
        self.resetting = Some(self.context.now.saturating_add(RESET_TIME));
    }

    fn await_reset(&mut self, done: Done<'_>) {
        let value = self.regs.read(Hba::Ghc);
        if value == GONE {
            self.give_up(Failure::Gone);
            return self.answer_all(done);
        }
        if value & ghc::HR != 0 {
            if self.resetting.is_some_and(|until| self.context.now >= until) {
                self.health = Health::Stuck(Failure::TimedOut("reset"));
            }
            return;
        }
        self.resetting = None;
        self.regs.write(Hba::Ghc, ghc::AE | ghc::IE);
        for port in &mut self.ports {
            if port.stage != Stage::Dead {
                port.attempts = port.attempts.saturating_add(1);
                port.stopped(&self.regs, &mut self.context, After::Reset, done);
            }
        }
    }

    /// Out of service. The controller has stopped, or is no longer there.
    pub(super) fn give_up(&mut self, failure: Failure) {
        self.health = Health::Failed(failure);
        self.resetting = None;
        for disk in &mut self.context.disks {
            disk.present = false;
        }
    }

    /// Answers whatever is in flight. The controller no longer touches memory.
    pub(super) fn answer_all(&mut self, done: Done<'_>) {
        let error = if let Health::Failed(failure) = self.health { failure.of_commands() } else { DiskError::Gone };
        for port in &mut self.ports {
            port.answer_all(&mut self.context, error, done);
        }
    }

    /// Has the disks write out their caches, and stops the controller.
    pub(super) fn shut_down(&mut self) {
        if matches!(self.health, Health::Failed(_) | Health::Stopped) {
            return;
        }
        for port in &self.ports {
            let idle = port.stage == Stage::Running && port.slots.active == 0;
            if idle && matches!(port.kind, Kind::Disk { .. }) {
                self.flush_and_park(port);
            }
        }
        // A reset stops all ports at once.
        self.regs.write(Hba::Ghc, ghc::AE);
        for port in &self.ports {
            let value = self.regs.port_read(port.number, Reg::Cmd);
            self.regs.port_write(port.number, Reg::Cmd, value & !(cmd::ST | cmd::FRE));
        }
        self.regs.write(Hba::Ghc, ghc::AE | ghc::HR);
        let stopped = self.spin(RESET_TIME, |this| this.regs.read(Hba::Ghc) & ghc::HR == 0);
        self.health = if stopped { Health::Stopped } else { Health::Stuck(Failure::TimedOut("reset")) };
    }

    fn flush_and_park(&self, port: &Port) {
        for fis in [command::flush(), command::standby()] {
            port.memory.prepare_own(&fis, 0);
            self.regs.port_write(port.number, Reg::Ci, 1);
            if !self.spin(FLUSH_TIME, |this| this.regs.port_read(port.number, Reg::Ci) & 1 == 0) {
                log::warn!("ahci: the disk at port {} did not write out its cache in time", port.number);
                return;
            }
        }
    }

    /// Waits until `done`. A controller that is gone has done all it is going to do.
    fn spin(&self, time: Duration, done: impl Fn(&Self) -> bool) -> bool {
        let deadline = self.clock.now().saturating_add(time);
        loop {
            if done(self) || self.regs.read(Hba::Cap) == GONE {
                return true;
            }
            if self.clock.now() >= deadline {
                return false;
            }
            core::hint::spin_loop();
        }
    }
}
