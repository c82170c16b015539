//! What there is to be served: disks, partitions and logical volumes.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use super::error::VolumeError;
use super::target::{Target, TargetKind};
use super::{DiskRef, Map, Piece};
use crate::disk::{Disk, Medium, SECTOR_BYTES};

/// A disk with its name.
#[derive(Clone, Debug)]
pub struct NamedDisk {
    /// Its name in targets.
    pub name: String,
    /// Where it is.
    pub disk: DiskRef,
    /// What it is.
    pub about: Disk,
}

/// A partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// Its number in the table, from 1.
    pub number: u32,
    /// Its name, for GPT.
    pub label: Option<String>,
    /// Its unique id, for GPT, in the order of the text.
    pub uuid: Option<[u8; 16]>,
    /// Its sectors.
    pub piece: Piece,
}

/// A logical volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogicalVolume {
    /// Its volume group.
    pub group: String,
    /// Its name.
    pub name: String,
    /// Its layout, or why it cannot be served.
    pub map: Result<Map, String>,
}

/// Everything there is.
#[derive(Clone, Debug, Default)]
pub struct Catalogue {
    /// The disks.
    pub disks: Vec<NamedDisk>,
    /// Their partitions.
    pub partitions: Vec<Partition>,
    /// Logical volumes.
    pub logical: Vec<LogicalVolume>,
}

/// A volume, and what its disks have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// Its layout.
    pub map: Map,
    /// Smallest unit of transfer in bytes: the greatest of its disks'.
    pub logical_bytes: u32,
    /// Unit that the disks prefer for writes, in bytes.
    pub physical_bytes: u32,
    /// It cannot be written.
    pub read_only: bool,
    /// It is a CD-ROM.
    pub cdrom: bool,
    /// Unit of discard and its first multiple, in 512-byte sectors, if all of its disks offer it.
    pub discard: Option<(u32, u32)>,
    /// Whether all of its disks can erase what is discarded.
    pub secure_erase: bool,
}

impl Catalogue {
    /// Finds what a target names.
    ///
    /// # Errors
    /// What is missing or wrong.
    pub fn resolve(&self, target: &Target) -> Result<Volume, VolumeError> {
        let (map, name) = match &target.kind {
            TargetKind::Disk(name) => (Map::linear(self.disk(name)?.whole()), name.clone()),
            TargetKind::Slice(name, sector, sectors) => {
                let disk = self.disk(name)?.disk;
                (Map::linear(Piece { disk, sector: *sector, sectors: *sectors }), format!("{name}@{sector}+{sectors}"))
            }
            TargetKind::Partition(name, number) => {
                let disk = self.disk(name)?.disk;
                let is_it = |part: &Partition| part.piece.disk == disk && part.number == *number;
                self.partition(&format!("{name}:{number}"), is_it)?
            }
            TargetKind::PartLabel(label) => {
                self.partition(&format!("PARTLABEL={label}"), |part| part.label.as_deref() == Some(label))?
            }
            TargetKind::PartUuid(uuid) => {
                self.partition(&format!("PARTUUID={}", hex(uuid)), |part| part.uuid.as_ref() == Some(uuid))?
            }
            TargetKind::Logical(group, name) => self.logical(group, name)?,
        };
        self.describe(map, &name)
    }

    fn disk(&self, name: &str) -> Result<&NamedDisk, VolumeError> {
        if let Some(disk) = self.disks.iter().find(|disk| disk.name == name) {
            return Ok(disk);
        }
        // The controller's name will do if it has only one disk.
        let of_controller = |disk: &&NamedDisk| {
            disk.name.strip_prefix(name).is_some_and(|rest| rest.starts_with(['n', 'p']))
                && name.ends_with(|c: char| c.is_ascii_digit())
        };
        let mut disks = self.disks.iter().filter(of_controller);
        match (disks.next(), disks.next()) {
            (Some(disk), None) => Ok(disk),
            _ => {
                let names: Vec<&str> = self.disks.iter().map(|disk| disk.name.as_str()).collect();
                Err(VolumeError::NoDisk(name.to_string(), names.join(" ")))
            }
        }
    }

    fn partition(&self, name: &str, is_it: impl Fn(&Partition) -> bool) -> Result<(Map, String), VolumeError> {
        let mut found = self.partitions.iter().filter(|part| is_it(part));
        match (found.next(), found.next()) {
            (Some(part), None) => Ok((Map::linear(part.piece), name.to_string())),
            (None, _) => Err(VolumeError::NoPartition(name.to_string())),
            (Some(_), Some(_)) => Err(VolumeError::Ambiguous(name.to_string())),
        }
    }

    fn logical(&self, group: &str, name: &str) -> Result<(Map, String), VolumeError> {
        let full = format!("{group}/{name}");
        let mut found = self.logical.iter().filter(|volume| volume.group == group && volume.name == name);
        match (found.next(), found.next()) {
            (Some(volume), None) => match &volume.map {
                Ok(map) => Ok((map.clone(), full)),
                Err(why) => Err(VolumeError::BadLogical(format!("{full}: {why}"))),
            },
            (None, _) => Err(VolumeError::NoLogical(full)),
            (Some(_), Some(_)) => Err(VolumeError::Ambiguous(full)),
        }
    }

    /// What the disks of a map have in common, with all of its borders checked.
    fn describe(&self, map: Map, name: &str) -> Result<Volume, VolumeError> {
        let mut volume = Volume {
            map,
            logical_bytes: SECTOR_BYTES,
            physical_bytes: SECTOR_BYTES,
            read_only: false,
            cdrom: false,
            discard: Some((0, 0)),
            secure_erase: true,
        };
        for disk in volume.map.disks() {
            let found = self.disks.iter().find(|named| named.disk == disk);
            let about = found.map(|named| &named.about).filter(|about| about.present);
            let about = about.ok_or_else(|| VolumeError::Gone(name.to_string()))?;
            volume.merge(about);
        }
        let unit = u64::from(volume.logical_bytes.checked_div(SECTOR_BYTES).unwrap_or(1));
        for piece in volume.map.pieces() {
            let size =
                self.disks.iter().find(|named| named.disk == piece.disk).map(|named| named.about.geometry.sectors);
            if piece.sector.checked_add(piece.sectors).is_none_or(|end| size.is_none_or(|size| end > size)) {
                return Err(VolumeError::TooBig(name.to_string()));
            }
            if piece.sector.checked_rem(unit) != Some(0) || piece.sectors.checked_rem(unit) != Some(0) {
                return Err(VolumeError::SectorSize(name.to_string()));
            }
        }
        volume.align_discard();
        Ok(volume)
    }
}

impl NamedDisk {
    /// All of it.
    pub fn whole(&self) -> Piece {
        Piece { disk: self.disk, sector: 0, sectors: self.about.geometry.sectors }
    }
}

fn hex(uuid: &[u8; 16]) -> String {
    uuid.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Volume {
    /// Counts the first unit of discard from the start of the volume instead of the disk's. What is in several pieces
    /// goes by its first one.
    fn align_discard(&mut self) {
        let start = self.map.piece(0, 1).map_or(0, |piece| piece.sector);
        self.discard = self.discard.map(|(unit, first)| {
            let into = start.checked_rem(u64::from(unit)).and_then(|rest| u32::try_from(rest).ok()).unwrap_or(0);
            let next = unit.saturating_sub(into).saturating_add(first);
            (unit, next.checked_rem(unit).unwrap_or(0))
        });
    }

    /// Adds what a further disk brings along.
    fn merge(&mut self, about: &Disk) {
        let (geometry, capabilities) = (&about.geometry, &about.capabilities);
        self.logical_bytes = self.logical_bytes.max(geometry.logical_bytes);
        self.physical_bytes = self.physical_bytes.max(geometry.physical_bytes);
        self.read_only |= capabilities.read_only;
        self.cdrom |= about.medium == Medium::CdRom;
        self.secure_erase &= capabilities.max_secure_erase_sectors > 0;
        self.discard = match (self.discard, capabilities.discard_granularity) {
            (Some((unit, first)), more) if more > 0 => {
                Some((unit.max(more), first.max(capabilities.discard_alignment)))
            }
            _ => None,
        };
    }
}
