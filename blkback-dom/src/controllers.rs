//! The disk controllers of the domain: found on the PCI bus at start.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::time::Duration;

use pciback::{BusError, PciBus, Trust};
use xen_pv_rt::hyp::{Instant, Platform};

use crate::disk::{AttachedController, Controller, DiskError, DiskEvent, DiskId, DiskName, Health, ProbeError, Tag};
use crate::publish::ControllerReport;
use crate::vbd::Controllers;
use crate::volume::{DiskRef, NamedDisk};

/// How often a controller is looked at without an interrupt. Each time with commands in flight is a wake-up for nothing, after
/// which Xen has to set the CPU's timer anew.
const SLOW_POLL: Duration = Duration::from_secs(1);
/// The same with commands in flight and interrupts that are not known to arrive.
const FAST_POLL: Duration = Duration::from_millis(10);

/// Why the domain has no disks to serve.
#[derive(Debug)]
pub enum NoControllers {
    /// The connection to xen-pciback.
    Bus(BusError),
    /// A controller was given and could not be used. One is enough: what was asked for cannot be done.
    Controller(ProbeError),
}

impl fmt::Display for NoControllers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bus(error) => error.fmt(f),
            Self::Controller(error) => error.fmt(f),
        }
    }
}

struct Entry<H: Platform> {
    controller: AttachedController<H>,
    /// Its family and its number in it: `nvme0`.
    name: String,
    /// The last word about its health has been said.
    failed: bool,
    /// What is known of its interrupts.
    trust: Trust,
}

impl<H: Platform> Entry<H> {
    /// One of its disks, with its name. `number` is the controller's.
    fn disk(&self, number: u8, disk: DiskId) -> Option<NamedDisk> {
        let about = self.controller.disks().get(usize::from(disk.0))?;
        let name = disk_name(&self.name, about.name);
        Some(NamedDisk { name, disk: DiskRef { controller: number, disk }, about: about.clone() })
    }
}

/// All controllers, in the order of `pci=[...]`.
pub struct PciControllers<H: Platform> {
    bus: PciBus<H>,
    entries: Vec<Entry<H>>,
    next_poll: Instant,
}

impl<H: Platform> PciControllers<H> {
    /// Connects to xen-pciback and puts every function into service. `disk_timeout` is what a command is given.
    ///
    /// # Errors
    /// [`NoControllers`] if there is none, or one that cannot be used.
    pub async fn start(hyp: &H, disk_timeout: Duration) -> Result<Self, NoControllers> {
        let bus = PciBus::connect(hyp.clone()).await.map_err(NoControllers::Bus)?;
        let mut entries: Vec<Entry<H>> = Vec::new();
        for sbdf in bus.functions() {
            let device = bus.device(sbdf).map_err(|error| NoControllers::Controller(error.into()))?;
            let controller =
                AttachedController::attach(device, disk_timeout).await.map_err(NoControllers::Controller)?;
            let family = prefix(controller.name());
            let number = entries.iter().filter(|other| prefix(other.controller.name()) == family).count();
            let name = if family == "vd" { format!("vd{}", letter(number)) } else { format!("{family}{number}") };
            log::info!("{name}: {} at {sbdf}, {}", controller.name(), controller.interrupt_kind());
            entries.push(Entry { controller, name, failed: false, trust: Trust::default() });
        }
        Ok(Self { bus, entries, next_poll: Instant::default() })
    }

    /// Every disk there is, with its name.
    pub fn disks(&self) -> Vec<NamedDisk> {
        let disks = self.entries.iter().zip(0_u8..).flat_map(|(entry, number)| {
            let ids = 0..u16::try_from(entry.controller.disks().len()).unwrap_or(u16::MAX);
            ids.filter_map(move |disk| entry.disk(number, DiskId(disk)))
        });
        disks.collect()
    }

    /// The controllers as they are now.
    pub fn reports(&mut self) -> Vec<ControllerReport> {
        let report = |entry: &mut Entry<H>| ControllerReport {
            name: entry.name.clone(),
            sbdf: entry.controller.sbdf(),
            health: entry.controller.controller().health(),
            counters: entry.controller.controller().counters(),
            interrupts: entry.controller.interrupts().noticed(),
        };
        self.entries.iter_mut().map(report).collect()
    }

    /// A disk that something happened to since the last call, as it is now.
    pub fn take_event(&mut self) -> Option<NamedDisk> {
        for (entry, number) in self.entries.iter_mut().zip(0_u8..) {
            let Some(event) = entry.controller.controller().take_event() else { continue };
            let (DiskEvent::Added(disk) | DiskEvent::Resized(disk) | DiskEvent::Removed(disk)) = event;
            let named = entry.disk(number, disk)?;
            let name = &named.name;
            match event {
                DiskEvent::Added(_) => log::info!("disk {name} was added; write data/rescan to have its tables read"),
                DiskEvent::Resized(_) => log::info!("disk {name} has {} sectors now", named.about.geometry.sectors),
                DiskEvent::Removed(_) => log::error!("be=hw disk={name} cause=DISK_GONE action=err"),
            }
            return Some(named);
        }
        None
    }

    /// When the controllers are to be polled without an interrupt.
    pub fn next_poll(&self) -> Instant {
        self.next_poll
    }

    /// Whether a disk has a command that it has not answered.
    pub fn is_busy(&mut self) -> bool {
        self.entries.iter_mut().any(|entry| entry.controller.controller().in_flight() > 0)
    }

    /// Whether a completion waits in memory; cheap.
    pub fn is_ready(&mut self) -> bool {
        self.entries.iter_mut().any(|entry| entry.controller.controller().is_ready())
    }

    /// Asks every controller for an interrupt. Returns whether one of them has work already.
    pub fn arm(&mut self) -> bool {
        let mut work = false;
        for entry in &mut self.entries {
            work |= entry.controller.controller().enable_interrupts();
            // Only now is an interrupt line deasserted; earlier, it would interrupt again at once.
            entry.controller.interrupts().eoi();
        }
        work
    }

    /// Stops all controllers, their interrupts and their DMA, for the end of the domain. The bus stays connected:
    /// closing it would cost ten seconds of every `xl shutdown` (see `PciBus::disconnect`).
    pub fn stop(mut self) {
        for entry in &mut self.entries {
            entry.controller.controller().quiesce();
        }
    }
}

impl<H: Platform> Controllers for PciControllers<H> {
    fn get(&mut self, number: u8) -> Option<&mut dyn Controller> {
        Some(self.entries.get_mut(usize::from(number))?.controller.controller())
    }

    fn count(&self) -> u8 {
        u8::try_from(self.entries.len()).unwrap_or(u8::MAX)
    }

    fn poll(&mut self, now: Instant, done: &mut dyn FnMut(Tag, Result<(), DiskError>)) {
        let overdue = now >= self.next_poll;
        self.next_poll = now.saturating_add(SLOW_POLL);
        for Entry { controller, name, failed, trust } in &mut self.entries {
            // Cleared first: an interrupt that comes while the queues are read means something new.
            let interrupted = controller.interrupts().take_pending();
            let mut answered = false;
            controller.poll(now, &mut |tag, outcome| {
                answered = true;
                done(tag, outcome);
            });
            if answered {
                trust.learn(interrupted, overdue);
            }
            let controller_now = controller.controller();
            if controller_now.in_flight() > 0 && !trust.is_earned() {
                self.next_poll = self.next_poll.min(now.saturating_add(FAST_POLL));
            }
            if let Some(deadline) = controller_now.next_deadline() {
                self.next_poll = self.next_poll.min(deadline);
            }
            if let Health::Failed(failure) | Health::Stuck(failure) = controller.controller().health()
                && !core::mem::replace(failed, true)
            {
                log::error!("be=hw pci={} disk={name} cause=DISK_FAILED {failure} action=kill", controller.sbdf());
            }
        }
        self.bus.poll();
    }
}

/// How disks of a family are called.
fn prefix(family: &str) -> &'static str {
    match family {
        "NVMe" => "nvme",
        "AHCI" => "ahci",
        _ => "vd",
    }
}

/// `a` to `z`.
fn letter(number: usize) -> char {
    u32::try_from(number)
        .ok()
        .and_then(|n| char::from_u32(n.checked_add(97)?))
        .filter(char::is_ascii_lowercase)
        .unwrap_or('z')
}

fn disk_name(controller: &str, name: DiskName) -> String {
    format!("{controller}{name}")
}
