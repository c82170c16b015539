//! A port: from an empty connector to a disk, and back.
//!
//! Starting a port, and starting it over after an error, are the same stages, gone through without waiting:
//! stop the engine, reset the link if need be, wait for the device, identify it. Serial ATA AHCI 1.3.1,
//! section 10.

use core::time::Duration;

use xen_pv_rt::hyp::{Dma, Instant, Mmio};

use super::command;
use super::identify::{AtaData, cd_blocks, describe_cd};
use super::memory::PortMemory;
use super::regs::{GONE, Port as Reg, Registers, SIG_ATAPI, cmd, is, ssts, tfd};
use super::slots::Slots;
use super::{Context, Done};
use crate::disk::{DiskError, Failure};

/// How long the engine may take to stop.
const STOP_TIME: Duration = Duration::from_millis(500);
/// How long the link reset signal is given.
const SIGNAL_TIME: Duration = Duration::from_millis(2);
/// How long a device may take to answer on the link.
const LINK_TIME: Duration = Duration::from_millis(200);
/// How long a disk may take to spin up.
const SPIN_UP_TIME: Duration = Duration::from_secs(31);
/// How long a command of the driver's own may take.
const OWN_TIME: Duration = Duration::from_secs(10);
/// How often the size of a CD-ROM is asked for: the first answers are about its reset.
const CD_TRIES: u8 = 5;
/// Resets without a completed command in between.
const MAX_ATTEMPTS: u8 = 5;

/// What is to happen once the engine has stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum After {
    /// It is started again, after a failed command.
    Restart,
    /// The link is reset, after an error among queued commands, which are then tried one by one. A disk in that
    /// state refuses everything until it is asked for a log or reset.
    Isolate,
    /// The link is reset.
    Reset,
    /// A CD-ROM is asked for its size once more; how often it was already.
    Ask(u8),
    /// The port is taken out of service.
    Leave,
}

/// What the port is busy with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// No device.
    Empty,
    /// Out of service for good.
    Dead,
    /// The engine is stopping.
    Stopping(After),
    /// It does not stop: the controller has to be reset.
    WontStop,
    /// The reset signal is on the link.
    Signal,
    /// Waits for the device on the link.
    Link,
    /// Waits for the device to be ready.
    Busy,
    /// A disk or a packet device identifies itself.
    Identify,
    /// A CD-ROM is asked for its size; how often it was already.
    Capacity(u8),
    /// In service.
    Running,
}

/// What is behind a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A disk; whether it has a queue.
    Disk { queue: bool },
    /// A CD-ROM.
    Cd,
}

pub(super) struct Port {
    pub(super) number: u8,
    pub(super) memory: PortMemory,
    pub(super) slots: Slots,
    pub(super) stage: Stage,
    until: Instant,
    pub(super) kind: Kind,
    /// Logical blocks are 512 bytes shifted by this.
    pub(super) shift: u32,
    /// Its disk, once it has had one.
    pub(super) disk: Option<u16>,
    /// A command by itself that the device has ended with an error.
    pub(super) failed: Option<(u8, DiskError)>,
    pub(super) attempts: u8,
}

impl Port {
    pub(super) fn new(dma: &impl Dma, number: u8) -> Result<Self, Failure> {
        Ok(Self {
            number,
            memory: PortMemory::new(dma)?,
            slots: Slots::new(),
            stage: Stage::Empty,
            until: Instant::default(),
            kind: Kind::Disk { queue: false },
            shift: 0,
            disk: None,
            failed: None,
            attempts: 0,
        })
    }

    /// Whether it is neither in service nor out of it.
    pub(super) const fn is_busy(&self) -> bool {
        !matches!(self.stage, Stage::Empty | Stage::Dead | Stage::Running)
    }

    fn enter(&mut self, stage: Stage, now: Instant, time: Duration) {
        self.stage = stage;
        self.until = now.saturating_add(time);
    }

    /// Stops the engine, with `after` to follow.
    pub(super) fn stop<R: Mmio>(&mut self, regs: &Registers<R>, now: Instant, after: After) {
        if matches!(after, After::Restart | After::Isolate | After::Reset) {
            self.attempts = self.attempts.saturating_add(1);
        }
        let after = if self.attempts > MAX_ATTEMPTS { After::Leave } else { after };
        let value = regs.port_read(self.number, Reg::Cmd);
        regs.port_write(self.number, Reg::Cmd, value & !cmd::ST);
        // What is asserted now would interrupt until the port is started again.
        regs.port_write(self.number, Reg::Ie, 0);
        self.enter(Stage::Stopping(after), now, STOP_TIME);
    }

    /// Programs a port whose engine has stopped, and looks for a device. `reset`: with a reset of the link.
    pub(super) fn begin<R: Mmio>(&mut self, regs: &Registers<R>, now: Instant, reset: bool) {
        let n = self.number;
        regs.port_write(n, Reg::Ie, 0);
        regs.port_address(n, Reg::Clb, self.memory.command_list());
        regs.port_address(n, Reg::Fb, self.memory.received());
        let keep = regs.port_read(n, Reg::Cmd) & !(cmd::ICC_MASK | cmd::ST | cmd::ATAPI);
        regs.port_write(n, Reg::Cmd, keep | cmd::SUD | cmd::POD | cmd::ACTIVE | cmd::FRE);
        if reset {
            // Any speed, no power saving, and the reset signal.
            regs.port_write(n, Reg::Sctl, 0x301);
            self.enter(Stage::Signal, now, SIGNAL_TIME);
        } else {
            self.enter(Stage::Link, now, LINK_TIME);
        }
    }

    /// Goes on with a stage.
    pub(super) fn step<R: Mmio>(&mut self, regs: &Registers<R>, cx: &mut Context, done: Done<'_>) {
        match self.stage {
            Stage::Stopping(after) => self.await_stop(regs, cx, after, done),
            Stage::Signal if cx.now >= self.until => {
                regs.port_write(self.number, Reg::Sctl, 0x300);
                self.enter(Stage::Link, cx.now, LINK_TIME);
            }
            Stage::Link => self.await_link(regs, cx, done),
            Stage::Busy => self.await_ready(regs, cx),
            Stage::Identify | Stage::Capacity(_) => self.await_own(regs, cx, done),
            _ => {}
        }
    }

    fn await_stop<R: Mmio>(&mut self, regs: &Registers<R>, cx: &mut Context, after: After, done: Done<'_>) {
        let value = regs.port_read(self.number, Reg::Cmd);
        if value == GONE {
            return;
        }
        if value & cmd::CR != 0 {
            if cx.now >= self.until {
                self.stage = Stage::WontStop;
            }
            return;
        }
        self.stopped(regs, cx, after, done);
    }

    /// The engine has stopped: from here on the port does not touch the memory of commands.
    pub(super) fn stopped<R: Mmio>(&mut self, regs: &Registers<R>, cx: &mut Context, after: After, done: Done<'_>) {
        self.settle(cx, after, done);
        let busy = regs.port_read(self.number, Reg::Tfd) & tfd::BUSY != 0;
        match after {
            After::Restart if !busy => self.run(regs, cx.now),
            After::Ask(tries) if !busy => {
                self.own(regs, cx.now, &command::read_capacity(), 8, Stage::Capacity(tries.saturating_add(1)));
            }
            After::Restart | After::Ask(_) | After::Isolate | After::Reset => self.begin(regs, cx.now, true),
            After::Leave => self.leave(cx, done),
        }
    }

    /// No device, or none that can be served: answers what is left.
    fn leave(&mut self, cx: &mut Context, done: Done<'_>) {
        self.answer_all(cx, DiskError::Gone, done);
        self.stage = if self.attempts > MAX_ATTEMPTS { Stage::Dead } else { Stage::Empty };
        if self.stage == Stage::Dead {
            log::error!("ahci: port {} needs one reset after the other; it is out of service", self.number);
        }
        cx.remove(self.disk);
    }

    fn await_link<R: Mmio>(&mut self, regs: &Registers<R>, cx: &mut Context, done: Done<'_>) {
        if regs.port_read(self.number, Reg::Ssts) & ssts::DET_MASK == ssts::DET_READY {
            regs.port_write(self.number, Reg::Serr, u32::MAX);
            return self.enter(Stage::Busy, cx.now, SPIN_UP_TIME);
        }
        if cx.now >= self.until {
            self.leave(cx, done);
        }
    }

    fn await_ready<R: Mmio>(&mut self, regs: &Registers<R>, cx: &mut Context) {
        if regs.port_read(self.number, Reg::Tfd) & tfd::BUSY != 0 {
            if cx.now >= self.until {
                log::warn!("ahci: the device at port {} does not become ready", self.number);
                self.stop(regs, cx.now, After::Leave);
            }
            return;
        }
        let packet = regs.port_read(self.number, Reg::Sig) == SIG_ATAPI;
        self.kind = if packet { Kind::Cd } else { Kind::Disk { queue: false } };
        let value = regs.port_read(self.number, Reg::Cmd) & !cmd::ATAPI;
        regs.port_write(self.number, Reg::Cmd, value | if packet { cmd::ATAPI } else { 0 });
        self.own(regs, cx.now, &command::identify(packet), 512, Stage::Identify);
    }

    /// Starts the engine.
    fn start_engine<R: Mmio>(&mut self, regs: &Registers<R>) {
        regs.port_write(self.number, Reg::Serr, u32::MAX);
        regs.port_write(self.number, Reg::Is, u32::MAX);
        self.memory.take_report();
        let value = regs.port_read(self.number, Reg::Cmd);
        regs.port_write(self.number, Reg::Cmd, value | cmd::ST);
    }

    /// Gives the device a command of the driver's own.
    fn own<R: Mmio>(&mut self, regs: &Registers<R>, now: Instant, fis: &command::Fis, bytes: u32, stage: Stage) {
        self.start_engine(regs);
        self.memory.prepare_own(fis, bytes);
        regs.port_write(self.number, Reg::Ci, 1);
        self.enter(stage, now, OWN_TIME);
    }

    fn await_own<R: Mmio>(&mut self, regs: &Registers<R>, cx: &mut Context, done: Done<'_>) {
        let failed = regs.port_read(self.number, Reg::Is) & is::ERRORS != 0;
        if !failed && regs.port_read(self.number, Reg::Ci) & 1 != 0 {
            if cx.now >= self.until {
                log::warn!("ahci: the device at port {} does not identify itself", self.number);
                self.stop(regs, cx.now, After::Reset);
            }
            return;
        }
        let failed = failed || regs.port_read(self.number, Reg::Tfd) & tfd::ERR != 0;
        match self.stage {
            Stage::Identify if !failed => self.identified(regs, cx, done),
            Stage::Capacity(_) if !failed => self.sized(regs, cx, done),
            Stage::Capacity(tries) => self.ask_again(regs, cx, tries),
            _ => {
                log::warn!("ahci: the device at port {} does not identify itself", self.number);
                self.stop(regs, cx.now, After::Reset);
            }
        }
    }

    fn identified<R: Mmio>(&mut self, regs: &Registers<R>, cx: &mut Context, done: Done<'_>) {
        if self.kind == Kind::Cd {
            self.memory_of_identity(cx);
            return self.own(regs, cx.now, &command::read_capacity(), 8, Stage::Capacity(1));
        }
        match AtaData::decode(&self.memory.data()) {
            Ok(data) => {
                let depth = if cx.ncq { data.queue.min(cx.slots) } else { 0 };
                self.kind = Kind::Disk { queue: depth > 1 };
                self.shift = (data.block_bytes >> 9).checked_ilog2().unwrap_or(0);
                self.slots.set_depth(usize::try_from(depth.max(cx.slots.min(2))).unwrap_or(1));
                let mut disk = data.describe(self.number);
                disk.capabilities.shared_slots = self.shared_slots();
                self.enter_service(regs, cx, disk, done);
            }
            Err(why) => {
                log::warn!("ahci: the disk at port {} is not served: it {why}", self.number);
                self.stop(regs, cx.now, After::Leave);
            }
        }
    }

    fn shared_slots(&self) -> u16 {
        u16::try_from(self.slots.depth()).unwrap_or(1)
    }

    /// Keeps what a packet device said of itself until its size is known.
    fn memory_of_identity(&self, cx: &mut Context) {
        cx.identity = self.memory.data();
    }

    fn ask_again<R: Mmio>(&mut self, regs: &Registers<R>, cx: &mut Context, tries: u8) {
        if tries >= CD_TRIES {
            log::warn!("ahci: no medium that can be read in the CD-ROM at port {}", self.number);
            return self.stop(regs, cx.now, After::Leave);
        }
        self.stop(regs, cx.now, After::Ask(tries));
    }

    fn sized<R: Mmio>(&mut self, regs: &Registers<R>, cx: &mut Context, done: Done<'_>) {
        let [a, b, c, d, ..] = self.memory.data();
        let [[a, b], [c, d], [e, f], [g, h]] = [a, b, c, d].map(u16::to_le_bytes);
        let Some(blocks) = cd_blocks([a, b, c, d, e, f, g, h]) else {
            log::warn!("ahci: no medium that can be read in the CD-ROM at port {}", self.number);
            return self.stop(regs, cx.now, After::Leave);
        };
        self.shift = 2;
        self.slots.set_depth(usize::try_from(cx.slots).unwrap_or(1));
        let mut disk = describe_cd(self.number, &cx.identity, blocks);
        disk.capabilities.shared_slots = self.shared_slots();
        self.enter_service(regs, cx, disk, done);
    }

    fn enter_service<R: Mmio>(
        &mut self,
        regs: &Registers<R>,
        cx: &mut Context,
        disk: crate::disk::Disk,
        done: Done<'_>,
    ) {
        // Commands for another disk than this must not reach it.
        if !cx.is_same(self.disk, &disk) {
            self.answer_all(cx, DiskError::Gone, done);
        }
        cx.update(&mut self.disk, disk);
        self.run(regs, cx.now);
    }

    /// Puts the port into service.
    fn run<R: Mmio>(&mut self, regs: &Registers<R>, now: Instant) {
        self.start_engine(regs);
        regs.port_write(self.number, Reg::Ie, is::DONE | is::LINK | is::ERRORS);
        self.stage = Stage::Running;
        self.start_waiting(regs, now);
    }

    /// Looks whether the device came or went.
    pub(super) fn check_link<R: Mmio>(&mut self, regs: &Registers<R>, now: Instant) {
        let there = regs.port_read(self.number, Reg::Ssts) & ssts::DET_MASK == ssts::DET_READY;
        match self.stage {
            Stage::Empty if there => {
                self.attempts = 0;
                self.begin(regs, now, true);
            }
            Stage::Running if !there => self.stop(regs, now, After::Leave),
            _ => {}
        }
    }
}
