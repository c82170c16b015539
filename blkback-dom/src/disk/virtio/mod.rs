//! virtio-blk, behind any virtio-drivers [`Transport`].
//!
//! [`Quiet::reset`] stops the device, [`Quiet::start`] puts it to work as a [`VirtioBlk`]; between the two the
//! caller lets it do DMA. Each request has its header, status and table of descriptors in a chunk of its own
//! (`chunk`), so that with indirect descriptors it takes one descriptor of its queue (`queue`). The data
//! path touches no register but the notification, and that only when the device asks for it.
//!
//! A device that exceeds a deadline or writes back nonsense is reset; what was in flight is given to it again,
//! or answered with an error if it exceeded its time.
//!
//! Virtio 1.2, section 5.2. Not here: legacy devices, zoned devices and lifetime.

mod chunk;
mod config;
mod io;
mod queue;
mod recover;

use alloc::vec::Vec;
use core::time::Duration;

use virtio_drivers::transport::{DeviceStatus, Transport};
use xen_pv_rt::hyp::{Clock, Dma, Instant, sleep};

use self::config::{Config, Features};
use self::queue::{BlkQueue, SLOTS};
use super::requests::Requests;
use super::{Command, Controller, Disk, DiskCounters, DiskError, DiskEvent, DiskId, Failure, Health, SubmitError, Tag};

/// Queues that are used, if the device has as many.
const QUEUES: u16 = 4;
/// How often a device in reset is looked at.
const STEP: Duration = Duration::from_millis(1);
/// How long it may take for a reset.
const RESET_TIME: Duration = Duration::from_secs(1);
/// What every register of a device that has gone reads as.
const GONE: DeviceStatus = DeviceStatus::from_bits_retain(0xff);
/// Flushes of a device without a cache that wait to be answered.
const INSTANT: usize = 64;

/// What to hand completions to.
type Done<'a> = &'a mut dyn FnMut(Tag, Result<(), DiskError>);

/// A device that has been reset and does nothing.
pub struct Quiet<T, C> {
    transport: T,
    clock: C,
}

impl<T: Transport, C: Clock> Quiet<T, C> {
    /// Resets the device and waits until it has stopped.
    ///
    /// # Errors
    /// [`Failure::Gone`], or [`Failure::TimedOut`] if it does not come out of the reset.
    pub async fn reset(mut transport: T, clock: C) -> Result<Self, Failure> {
        transport.set_status(DeviceStatus::empty());
        let deadline = clock.now().saturating_add(RESET_TIME);
        loop {
            match transport.get_status() {
                status if status.is_empty() => return Ok(Self { transport, clock }),
                GONE => return Err(Failure::Gone),
                _ if clock.now() >= deadline => return Err(Failure::TimedOut("reset")),
                _ => sleep(&clock, STEP).await,
            }
        }
    }

    /// The transport, to set up how it interrupts.
    pub fn transport(&mut self) -> &mut T {
        &mut self.transport
    }

    /// Puts the device to work. `time` is what a request is given before the device is reset.
    ///
    /// # Errors
    /// [`Failure::NoMemory`], or what the device lacks.
    pub fn start(self, dma: &impl Dma, time: Duration) -> Result<VirtioBlk<T, C>, Failure> {
        let now = self.clock.now();
        let mut this = VirtioBlk {
            transport: self.transport,
            clock: self.clock,
            now,
            time,
            features: Features::empty(),
            config: None,
            queues: Vec::new(),
            requests: Requests::default(),
            disks: Vec::new(),
            instant: heapless::Deque::new(),
            event: None,
            counters: DiskCounters::default(),
            health: Health::Recovering,
            attempts: 0,
            until: now,
            next_tick: now,
        };
        let queues = this.negotiate()?.queues.min(QUEUES);
        let made: Result<Vec<_>, Failure> = (0..queues).map(|number| BlkQueue::new(dma, number)).collect();
        this.queues = made?;
        this.requests = Requests::new(SLOTS.saturating_mul(queues));
        this.bring_up()?;
        if !this.features.contains(Features::ACCESS_PLATFORM) {
            log::warn!("virtio-blk: the IOMMU does not confine it (give it iommu_platform=on)");
        }
        Ok(this)
    }
}

/// A device in service.
pub struct VirtioBlk<T: Transport, C: Clock> {
    transport: T,
    clock: C,
    /// The time of the last poll.
    now: Instant,
    /// What a request is given.
    time: Duration,
    features: Features,
    config: Option<Config>,
    queues: Vec<BlkQueue>,
    requests: Requests,
    /// The one disk, once it is known.
    disks: Vec<Disk>,
    /// Flushes that need no device.
    instant: heapless::Deque<Tag, INSTANT>,
    event: Option<DiskEvent>,
    counters: DiskCounters,
    health: Health,
    /// Resets without a completed request since.
    attempts: u8,
    /// When a reset is given up.
    until: Instant,
    next_tick: Instant,
}

impl<T: Transport, C: Clock> Controller for VirtioBlk<T, C> {
    fn disks(&self) -> &[Disk] {
        &self.disks
    }

    fn submit(&mut self, disk: DiskId, command: &Command<'_>) -> Result<(), SubmitError> {
        self.submit_command(disk, command)
    }

    fn kick(&mut self) {
        if self.health == Health::Running {
            for queue in &mut self.queues {
                if queue.queue.show() {
                    self.transport.notify(queue.number);
                }
            }
        }
    }

    fn poll(&mut self, now: Instant, done: Done<'_>) {
        self.now = now;
        while let Some(tag) = self.instant.pop_front() {
            done(tag, Ok(()));
        }
        match self.health {
            Health::Running => {
                self.reap(done);
                if self.health == Health::Running && now >= self.next_tick {
                    self.tick();
                }
            }
            Health::Recovering => self.await_reset(done),
            Health::Failed(_) | Health::Stopped => self.answer_all(done),
            Health::Stuck(_) => {}
        }
    }

    fn in_flight(&self) -> usize {
        self.requests.in_use().saturating_add(self.instant.len())
    }

    fn take_event(&mut self) -> Option<DiskEvent> {
        self.event.take()
    }

    fn is_ready(&self) -> bool {
        let ready = !self.instant.is_empty() || self.queues.iter().any(|queue| queue.queue.is_ready());
        self.health == Health::Running && ready
    }

    fn enable_interrupts(&mut self) -> bool {
        if self.health != Health::Running {
            return matches!(self.health, Health::Failed(_) | Health::Stopped) && self.in_flight() > 0;
        }
        self.transport.ack_interrupt();
        for queue in &self.queues {
            queue.queue.enable_interrupts();
        }
        self.is_ready()
    }

    fn next_deadline(&self) -> Option<Instant> {
        match self.health {
            Health::Running => Some(self.next_tick),
            Health::Recovering => Some(self.now.saturating_add(STEP)),
            Health::Failed(_) | Health::Stopped if self.in_flight() > 0 => Some(self.now),
            Health::Failed(_) | Health::Stopped | Health::Stuck(_) => None,
        }
    }

    fn health(&self) -> Health {
        self.health
    }

    fn counters(&self) -> DiskCounters {
        self.counters
    }

    fn abandon(&mut self, done: Done<'_>) {
        if let Health::Stuck(failure) = self.health {
            self.health = Health::Failed(failure);
        }
        if matches!(self.health, Health::Failed(_) | Health::Stopped) {
            self.answer_all(done);
        }
    }

    fn quiesce(&mut self) {
        self.shut_down();
    }
}

impl<T: Transport, C: Clock> Drop for VirtioBlk<T, C> {
    fn drop(&mut self) {
        if !matches!(self.health, Health::Failed(_) | Health::Stopped) {
            self.shut_down();
        }
        if self.health != Health::Stopped {
            // It may still do DMA: its memory must never be used for anything else.
            for queue in &self.queues {
                queue.leak();
            }
        }
    }
}
