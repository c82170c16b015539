//! A virtio block device in process, behind virtio-drivers' transport: strict about what a driver may do, and as
//! hostile as a test wants.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use virtio_drivers::transport::{DeviceStatus, DeviceType, InterruptStatus, Transport};
use virtio_drivers::{Error, PhysAddr};
use xen_pv_rt::hyp::{HostMemory, Maddr};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Feature bits.
pub mod feature {
    pub const SIZE_MAX: u64 = 1 << 1;
    pub const SEG_MAX: u64 = 1 << 2;
    pub const RO: u64 = 1 << 5;
    pub const BLK_SIZE: u64 = 1 << 6;
    pub const FLUSH: u64 = 1 << 9;
    pub const MQ: u64 = 1 << 12;
    pub const DISCARD: u64 = 1 << 13;
    pub const WRITE_ZEROES: u64 = 1 << 14;
    pub const SECURE_ERASE: u64 = 1 << 16;
    pub const INDIRECT: u64 = 1 << 28;
    pub const EVENT_IDX: u64 = 1 << 29;
    pub const VERSION_1: u64 = 1 << 32;
}

pub const ALL: u64 = feature::SEG_MAX
    | feature::BLK_SIZE
    | feature::FLUSH
    | feature::MQ
    | feature::DISCARD
    | feature::WRITE_ZEROES
    | feature::SECURE_ERASE
    | feature::INDIRECT
    | feature::EVENT_IDX
    | feature::VERSION_1;

/// A request as the device took it.
#[derive(Clone, Debug)]
pub struct Taken {
    pub queue: u16,
    head: u16,
    pub kind: u32,
    pub sector: u64,
    /// Data: address, length.
    data: Vec<(u64, u32)>,
    status: u64,
    pub segments: usize,
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Execute,
    /// It ends with that status.
    Fail(u8),
    /// Nothing is heard of it.
    Lose,
    /// It waits for [`Model::release`].
    Hold,
}

struct Queue {
    size: u16,
    desc: u64,
    avail: u64,
    used: u64,
    seen: u16,
    used_idx: u16,
}

type Judge = Box<dyn FnMut(&Taken) -> Fate>;

pub struct Model {
    memory: HostMemory,
    pub offered: u64,
    pub accepted: u64,
    pub capacity: u64,
    pub block_bytes: u32,
    pub segments: u32,
    pub num_queues: u16,
    pub queue_size: u32,
    pub sectors: BTreeMap<u64, Vec<u8>>,
    /// Something was erased so that it can never be read again.
    pub erased: bool,
    pub stable: BTreeMap<u64, Vec<u8>>,
    pub judge: Option<Judge>,
    pub held: VecDeque<Taken>,
    pub trace: Vec<Taken>,
    pub statuses: Vec<u32>,
    pub notifications: usize,
    pub register_reads: RefCell<usize>,
    pub gone: bool,
    pub never_resets: bool,
    status: DeviceStatus,
    queues: BTreeMap<u16, Queue>,
}

impl Model {
    pub fn new(memory: &HostMemory, capacity: u64) -> Self {
        Self {
            memory: memory.clone(),
            offered: ALL,
            accepted: 0,
            capacity,
            block_bytes: 512,
            segments: 254,
            num_queues: 2,
            queue_size: 256,
            sectors: BTreeMap::new(),
            erased: false,
            stable: BTreeMap::new(),
            judge: None,
            held: VecDeque::new(),
            trace: Vec::new(),
            statuses: Vec::new(),
            notifications: 0,
            register_reads: RefCell::new(0),
            gone: false,
            never_resets: false,
            status: DeviceStatus::empty(),
            queues: BTreeMap::new(),
        }
    }

    /// As a previous owner left it.
    pub fn running(mut self) -> Self {
        self.status = DeviceStatus::DRIVER_OK;
        self
    }

    pub fn is_reset(&self) -> bool {
        self.status.is_empty()
    }
    pub fn needs_reset(&mut self) {
        self.status |= DeviceStatus::DEVICE_NEEDS_RESET;
    }

    fn config(&self) -> Vec<u8> {
        let mut bytes = vec![0; 72];
        bytes[0..8].copy_from_slice(&self.capacity.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.segments.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.block_bytes.to_le_bytes());
        bytes[34..36].copy_from_slice(&self.num_queues.to_le_bytes());
        bytes[36..40].copy_from_slice(&(1_u32 << 22).to_le_bytes());
        bytes[44..48].copy_from_slice(&8_u32.to_le_bytes());
        bytes[48..52].copy_from_slice(&(1_u32 << 22).to_le_bytes());
        bytes[60..64].copy_from_slice(&(1_u32 << 22).to_le_bytes());
        bytes
    }

    fn read<const N: usize>(&self, maddr: u64) -> [u8; N] {
        let mut bytes = [0; N];
        self.memory.read(Maddr::from_raw(maddr), &mut bytes).unwrap();
        bytes
    }
    fn u16(&self, maddr: u64) -> u16 {
        u16::from_le_bytes(self.read(maddr))
    }

    /// Takes everything from the available ring of a queue.
    pub fn serve(&mut self, number: u16) {
        assert!(self.status.contains(DeviceStatus::DRIVER_OK), "notified before DRIVER_OK");
        loop {
            let queue = &self.queues[&number];
            let index = self.u16(queue.avail + 2);
            if index == queue.seen {
                break;
            }
            assert!(index.wrapping_sub(queue.seen) <= queue.size);
            let head = self.u16(queue.avail + 4 + u64::from(queue.seen % queue.size) * 2);
            let taken = self.take(number, head);
            let queue = self.queues.get_mut(&number).unwrap();
            queue.seen = queue.seen.wrapping_add(1);
            let event = Maddr::from_raw(queue.used + 4 + u64::from(queue.size) * 8);
            self.memory.write(event, &queue.seen.to_le_bytes()).unwrap();
            self.trace.push(taken.clone());
            let fate = self.judge.as_mut().map_or(Fate::Execute, |judge| judge(&taken));
            match fate {
                Fate::Execute => self.execute(&taken),
                Fate::Fail(status) => self.finish(&taken, status),
                Fate::Lose => {}
                Fate::Hold => self.held.push_back(taken),
            }
        }
    }

    fn descriptor(&self, table: u64, index: u16) -> (u64, u32, u16, u16) {
        let bytes: [u8; 16] = self.read(table + u64::from(index) * 16);
        let half = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let len = u32::from_le_bytes(bytes[8..12].try_into().unwrap());
        (u64::from_le_bytes(bytes[..8].try_into().unwrap()), len, half(12), half(14))
    }

    fn chain(&self, table: u64, head: u16, size: u16) -> Vec<(u64, u32, bool)> {
        let (mut index, mut chain) = (head, Vec::new());
        loop {
            assert!(index < size && chain.len() < usize::from(size), "chain leaves its table");
            let (address, len, flags, next) = self.descriptor(table, index);
            assert_eq!(flags & 4, 0, "no indirect table within a chain");
            chain.push((address, len, flags & 2 != 0));
            if flags & 1 == 0 {
                return chain;
            }
            index = next;
        }
    }

    fn take(&self, number: u16, head: u16) -> Taken {
        let queue = &self.queues[&number];
        let (address, len, flags, _) = self.descriptor(queue.desc, head);
        let chain = if flags & 4 != 0 {
            assert!(self.accepted & feature::INDIRECT != 0);
            assert_eq!((len % 16, flags), (0, 4));
            self.chain(address, 0, (len / 16) as u16)
        } else {
            self.chain(queue.desc, head, queue.size)
        };
        let [(header, 16, false), data @ .., (status, 1, true)] = &chain[..] else {
            panic!("header, data, status: {chain:?}")
        };
        let kind = u32::from_le_bytes(self.read(*header));
        assert!(data.iter().all(|(_, _, writable)| *writable == (kind == 0)), "direction of data");
        Taken {
            queue: number,
            head,
            kind,
            sector: u64::from_le_bytes(self.read(*header + 8)),
            data: data.iter().map(|(address, len, _)| (*address, *len)).collect(),
            status: *status,
            segments: data.len(),
        }
    }

    fn finish(&mut self, taken: &Taken, status: u8) {
        // A request that was taken before a reset is gone.
        if !self.queues.contains_key(&taken.queue) {
            return;
        }
        self.memory.write(Maddr::from_raw(taken.status), &[status]).unwrap();
        self.put_used(taken.queue, taken.head.into());
    }

    /// Puts anything into the used ring.
    pub fn put_used(&mut self, number: u16, id: u32) {
        let queue = self.queues.get_mut(&number).unwrap();
        let at = queue.used + 4 + u64::from(queue.used_idx % queue.size) * 8;
        self.memory.write(Maddr::from_raw(at), &id.to_le_bytes()).unwrap();
        self.memory.write(Maddr::from_raw(at + 4), &1_u32.to_le_bytes()).unwrap();
        queue.used_idx = queue.used_idx.wrapping_add(1);
        self.memory.write(Maddr::from_raw(queue.used + 2), &queue.used_idx.to_le_bytes()).unwrap();
    }

    /// Moves the used index without writing entries.
    pub fn jump_used(&mut self, number: u16, by: u16) {
        let queue = self.queues.get_mut(&number).unwrap();
        queue.used_idx = queue.used_idx.wrapping_add(by);
        self.memory.write(Maddr::from_raw(queue.used + 2), &queue.used_idx.to_le_bytes()).unwrap();
    }

    /// Executes the oldest request that was held.
    pub fn release(&mut self) {
        if let Some(taken) = self.held.pop_front() {
            self.execute(&taken);
        }
    }

    pub fn execute(&mut self, taken: &Taken) {
        let status = self.perform(taken);
        self.finish(taken, status);
    }

    fn perform(&mut self, taken: &Taken) -> u8 {
        let bytes: u64 = taken.data.iter().map(|(_, len)| u64::from(*len)).sum();
        match taken.kind {
            0 | 1 => {
                if taken.sector + bytes / 512 > self.capacity {
                    return 1;
                }
                assert_eq!(bytes % u64::from(self.block_bytes), 0);
                assert!(taken.segments <= self.segments as usize, "SEG_MAX");
                let mut sector = taken.sector;
                let mut data = Vec::new();
                for (address, len) in &taken.data {
                    let mut part = vec![0; *len as usize];
                    self.memory.read(Maddr::from_raw(*address), &mut part).unwrap();
                    data.extend(part);
                }
                for chunk in data.chunks_mut(512) {
                    if taken.kind == 1 {
                        self.sectors.insert(sector, chunk.to_vec());
                    } else {
                        chunk.copy_from_slice(&self.sector(sector));
                    }
                    sector += 1;
                }
                if taken.kind == 0 {
                    let mut at = 0;
                    for (address, len) in &taken.data {
                        let part = &data[at..at + *len as usize];
                        self.memory.write(Maddr::from_raw(*address), part).unwrap();
                        at += part.len();
                    }
                }
                0
            }
            4 => {
                assert_eq!((taken.data.len(), taken.sector), (0, 0));
                self.stable = self.sectors.clone();
                0
            }
            11 | 13 | 14 => {
                self.erased |= taken.kind == 14;
                let [(address, 16)] = taken.data[..] else { panic!("one range") };
                let bytes: [u8; 16] = self.read(address);
                let first = u64::from_le_bytes(bytes[..8].try_into().unwrap());
                let count = u64::from(u32::from_le_bytes(bytes[8..12].try_into().unwrap()));
                assert_eq!(bytes[12..], [0; 4], "no flags");
                self.sectors.retain(|sector, _| !(first..first + count).contains(sector));
                0
            }
            _ => 2,
        }
    }

    pub fn sector(&self, sector: u64) -> Vec<u8> {
        self.sectors.get(&sector).cloned().unwrap_or_else(|| vec![0; 512])
    }
}

#[derive(Clone)]
pub struct ModelTransport(pub Rc<RefCell<Model>>);

impl Transport for ModelTransport {
    fn device_type(&self) -> DeviceType {
        DeviceType::Block
    }
    fn read_device_features(&mut self) -> u64 {
        self.0.borrow().offered
    }
    fn write_driver_features(&mut self, driver_features: u64) {
        let mut model = self.0.borrow_mut();
        assert_eq!(driver_features & !model.offered, 0);
        model.accepted = driver_features;
    }
    fn max_queue_size(&mut self, queue: u16) -> u32 {
        let model = self.0.borrow();
        if queue < model.num_queues { model.queue_size } else { 0 }
    }
    fn notify(&mut self, queue: u16) {
        let mut model = self.0.borrow_mut();
        model.notifications += 1;
        if !model.gone {
            model.serve(queue);
        }
    }
    fn get_status(&self) -> DeviceStatus {
        let model = self.0.borrow();
        *model.register_reads.borrow_mut() += 1;
        if model.gone { DeviceStatus::from_bits_retain(0xff) } else { model.status }
    }
    fn set_status(&mut self, status: DeviceStatus) {
        let mut model = self.0.borrow_mut();
        model.statuses.push(status.bits());
        if model.gone || status.is_empty() && model.never_resets {
            return;
        }
        if status.is_empty() {
            model.queues.clear();
            model.held.clear();
        }
        model.status = status;
    }
    fn set_guest_page_size(&mut self, _: u32) {}
    fn requires_legacy_layout(&self) -> bool {
        false
    }
    fn queue_set(&mut self, queue: u16, size: u32, desc: PhysAddr, avail: PhysAddr, used: PhysAddr) {
        let mut model = self.0.borrow_mut();
        assert!(size <= model.queue_size && size.is_power_of_two());
        assert!(!model.status.contains(DeviceStatus::DRIVER_OK));
        let size = size as u16;
        model.queues.insert(queue, Queue { size, desc, avail, used, seen: 0, used_idx: 0 });
    }
    fn queue_unset(&mut self, _: u16) {}
    fn queue_used(&mut self, _: u16) -> bool {
        false
    }
    fn ack_interrupt(&mut self) -> InterruptStatus {
        InterruptStatus::empty()
    }
    fn read_config_generation(&self) -> u32 {
        0
    }
    fn read_config_space<T: FromBytes + IntoBytes>(&self, offset: usize) -> Result<T, Error> {
        let config = self.0.borrow().config();
        let bytes = config.get(offset..offset + size_of::<T>()).ok_or(Error::ConfigSpaceTooSmall)?;
        T::read_from_bytes(bytes).map_err(|_| Error::ConfigSpaceTooSmall)
    }
    fn write_config_space<T: IntoBytes + Immutable>(&mut self, _: usize, _: T) -> Result<(), Error> {
        panic!("nothing in configuration space is written")
    }
}
