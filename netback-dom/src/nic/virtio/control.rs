//! The control queue: one command at a time, at start only.
//!
//! Virtio 1.2, section 5.1.6.5.

use alloc::rc::Rc;
use core::sync::atomic::Ordering;

use virtio_drivers::transport::Transport;
use virtio_pci::{Buffer, Queue};
use xen_pv_rt::hyp::{Clock, Dma, DmaRing};

use super::CONTROL;
use super::wait::wait;
use crate::nic::NicError;

/// `VIRTIO_NET_CTRL_RX`, and its commands, each of which takes a byte that says on or off.
const CLASS_RX: u8 = 0;
const PROMISC: u8 = 0;
const ALLMULTI: u8 = 1;
/// What a command comes to in bytes, and where in the page the device answers.
const COMMAND: u32 = 3;
const ANSWER: usize = 16;
/// What is there before it has.
const NO_ANSWER: u32 = 0xff;

pub(super) struct Control {
    queue: Queue,
    /// The command, then the answer.
    memory: Rc<DmaRing>,
}

impl Control {
    pub(super) fn new(dma: &impl Dma) -> Result<Self, NicError> {
        let memory = dma.dma_ring(1).map(Rc::new).map_err(|_| NicError::NoMemory)?;
        Ok(Self { queue: Queue::new(dma)?, memory })
    }

    /// Programs a device that has been reset.
    pub(super) fn start<T: Transport>(&mut self, transport: &mut T, event_idx: bool) -> Result<(), NicError> {
        self.queue.start(transport.max_queue_size(CONTROL), event_idx)?;
        let (table, available, used) = self.queue.addresses();
        let size = self.queue.size().into();
        transport.queue_set(CONTROL, size, table.into_raw(), available.into_raw(), used.into_raw());
        self.queue.disable_interrupts();
        Ok(())
    }

    /// Has the device receive every frame, whomever it is for. One that refuses receives what it likes.
    pub(super) fn receive_everything<T: Transport, C: Clock>(
        &mut self,
        transport: &mut T,
        clock: &C,
    ) -> Result<(), NicError> {
        for (command, what) in [(PROMISC, "promiscuous"), (ALLMULTI, "receive all multicast")] {
            if !self.command(transport, clock, [CLASS_RX, command, 1])? {
                log::warn!("virtio-net: the device does not want to be {what}");
            }
        }
        Ok(())
    }

    /// Sends a command and waits for the answer: whether it was accepted.
    fn command<T: Transport, C: Clock>(
        &mut self,
        transport: &mut T,
        clock: &C,
        [class, command, value]: [u8; 3],
    ) -> Result<bool, NicError> {
        let words = self.memory.words();
        let (Some(question), Some(answer)) = (words.first(), words.get(ANSWER >> 2)) else { return Ok(false) };
        question.store(u32::from_le_bytes([class, command, value, 0]), Ordering::Relaxed);
        answer.store(NO_ANSWER, Ordering::Relaxed);
        let at = self.memory.maddr();
        let answer_at = at.wrapping_add(u64::try_from(ANSWER).unwrap_or(0));
        let buffers = [Buffer::to_device(at, COMMAND), Buffer::from_device(answer_at, 1)];
        if self.queue.push(buffers.into_iter()).is_none() {
            return Ok(false);
        }
        if self.queue.show() {
            transport.notify(CONTROL);
        }
        wait(clock, "control queue", || self.queue.is_ready())?;
        self.queue.pop()?;
        Ok(answer.load(Ordering::Acquire) & 0xff == 0)
    }

    /// Keeps the memory allocated for ever: the device may still use it.
    pub(super) fn leak(&self) {
        self.queue.leak();
        core::mem::forget(self.memory.clone());
    }
}
