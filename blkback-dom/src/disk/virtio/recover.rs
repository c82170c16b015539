//! Starting, and starting over: feature negotiation, deadlines, resets, the end.

use core::time::Duration;

use virtio_drivers::transport::{DeviceStatus, Transport};
use xen_pv_rt::hyp::Clock;

use super::chunk::{self, MAX_DESCRIPTORS};
use super::config::{self, Config, Features};
use super::{Done, GONE, RESET_TIME, VirtioBlk};
use crate::disk::{DiskError, DiskEvent, DiskId, Failure, Health};

/// How often the device's health and size are looked at.
const TICK: Duration = Duration::from_secs(1);
/// Resets without a completed request in between.
const MAX_ATTEMPTS: u8 = 5;

impl<T: Transport, C: Clock> VirtioBlk<T, C> {
    /// Agrees on features with a device that was reset, and reads its configuration. Virtio 1.2, 3.1.1.
    pub(super) fn negotiate(&mut self) -> Result<Config, Failure> {
        self.features = self.transport.begin_init(Features::all());
        if !self.features.contains(Features::VERSION_1) {
            return Err(Failure::Unsupported("virtio 1.0"));
        }
        if !self.transport.get_status().contains(DeviceStatus::FEATURES_OK) {
            return Err(Failure::Unsupported("the features that the driver chose from its offer"));
        }
        let config = Config::read(&self.transport, self.features, MAX_DESCRIPTORS.saturating_sub(chunk::OVERHEAD))?;
        self.config = Some(config);
        Ok(config)
    }

    /// Puts a device to work whose features were agreed on.
    pub(super) fn bring_up(&mut self) -> Result<(), Failure> {
        let has = |feature| self.features.contains(feature);
        let (indirect, event_idx) = (has(Features::INDIRECT_DESC), has(Features::EVENT_IDX));
        let mut smallest = usize::MAX;
        for queue in &mut self.queues {
            queue.start(self.transport.max_queue_size(queue.number), indirect, event_idx)?;
            let (table, available, used) = queue.queue.addresses();
            let size = queue.queue.size();
            smallest = smallest.min(size.into());
            let [table, available, used] = [table, available, used].map(|maddr| maddr.into_raw());
            self.transport.queue_set(queue.number, size.into(), table, available, used);
            queue.queue.enable_interrupts();
        }
        let Some(config) = &mut self.config else { return Err(Failure::Confused("configuration")) };
        if !config.fit(smallest, indirect) {
            return Err(Failure::Unsupported("queues that hold a whole request"));
        }
        let disk = config.describe(self.features);
        self.update_disk(disk);
        self.health = Health::Running;
        self.next_tick = self.now.saturating_add(TICK);
        self.transport.finish_init();
        Ok(())
    }

    fn update_disk(&mut self, disk: crate::disk::Disk) {
        match self.disks.first_mut() {
            Some(known) => {
                if known.geometry.sectors != disk.geometry.sectors {
                    self.event = Some(DiskEvent::Resized(DiskId(0)));
                }
                *known = disk;
            }
            None => self.disks.push(disk),
        }
    }

    /// Resets the device and goes on.
    pub(super) fn recover(&mut self, why: Failure) {
        log::warn!("virtio-blk: {why}; resetting the device");
        self.health = Health::Recovering;
        self.counters.resets = self.counters.resets.wrapping_add(1);
        self.attempts = self.attempts.saturating_add(1);
        self.transport.set_status(DeviceStatus::empty());
        self.until = self.now.saturating_add(RESET_TIME);
    }

    /// Waits for the end of a reset without waiting.
    pub(super) fn await_reset(&mut self, done: Done<'_>) {
        match self.transport.get_status() {
            status if status.is_empty() => self.start_over(done),
            GONE => self.give_up(Failure::Gone),
            _ if self.now >= self.until => self.health = Health::Stuck(Failure::TimedOut("reset")),
            _ => {}
        }
    }

    /// The device has stopped: from here on it does not touch memory.
    fn start_over(&mut self, done: Done<'_>) {
        self.settle(done);
        let ready = if self.attempts > MAX_ATTEMPTS {
            Err(Failure::Unstable)
        } else {
            self.negotiate().and_then(|_| self.bring_up())
        };
        if let Err(failure) = ready {
            // It may have been started half: stop it again, which is known to work.
            self.transport.set_status(DeviceStatus::empty());
            return self.give_up(failure);
        }
        for queue in &mut self.queues {
            let busy: heapless::Vec<u16, 128> = queue.busy().map(|(index, _)| index).collect();
            for index in busy {
                self.counters.retries = self.counters.retries.wrapping_add(1);
                queue.issue(index, self.now);
            }
            if queue.queue.show() {
                self.transport.notify(queue.number);
            }
        }
    }

    /// Answers what exceeded its time.
    fn settle(&mut self, done: Done<'_>) {
        let (now, time) = (self.now, self.time);
        for queue in 0..self.queues.len() {
            for slot in 0..super::SLOTS {
                let busy = self.queues.get(queue).and_then(|queue| queue.get(slot));
                if busy.is_some_and(|slot| now.saturating_since(slot.since) >= time) {
                    self.finish_slot(queue, slot, Err(DiskError::TimedOut), done);
                }
            }
        }
    }

    /// Looks at the device's health and size, and at deadlines.
    pub(super) fn tick(&mut self) {
        self.next_tick = self.now.saturating_add(TICK);
        let status = self.transport.get_status();
        if status == GONE {
            return self.give_up(Failure::Gone);
        }
        if !status.contains(DeviceStatus::DRIVER_OK) || status.contains(DeviceStatus::DEVICE_NEEDS_RESET) {
            return self.recover(Failure::Confused("status"));
        }
        let (now, time) = (self.now, self.time);
        let late =
            |queue: &super::BlkQueue| queue.busy().filter(|(_, slot)| now.saturating_since(slot.since) >= time).count();
        let late: usize = self.queues.iter().map(late).sum();
        if late > 0 {
            let late = u64::try_from(late).unwrap_or(0);
            self.counters.timeouts = self.counters.timeouts.wrapping_add(late);
            return self.recover(Failure::TimedOut("a request"));
        }
        self.look_at_size();
    }

    fn look_at_size(&mut self) {
        let (Some(config), Ok(sectors)) = (&self.config, config::capacity(&self.transport)) else { return };
        let sectors = config.whole_sectors(sectors);
        if let Some(disk) = self.disks.first_mut().filter(|disk| disk.geometry.sectors != sectors) {
            disk.geometry.sectors = sectors;
            self.event = Some(DiskEvent::Resized(DiskId(0)));
        }
    }

    /// Out of service. The device has stopped, or is no longer there.
    fn give_up(&mut self, failure: Failure) {
        self.health = Health::Failed(failure);
        for disk in &mut self.disks {
            disk.present = false;
        }
    }

    /// Answers whatever is in flight. The device no longer touches memory.
    pub(super) fn answer_all(&mut self, done: Done<'_>) {
        let error = if let Health::Failed(failure) = self.health { failure.of_commands() } else { DiskError::Gone };
        for queue in 0..self.queues.len() {
            for slot in 0..super::SLOTS {
                self.finish_slot(queue, slot, Err(error), done);
            }
        }
    }

    /// Stops the device. There is no announcement in virtio; its cache outlives us.
    pub(super) fn shut_down(&mut self) {
        if matches!(self.health, Health::Failed(_) | Health::Stopped) {
            return;
        }
        self.transport.set_status(DeviceStatus::empty());
        let deadline = self.clock.now().saturating_add(RESET_TIME);
        self.health = loop {
            match self.transport.get_status() {
                status if status.is_empty() || status == GONE => break Health::Stopped,
                _ if self.clock.now() >= deadline => break Health::Stuck(Failure::TimedOut("reset")),
                _ => core::hint::spin_loop(),
            }
        };
    }
}
