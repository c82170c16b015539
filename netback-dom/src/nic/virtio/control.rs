//! The control queue: one command at a time, at start only.
//!
//! Virtio 1.2, section 5.1.6.5.

use alloc::rc::Rc;
use core::sync::atomic::Ordering;

use virtio_drivers::transport::Transport;
use virtio_pci::{Buffer, MAX_SIZE, Queue};
use xen_pv_rt::hyp::{Clock, Dma, DmaRing};

use super::queues::{Place, set_up};
use super::wait::wait;
use crate::nic::NicError;

/// `VIRTIO_NET_CTRL_RX`, and its commands, each of which takes a byte that says on or off.
const CLASS_RX: u8 = 0;
const PROMISC: u8 = 0;
const ALLMULTI: u8 = 1;
/// `VIRTIO_NET_CTRL_MQ`, and its command that takes a number of queue pairs.
const CLASS_MQ: u8 = 4;
const VQ_PAIRS_SET: u8 = 0;
/// Where in the page the device answers.
const ANSWER: usize = 16;
/// What is there before it has.
const NO_ANSWER: u32 = 0xff;

pub(super) struct Control {
    queue: Queue,
    number: u16,
    /// The command, then the answer.
    memory: Rc<DmaRing>,
}

impl Control {
    pub(super) fn new(dma: &impl Dma) -> Result<Self, NicError> {
        let memory = dma.dma_ring(1).map(Rc::new).map_err(|_| NicError::NoMemory)?;
        Ok(Self { queue: Queue::new(dma)?, number: 0, memory })
    }

    /// Programs a device that has been reset and whose control queue has this number.
    pub(super) fn start<T: Transport>(
        &mut self,
        transport: &mut T,
        number: u16,
        event_idx: bool,
    ) -> Result<(), NicError> {
        self.number = number;
        set_up(&mut self.queue, transport, Place { number, size: MAX_SIZE, event_idx })
    }

    /// Has the device use so many queue pairs; until it is told, it uses one. Whether it does.
    pub(super) fn use_pairs<T: Transport, C: Clock>(
        &mut self,
        transport: &mut T,
        clock: &C,
        pairs: u16,
    ) -> Result<bool, NicError> {
        let [low, high] = pairs.to_le_bytes();
        self.command(transport, clock, &[CLASS_MQ, VQ_PAIRS_SET, low, high])
    }

    /// Has the device receive every frame, whomever it is for. One that refuses receives what it likes.
    pub(super) fn receive_everything<T: Transport, C: Clock>(
        &mut self,
        transport: &mut T,
        clock: &C,
    ) -> Result<(), NicError> {
        for (command, what) in [(PROMISC, "promiscuous"), (ALLMULTI, "receive all multicast")] {
            if !self.command(transport, clock, &[CLASS_RX, command, 1])? {
                log::warn!("virtio-net: the device does not want to be {what}");
            }
        }
        Ok(())
    }

    /// Sends a command of at most four bytes and waits for the answer: whether it was accepted.
    fn command<T: Transport, C: Clock>(
        &mut self,
        transport: &mut T,
        clock: &C,
        command: &[u8],
    ) -> Result<bool, NicError> {
        let words = self.memory.words();
        let (Some(question), Some(answer)) = (words.first(), words.get(ANSWER >> 2)) else { return Ok(false) };
        let word = command.iter().rev().fold(0, |word, byte| word << 8 | u32::from(*byte));
        question.store(word, Ordering::Relaxed);
        answer.store(NO_ANSWER, Ordering::Relaxed);
        let at = self.memory.maddr();
        let answer_at = at.wrapping_add(u64::try_from(ANSWER).unwrap_or(0));
        let buffers =
            [Buffer::to_device(at, u32::try_from(command.len()).unwrap_or(0)), Buffer::from_device(answer_at, 1)];
        if self.queue.push(buffers.into_iter()).is_none() {
            return Ok(false);
        }
        if self.queue.show() {
            transport.notify(self.number);
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
