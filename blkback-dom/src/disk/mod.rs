//! Disk controllers: one trait, one module per family.
//!
//! A driver sees registers ([`Mmio`](xen_pv_rt::hyp::Mmio)), DMA memory and this trait, nothing of Xen:
//! interrupts are somebody else's event channels, and the loop polls a controller when one of them is pending
//! or a timer says so. A driver never waits without a deadline and believes nothing that the device writes.
//!
//! One [`Controller`] serves several disks (NVMe namespaces, AHCI ports), named by [`DiskId`]. It is the one
//! owner of its queues, so whoever owns the controller serves all of its disks without sharing anything:
//! completions of all disks come out of one [`poll`](Controller::poll), told apart by their [`Tag`].
//!
//! The life of a command: the caller keeps the pages of its [`Span`]s alive and [`submit`](Controller::submit)s;
//! a batch is made visible by one [`kick`](Controller::kick); the tag comes back from `poll` exactly once. Only
//! then the pages may go, because only then the device no longer touches them: a driver answers a command when
//! the device has completed it, or when the controller was reset or cut off from memory.
//!
//! Not here: partitions, logical volumes, caching, ordering between commands.

pub mod ahci;
mod command;
mod describe;
mod error;
pub mod layout;
mod lists;
pub mod nvme;
mod probe;
mod requests;
pub mod virtio;
mod words;

pub use command::{Command, Op, SECTOR_BYTES, Span, Tag};
pub use describe::{Capabilities, Disk, DiskId, DiskName, Geometry, MAX_SPANS, Medium};
pub use error::{DiskError, Failure, SubmitError};
pub use probe::{AnyController, AttachedController, COMMAND_TIME, ProbeError};

use xen_pv_rt::hyp::Instant;

/// Something happened to a disk that its users want to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskEvent {
    /// [`Controller::disks`] has a new entry.
    Added(DiskId),
    /// Its [`Geometry::sectors`] changed.
    Resized(DiskId),
    /// It is gone; commands for it end in [`DiskError::Gone`].
    Removed(DiskId),
}

/// What can be expected of a controller at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// In service.
    Running,
    /// Being reset, which may take as long as its deadlines. Commands wait; new ones are refused as `Full`.
    Recovering,
    /// Out of service, and its DMA is known to have stopped: every command was answered.
    Failed(Failure),
    /// Out of service, and it could not be stopped: commands are held until
    /// [`abandon`](Controller::abandon), which is called once its DMA was cut off by other means.
    Stuck(Failure),
    /// [`quiesce`](Controller::quiesce)d.
    Stopped,
}

/// Counters since start. They wrap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskCounters {
    /// Commands answered, whatever the answer.
    pub answered: u64,
    /// Commands answered with an error.
    pub errors: u64,
    /// Device commands repeated after a transient error or a reset.
    pub retries: u64,
    /// Device commands that exceeded their deadline.
    pub timeouts: u64,
    /// Controller resets after the first.
    pub resets: u64,
    /// Impossible things that the device wrote.
    pub confusions: u64,
}

/// A disk controller in service, with the disks behind it.
pub trait Controller {
    /// The disks, indexed by [`DiskId`]. Entries are added and change, but never move.
    fn disks(&self) -> &[Disk];

    /// Queues a command. The device sees it with [`kick`](Self::kick) at the latest.
    ///
    /// # Errors
    /// [`SubmitError::Full`] is back-pressure: try again after the next completions. It is also what a change gets
    /// while another one to the same sectors is in flight. The others are about the
    /// command and do not change by waiting; nothing was queued.
    fn submit(&mut self, disk: DiskId, command: &Command<'_>) -> Result<(), SubmitError>;

    /// Makes the device look at what was submitted: one doorbell per queue for a whole batch.
    fn kick(&mut self);

    /// Takes completions, and goes on with whatever is under way: retries, deadlines, recovery, health.
    ///
    /// `now` is the time, passed in because reading it can be slow; the deadlines of what is submitted count from
    /// the `now` of the last poll. Called after an interrupt, at [`next_deadline`](Self::next_deadline), and, so that a lost interrupt costs
    /// milliseconds rather than seconds, every 10 ms while [`in_flight`](Self::in_flight) is not 0. `done` may
    /// not submit; it gets each tag exactly once.
    fn poll(&mut self, now: Instant, done: &mut dyn FnMut(Tag, Result<(), DiskError>));

    /// Commands submitted and not answered.
    fn in_flight(&self) -> usize;

    /// The next event about a disk.
    fn take_event(&mut self) -> Option<DiskEvent>;

    /// Whether a completion waits in memory. Reads no register, so it can be asked over and over.
    fn is_ready(&self) -> bool;

    /// Asks for an interrupt on the next completion and says whether there is work already, so that a
    /// completion between the last poll and going to sleep is not lost.
    fn enable_interrupts(&mut self) -> bool;

    /// When [`poll`](Self::poll) has something to do even without an interrupt.
    fn next_deadline(&self) -> Option<Instant>;

    /// What can be expected of it at the moment.
    fn health(&self) -> Health;

    /// Counters since start.
    fn counters(&self) -> DiskCounters;

    /// Answers what is in flight, as the device's DMA was cut off from outside. For [`Health::Stuck`].
    fn abandon(&mut self, done: &mut dyn FnMut(Tag, Result<(), DiskError>));

    /// Stops it for shutdown: tells it to write its cache out, waits for that (seconds at most), and stops its
    /// DMA and interrupts. Commands still in flight are answered by the next [`poll`](Self::poll).
    fn quiesce(&mut self);
}
