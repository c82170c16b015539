//! A controller with disks in memory, which completes commands when the test says so.

use std::collections::VecDeque;

use blkback_dom::disk::{
    Capabilities, Command, Controller, Disk, DiskCounters, DiskError, DiskEvent, DiskId, DiskName, Geometry, Health,
    Medium, Op, SubmitError, Tag,
};
use blkback_dom::vbd::Controllers;
use blkback_dom::volume::{DiskRef, NamedDisk};
use xen_pv_rt::hyp::{HostMemory, Instant, Maddr};

pub const SECTOR: usize = 512;

/// What a disk was asked to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    pub disk: u16,
    pub op: Op,
    pub sector: u64,
    pub sectors: u64,
}

struct Pending {
    tag: Tag,
    asked: Asked,
    spans: Vec<(Maddr, u32)>,
}

/// A disk's contents: what readers see, and what would survive a power cut.
pub struct Platter {
    pub seen: Vec<u8>,
    pub stable: Vec<u8>,
    /// Where the two differ, in bytes.
    dirty: Vec<std::ops::Range<usize>>,
}

/// Whether a command fails.
pub type Verdict = Box<dyn FnMut(&Asked) -> Option<DiskError>>;

/// One controller; its disks are its namespaces.
pub struct RamDisk {
    memory: HostMemory,
    disks: Vec<Disk>,
    pub platters: Vec<Platter>,
    pending: VecDeque<Pending>,
    /// Every command it accepted.
    pub trace: Vec<Asked>,
    /// Commands that may be in flight.
    pub depth: usize,
    /// Spans of a command; with more it cannot be laid out.
    pub most_spans: usize,
    /// Completes nothing while this is set.
    pub hold: bool,
    /// Completes the newest command first.
    pub backwards: bool,
    /// Completes those commands only when this is cleared.
    pub slow: Option<fn(&Asked) -> bool>,
    /// How many commands it still completes, if not all of them; a random one each time.
    pub quota: Option<usize>,
    random: u64,
    /// Says that it has carried out a command without doing so.
    pub lies: bool,
    /// Commands end with this error instead of being carried out.
    pub fail: Verdict,
    /// Keeps the journal.
    pub records: bool,
    /// What was written and flushed, in the order in which it was.
    pub journal: Vec<Done>,
}

/// What a disk has done.
#[derive(Clone, Debug)]
pub enum Done {
    /// It has written to a sector; what it holds starts with these bytes.
    Wrote(u64, [u8; 8]),
    /// It has flushed its cache.
    Flushed,
}

pub fn disk(number: u32, sectors: u64, logical_bytes: u32) -> Disk {
    Disk {
        name: DiskName::Namespace(number),
        serial: heapless::String::new(),
        model: heapless::String::new(),
        geometry: Geometry {
            sectors,
            logical_bytes,
            physical_bytes: 4096,
            max_transfer_bytes: 1 << 20,
            command_bytes: 1 << 20,
            max_spans: 256,
        },
        capabilities: Capabilities {
            volatile_cache: true,
            fua: false,
            discard_granularity: 8,
            discard_alignment: 0,
            max_discard_sectors: 64,
            max_secure_erase_sectors: 0,
            max_write_zeroes_sectors: 0,
            shared_slots: 0,
            read_only: false,
        },
        medium: Medium::Solid,
        present: true,
    }
}

impl RamDisk {
    pub fn new(memory: &HostMemory, disks: Vec<Disk>) -> Self {
        let platter = |disk: &Disk| {
            let bytes = vec![0; disk.geometry.sectors as usize * SECTOR];
            Platter { seen: bytes.clone(), stable: bytes, dirty: Vec::new() }
        };
        Self {
            memory: memory.clone(),
            platters: disks.iter().map(platter).collect(),
            disks,
            pending: VecDeque::new(),
            trace: Vec::new(),
            depth: 64,
            most_spans: usize::MAX,
            hold: false,
            backwards: false,
            slow: None,
            quota: None,
            random: 0x2545_f491_4f6c_dd1d,
            lies: false,
            fail: Box::new(|_| None),
            records: false,
            journal: Vec::new(),
        }
    }

    pub fn named(&self) -> Vec<NamedDisk> {
        let name = |(number, about): (usize, &Disk)| NamedDisk {
            name: format!("nvme0{}", about.name),
            disk: DiskRef { controller: 0, disk: DiskId(number as u16) },
            about: about.clone(),
        };
        self.disks.iter().enumerate().map(name).collect()
    }

    pub fn disk_mut(&mut self, number: usize) -> &mut Disk {
        &mut self.disks[number]
    }

    /// Bytes of sectors as readers see them.
    pub fn bytes(&self, disk: usize, sector: u64, sectors: u64) -> &[u8] {
        &self.platters[disk].seen[sector as usize * SECTOR..(sector + sectors) as usize * SECTOR]
    }

    /// The power goes: what was not flushed is lost.
    pub fn cut_power(&mut self) {
        self.pending.clear();
        for platter in &mut self.platters {
            platter.seen.clone_from(&platter.stable);
            platter.dirty.clear();
        }
    }

    /// Takes the command that it finishes next.
    fn next_pending(&mut self) -> Option<Pending> {
        if let Some(quota) = &mut self.quota {
            *quota = quota.checked_sub(1)?;
            let count = self.pending.len().max(1);
            self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            return self.pending.remove((self.random >> 33) as usize % count);
        }
        let is_slow = |pending: &Pending| self.slow.is_some_and(|slow| slow(&pending.asked));
        let mut ready = (0..self.pending.len()).filter(|at| !is_slow(&self.pending[*at]));
        let next = if self.backwards { ready.next_back() } else { ready.next() };
        next.and_then(|at| self.pending.remove(at))
    }

    fn carry_out(&mut self, pending: &Pending) -> Result<(), DiskError> {
        if let Some(error) = (self.fail)(&pending.asked) {
            return Err(error);
        }
        if self.lies {
            return Ok(());
        }
        let Platter { seen, stable, dirty } = &mut self.platters[usize::from(pending.asked.disk)];
        let mut at = pending.asked.sector as usize * SECTOR;
        if !matches!(pending.asked.op, Op::Read | Op::Flush) {
            dirty.push(at..at + pending.asked.sectors as usize * SECTOR);
        }
        match pending.asked.op {
            Op::Flush => {
                for range in dirty.drain(..) {
                    stable[range.clone()].copy_from_slice(&seen[range]);
                }
                self.journal.extend(self.records.then_some(Done::Flushed));
            }
            Op::Discard { sectors } | Op::WriteZeroes { sectors } => {
                seen[at..at + sectors as usize * SECTOR].fill(0xdd)
            }
            Op::SecureErase { sectors } => seen[at..at + sectors as usize * SECTOR].fill(0xee),
            Op::Read => {
                for (maddr, len) in &pending.spans {
                    self.memory.write(*maddr, &seen[at..at + *len as usize]).expect("DMA into memory that is gone");
                    at += *len as usize;
                }
            }
            Op::Write | Op::WriteFua => {
                for (maddr, len) in &pending.spans {
                    self.memory.read(*maddr, &mut seen[at..at + *len as usize]).expect("DMA from memory that is gone");
                    let written = (at / SECTOR..).zip(seen[at..at + *len as usize].chunks(SECTOR));
                    let written = written.filter(|_| self.records);
                    self.journal
                        .extend(written.map(|(n, bytes)| Done::Wrote(n as u64, bytes[..8].try_into().unwrap())));
                    at += *len as usize;
                }
            }
        }
        Ok(())
    }
}

impl Controller for RamDisk {
    fn disks(&self) -> &[Disk] {
        &self.disks
    }
    fn submit(&mut self, disk: DiskId, command: &Command<'_>) -> Result<(), SubmitError> {
        self.disks[usize::from(disk.0)].check(command)?;
        if command.spans.len() > self.most_spans {
            return Err(SubmitError::Layout);
        }
        if self.pending.len() >= self.depth {
            return Err(SubmitError::Full);
        }
        assert!(self.pending.iter().all(|pending| pending.tag != command.tag), "a tag in flight is used again");
        let (sector, sectors) = command.range();
        // As every controller does: changes to the same sectors are never in flight together.
        let conflicts = |other: &Asked| {
            let both = !matches!(other.op, Op::Read | Op::Flush) && !matches!(command.op, Op::Read | Op::Flush);
            both && other.disk == disk.0 && other.sector < sector + sectors && sector < other.sector + other.sectors
        };
        if self.pending.iter().any(|pending| conflicts(&pending.asked)) {
            return Err(SubmitError::Full);
        }
        let asked = Asked { disk: disk.0, op: command.op, sector, sectors };
        self.trace.push(asked.clone());
        let spans = command.spans.iter().map(|span| (span.maddr, span.len)).collect();
        self.pending.push_back(Pending { tag: command.tag, asked, spans });
        Ok(())
    }
    fn kick(&mut self) {}
    fn poll(&mut self, _: Instant, done: &mut dyn FnMut(Tag, Result<(), DiskError>)) {
        while !self.hold {
            let Some(pending) = self.next_pending() else { break };
            let outcome = self.carry_out(&pending);
            done(pending.tag, outcome);
        }
    }
    fn in_flight(&self) -> usize {
        self.pending.len()
    }
    fn take_event(&mut self) -> Option<DiskEvent> {
        None
    }
    fn is_ready(&self) -> bool {
        false
    }

    fn enable_interrupts(&mut self) -> bool {
        !self.hold && self.quota.is_none() && self.slow.is_none() && !self.pending.is_empty()
    }
    fn next_deadline(&self) -> Option<Instant> {
        None
    }
    fn health(&self) -> Health {
        Health::Running
    }
    fn counters(&self) -> DiskCounters {
        DiskCounters::default()
    }
    fn abandon(&mut self, _: &mut dyn FnMut(Tag, Result<(), DiskError>)) {}
    fn quiesce(&mut self) {}
}

impl Controllers for RamDisk {
    fn get(&mut self, number: u8) -> Option<&mut dyn Controller> {
        (number == 0).then_some(self as &mut dyn Controller)
    }
    fn count(&self) -> u8 {
        1
    }
}
