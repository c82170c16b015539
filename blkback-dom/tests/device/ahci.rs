//! An AHCI controller in process, with disks and a CD-ROM: strict about what a driver may do, and as broken as a
//! test wants.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use xen_pv_rt::hyp::{HostMemory, Maddr, Mmio};

const ST: u32 = 1;
const FRE: u32 = 1 << 4;
const FR: u32 = 1 << 14;
const CR: u32 = 1 << 15;

/// A command as the device got it.
#[derive(Clone, Debug)]
pub struct Got {
    pub port: usize,
    pub slot: u8,
    pub command: u8,
    pub lba: u64,
    pub count: u32,
    pub fua: bool,
    fis: [u8; 20],
    packet: [u8; 16],
    regions: Vec<(u64, u32)>,
    write: bool,
}

pub mod op {
    pub const TRIM: u8 = 0x06;
    pub const READ: u8 = 0x25;
    pub const WRITE: u8 = 0x35;
    pub const WRITE_FUA: u8 = 0x3d;
    pub const READ_QUEUED: u8 = 0x60;
    pub const WRITE_QUEUED: u8 = 0x61;
    pub const PACKET: u8 = 0xa0;
    pub const STANDBY: u8 = 0xe0;
    pub const FLUSH: u8 = 0xea;
    pub const IDENTIFY: u8 = 0xec;
}

/// What becomes of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Execute,
    /// It ends with that in the error field.
    Fail(u8),
    /// Nothing is heard of it.
    Lose,
    /// It waits for [`Model::release`].
    Hold,
}

/// What is at the end of a cable.
pub struct Device {
    pub cd: bool,
    pub blocks: u64,
    pub block_bytes: usize,
    pub queue: u16,
    pub trim: bool,
    pub data: BTreeMap<u64, Vec<u8>>,
    pub stable: BTreeMap<u64, Vec<u8>>,
    /// Times that a CD-ROM is not ready.
    pub not_ready: u8,
    pub serial: u8,
}

impl Device {
    pub fn disk(blocks: u64) -> Self {
        let (data, stable) = (BTreeMap::new(), BTreeMap::new());
        Self { cd: false, blocks, block_bytes: 512, queue: 32, trim: true, data, stable, not_ready: 0, serial: 1 }
    }
    pub fn cd(blocks: u64) -> Self {
        Self { cd: true, block_bytes: 2048, queue: 0, ..Self::disk(blocks) }
    }
    pub fn block(&self, lba: u64) -> Vec<u8> {
        self.data.get(&lba).cloned().unwrap_or_else(|| vec![0; self.block_bytes])
    }
}

#[derive(Default)]
pub struct Port {
    pub device: Option<Device>,
    clb: u64,
    fb: u64,
    is: u32,
    ie: u32,
    cmd: u32,
    tfd: u32,
    sctl: u32,
    sact: u32,
    ci: u32,
    link: bool,
    pub held: Vec<Got>,
    pub wont_stop: bool,
    /// A queued command has failed: everything does, until a reset.
    confused: bool,
}

type Judge = Box<dyn FnMut(&Got) -> Fate>;

pub struct Model {
    memory: HostMemory,
    pub ports: Vec<Port>,
    pub ghc: u32,
    pub gone: bool,
    pub never_resets: bool,
    pub ncq: bool,
    pub judge: Option<Judge>,
    pub trace: Vec<Got>,
    pub resets: usize,
    pub writes: usize,
    pub reads: usize,
}

impl Model {
    pub fn new(memory: &HostMemory, devices: Vec<Option<Device>>) -> Self {
        let ports = devices.into_iter().map(|device| Port { device, ..Port::default() }).collect();
        Self {
            memory: memory.clone(),
            ports,
            ghc: 0,
            gone: false,
            never_resets: false,
            ncq: true,
            judge: None,
            trace: Vec::new(),
            resets: 0,
            writes: 0,
            reads: 0,
        }
    }

    fn reset(&mut self) {
        self.resets += 1;
        if self.never_resets {
            self.ghc |= 1;
            return;
        }
        self.ghc = 1 << 31;
        for port in &mut self.ports {
            let device = port.device.take();
            *port = Port { link: device.is_some(), device, tfd: 0x7f, ..Port::default() };
        }
    }

    fn is(&self) -> u32 {
        (0..).zip(&self.ports).fold(0, |is, (n, port)| is | u32::from(port.is & port.ie != 0) << n)
    }

    /// The device announces itself once its reports are received.
    fn announce(&mut self, n: usize) {
        let port = &mut self.ports[n];
        if port.link && port.cmd & FRE != 0 && port.tfd == 0x7f {
            port.tfd = 0x50;
        }
    }

    /// Pulls or plugs a cable.
    pub fn plug(&mut self, n: usize, device: Option<Device>) -> Option<Device> {
        let port = &mut self.ports[n];
        port.link = device.is_some();
        port.tfd = 0x7f;
        port.held.clear();
        std::mem::replace(&mut port.device, device)
    }

    fn write_cmd(&mut self, n: usize, value: u32) {
        let port = &mut self.ports[n];
        let starts = port.cmd & ST == 0 && value & ST != 0;
        if starts {
            assert!(value & FRE != 0 && port.tfd & 0x88 == 0, "started while {:#x}, {value:#x}", port.tfd);
            assert!(port.cmd & CR == 0, "started before it has stopped");
        }
        port.cmd = value & !(CR | FR) | port.cmd & CR;
        if value & ST != 0 {
            port.cmd |= CR;
        } else if !port.wont_stop {
            port.cmd &= !CR;
            (port.ci, port.sact) = (0, 0);
            port.held.clear();
        }
        self.announce(n);
    }

    fn write_sctl(&mut self, n: usize, value: u32) {
        let port = &mut self.ports[n];
        if port.sctl & 0xf == 1 && value & 0xf == 0 {
            assert!(port.cmd & ST == 0);
            port.link = port.device.is_some();
            port.tfd = 0x7f;
            port.confused = false;
        }
        port.sctl = value;
        self.announce(n);
    }

    fn read(&self, maddr: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.memory.read(Maddr::from_raw(maddr), &mut bytes).unwrap();
        bytes
    }

    fn issue(&mut self, n: usize, mask: u32) {
        let port = &mut self.ports[n];
        assert!(port.cmd & ST != 0 && port.cmd & CR != 0, "issued to a stopped port");
        assert_eq!(port.ci & mask, 0, "issued twice");
        port.ci |= mask;
        for slot in (0..32).filter(|slot| mask >> slot & 1 == 1) {
            let got = self.got(n, slot);
            let queued = matches!(got.command, op::READ_QUEUED | op::WRITE_QUEUED);
            let port = &mut self.ports[n];
            if queued {
                assert!(self.ncq && port.sact >> slot & 1 == 1);
                assert_eq!(u32::from(got.fis[12] >> 3), u32::from(slot), "tag");
                port.ci &= !(1 << slot);
                assert_eq!(port.ci & !mask, 0, "queued while another command runs");
            } else {
                assert_eq!((port.sact, port.ci), (0, 1 << slot), "a command by itself is not by itself");
            }
            self.trace.push(got.clone());
            if self.ports[n].confused {
                self.fail(&got, 0x04);
                continue;
            }
            let fate = self.judge.as_mut().map_or(Fate::Execute, |judge| judge(&got));
            match fate {
                Fate::Execute => self.execute(&got),
                Fate::Fail(error) => self.fail(&got, error),
                Fate::Lose => {}
                Fate::Hold => self.ports[n].held.push(got),
            }
        }
    }

    fn got(&self, n: usize, slot: u8) -> Got {
        let header = self.read(self.ports[n].clb + u64::from(slot) * 32, 32);
        let word = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().unwrap());
        let table = u64::from(word(12)) << 32 | u64::from(word(8));
        assert_eq!(table % 128, 0);
        let fis: [u8; 20] = self.read(table, 20).try_into().unwrap();
        assert_eq!((word(0) & 0x1f, fis[0], fis[1]), (5, 0x27, 0x80));
        let count = word(0) >> 16;
        let regions = (0..u64::from(count))
            .map(|index| {
                let region = self.read(table + 128 + index * 16, 16);
                let address = u64::from_le_bytes(region[..8].try_into().unwrap());
                let len = (u32::from_le_bytes(region[12..16].try_into().unwrap()) & 0x3f_ffff) + 1;
                assert_eq!((address % 2, len % 2), (0, 0));
                (address, len)
            })
            .collect();
        let packet: [u8; 16] = self.read(table + 64, 16).try_into().unwrap();
        assert_eq!(word(0) >> 5 & 1 == 1, fis[2] == op::PACKET);
        let queued = matches!(fis[2], op::READ_QUEUED | op::WRITE_QUEUED);
        let lba = [fis[4], fis[5], fis[6], fis[8], fis[9], fis[10], 0, 0];
        let field = if queued { [fis[3], fis[11]] } else { [fis[12], fis[13]] };
        Got {
            port: n,
            slot,
            command: fis[2],
            lba: u64::from_le_bytes(lba),
            count: u32::from(u16::from_le_bytes(field)),
            fua: queued && fis[7] & 0x80 != 0 || fis[2] == op::WRITE_FUA,
            fis,
            packet,
            regions,
            write: word(0) >> 6 & 1 == 1,
        }
    }

    /// Tells the driver about the end of a command.
    fn report(&mut self, got: &Got, status: u32, error: u32) {
        let port = &mut self.ports[got.port];
        let queued = matches!(got.command, op::READ_QUEUED | op::WRITE_QUEUED);
        let bit = 1 << got.slot;
        if (if queued { port.sact } else { port.ci }) & bit == 0 {
            return;
        }
        port.tfd = error << 8 | status;
        let (at, kind, cause) = if queued { (0x58, 0xa1, 1 << 3) } else { (0x40, 0x34, 1) };
        port.is |= cause;
        if status & 1 != 0 {
            port.is |= 1 << 30;
            port.confused |= queued;
        } else if queued {
            port.sact &= !bit;
        } else {
            port.ci &= !bit;
        }
        let fis = (error << 24 | status << 16 | 0x4000 | kind).to_le_bytes();
        let fb = Maddr::from_raw(port.fb + at);
        self.memory.write(fb, &fis).unwrap();
    }

    fn fail(&mut self, got: &Got, error: u8) {
        self.report(got, 0x51, error.into());
    }

    /// Executes the oldest command that was held.
    pub fn release(&mut self, n: usize) {
        if !self.ports[n].held.is_empty() {
            let got = self.ports[n].held.remove(0);
            self.execute(&got);
        }
    }

    pub fn execute(&mut self, got: &Got) {
        match self.perform(got) {
            0 => self.report(got, 0x50, 0),
            error => self.fail(got, error),
        }
    }

    fn put(&self, got: &Got, bytes: &[u8]) {
        assert!(!got.write);
        let mut at = 0;
        for (address, len) in &got.regions {
            let part = &bytes[at..at + *len as usize];
            self.memory.write(Maddr::from_raw(*address), part).unwrap();
            at += part.len();
        }
        assert_eq!(at, bytes.len(), "regions and length differ");
    }

    fn take(&self, got: &Got) -> Vec<u8> {
        assert!(got.write);
        got.regions.iter().flat_map(|(address, len)| self.read(*address, *len as usize)).collect()
    }

    fn perform(&mut self, got: &Got) -> u8 {
        let Some(device) = self.ports[got.port].device.as_ref() else { return 4 };
        let size = device.block_bytes;
        match got.command {
            op::IDENTIFY | 0xa1 => {
                assert_eq!(got.command == 0xa1, device.cd);
                self.put(got, &identify(device));
            }
            op::READ | op::READ_QUEUED | op::WRITE | op::WRITE_QUEUED | op::WRITE_FUA => {
                let count = if got.count == 0 { 65536 } else { u64::from(got.count) };
                if got.lba + count > device.blocks {
                    return 0x10;
                }
                if matches!(got.command, op::READ | op::READ_QUEUED) {
                    let bytes: Vec<u8> = (got.lba..got.lba + count).flat_map(|lba| device.block(lba)).collect();
                    self.put(got, &bytes);
                } else {
                    let bytes = self.take(got);
                    assert_eq!(bytes.len() as u64, count * size as u64);
                    let device = self.ports[got.port].device.as_mut().unwrap();
                    for (lba, block) in (got.lba..).zip(bytes.chunks(size)) {
                        device.data.insert(lba, block.to_vec());
                        if got.fua {
                            device.stable.insert(lba, block.to_vec());
                        }
                    }
                }
            }
            op::FLUSH => {
                let device = self.ports[got.port].device.as_mut().unwrap();
                device.stable = device.data.clone();
            }
            op::STANDBY => {}
            op::TRIM => {
                assert_eq!((got.count, got.fis[3]), (1, 1));
                let list = self.take(got);
                assert_eq!(list.len(), 512);
                let device = self.ports[got.port].device.as_mut().unwrap();
                for range in list.chunks(8).map(|range| u64::from_le_bytes(range.try_into().unwrap())) {
                    let (first, count) = (range & 0xffff_ffff_ffff, range >> 48);
                    device.data.retain(|lba, _| !(first..first + count).contains(lba));
                }
            }
            op::PACKET => return self.packet(got),
            other => panic!("command {other:#x}"),
        }
        0
    }

    fn packet(&mut self, got: &Got) -> u8 {
        let device = self.ports[got.port].device.as_mut().unwrap();
        if device.not_ready > 0 {
            device.not_ready -= 1;
            return 0x64;
        }
        let device = self.ports[got.port].device.as_ref().unwrap();
        let number = |at: usize| u32::from_be_bytes(got.packet[at..at + 4].try_into().unwrap());
        match got.packet[0] {
            0x25 => {
                let mut answer = (device.blocks as u32 - 1).to_be_bytes().to_vec();
                answer.extend(2048_u32.to_be_bytes());
                self.put(got, &answer);
            }
            0xa8 => {
                let (first, count) = (u64::from(number(2)), u64::from(number(6)));
                let bytes: Vec<u8> = (first..first + count).flat_map(|lba| device.block(lba)).collect();
                self.put(got, &bytes);
            }
            other => panic!("packet {other:#x}"),
        }
        0
    }
}

fn identify(device: &Device) -> Vec<u8> {
    let mut words = [0_u16; 256];
    let mut text = |first: usize, len: usize, text: &str| {
        for (index, pair) in format!("{text:len$}").as_bytes().chunks(2).enumerate() {
            words[first + index] = u16::from_be_bytes([pair[0], pair[1]]);
        }
    };
    text(10, 20, &format!("S{}", device.serial));
    text(27, 40, "A model");
    words[0] = if device.cd { 0x85c0 } else { 0x40 };
    words[49] = 1 << 8 | 1 << 9;
    words[75] = device.queue.saturating_sub(1);
    words[76] = if device.queue > 0 { 1 << 8 } else { 0 };
    words[82] = 1 << 5;
    words[83] = 1 << 10 | 1 << 13;
    words[84] = 1 << 6;
    for index in 0..4 {
        words[100 + index] = (device.blocks >> (16 * index)) as u16;
    }
    if device.block_bytes == 4096 {
        words[106] = 1 << 14 | 1 << 12;
        words[117] = 2048;
    } else {
        words[106] = 1 << 14 | 1 << 13 | 3;
    }
    words[169] = u16::from(device.trim);
    words[217] = 1;
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

#[derive(Clone)]
pub struct Registers(pub Rc<RefCell<Model>>);

impl Mmio for Registers {
    fn len(&self) -> usize {
        0x1000
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
        if offset < 0x100 {
            return match offset {
                0x00 => 1 << 31 | u32::from(model.ncq) << 30 | 31 << 8,
                0x04 => model.ghc,
                0x08 => model.is(),
                0x0c => (1 << model.ports.len()) - 1,
                0x24 | 0x28 => 0,
                other => panic!("read of register {other:#x}"),
            };
        }
        let port = &model.ports[(offset - 0x100) / 0x80];
        match offset % 0x80 {
            0x10 => port.is,
            0x18 => port.cmd,
            0x20 => port.tfd,
            0x24 => match &port.device {
                Some(device) if device.cd => 0xeb14_0101,
                _ => 0x101,
            },
            0x28 => {
                if port.link {
                    0x113
                } else {
                    0
                }
            }
            0x34 => port.sact,
            0x38 => port.ci,
            other => panic!("read of port register {other:#x}"),
        }
    }
    fn write32(&self, offset: usize, value: u32) {
        let mut model = self.0.borrow_mut();
        model.writes += 1;
        if model.gone {
            return;
        }
        if offset < 0x100 {
            match offset {
                0x04 if value & 1 != 0 => model.reset(),
                0x04 => model.ghc = value,
                0x08 => {}
                other => panic!("write of register {other:#x}"),
            }
            return;
        }
        let n = (offset - 0x100) / 0x80;
        let port = &mut model.ports[n];
        let low = |old: u64| old & !0xffff_ffff | u64::from(value);
        let high = |old: u64| old & 0xffff_ffff | u64::from(value) << 32;
        match offset % 0x80 {
            0x00 => port.clb = low(port.clb),
            0x04 => port.clb = high(port.clb),
            0x08 => port.fb = low(port.fb),
            0x0c => port.fb = high(port.fb),
            0x10 => port.is &= !value,
            0x14 => port.ie = value,
            0x18 => model.write_cmd(n, value),
            0x2c => model.write_sctl(n, value),
            0x30 => {}
            0x34 => port.sact |= value,
            0x38 => model.issue(n, value),
            other => panic!("write of port register {other:#x}"),
        }
    }
}
