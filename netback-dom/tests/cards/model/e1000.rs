//! A model of the 82540EM, from its datasheet: registers, rings, checksum and segmentation contexts.
//!
//! It works synchronously, at the write of a tail register, and can be told to misbehave.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use xen_pv_rt::hyp::{HostMemory, Maddr, Mmio};

use super::{checksum, sum};

pub mod reg {
    pub const CTRL: usize = 0x0000;
    pub const STATUS: usize = 0x0008;
    pub const EERD: usize = 0x0014;
    pub const MDIC: usize = 0x0020;
    pub const ICR: usize = 0x00c0;
    pub const IMS: usize = 0x00d0;
    pub const IMC: usize = 0x00d8;
    pub const RCTL: usize = 0x0100;
    pub const TCTL: usize = 0x0400;
    pub const RDBAL: usize = 0x2800;
    pub const RDLEN: usize = 0x2808;
    pub const RDH: usize = 0x2810;
    pub const RDT: usize = 0x2818;
    pub const TDBAL: usize = 0x3800;
    pub const TDBAH: usize = 0x3804;
    pub const TDLEN: usize = 0x3808;
    pub const TDH: usize = 0x3810;
    pub const TDT: usize = 0x3818;
    pub const RAL0: usize = 0x5400;
    pub const RAH0: usize = 0x5404;
}

pub const MAC: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];
const RST: u32 = 1 << 26;
const LINK_UP: u32 = 1 << 1;
const ENABLE: u32 = 1 << 1;
pub const TXDW: u32 = 1;
pub const LSC: u32 = 4;
pub const RXT0: u32 = 0x80;

/// How the card misbehaves.
#[derive(Clone, Copy, Default)]
pub struct Manners {
    /// The reset bit never clears.
    pub reset_hangs: bool,
    /// An EEPROM read is never done.
    pub eeprom_hangs: bool,
    /// Descriptors are not looked at.
    pub tx_hangs: bool,
    /// Every register reads as all ones.
    pub gone: bool,
}

/// What a context descriptor said.
#[derive(Clone, Copy, Debug, Default)]
struct Context {
    ipcss: usize,
    ipcso: usize,
    tucss: usize,
    tucso: usize,
    ipv4: bool,
    payload: usize,
    headers: usize,
    mss: usize,
}

#[derive(Default)]
pub struct State {
    pub registers: HashMap<usize, u32>,
    pub manners: Manners,
    /// Words of the EEPROM.
    pub eeprom: [u16; 3],
    /// Accesses in order: offset, and the value if it was a write.
    pub accesses: Vec<(usize, Option<u32>)>,
    /// Frames that went out.
    pub sent: Vec<Vec<u8>>,
    /// Contexts that were loaded.
    pub contexts: usize,
    checksum_context: Context,
    segment_context: Context,
    /// The frame that is being put together, with the options of its first descriptor.
    packet: Vec<u8>,
    options: u64,
}

/// The model. Cloning gives another handle to the same card.
#[derive(Clone)]
pub struct Card {
    pub memory: HostMemory,
    pub state: Rc<RefCell<State>>,
}

impl Card {
    pub fn new(memory: &HostMemory) -> Self {
        let card = Self { memory: memory.clone(), state: Rc::default() };
        card.power_on();
        card
    }

    fn power_on(&self) {
        let mut state = self.state.borrow_mut();
        state.registers.clear();
        let [a, b, c, d, e, f] = MAC;
        state.registers.insert(reg::RAL0, u32::from_le_bytes([a, b, c, d]));
        state.registers.insert(reg::RAH0, u32::from_le_bytes([e, f, 0, 0x80]));
        state.registers.insert(reg::STATUS, LINK_UP | 2 << 6);
        state.packet.clear();
    }

    pub fn manners(&self, change: impl FnOnce(&mut Manners)) {
        change(&mut self.state.borrow_mut().manners);
    }
    pub fn get(&self, offset: usize) -> u32 {
        *self.state.borrow().registers.get(&offset).unwrap_or(&0)
    }
    pub fn set(&self, offset: usize, value: u32) {
        self.state.borrow_mut().registers.insert(offset, value);
    }
    pub fn set_mac(&self, mac: [u8; 6]) {
        let [a, b, c, d, e, f] = mac;
        self.set(reg::RAL0, u32::from_le_bytes([a, b, c, d]));
        self.set(reg::RAH0, u32::from_le_bytes([e, f, 0, 0x80]));
    }
    pub fn sent(&self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.state.borrow_mut().sent)
    }
    /// Accesses since the last call.
    pub fn accesses(&self) -> Vec<(usize, Option<u32>)> {
        std::mem::take(&mut self.state.borrow_mut().accesses)
    }
    /// Whether the interrupt line is asserted.
    pub fn asserts(&self) -> bool {
        self.get(reg::ICR) & self.get(reg::IMS) != 0
    }
    pub fn raise(&self, cause: u32) {
        self.set(reg::ICR, self.get(reg::ICR) | cause);
    }
    pub fn set_link(&self, up: bool) {
        let status = self.get(reg::STATUS) & !LINK_UP;
        self.set(reg::STATUS, status | if up { LINK_UP } else { 0 });
        self.raise(LSC);
    }

    fn base(&self, low: usize) -> u64 {
        u64::from(self.get(low)) | u64::from(self.get(low + 4)) << 32
    }
    fn entries(&self, len: usize) -> u32 {
        self.get(len) / 16
    }
    fn descriptor(&self, ring: usize, index: u32) -> (Maddr, u64, u64) {
        let at = Maddr::from_raw(self.base(ring) + u64::from(index) * 16);
        let mut bytes = [0; 16];
        self.memory.read(at, &mut bytes).expect("descriptor outside of DMA memory");
        (at, u64::from_le_bytes(bytes[..8].try_into().unwrap()), u64::from_le_bytes(bytes[8..].try_into().unwrap()))
    }

    /// The receive descriptor that the card fills next, if it owns one.
    pub fn next_rx(&self) -> Option<(Maddr, u64)> {
        let (head, tail) = (self.get(reg::RDH), self.get(reg::RDT));
        if self.get(reg::RCTL) & ENABLE == 0 || head == tail {
            return None;
        }
        let (at, buffer, _) = self.descriptor(reg::RDBAL, head);
        Some((at, buffer))
    }

    /// Completes the next receive descriptor with anything at all.
    pub fn complete_rx(&self, written: &[u8], len: u16, status: u8, errors: u8) -> bool {
        let Some((at, buffer)) = self.next_rx() else { return false };
        self.memory.write(Maddr::from_raw(buffer), written).expect("buffer outside of DMA memory");
        let word = u64::from(len) | u64::from(status) << 32 | u64::from(errors) << 40;
        self.memory.write(at.wrapping_add(8), &word.to_le_bytes()).unwrap();
        self.set(reg::RDH, (self.get(reg::RDH) + 1) % self.entries(reg::RDLEN));
        self.raise(RXT0);
        true
    }

    /// Receives a frame as a card should. `false` if no descriptor is free.
    pub fn receive(&self, frame: &[u8]) -> bool {
        self.complete_rx(frame, u16::try_from(frame.len()).unwrap(), 0b11 | 1 << 2, 0)
    }

    /// Works off the transmit ring.
    pub fn transmit(&self) {
        if self.get(reg::TCTL) & ENABLE == 0 || self.state.borrow().manners.tx_hangs {
            return;
        }
        while self.get(reg::TDH) != self.get(reg::TDT) {
            let index = self.get(reg::TDH);
            let (at, low, high) = self.descriptor(reg::TDBAL, index);
            self.process(low, high);
            if high & 1 << 27 != 0 {
                self.memory.write(at.wrapping_add(8), &(high | 1 << 32).to_le_bytes()).unwrap();
                self.raise(TXDW);
            }
            self.set(reg::TDH, (index + 1) % self.entries(reg::TDLEN));
        }
    }

    fn process(&self, low: u64, high: u64) {
        let byte = |word: u64, at: u32| (word >> at & 0xff) as usize;
        assert_ne!(high & 1 << 29, 0, "legacy descriptors are not modelled");
        let mut state = self.state.borrow_mut();
        if high >> 20 & 0xf == 0 {
            let context = Context {
                ipcss: byte(low, 0),
                ipcso: byte(low, 8),
                tucss: byte(low, 32),
                tucso: byte(low, 40),
                ipv4: high & 1 << 25 != 0,
                payload: (high & 0xf_ffff) as usize,
                headers: byte(high, 40),
                mss: (high >> 48) as usize,
            };
            state.contexts += 1;
            let segments = high & 1 << 26 != 0;
            *(if segments { &mut state.segment_context } else { &mut state.checksum_context }) = context;
            return;
        }
        if state.packet.is_empty() {
            state.options = high;
        }
        let mut bytes = vec![0; (high & 0xf_ffff) as usize];
        assert!(!bytes.is_empty(), "an empty data descriptor hangs the card");
        self.memory.read(Maddr::from_raw(low), &mut bytes).expect("data outside of DMA memory");
        state.packet.extend(bytes);
        if high & 1 << 24 != 0 {
            assert_ne!(high & 1 << 25, 0, "a frame without FCS");
            let packet = std::mem::take(&mut state.packet);
            let frames = state.finish(packet);
            state.sent.extend(frames);
        }
    }

    fn write(&self, offset: usize, value: u32) {
        if self.state.borrow().manners.gone {
            return;
        }
        self.state.borrow_mut().accesses.push((offset, Some(value)));
        match offset {
            reg::CTRL if value & RST != 0 => {
                if self.state.borrow().manners.reset_hangs {
                    self.set(offset, value);
                } else {
                    let mac = [self.get(reg::RAL0), self.get(reg::RAH0)];
                    self.power_on();
                    self.set(reg::RAL0, mac[0]);
                    self.set(reg::RAH0, mac[1]);
                }
            }
            reg::IMS => self.set(reg::IMS, self.get(reg::IMS) | value),
            reg::IMC => self.set(reg::IMS, self.get(reg::IMS) & !value),
            reg::MDIC => self.set(offset, value | 1 << 28),
            reg::EERD if !self.state.borrow().manners.eeprom_hangs => {
                let word = self.state.borrow().eeprom[(value >> 8 & 0xff) as usize];
                self.set(offset, u32::from(word) << 16 | 1 << 4);
            }
            reg::TDT => {
                self.set(offset, value);
                self.transmit();
            }
            _ => self.set(offset, value),
        }
    }
}

impl State {
    /// What goes out on the wire for a packet.
    fn finish(&self, mut packet: Vec<u8>) -> Vec<Vec<u8>> {
        const TXSM: u64 = 1 << 41;
        if self.options & 1 << 26 != 0 {
            return self.cut(&packet);
        }
        if self.options & TXSM != 0 {
            let Context { tucss, tucso, .. } = self.checksum_context;
            let value = checksum(&packet[tucss..]);
            packet[tucso..tucso + 2].copy_from_slice(&value.to_be_bytes());
        }
        vec![packet]
    }

    fn cut(&self, packet: &[u8]) -> Vec<Vec<u8>> {
        let context = self.segment_context;
        assert_eq!(packet.len(), context.headers + context.payload, "lengths in the context");
        let (headers, payload) = packet.split_at(context.headers);
        let mut sequence = u32::from_be_bytes(headers[context.tucss + 4..context.tucss + 8].try_into().unwrap());
        let mut frames = Vec::new();
        for (number, part) in payload.chunks(context.mss).enumerate() {
            let mut frame = [headers, part].concat();
            let (ip, tcp) = (context.ipcss, context.tucss);
            if context.ipv4 {
                let total = u16::try_from(frame.len() - ip).unwrap();
                frame[ip + 2..ip + 4].copy_from_slice(&total.to_be_bytes());
                let id = u16::from_be_bytes([frame[ip + 4], frame[ip + 5]]) + number as u16;
                frame[ip + 4..ip + 6].copy_from_slice(&id.to_be_bytes());
                let value = checksum(&frame[ip..tcp]);
                frame[context.ipcso..context.ipcso + 2].copy_from_slice(&value.to_be_bytes());
            }
            frame[tcp + 4..tcp + 8].copy_from_slice(&sequence.to_be_bytes());
            sequence += part.len() as u32;
            // The pseudo-header sum in the field lacks the length.
            let len = u16::try_from(frame.len() - tcp).unwrap();
            let value = !sum(&[&frame[tcp..], &[0][..frame[tcp..].len() % 2], &len.to_be_bytes()].concat());
            frame[context.tucso..context.tucso + 2].copy_from_slice(&value.to_be_bytes());
            frames.push(frame);
        }
        frames
    }
}

impl Mmio for Card {
    fn len(&self) -> usize {
        0x2_0000
    }
    fn read8(&self, offset: usize) -> u8 {
        panic!("8-bit read of {offset:#x}")
    }
    fn read16(&self, offset: usize) -> u16 {
        panic!("16-bit read of {offset:#x}")
    }
    fn read32(&self, offset: usize) -> u32 {
        self.state.borrow_mut().accesses.push((offset, None));
        if self.state.borrow().manners.gone {
            return u32::MAX;
        }
        let value = self.get(offset);
        if offset == reg::ICR {
            self.set(reg::ICR, 0);
        }
        value
    }
    fn read64(&self, offset: usize) -> u64 {
        panic!("64-bit read of {offset:#x}")
    }
    fn write8(&self, offset: usize, _value: u8) {
        panic!("8-bit write of {offset:#x}")
    }
    fn write16(&self, offset: usize, _value: u16) {
        panic!("16-bit write of {offset:#x}")
    }
    fn write32(&self, offset: usize, value: u32) {
        self.write(offset, value);
    }
    fn write64(&self, offset: usize, _value: u64) {
        panic!("64-bit write of {offset:#x}")
    }
}
