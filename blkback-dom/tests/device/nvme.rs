//! An NVMe controller in process: strict about what a driver may do, and as hostile as a test wants.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use xen_pv_rt::hyp::{HostMemory, Maddr, Mmio};

pub const CC_EN: u32 = 1;

/// A command as the controller fetched it.
#[derive(Clone, Debug)]
pub struct Fetched {
    pub queue: u16,
    pub words: [u32; 16],
}

impl Fetched {
    pub fn opcode(&self) -> u8 {
        self.words[0] as u8
    }
    pub fn cid(&self) -> u16 {
        (self.words[0] >> 16) as u16
    }
    pub fn lba(&self) -> u64 {
        u64::from(self.words[11]) << 32 | u64::from(self.words[10])
    }
    pub fn blocks(&self) -> u64 {
        u64::from(self.words[12] & 0xffff) + 1
    }
    fn quad(&self, word: usize) -> u64 {
        u64::from(self.words[word + 1]) << 32 | u64::from(self.words[word])
    }
}

pub mod op {
    pub const FLUSH: u8 = 0;
    pub const WRITE: u8 = 1;
    pub const READ: u8 = 2;
    pub const WRITE_ZEROES: u8 = 8;
    pub const DSM: u8 = 9;
}

/// What becomes of an I/O command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is executed.
    Execute,
    /// It fails with that status (code and type; `0x4000` is "do not retry").
    Fail(u16),
    /// Nothing is heard of it until it is aborted.
    Lose,
    /// Nothing is heard of it, and aborting does not help.
    LoseForGood,
    /// It waits for [`Model::release`].
    Hold,
}

/// A namespace.
pub struct Namespace {
    pub nsid: u32,
    pub blocks: u64,
    pub block_bytes: usize,
    pub metadata: u16,
    pub read_only: bool,
    stable: BTreeMap<u64, Vec<u8>>,
    cached: BTreeMap<u64, Vec<u8>>,
}

impl Namespace {
    pub fn new(nsid: u32, blocks: u64, block_bytes: usize) -> Self {
        let (stable, cached) = (BTreeMap::new(), BTreeMap::new());
        Self { nsid, blocks, block_bytes, metadata: 0, read_only: false, stable, cached }
    }
    pub fn block(&self, lba: u64) -> Vec<u8> {
        let found = self.cached.get(&lba).or_else(|| self.stable.get(&lba));
        found.cloned().unwrap_or_else(|| vec![0; self.block_bytes])
    }
    /// What is left of the block after a power cut.
    pub fn stable_block(&self, lba: u64) -> Vec<u8> {
        self.stable.get(&lba).cloned().unwrap_or_else(|| vec![0; self.block_bytes])
    }
    fn flush(&mut self) {
        self.stable.append(&mut self.cached);
    }
}

struct Sq {
    base: u64,
    entries: u16,
    head: u16,
    cq: u16,
}

struct Cq {
    base: u64,
    entries: u16,
    tail: u16,
    head: u16,
    phase: u16,
}

type Judge = Box<dyn FnMut(&Fetched) -> Fate>;

/// The controller.
pub struct Model {
    memory: HostMemory,
    pub namespaces: Vec<Namespace>,
    pub mdts: u8,
    pub sgl: bool,
    pub volatile_cache: bool,
    pub queues_granted: u16,
    pub entries: u16,
    pub never_ready: bool,
    pub never_stops: bool,
    pub gone: bool,
    pub fatal: bool,
    /// Decides about I/O commands.
    pub judge: Option<Judge>,
    pub held: VecDeque<Fetched>,
    /// I/O commands in the order in which they were fetched.
    pub trace: Vec<Fetched>,
    pub admin_trace: Vec<Fetched>,
    pub doorbells: usize,
    pub reads: usize,
    /// Values of CC as they were written.
    pub cc_writes: Vec<u32>,
    pub events_waiting: Vec<u16>,
    pub silent_admin: bool,
    cc: u32,
    rdy: bool,
    shutdown: bool,
    aqa: u32,
    asq: u64,
    acq: u64,
    sqs: BTreeMap<u16, Sq>,
    cqs: BTreeMap<u16, Cq>,
}

#[derive(Clone)]
pub struct Registers(pub Rc<RefCell<Model>>);

impl Model {
    pub fn new(memory: &HostMemory, namespaces: Vec<Namespace>) -> Self {
        Self {
            memory: memory.clone(),
            namespaces,
            mdts: 7,
            sgl: false,
            volatile_cache: true,
            queues_granted: 8,
            entries: 1024,
            never_ready: false,
            never_stops: false,
            gone: false,
            fatal: false,
            judge: None,
            held: VecDeque::new(),
            trace: Vec::new(),
            admin_trace: Vec::new(),
            doorbells: 0,
            reads: 0,
            cc_writes: Vec::new(),
            events_waiting: Vec::new(),
            silent_admin: false,
            cc: 0,
            rdy: false,
            shutdown: false,
            aqa: 0,
            asq: 0,
            acq: 0,
            sqs: BTreeMap::new(),
            cqs: BTreeMap::new(),
        }
    }

    /// As a previous owner left it: running.
    pub fn running(mut self) -> Self {
        (self.cc, self.rdy) = (CC_EN, true);
        self
    }

    pub fn is_enabled(&self) -> bool {
        self.cc & CC_EN != 0
    }
    pub fn was_shut_down(&self) -> bool {
        self.shutdown
    }
    pub fn namespace(&self, nsid: u32) -> Option<&Namespace> {
        self.namespaces.iter().find(|namespace| namespace.nsid == nsid)
    }

    /// The controller resets itself: it forgets everything and is not ready.
    pub fn reset_itself(&mut self) {
        self.rdy = false;
        self.forget();
    }

    fn forget(&mut self) {
        self.sqs.clear();
        self.cqs.clear();
        self.held.clear();
        self.events_waiting.clear();
    }

    fn write_cc(&mut self, value: u32) {
        self.cc_writes.push(value);
        let was = self.cc & CC_EN != 0;
        self.cc = value;
        if value >> 14 & 3 == 1 {
            self.namespaces.iter_mut().for_each(Namespace::flush);
            self.shutdown = true;
        }
        match (was, value & CC_EN != 0) {
            (false, true) => {
                assert_eq!(value >> 16 & 0xff, 0x46, "sizes of queue entries");
                assert_eq!(value & 0xfff0 & !(3 << 14), 0, "4 KiB pages, NVM command set");
                self.shutdown = false;
                self.fatal = false;
                self.sqs.insert(0, Sq { base: self.asq, entries: (self.aqa & 0xfff) as u16 + 1, head: 0, cq: 0 });
                let entries = (self.aqa >> 16 & 0xfff) as u16 + 1;
                self.cqs.insert(0, Cq { base: self.acq, entries, tail: 0, head: 0, phase: 1 });
                self.rdy = !self.never_ready;
            }
            (true, false) if !self.never_stops => {
                self.rdy = false;
                self.forget();
            }
            _ => {}
        }
    }

    fn fetch(&mut self, queue: u16, tail: u16) {
        let sq = self.sqs.get_mut(&queue).expect("doorbell of a queue that does not exist");
        assert!(tail < sq.entries, "tail {tail} of {}", sq.entries);
        let mut fetched = Vec::new();
        while sq.head != tail {
            let mut bytes = [0; 64];
            self.memory.read(Maddr::from_raw(sq.base + u64::from(sq.head) * 64), &mut bytes).unwrap();
            let words = std::array::from_fn(|i| u32::from_le_bytes(bytes[i * 4..i * 4 + 4].try_into().unwrap()));
            fetched.push(Fetched { queue, words });
            sq.head = (sq.head + 1) % sq.entries;
        }
        for command in fetched {
            if queue == 0 {
                self.admin_trace.push(command.clone());
                self.admin(&command);
            } else {
                self.trace.push(command.clone());
                self.io(command);
            }
        }
    }

    /// Puts a completion into a completion queue.
    pub fn complete(&mut self, cq: u16, sqid: u16, cid: u16, status: u16, result: u32) {
        let Some(queue) = self.cqs.get_mut(&cq) else { return };
        let next = (queue.tail + 1) % queue.entries;
        assert_ne!(next, queue.head, "completion queue {cq} overflows");
        let words = [result, 0, u32::from(sqid) << 16, u32::from(status << 1 | queue.phase) << 16 | u32::from(cid)];
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        self.memory.write(Maddr::from_raw(queue.base + u64::from(queue.tail) * 16), &bytes).unwrap();
        queue.tail = next;
        queue.phase ^= u16::from(next == 0);
    }

    fn answer(&mut self, command: &Fetched, status: u16, result: u32) {
        let Some(sq) = self.sqs.get(&command.queue) else { return };
        let cq = sq.cq;
        self.complete(cq, command.queue, command.cid(), status, result);
    }

    fn admin(&mut self, command: &Fetched) {
        let (data, word10, word11) = (command.quad(6), command.words[10], command.words[11]);
        let id = (word10 & 0xffff) as u16;
        let entries = (word10 >> 16) as u16 + 1;
        if self.silent_admin {
            return;
        }
        match command.opcode() {
            0x06 => {
                let page = match word10 {
                    0 => self.identify_namespace(command.words[1]),
                    1 => self.identify_controller(),
                    2 => self.namespaces.iter().flat_map(|namespace| namespace.nsid.to_le_bytes()).collect(),
                    other => panic!("CNS {other}"),
                };
                assert_eq!(data % 4096, 0);
                self.memory.write(Maddr::from_raw(data), &page).unwrap();
                self.answer(command, 0, 0);
            }
            0x09 if word10 == 7 => {
                let granted = u32::from(self.queues_granted - 1).min(word11 & 0xffff);
                self.answer(command, 0, granted << 16 | granted);
            }
            0x09 => self.answer(command, 0, 0),
            0x05 => {
                assert!(id > 0 && entries <= self.entries && word11 & 3 == 3);
                self.cqs.insert(id, Cq { base: data, entries, tail: 0, head: 0, phase: 1 });
                self.answer(command, 0, 0);
            }
            0x01 => {
                let cq = (word11 >> 16) as u16;
                assert!(id > 0 && entries <= self.entries && word11 & 1 == 1 && self.cqs.contains_key(&cq));
                self.sqs.insert(id, Sq { base: data, entries, head: 0, cq });
                self.answer(command, 0, 0);
            }
            0x08 => {
                let cid = (word10 >> 16) as u16;
                let lost = self.trace.iter().rev().find(|other| other.queue == id && other.cid() == cid).cloned();
                let lost = lost.expect("abort of a command that was never fetched");
                let fate = self.judge.as_mut().map_or(Fate::Execute, |judge| judge(&lost));
                if fate == Fate::Lose {
                    self.answer(&lost, 0x007, 0);
                    self.answer(command, 0, 0);
                } else {
                    self.answer(command, 0, 1);
                }
            }
            0x02 => self.answer(command, 0, 0),
            0x0c => self.events_waiting.push(command.cid()),
            other => panic!("admin command {other:#x}"),
        }
    }

    /// Tells the driver about an event, if it waits for one.
    pub fn raise_event(&mut self, kind: u8, log: u8) -> bool {
        let Some(cid) = self.events_waiting.pop() else { return false };
        self.complete(0, 0, cid, 0, u32::from(log) << 16 | u32::from(kind));
        true
    }

    fn identify_controller(&self) -> Vec<u8> {
        let mut page = vec![0; 4096];
        page[4..24].copy_from_slice(b"SERIAL-1            ");
        page[24..64].copy_from_slice(b"A model of a disk\x01                      ");
        page[77] = self.mdts;
        page[92..96].copy_from_slice(&(1_u32 << 8).to_le_bytes());
        (page[512], page[513]) = (0x66, 0x44);
        page[516..520].copy_from_slice(&(self.namespaces.len() as u32).to_le_bytes());
        page[520] = 1 << 2 | 1 << 3;
        page[525] = u8::from(self.volatile_cache);
        page[536] = u8::from(self.sgl);
        page
    }

    fn identify_namespace(&self, nsid: u32) -> Vec<u8> {
        let mut page = vec![0; 4096];
        let Some(namespace) = self.namespace(nsid) else { return page };
        page[0..8].copy_from_slice(&namespace.blocks.to_le_bytes());
        page[99] = u8::from(namespace.read_only);
        let format = namespace.block_bytes.ilog2() << 16 | u32::from(namespace.metadata);
        page[128..132].copy_from_slice(&format.to_le_bytes());
        page
    }

    fn io(&mut self, command: Fetched) {
        let fate = self.judge.as_mut().map_or(Fate::Execute, |judge| judge(&command));
        match fate {
            Fate::Execute => self.execute(&command),
            Fate::Fail(status) => self.answer(&command, status, 0),
            Fate::Lose | Fate::LoseForGood => {}
            Fate::Hold => self.held.push_back(command),
        }
    }

    /// Executes the oldest command that was held.
    pub fn release(&mut self) {
        if let Some(command) = self.held.pop_front() {
            self.execute(&command);
        }
    }

    pub fn execute(&mut self, command: &Fetched) {
        let status = self.perform(command);
        self.answer(command, status, 0);
    }

    fn perform(&mut self, command: &Fetched) -> u16 {
        let nsid = command.words[1];
        let Some(index) = self.namespaces.iter().position(|namespace| namespace.nsid == nsid) else { return 0x400b };
        let (size, cached) = (self.namespaces[index].block_bytes, self.volatile_cache);
        let (first, count) = (command.lba(), command.blocks());
        let in_range = |first: u64, count: u64| first + count <= self.namespaces[index].blocks;
        match command.opcode() {
            op::FLUSH => self.namespaces[index].flush(),
            op::READ | op::WRITE | op::WRITE_ZEROES if !in_range(first, count) => return 0x4080,
            op::READ => {
                let bytes: Vec<u8> = (first..first + count).flat_map(|lba| self.namespaces[index].block(lba)).collect();
                let mut at = 0;
                for (maddr, len) in self.data(command, bytes.len()) {
                    self.memory.write(Maddr::from_raw(maddr), &bytes[at..at + len]).unwrap();
                    at += len;
                }
            }
            op::WRITE => {
                let mut bytes = Vec::new();
                for (maddr, len) in self.data(command, size * count as usize) {
                    let mut part = vec![0; len];
                    self.memory.read(Maddr::from_raw(maddr), &mut part).unwrap();
                    bytes.extend(part);
                }
                let stable = !cached || command.words[12] >> 30 & 1 == 1;
                for (lba, block) in (first..).zip(bytes.chunks(size)) {
                    self.put(index, lba, block.to_vec(), stable);
                }
            }
            op::WRITE_ZEROES => {
                for lba in first..first + count {
                    self.put(index, lba, vec![0; size], !cached);
                }
            }
            op::DSM => return self.deallocate(index, command),
            other => panic!("I/O command {other:#x}"),
        }
        0
    }

    fn put(&mut self, index: usize, lba: u64, block: Vec<u8>, stable: bool) {
        let namespace = &mut self.namespaces[index];
        if stable {
            namespace.cached.remove(&lba);
            namespace.stable.insert(lba, block);
        } else {
            namespace.cached.insert(lba, block);
        }
    }

    fn deallocate(&mut self, index: usize, command: &Fetched) -> u16 {
        assert_eq!(command.words[11], 4, "only deallocation");
        for range in 0..u64::from(command.words[10] & 0xff) + 1 {
            let mut bytes = [0; 16];
            self.memory.read(Maddr::from_raw(command.quad(6) + range * 16), &mut bytes).unwrap();
            let count = u64::from(u32::from_le_bytes(bytes[4..8].try_into().unwrap()));
            let first = u64::from_le_bytes(bytes[8..16].try_into().unwrap());
            if first + count > self.namespaces[index].blocks {
                return 0x4080;
            }
            let end = first + count;
            let namespace = &mut self.namespaces[index];
            namespace.stable.retain(|lba, _| !(first..end).contains(lba));
            namespace.cached.retain(|lba, _| !(first..end).contains(lba));
        }
        0
    }

    /// The memory that a command moves, by the rules of PRP entries and SGLs.
    fn data(&self, command: &Fetched, bytes: usize) -> Vec<(u64, usize)> {
        if self.mdts > 0 {
            assert!(bytes <= 4096 << self.mdts, "{bytes} bytes are beyond MDTS");
        }
        let parts = match command.words[0] >> 14 & 3 {
            0 => self.prp(command, bytes),
            1 if self.sgl => self.segments(command),
            other => panic!("PSDT {other}"),
        };
        assert_eq!(parts.iter().map(|(_, len)| len).sum::<usize>(), bytes, "data pointer and length differ");
        parts
    }

    fn quad_at(&self, maddr: u64) -> u64 {
        let mut bytes = [0; 8];
        self.memory.read(Maddr::from_raw(maddr), &mut bytes).unwrap();
        u64::from_le_bytes(bytes)
    }

    fn prp(&self, command: &Fetched, bytes: usize) -> Vec<(u64, usize)> {
        let (first, second) = (command.quad(6), command.quad(8));
        assert_eq!(first % 4, 0, "PRP entries are aligned to four bytes");
        let mut parts = vec![(first, bytes.min(4096 - first as usize % 4096))];
        let mut left = bytes - parts[0].1;
        if left == 0 {
            return parts;
        }
        let listed = left > 4096;
        for index in 0.. {
            let entry = if listed {
                assert_eq!(second % 8, 0);
                assert_eq!(second / 4096, (second + index * 8) / 4096, "this model has no chained lists");
                self.quad_at(second + index * 8)
            } else {
                second
            };
            assert_eq!(entry % 4096, 0, "only the first PRP entry has an offset");
            parts.push((entry, left.min(4096)));
            left -= left.min(4096);
            if left == 0 {
                break;
            }
        }
        parts
    }

    fn segments(&self, command: &Fetched) -> Vec<(u64, usize)> {
        let (address, second) = (command.quad(6), command.quad(8));
        let len = second as u32 as usize;
        match second >> 56 {
            0x00 => vec![(address, len)],
            0x30 => (0..len as u64 / 16)
                .map(|index| {
                    let (address, second) =
                        (self.quad_at(address + index * 16), self.quad_at(address + index * 16 + 8));
                    assert_eq!(second >> 56, 0, "data blocks only");
                    (address, second as u32 as usize)
                })
                .collect(),
            other => panic!("SGL descriptor {other:#x}"),
        }
    }
}

impl Mmio for Registers {
    fn len(&self) -> usize {
        0x2000
    }
    fn read8(&self, _: usize) -> u8 {
        panic!("registers are read as 32 bits")
    }
    fn read16(&self, _: usize) -> u16 {
        panic!("registers are read as 32 bits")
    }
    fn read64(&self, _: usize) -> u64 {
        panic!("registers are read as 32 bits")
    }
    fn write8(&self, _: usize, _: u8) {
        panic!("registers are written as 32 bits")
    }
    fn write16(&self, _: usize, _: u16) {
        panic!("registers are written as 32 bits")
    }
    fn write64(&self, _: usize, _: u64) {
        panic!("registers are written as 32 bits")
    }
    fn read32(&self, offset: usize) -> u32 {
        let mut model = self.0.borrow_mut();
        model.reads += 1;
        if model.gone {
            return u32::MAX;
        }
        match offset {
            0x00 => u32::from(model.entries - 1) | 2 << 24,
            0x04 => 1 << 5,
            0x14 => model.cc,
            0x1c => u32::from(model.rdy) | u32::from(model.fatal) << 1 | if model.shutdown { 2 << 2 } else { 0 },
            other => panic!("read of register {other:#x}"),
        }
    }
    fn write32(&self, offset: usize, value: u32) {
        let mut model = self.0.borrow_mut();
        if model.gone {
            return;
        }
        let half = |old: u64, high: bool| match high {
            false => old & !0xffff_ffff | u64::from(value),
            true => old & 0xffff_ffff | u64::from(value) << 32,
        };
        match offset {
            0x14 => model.write_cc(value),
            0x24 => model.aqa = value,
            0x28 | 0x2c => model.asq = half(model.asq, offset == 0x2c),
            0x30 | 0x34 => model.acq = half(model.acq, offset == 0x34),
            0x1000.. => {
                let index = (offset - 0x1000) / 4;
                let queue = (index / 2) as u16;
                model.doorbells += 1;
                if !model.rdy {
                    return;
                }
                if index.is_multiple_of(2) {
                    model.fetch(queue, value as u16);
                } else if let Some(cq) = model.cqs.get_mut(&queue) {
                    assert!((value as u16) < cq.entries);
                    cq.head = value as u16;
                }
            }
            other => panic!("write of register {other:#x}"),
        }
    }
}
