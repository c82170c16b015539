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
    /// Completes nothing while this is set.
    pub hold: bool,
    /// Completes the newest command first.
    pub backwards: bool,
    /// Commands end with this error instead of being carried out.
    pub fail: Verdict,
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
            max_spans: 256,
        },
        capabilities: Capabilities {
            volatile_cache: true,
            fua: false,
            discard_granularity: 8,
            discard_alignment: 0,
            max_discard_sectors: 64,
            max_write_zeroes_sectors: 0,
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
            Platter { seen: bytes.clone(), stable: bytes }
        };
        Self {
            memory: memory.clone(),
            platters: disks.iter().map(platter).collect(),
            disks,
            pending: VecDeque::new(),
            trace: Vec::new(),
            depth: 64,
            hold: false,
            backwards: false,
            fail: Box::new(|_| None),
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
        }
    }

    fn carry_out(&mut self, pending: &Pending) -> Result<(), DiskError> {
        if let Some(error) = (self.fail)(&pending.asked) {
            return Err(error);
        }
        let Platter { seen, stable } = &mut self.platters[usize::from(pending.asked.disk)];
        let mut at = pending.asked.sector as usize * SECTOR;
        match pending.asked.op {
            Op::Flush => stable.clone_from(seen),
            Op::Discard { sectors } | Op::WriteZeroes { sectors } => {
                seen[at..at + sectors as usize * SECTOR].fill(0xdd)
            }
            Op::Read => {
                for (maddr, len) in &pending.spans {
                    self.memory.write(*maddr, &seen[at..at + *len as usize]).expect("DMA into memory that is gone");
                    at += *len as usize;
                }
            }
            Op::Write | Op::WriteFua => {
                for (maddr, len) in &pending.spans {
                    self.memory.read(*maddr, &mut seen[at..at + *len as usize]).expect("DMA from memory that is gone");
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
        if self.pending.len() >= self.depth {
            return Err(SubmitError::Full);
        }
        assert!(self.pending.iter().all(|pending| pending.tag != command.tag), "a tag in flight is used again");
        let (sector, sectors) = command.range();
        let asked = Asked { disk: disk.0, op: command.op, sector, sectors };
        self.trace.push(asked.clone());
        let spans = command.spans.iter().map(|span| (span.maddr, span.len)).collect();
        self.pending.push_back(Pending { tag: command.tag, asked, spans });
        Ok(())
    }
    fn kick(&mut self) {}
    fn poll(&mut self, _: Instant, done: &mut dyn FnMut(Tag, Result<(), DiskError>)) {
        while !self.hold {
            let pending = if self.backwards { self.pending.pop_back() } else { self.pending.pop_front() };
            let Some(pending) = pending else { break };
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
    fn enable_interrupts(&mut self) -> bool {
        !self.hold && !self.pending.is_empty()
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
