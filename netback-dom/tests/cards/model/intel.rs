//! A model of the 82540EM, the 82574L and the 82576, from their datasheets: registers, rings, interrupts,
//! checksum and segmentation contexts.
//!
//! It works synchronously, at the write of a tail register, and can be told to misbehave.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use netback_dom::nic::intel::Model;
use xen_pv_rt::hyp::{HostMemory, Maddr, Mmio};

use super::{checksum, sum};

pub mod reg {
    pub const CTRL: usize = 0x0000;
    pub const STATUS: usize = 0x0008;
    pub const EECD: usize = 0x0010;
    pub const EERD: usize = 0x0014;
    pub const MDIC: usize = 0x0020;
    pub const ICR: usize = 0x00c0;
    pub const IVAR_82574: usize = 0x00e4;
    pub const IMS: usize = 0x00d0;
    pub const IMC: usize = 0x00d8;
    pub const RCTL: usize = 0x0100;
    pub const TCTL: usize = 0x0400;
    pub const GPIE: usize = 0x1514;
    pub const EIMS: usize = 0x1524;
    pub const EIMC: usize = 0x1528;
    pub const EIAC: usize = 0x152c;
    pub const EIAM: usize = 0x1530;
    pub const EICR: usize = 0x1580;
    pub const IVAR: usize = 0x1700;
    pub const IVAR_MISC: usize = 0x1740;
    pub const CRCERRS: usize = 0x4000;
    pub const MPC: usize = 0x4010;
    pub const RFCTL: usize = 0x5008;
    pub const MRQC: usize = 0x5818;
    pub const RETA: usize = 0x5c00;
    pub const RDBAL: usize = 0x2800;
    pub const RDT: usize = 0x2818;
    pub const RXDCTL: usize = 0x2828;
    pub const TDBAL: usize = 0x3800;
    pub const TDBAH: usize = 0x3804;
    pub const TDLEN: usize = 0x3808;
    pub const TDH: usize = 0x3810;
    pub const TDT: usize = 0x3818;
    pub const TXDCTL: usize = 0x3828;
    pub const RAL0: usize = 0x5400;
    pub const RAH0: usize = 0x5404;
}

pub const MAC: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];
const RST: u32 = 1 << 26;
const LINK_UP: u32 = 1 << 1;
const ENABLE: u32 = 1 << 1;
const TXDW: u32 = 1;
const LSC: u32 = 4;
const RXT0: u32 = 0x80;
const RXQ0: u32 = 1 << 20;
const TXQ0: u32 = 1 << 22;
const OTHER: u32 = 1 << 24;
/// The switch of a queue of the 82576.
const QUEUE_ENABLE: u32 = 1 << 25;
/// Several vectors, in GPIE.
const MULTIPLE: u32 = 1 << 4;

/// How the card misbehaves.
#[derive(Clone, Copy, Default)]
pub struct Manners {
    /// The reset bit never clears.
    pub reset_hangs: bool,
    /// An EEPROM read is never done.
    pub eeprom_hangs: bool,
    /// Descriptors are not looked at.
    pub tx_hangs: bool,
    /// Requests stay under way on the bus.
    pub bus_hangs: bool,
    /// There is no link until the PHY is told to negotiate one.
    pub link_is_down_after_reset: bool,
    /// A queue is never switched on.
    pub queue_hangs: bool,
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
    /// What the advanced context said: the two words.
    advanced_context: (u64, u64),
    /// Vectors that were sent since the driver last asked for them.
    pub messages: u32,
    /// The frame that is being put together, with the options of its first descriptor.
    packet: Vec<u8>,
    options: u64,
}

/// The model. Cloning gives another handle to the same card.
#[derive(Clone)]
pub struct Card {
    pub memory: HostMemory,
    pub model: Model,
    pub state: Rc<RefCell<State>>,
}

impl Card {
    pub fn new(memory: &HostMemory, model: Model) -> Self {
        let card = Self { memory: memory.clone(), model, state: Rc::default() };
        card.power_on();
        card
    }

    fn power_on(&self) {
        let mut state = self.state.borrow_mut();
        state.registers.clear();
        let [a, b, c, d, e, f] = MAC;
        state.registers.insert(reg::RAL0, u32::from_le_bytes([a, b, c, d]));
        state.registers.insert(reg::RAH0, u32::from_le_bytes([e, f, 0, 0x80]));
        let link = if state.manners.link_is_down_after_reset { 0 } else { LINK_UP };
        state.registers.insert(reg::STATUS, link | 2 << 6);
        if self.model != Model::I8254x {
            state.registers.insert(reg::EECD, 1 << 9);
        }
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
    fn has_vectors(&self) -> bool {
        self.model == Model::I82576 && self.get(reg::GPIE) & MULTIPLE != 0
    }
    /// Whether the card interrupts, or has since it was last asked to.
    pub fn asserts(&self) -> bool {
        if self.has_vectors() {
            return self.state.borrow().messages != 0;
        }
        // With MSI-X, the 82574 has vectors for these only.
        let vectors = if self.get(reg::IVAR_82574) == 0 { u32::MAX } else { RXQ0 | TXQ0 | OTHER };
        self.get(reg::ICR) & self.get(reg::IMS) & vectors != 0
    }
    pub fn raise(&self, cause: u32) {
        let others = if cause & LSC != 0 { OTHER } else { 0 };
        self.set(reg::ICR, self.get(reg::ICR) | cause | others);
        if self.has_vectors() && cause & self.get(reg::IMS) & LSC != 0 {
            self.send(self.get(reg::IVAR_MISC) >> 8);
        }
    }
    /// Sends the vector of an entry of IVAR, or keeps it pending.
    fn send(&self, entry: u32) {
        if self.has_vectors() && entry & 0x80 != 0 {
            self.set(reg::EICR, self.get(reg::EICR) | 1 << (entry & 0x1f));
            self.send_pending();
        }
    }
    fn send_pending(&self) {
        let due = self.get(reg::EICR) & self.get(reg::EIMS);
        self.state.borrow_mut().messages |= due;
        self.set(reg::EICR, self.get(reg::EICR) & !(due & self.get(reg::EIAC)));
        self.set(reg::EIMS, self.get(reg::EIMS) & !(due & self.get(reg::EIAM)));
    }
    /// What has interrupted, as the domain would find it: vectors, or the first one for a card without.
    pub fn take_messages(&self) -> u32 {
        if !self.has_vectors() {
            return u32::from(self.asserts());
        }
        std::mem::take(&mut self.state.borrow_mut().messages)
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

    /// The receive descriptor of a queue that the card fills next, if it owns one.
    fn next_rx(&self, queue: usize) -> Option<(Maddr, u64)> {
        let at = queue_base(queue);
        let (head, tail) = (self.get(at + 0x10), self.get(at + 0x18));
        let off = self.model == Model::I82576 && self.get(at + 0x28) & QUEUE_ENABLE == 0;
        if self.get(reg::RCTL) & ENABLE == 0 || off || head == tail {
            return None;
        }
        let (at, buffer, _) = self.descriptor(at, head);
        Some((at, buffer))
    }

    /// Completes the next receive descriptor with anything at all.
    pub fn complete_rx(&self, written: &[u8], len: u16, status: u8, errors: u8) -> bool {
        self.complete_rx_on(0, written, len, status, errors)
    }
    pub fn complete_rx_on(&self, queue: usize, written: &[u8], len: u16, status: u8, errors: u8) -> bool {
        let Some((at, buffer)) = self.next_rx(queue) else { return false };
        self.memory.write(Maddr::from_raw(buffer), written).expect("buffer outside of DMA memory");
        let extended = self.model == Model::I82576 || self.get(reg::RFCTL) & 1 << 15 != 0;
        let (len, status, errors) = (u64::from(len), u64::from(status), u64::from(errors));
        let word = if extended { status | errors << 24 | len << 32 } else { len | status << 32 | errors << 40 };
        // The card overwrites the address in these formats.
        if extended {
            self.memory.write(at, &0xfeed_u64.to_le_bytes()).unwrap();
        }
        self.memory.write(at.wrapping_add(8), &word.to_le_bytes()).unwrap();
        let base = queue_base(queue);
        self.set(base + 0x10, (self.get(base + 0x10) + 1) % self.entries(base + 8));
        self.raise(RXT0 | RXQ0);
        self.send(self.get(reg::IVAR + 4 * queue));
        true
    }

    /// Receives a frame as a card should, in as many buffers as it takes. `false` if no descriptor is free.
    pub fn receive(&self, frame: &[u8]) -> bool {
        self.receive_on(0, frame)
    }
    pub fn receive_on(&self, queue: usize, frame: &[u8]) -> bool {
        let parts = frame.chunks(self.buffer_size(queue));
        let last = parts.len() - 1;
        parts.enumerate().all(|(number, part)| {
            let status = if number == last { 0b11 | 1 << 2 } else { 0b01 };
            self.complete_rx_on(queue, part, u16::try_from(part.len()).unwrap(), status, 0)
        })
    }
    /// What the driver told it about its buffers.
    fn buffer_size(&self, queue: usize) -> usize {
        let kib = self.get(queue_base(queue) + 0xc) & 0x7f;
        if kib > 0 {
            return kib as usize * 1024;
        }
        match (self.get(reg::RCTL) >> 16 & 3, self.get(reg::RCTL) & 1 << 25 != 0) {
            (0, false) => 2048,
            (3, true) => 4096,
            other => panic!("buffer size {other:?}"),
        }
    }

    /// Works off the transmit ring.
    pub fn transmit(&self) {
        let off = self.model == Model::I82576 && self.get(reg::TXDCTL) & QUEUE_ENABLE == 0;
        if self.get(reg::TCTL) & ENABLE == 0 || off || self.state.borrow().manners.tx_hangs {
            return;
        }
        while self.get(reg::TDH) != self.get(reg::TDT) {
            let index = self.get(reg::TDH);
            let (at, low, high) = self.descriptor(reg::TDBAL, index);
            self.process(low, high);
            if high & 1 << 27 != 0 {
                self.memory.write(at.wrapping_add(8), &(high | 1 << 32).to_le_bytes()).unwrap();
                self.raise(TXDW | TXQ0);
                self.send(self.get(reg::IVAR) >> 8 & 0xff);
            }
            self.set(reg::TDH, (index + 1) % self.entries(reg::TDLEN));
        }
    }

    fn process(&self, low: u64, high: u64) {
        let byte = |word: u64, at: u32| (word >> at & 0xff) as usize;
        assert_ne!(high & 1 << 29, 0, "legacy descriptors are not modelled");
        let mut state = self.state.borrow_mut();
        let kind = high >> 20 & 0xf;
        if self.model == Model::I82576 {
            assert!(matches!(kind, 2 | 3), "a descriptor of the older formats");
            if kind == 2 {
                state.contexts += 1;
                state.advanced_context = (low, high);
                return;
            }
        } else {
            assert!(matches!(kind, 0 | 1), "an advanced descriptor");
        }
        if kind == 0 {
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
        let len_mask = if self.model == Model::I82576 { 0xffff } else { 0xf_ffff };
        let mut bytes = vec![0; (high & len_mask) as usize];
        assert!(!bytes.is_empty(), "an empty data descriptor hangs the card");
        self.memory.read(Maddr::from_raw(low), &mut bytes).expect("data outside of DMA memory");
        state.packet.extend(bytes);
        if high & 1 << 24 != 0 {
            assert_ne!(high & 1 << 25, 0, "a frame without FCS");
            let packet = std::mem::take(&mut state.packet);
            if self.model == Model::I82576 {
                state.apply_advanced(packet.len());
            }
            let frames = state.finish(packet);
            state.sent.extend(frames);
        }
    }

    fn is_queue_control(&self, offset: usize) -> bool {
        self.model == Model::I82576 && matches!(offset, reg::RXDCTL | reg::TXDCTL)
    }

    fn write(&self, offset: usize, value: u32) {
        if self.state.borrow().manners.gone {
            return;
        }
        let offset = canonical(self.model, offset);
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
                let (shift, done) = if self.model == Model::I8254x { (8, 4) } else { (2, 1) };
                let word = self.state.borrow().eeprom[(value >> shift & 0xff) as usize];
                self.set(offset, u32::from(word) << 16 | 1 << done);
            }
            reg::EIMC => self.set(reg::EIMS, self.get(reg::EIMS) & !value),
            reg::EIMS => {
                self.state.borrow_mut().messages = 0;
                self.set(reg::EIMS, self.get(reg::EIMS) | value);
                self.send_pending();
            }
            _ if self.is_queue_control(offset) && self.state.borrow().manners.queue_hangs => {}
            reg::TDT => {
                self.set(offset, value);
                self.transmit();
            }
            _ => self.set(offset, value),
        }
    }
}

/// Where the registers of a receive queue start.
fn queue_base(queue: usize) -> usize {
    if queue == 0 { reg::RDBAL } else { 0xc000 + 0x40 * queue }
}

/// The 82576 has its queue 0 in two places.
fn canonical(model: Model, offset: usize) -> usize {
    match offset {
        0xc000..0xc040 if model == Model::I82576 => offset - 0xc000 + reg::RDBAL,
        0xe000..0xe040 if model == Model::I82576 => offset - 0xe000 + reg::TDBAL,
        _ => offset,
    }
}

impl State {
    /// Says what the advanced descriptors said in the way of the older ones.
    fn apply_advanced(&mut self, len: usize) {
        let (low, high) = self.advanced_context;
        let (ip, ip_len, tcp) = ((low >> 9 & 0x7f) as usize, (low & 0x1ff) as usize, high & 1 << 11 != 0);
        let tucss = ip + ip_len;
        let cut = self.options & 1 << 31 != 0;
        let payload = (self.options >> 46) as usize;
        let headers = tucss + (high >> 40 & 0xff) as usize;
        assert_eq!(payload, if cut { len - headers } else { len }, "PAYLEN");
        let context = Context {
            ipcss: ip,
            ipcso: ip + 10,
            tucss,
            tucso: tucss + if tcp { 16 } else { 6 },
            ipv4: high & 1 << 10 != 0,
            payload,
            headers,
            mss: (high >> 48) as usize,
        };
        (self.checksum_context, self.segment_context) = (context, context);
        self.options = self.options & !(1 << 26) | u64::from(cut) << 26;
    }

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
            } else {
                let payload = u16::try_from(frame.len() - ip - 40).unwrap();
                frame[ip + 4..ip + 6].copy_from_slice(&payload.to_be_bytes());
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
        let offset = canonical(self.model, offset);
        self.state.borrow_mut().accesses.push((offset, None));
        if self.state.borrow().manners.gone {
            return u32::MAX;
        }
        let value = self.get(offset);
        match offset {
            reg::ICR | reg::MPC | reg::CRCERRS => self.set(offset, 0),
            reg::STATUS if self.model != Model::I8254x => {
                let busy = self.get(reg::CTRL) & 1 << 2 == 0 || self.state.borrow().manners.bus_hangs;
                return value | u32::from(busy) << 19;
            }
            _ => {}
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
