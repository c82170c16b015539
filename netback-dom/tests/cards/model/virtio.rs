//! A model of a modern virtio-net device on the PCI bus, from the virtio specification.
//!
//! It sleeps until it is notified and says by index when it wants to be, so a lost notification shows as a
//! frame that is not sent. It can be told to misbehave.

use std::cell::RefCell;
use std::rc::Rc;

use virtio_drivers::transport::DeviceType;
use virtio_pci::{VirtioPci, Window, Windows};
use xen_pv_rt::hyp::{HostMemory, Maddr, Mmio};

use super::checksum;

pub const MAC: [u8; 6] = [0x52, 0x54, 0, 0x65, 0x43, 0x21];
pub const RX: usize = 0;
pub const TX: usize = 1;
/// That of a device with one queue pair, or that has not agreed on several.
pub const CONTROL: usize = 2;

pub const CSUM: u64 = 1 << 0;
pub const GUEST_CSUM: u64 = 1 << 1;
pub const MTU: u64 = 1 << 3;
pub const F_MAC: u64 = 1 << 5;
pub const GUEST_TSO4: u64 = 1 << 7;
pub const GUEST_TSO6: u64 = 1 << 8;
pub const HOST_TSO4: u64 = 1 << 11;
pub const MRG_RXBUF: u64 = 1 << 15;
pub const STATUS: u64 = 1 << 16;
pub const CTRL_VQ: u64 = 1 << 17;
pub const CTRL_RX: u64 = 1 << 18;
pub const MQ: u64 = 1 << 22;
pub const EVENT_IDX: u64 = 1 << 29;
pub const VERSION_1: u64 = 1 << 32;
pub const ACCESS_PLATFORM: u64 = 1 << 33;
/// What QEMU offers behind a backend without offloads, and then some.
pub const USUAL: u64 = F_MAC | MRG_RXBUF | STATUS | EVENT_IDX | VERSION_1 | ACCESS_PLATFORM | CTRL_VQ | MQ;

const ISR: usize = 0x1000;
const DEVICE: usize = 0x2000;
const NOTIFY: usize = 0x3000;
const MULTIPLIER: u32 = 4;
const HEADER: usize = 12;
/// The last notification address; queues beyond share it.
const LAST_NOTIFY: usize = 63;

#[derive(Clone, Copy, Default)]
pub struct Manners {
    pub reset_hangs: bool,
    pub refuses_features: bool,
    pub tx_hangs: bool,
    /// Frames of this queue are never sent.
    pub queue_hangs: Option<usize>,
    /// Commands are never answered.
    pub control_hangs: bool,
    /// Commands are refused.
    pub refuses_commands: bool,
    /// Another answer than that all is well to commands about queue pairs.
    pub answers_pairs: Option<u8>,
    /// It completes something on every queue before it answers such a command.
    pub completes_early: bool,
    pub gone: bool,
}

#[derive(Clone, Copy, Default)]
pub struct QueueState {
    pub max: u16,
    pub size: u16,
    desc: u64,
    driver: u64,
    device: u64,
    pub enabled: bool,
    pub vector: u16,
    /// Entries of the available ring that were taken.
    taken: u16,
    /// Entries of the used ring that were written.
    used: u16,
    /// Notifications and interrupts so far.
    pub kicks: u32,
    pub interrupts: u32,
}

/// A chain that was taken from the available ring.
#[derive(Clone, Debug)]
pub struct Chain {
    pub head: u16,
    /// Address, length, and whether the device writes it.
    pub buffers: Vec<(u64, u32, bool)>,
}

pub struct State {
    pub features: u64,
    pub accepted: u64,
    pub status: u8,
    pub config: Vec<u8>,
    pub manners: Manners,
    pub queues: Vec<QueueState>,
    /// Queue pairs that the driver has told it to use.
    pub active: u16,
    /// Commands that were given.
    pub commands: Vec<Vec<u8>>,
    pub isr: u8,
    pub sent: Vec<Vec<u8>>,
    /// The queues they were sent on.
    pub sent_on: Vec<usize>,
    /// Headers of the frames in `sent`.
    pub headers: Vec<[u8; HEADER]>,
    /// Register accesses: offset and, if it was a write, the value.
    pub accesses: Vec<(usize, Option<u64>)>,
    selects: [u32; 2],
    queue: u16,
}

/// The device. Cloning gives another handle to the same one.
#[derive(Clone)]
pub struct Device {
    pub memory: HostMemory,
    pub state: Rc<RefCell<State>>,
}

impl Device {
    /// A device that has so many queue pairs.
    pub fn new(memory: &HostMemory, features: u64, pairs: u16) -> Self {
        let [low, high] = pairs.to_le_bytes();
        let queue = QueueState { max: 256, ..QueueState::default() };
        let state = State {
            features,
            accepted: 0,
            status: 0,
            config: [&MAC[..], &[1, 0, low, high, 0xdc, 5]].concat(),
            manners: Manners::default(),
            queues: vec![queue; usize::from(pairs.max(1)) * 2 + 1],
            active: 1,
            commands: Vec::new(),
            isr: 0,
            sent: Vec::new(),
            sent_on: Vec::new(),
            headers: Vec::new(),
            accesses: Vec::new(),
            selects: [0; 2],
            queue: 0,
        };
        Self { memory: memory.clone(), state: Rc::new(RefCell::new(state)) }
    }

    /// The driver's way to the device.
    pub fn transport(&self, msix: bool) -> VirtioPci<Self> {
        let bar = Rc::new(self.clone());
        let window = |offset, len| Window::new(bar.clone(), offset, len).unwrap();
        let windows = Windows {
            common: window(0, 56),
            notify: window(NOTIFY, 0x100),
            multiplier: MULTIPLIER,
            isr: window(ISR, 1),
            device: window(DEVICE, 12),
        };
        let mut transport = VirtioPci::from_windows(windows, DeviceType::Network).unwrap();
        transport.use_msix(msix);
        transport
    }

    pub fn manners(&self, change: impl FnOnce(&mut Manners)) {
        change(&mut self.state.borrow_mut().manners);
    }
    pub fn sent(&self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.state.borrow_mut().sent)
    }
    pub fn accesses(&self) -> Vec<(usize, Option<u64>)> {
        std::mem::take(&mut self.state.borrow_mut().accesses)
    }
    pub fn queue(&self, index: usize) -> QueueState {
        self.state.borrow().queues[index]
    }
    /// The number of the control queue.
    pub fn control(&self) -> usize {
        let state = self.state.borrow();
        let pairs = u16::from_le_bytes([state.config[8], state.config[9]]);
        if state.accepted & MQ == 0 { CONTROL } else { usize::from(pairs) * 2 }
    }
    fn agreed(&self, feature: u64) -> bool {
        self.state.borrow().accepted & feature != 0
    }

    fn read16_at(&self, at: u64) -> u16 {
        let mut bytes = [0; 2];
        self.memory.read(Maddr::from_raw(at), &mut bytes).expect("outside of DMA memory");
        u16::from_le_bytes(bytes)
    }
    fn write_at(&self, at: u64, bytes: &[u8]) {
        self.memory.write(Maddr::from_raw(at), bytes).expect("outside of DMA memory");
    }

    /// The next chain that the driver has made available.
    pub fn take(&self, index: usize) -> Option<Chain> {
        let queue = self.queue(index);
        let idle = index != self.control() && index / 2 >= usize::from(self.state.borrow().active);
        if !queue.enabled || idle || self.state.borrow().status & 4 == 0 {
            return None;
        }
        if self.read16_at(queue.driver + 2) == queue.taken {
            return None;
        }
        let head = self.read16_at(queue.driver + 4 + u64::from(queue.taken % queue.size) * 2);
        self.state.borrow_mut().queues[index].taken = queue.taken.wrapping_add(1);
        let mut buffers = Vec::new();
        let mut next = head;
        loop {
            assert!(next < queue.size && buffers.len() < usize::from(queue.size), "broken chain");
            let mut bytes = [0; 16];
            self.memory.read(Maddr::from_raw(queue.desc + u64::from(next) * 16), &mut bytes).unwrap();
            let address = u64::from_le_bytes(bytes[..8].try_into().unwrap());
            let len = u32::from_le_bytes(bytes[8..12].try_into().unwrap());
            let flags = u16::from_le_bytes(bytes[12..14].try_into().unwrap());
            assert!(len > 0, "an empty buffer");
            buffers.push((address, len, flags & 2 != 0));
            if flags & 1 == 0 {
                return Some(Chain { head, buffers });
            }
            next = u16::from_le_bytes(bytes[14..].try_into().unwrap());
        }
    }

    /// Writes an entry of the used ring, whatever it says, without publishing it.
    pub fn put_used(&self, index: usize, id: u32, len: u32) {
        let queue = self.queue(index);
        let at = queue.device + 4 + u64::from(queue.used % queue.size) * 8;
        self.write_at(at, &[id.to_le_bytes(), len.to_le_bytes()].concat());
        self.state.borrow_mut().queues[index].used = queue.used.wrapping_add(1);
    }

    /// Publishes the used ring and interrupts if the driver wants it.
    pub fn publish(&self, index: usize, old: u16) {
        let queue = self.queue(index);
        let new = queue.used;
        self.write_at(queue.device + 2, &new.to_le_bytes());
        let wanted = if self.agreed(EVENT_IDX) {
            let event = self.read16_at(queue.driver + 4 + u64::from(queue.size) * 2);
            new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
        } else {
            self.read16_at(queue.driver) & 1 == 0
        };
        if wanted {
            self.state.borrow_mut().queues[index].interrupts += 1;
            self.state.borrow_mut().isr |= 1;
        }
    }

    pub fn complete(&self, index: usize, id: u32, len: u32) {
        let old = self.queue(index).used;
        self.put_used(index, id, len);
        self.publish(index, old);
    }

    /// Sets the used index to anything at all.
    pub fn set_used_index(&self, index: usize, value: u16) {
        self.write_at(self.queue(index).device + 2, &value.to_le_bytes());
    }

    /// Works off a transmit queue and goes to sleep.
    pub fn transmit(&self, index: usize) {
        let manners = self.state.borrow().manners;
        if manners.tx_hangs || manners.queue_hangs == Some(index) {
            return;
        }
        while let Some(chain) = self.take(index) {
            let mut bytes = Vec::new();
            for (address, len, writes) in &chain.buffers {
                assert!(!writes, "a buffer to write to in a frame to send");
                let mut part = vec![0; *len as usize];
                self.memory.read(Maddr::from_raw(*address), &mut part).expect("outside of DMA memory");
                bytes.extend(part);
            }
            let header: [u8; HEADER] = bytes[..HEADER].try_into().unwrap();
            let mut frame = bytes.split_off(HEADER);
            if header[0] & 1 != 0 && header[1] == 0 {
                assert!(self.agreed(CSUM), "a checksum that was not offered");
                let start = usize::from(u16::from_le_bytes([header[6], header[7]]));
                let field = start + usize::from(u16::from_le_bytes([header[8], header[9]]));
                let value = checksum(&frame[start..]);
                frame[field..field + 2].copy_from_slice(&value.to_be_bytes());
            }
            self.state.borrow_mut().sent.push(frame);
            self.state.borrow_mut().sent_on.push(index);
            self.state.borrow_mut().headers.push(header);
            self.complete(index, chain.head.into(), 0);
        }
        self.sleep(index);
    }

    /// Does what the control queue says.
    fn obey(&self) {
        if self.state.borrow().manners.control_hangs {
            return;
        }
        let index = self.control();
        while let Some(chain) = self.take(index) {
            let (mut command, mut answer_at) = (Vec::new(), None);
            for (address, len, writes) in &chain.buffers {
                if *writes {
                    answer_at = Some(*address);
                } else {
                    let mut part = vec![0; *len as usize];
                    self.memory.read(Maddr::from_raw(*address), &mut part).expect("outside of DMA memory");
                    command.extend(part);
                }
            }
            let manners = self.state.borrow().manners;
            if manners.completes_early && command.starts_with(&[4]) {
                (0..index).for_each(|queue| self.complete(queue, 0, 1500));
            }
            let answer = match (command.as_slice(), manners.answers_pairs) {
                ([4, 0, ..], Some(answer)) => answer,
                ([4, 0, low, high], None) => {
                    self.state.borrow_mut().active = u16::from_le_bytes([*low, *high]);
                    0
                }
                _ => u8::from(manners.refuses_commands),
            };
            self.write_at(answer_at.expect("nowhere to answer"), &[answer]);
            self.state.borrow_mut().commands.push(command);
            self.complete(index, chain.head.into(), 1);
        }
        self.sleep(index);
    }

    /// Asks to be notified of the next chain.
    fn sleep(&self, index: usize) {
        let queue = self.queue(index);
        if queue.enabled && self.agreed(EVENT_IDX) {
            self.write_at(queue.device + 4 + u64::from(queue.size) * 8, &queue.taken.to_le_bytes());
        }
    }

    /// Receives a frame, with this header, in buffers of at most `part` bytes. `false` if there are too few.
    pub fn receive_as(&self, header: [u8; HEADER], frame: &[u8], part: usize) -> bool {
        self.receive_on(RX, header, frame, part)
    }

    /// The same on a queue of those that there are.
    pub fn receive_on(&self, index: usize, header: [u8; HEADER], frame: &[u8], part: usize) -> bool {
        let old = self.queue(index).used;
        let bytes = [&header[..], frame].concat();
        for piece in bytes.chunks(part) {
            let Some(chain) = self.take(index) else { return false };
            let (address, len, writes) = chain.buffers[0];
            assert!(writes && piece.len() <= len as usize);
            self.write_at(address, piece);
            self.put_used(index, chain.head.into(), piece.len() as u32);
        }
        self.publish(index, old);
        true
    }

    /// Receives a frame as a device should.
    pub fn receive(&self, frame: &[u8]) -> bool {
        self.receive_as([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0], frame, 2048)
    }

    fn read(&self, offset: usize, size: usize) -> u64 {
        self.state.borrow_mut().accesses.push((offset, None));
        let mut state = self.state.borrow_mut();
        if state.manners.gone {
            return u64::MAX >> (64 - size * 8);
        }
        let queue = state.queues.get(usize::from(state.queue)).copied().unwrap_or_default();
        match (offset, size) {
            (4, 4) => state.features >> (32 * state.selects[0]) & 0xffff_ffff,
            (20, 1) => state.status.into(),
            (21, 1) => 0,
            (16, 2) => 0,
            (24, 2) => if queue.size == 0 { queue.max } else { queue.size }.into(),
            (26, 2) => queue.vector.into(),
            (28, 2) => queue.enabled.into(),
            (30, 2) => usize::from(state.queue).min(LAST_NOTIFY) as u64,
            (ISR, 1) => std::mem::take(&mut state.isr).into(),
            (DEVICE.., _) if offset < NOTIFY => {
                (0..size).map(|at| u64::from(state.config[offset - DEVICE + at]) << (8 * at)).sum()
            }
            _ => panic!("{size}-byte read of {offset:#x}"),
        }
    }

    fn write(&self, offset: usize, size: usize, value: u64) {
        let mut state = self.state.borrow_mut();
        if state.manners.gone {
            return;
        }
        state.accesses.push((offset, Some(value)));
        let selected = usize::from(state.queue);
        match (offset, size) {
            (0, 4) => state.selects[0] = value as u32,
            (8, 4) => state.selects[1] = value as u32,
            (12, 4) => {
                let shift = 32 * state.selects[1];
                state.accepted = state.accepted & !(0xffff_ffff << shift) | value << shift;
            }
            (16, 2) => {}
            (20, 1) => {
                let value = value as u8;
                if value == 0 && !state.manners.reset_hangs {
                    for queue in &mut state.queues {
                        *queue = QueueState { max: queue.max, kicks: queue.kicks, ..QueueState::default() };
                    }
                    (state.status, state.accepted, state.isr, state.active) = (0, 0, 0, 1);
                } else if value != 0 {
                    state.status = if state.manners.refuses_features { value & !8 } else { value };
                }
            }
            (22, 2) => state.queue = value as u16,
            (24, 2) => state.queues[selected].size = value as u16,
            (26, 2) => state.queues[selected].vector = value as u16,
            (28, 2) => state.queues[selected].enabled = value == 1,
            (32..56, 4) => {
                let queue = &mut state.queues[selected];
                let field = match offset & !7 {
                    32 => &mut queue.desc,
                    40 => &mut queue.driver,
                    _ => &mut queue.device,
                };
                let shift = 8 * (offset & 4);
                *field = *field & !(0xffff_ffff << shift) | value << shift;
            }
            (NOTIFY.., 2) => {
                let index = value as usize;
                assert_eq!(offset, NOTIFY + index.min(LAST_NOTIFY) * MULTIPLIER as usize, "notification address");
                state.queues[index].kicks += 1;
                drop(state);
                if index == self.control() {
                    self.obey();
                } else if index % 2 == TX {
                    self.transmit(index);
                }
            }
            _ => panic!("{size}-byte write of {value:#x} to {offset:#x}"),
        }
    }
}

impl Mmio for Device {
    fn len(&self) -> usize {
        0x4000
    }
    fn read8(&self, offset: usize) -> u8 {
        self.read(offset, 1) as u8
    }
    fn read16(&self, offset: usize) -> u16 {
        self.read(offset, 2) as u16
    }
    fn read32(&self, offset: usize) -> u32 {
        self.read(offset, 4) as u32
    }
    fn read64(&self, offset: usize) -> u64 {
        panic!("64-bit read of {offset:#x}")
    }
    fn write8(&self, offset: usize, value: u8) {
        self.write(offset, 1, value.into());
    }
    fn write16(&self, offset: usize, value: u16) {
        self.write(offset, 2, value.into());
    }
    fn write32(&self, offset: usize, value: u32) {
        self.write(offset, 4, value.into());
    }
    fn write64(&self, offset: usize, _value: u64) {
        panic!("64-bit write of {offset:#x}")
    }
}
