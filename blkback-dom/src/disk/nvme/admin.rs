//! The admin queue: one command at a time, besides the one that waits for events.

use xen_pv_rt::hyp::{Dma, DmaBuf, Instant, Maddr, Mmio};

use super::command;
use super::queue::{Cqe, QueuePair, Sqe};
use super::regs::Registers;
use crate::disk::Failure;
use crate::disk::words::{join16, low16};

/// Entries of the admin queues.
const ENTRIES: u16 = 16;

/// What the admin queue is busy with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Task {
    /// Nothing.
    Idle,
    /// The controller is stopping.
    Disable,
    /// The controller is starting.
    Enable,
    /// Identifies the controller.
    Controller,
    /// Asks for I/O queues.
    Queues,
    /// Creates the completion queue of that I/O queue, counted from 0.
    CreateCq(usize),
    /// Creates the submission queue of that I/O queue.
    CreateSq(usize),
    /// Asks for events about namespaces.
    Events,
    /// Lists the active namespaces.
    List,
    /// Identifies that namespace of the list.
    Namespace(usize),
    /// Reads a log page.
    Log(u8),
    /// Has a command given up.
    Abort,
}

/// What a completion on the admin queue is for.
pub(super) enum Completion {
    /// The command of the present task.
    Task(Cqe),
    /// An event, with the log page that says more.
    Event { log: u8, failed: bool },
}

pub(super) struct Admin {
    pub(super) queue: QueuePair,
    data: Option<DmaBuf>,
    pub(super) task: Task,
    /// When the task is given up.
    pub(super) until: Instant,
    /// The command of the task, while the controller has it.
    current: Option<u16>,
    /// The command that waits for events, while the controller has it.
    event: Option<u16>,
    next_cid: u16,
    /// The log page to be read.
    pub(super) log: Option<u8>,
}

impl Admin {
    pub(super) fn new(dma: &impl Dma) -> Result<Self, Failure> {
        let pool = dma.dma_pool(1).map_err(|_| Failure::NoMemory)?;
        Ok(Self {
            queue: QueuePair::new(dma, 0, ENTRIES, u32::MAX)?,
            data: Some(pool.take().ok_or(Failure::NoMemory)?),
            task: Task::Idle,
            until: Instant::default(),
            current: None,
            event: None,
            next_cid: 0,
            log: None,
        })
    }

    /// Forgets everything, for a controller that is stopped.
    pub(super) fn clear(&mut self) {
        self.queue.clear();
        (self.current, self.event, self.log) = (None, None, None);
    }

    /// Where the data of the task's command goes.
    pub(super) fn data_maddr(&self) -> Maddr {
        self.data.as_ref().map_or(Maddr::from_raw(0), DmaBuf::maddr)
    }
    /// The data, once the task's command has completed.
    pub(super) fn data(&self) -> &[u8] {
        match &self.data {
            Some(data) if self.current.is_none() => data.bytes(),
            _ => &[],
        }
    }

    fn push(&mut self, mut sqe: Sqe) -> u16 {
        let cid = self.next_cid;
        self.next_cid = cid.wrapping_add(1);
        if let Some(first) = sqe.first_mut() {
            *first = join16(low16(*first), cid);
        }
        self.queue.push(&sqe);
        cid
    }

    /// Gives the controller the command of a task. The previous one has completed.
    pub(super) fn start<R: Mmio>(&mut self, regs: &Registers<R>, task: Task, sqe: Sqe, until: Instant) {
        // What the controller does not fill in reads as zeros, not as the previous command's data.
        if let Some(data) = &mut self.data {
            data.bytes_mut().fill(0);
        }
        self.current = Some(self.push(sqe));
        (self.task, self.until) = (task, until);
        self.queue.kick(regs);
    }

    /// Waits for the next event, if nothing does yet.
    pub(super) fn await_event<R: Mmio>(&mut self, regs: &Registers<R>) {
        if self.event.is_none() {
            self.event = Some(self.push(command::async_event()));
            self.queue.kick(regs);
        }
    }

    /// Takes a completion.
    ///
    /// # Errors
    /// [`Failure::Confused`] if it is for a command that the controller does not have.
    pub(super) fn take(&mut self) -> Result<Option<Completion>, Failure> {
        let Some(cqe) = self.queue.take() else { return Ok(None) };
        if cqe.sqid == 0 && self.current == Some(cqe.cid) {
            self.current = None;
            return Ok(Some(Completion::Task(cqe)));
        }
        if cqe.sqid == 0 && self.event == Some(cqe.cid) {
            self.event = None;
            let [_, _, log, _] = cqe.result.to_le_bytes();
            return Ok(Some(Completion::Event { log, failed: cqe.status != 0 }));
        }
        Err(Failure::Confused("completion of an admin command"))
    }

    pub(super) fn leak(&mut self) {
        self.queue.leak();
        core::mem::forget(self.data.take());
    }
}
