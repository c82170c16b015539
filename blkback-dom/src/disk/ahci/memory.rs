//! What a port and its driver share: command list, received FISes, command tables.
//!
//! Serial ATA AHCI 1.3.1, section 4.

use alloc::rc::Rc;
use core::sync::atomic::Ordering;

use xen_pv_rt::hyp::{Dma, DmaRing, Maddr};

use super::command::Fis;
use super::slots::SLOTS;
use crate::disk::Failure;
use crate::disk::lists::{ListId, Lists, PAGE_WORDS};
use crate::disk::words::{high32, join16, low32};

/// In the page of a port: received FISes after the command list, then data of the driver's own commands.
const RECEIVED: u64 = 1024;
const DATA: u64 = 2048;
/// Words (32 bits) of a command header.
const HEADER_WORDS: usize = 8;
/// Where the device's register FIS and its set device bits FIS are, in 32-bit words of the page.
const D2H: usize = (1024 + 0x40) / 4;
const SDB: usize = (1024 + 0x58) / 4;
/// In a command table, in 64-bit words: the packet, the regions, and what a trim command transfers.
const PACKET: usize = 8;
const REGIONS: usize = 16;
const TRIM: usize = 64;
/// Words of what a trim command transfers: one block.
const TRIM_WORDS: usize = 64;
/// Regions of a command table. A table is a page: in half of one, four requests of 32 pages each, which is what guests
/// send, would not be one command.
pub(super) const MAX_REGIONS: usize = (PAGE_WORDS - REGIONS) / 2;
/// Bytes that they describe if each is one page.
pub(super) const COMMAND_BYTES: u32 = 248 * 4096;
const _: () = assert!(MAX_REGIONS == 248);

/// How data of a command moves.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    /// From the device, or not at all.
    In,
    /// To the device.
    Out,
}

pub(super) struct PortMemory {
    page: Rc<DmaRing>,
    tables: Lists,
    /// By slot; the last one is for the driver's own commands.
    table: [Option<ListId>; SLOTS + 1],
}

/// The table of the driver's own commands.
const OWN: usize = SLOTS;
/// Command tables: one for each slot, and that.
const TABLES: u16 = 33;
const _: () = assert!(OWN == 32);

impl PortMemory {
    pub(super) fn new(dma: &impl Dma) -> Result<Self, Failure> {
        let page = dma.dma_ring(1).map(Rc::new).map_err(|_| Failure::NoMemory)?;
        let mut tables = Lists::new(dma, TABLES, PAGE_WORDS)?;
        let table = core::array::from_fn(|_| tables.take());
        Ok(Self { page, tables, table })
    }

    /// Where the command list is.
    pub(super) fn command_list(&self) -> Maddr {
        self.page.maddr()
    }
    /// Where received FISes are.
    pub(super) fn received(&self) -> Maddr {
        self.page.maddr().wrapping_add(RECEIVED)
    }

    fn table(&self, index: usize) -> Option<ListId> {
        self.table.get(index).copied().flatten()
    }

    /// Describes the memory of a slot's command; how many regions. `None` if they are too many.
    pub(super) fn describe(&self, slot: u8, parts: impl Iterator<Item = (Maddr, u32)>) -> Option<u16> {
        self.describe_in(self.table(slot.into())?, parts)
    }

    fn describe_in(&self, table: ListId, parts: impl Iterator<Item = (Maddr, u32)>) -> Option<u16> {
        let mut count = 0_u16;
        for (maddr, len) in parts {
            let at = usize::from(count).saturating_mul(2).saturating_add(REGIONS);
            if usize::from(count) >= MAX_REGIONS {
                return None;
            }
            self.tables.store(table, at, maddr.into_raw());
            // The length counts from 0, in the upper half.
            self.tables.store(table, at.saturating_add(1), u64::from(len.saturating_sub(1)) << 32);
            count = count.saturating_add(1);
        }
        Some(count)
    }

    /// Writes what a trim command transfers, and describes it.
    pub(super) fn describe_trim(&self, slot: u8, ranges: impl Iterator<Item = u64>) -> Option<u16> {
        let table = self.table(slot.into())?;
        let mut ranges = ranges;
        for index in TRIM..TRIM + TRIM_WORDS {
            self.tables.store(table, index, ranges.next().unwrap_or(0));
        }
        let at = self.tables.maddr(table).wrapping_add(u64::try_from(TRIM.saturating_mul(8)).unwrap_or(0));
        self.describe_in(table, core::iter::once((at, 512)))
    }

    /// Puts a command into a slot of the command list, with its table's regions as they are.
    pub(super) fn prepare(&self, slot: u8, fis: &Fis, direction: Direction, regions: u16) {
        self.fill(slot.into(), slot.into(), fis, direction, regions);
    }

    /// Puts a command of the driver's own into slot 0; it transfers `bytes` bytes to [`data`](Self::data).
    pub(super) fn prepare_own(&self, fis: &Fis, bytes: u32) {
        for word in self.page.words().iter().skip(usize::try_from(DATA / 4).unwrap_or(0)).take(128) {
            word.store(0, Ordering::Relaxed);
        }
        let data = core::iter::once((self.page.maddr().wrapping_add(DATA), bytes)).filter(|(_, len)| *len > 0);
        let regions = self.table(OWN).and_then(|table| self.describe_in(table, data)).unwrap_or(0);
        self.fill(0, OWN, fis, Direction::In, regions);
    }

    fn fill(&self, slot: usize, table: usize, fis: &Fis, direction: Direction, regions: u16) {
        /// Length of a register FIS in 32-bit words.
        const FIS_WORDS: u16 = 5;
        const PACKET_COMMAND: u16 = 1 << 5;
        const WRITE: u16 = 1 << 6;
        let Some(table) = self.table(table) else { return };
        for (index, word) in (0..).zip(fis.words) {
            self.tables.store(table, index, word);
        }
        for (index, word) in (PACKET..).zip(fis.packet.unwrap_or_default()) {
            self.tables.store(table, index, word);
        }
        let packet = if fis.packet.is_some() { PACKET_COMMAND } else { 0 };
        let write = if direction == Direction::Out { WRITE } else { 0 };
        let at = self.tables.maddr(table).into_raw();
        let header = [join16(FIS_WORDS | packet | write, regions), 0, low32(at), high32(at), 0, 0, 0, 0];
        let first = slot.saturating_mul(HEADER_WORDS);
        for (word, value) in self.page.words().iter().skip(first).zip(header) {
            word.store(value, Ordering::Relaxed);
        }
    }

    /// What a command of the driver's own has transferred, as 16-bit words.
    pub(super) fn data(&self) -> [u16; 256] {
        let mut words = [0; 256];
        let from = self.page.words().iter().skip(usize::try_from(DATA / 4).unwrap_or(0));
        for (pair, word) in words.chunks_exact_mut(2).zip(from) {
            let [a, b, c, d] = word.load(Ordering::Acquire).to_le_bytes();
            pair.copy_from_slice(&[u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d])]);
        }
        words
    }

    /// What the device has reported since the last call: nothing, that something is over, or an error.
    pub(super) fn take_report(&self) -> Option<Result<(), ()>> {
        /// Bit of the status field of a FIS: error.
        const ERR: u32 = 1 << 16;
        let mut report = None;
        for word in [D2H, SDB].into_iter().filter_map(|at| self.page.words().get(at)) {
            // A cheap look first: an exchange takes the cache line away from the device.
            if word.load(Ordering::Acquire) == 0 {
                continue;
            }
            // Forgotten before registers are read: what comes in between is reported again.
            let fis = word.swap(0, Ordering::AcqRel);
            let this = if fis & ERR == 0 { Ok(()) } else { Err(()) };
            report = Some(report.unwrap_or(Ok(())).and(this));
        }
        report
    }

    /// Whether the device has reported something.
    pub(super) fn has_report(&self) -> bool {
        [D2H, SDB].into_iter().filter_map(|at| self.page.words().get(at)).any(|word| word.load(Ordering::Acquire) != 0)
    }

    /// Keeps the memory allocated for ever: the device may still use it.
    pub(super) fn leak(&self) {
        core::mem::forget(self.page.clone());
        self.tables.leak();
    }
}
