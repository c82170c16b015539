//! What there is to be served, as lines for the operator: in the log, and in xenstore for Dom0.
//!
//! Nodes `data/volumes/0`, `data/volumes/1` and so on hold one line each.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use xen_pv_rt::hyp::{Transaction, Xenstore};

use super::{Catalogue, LogicalVolume, NamedDisk, Partition};

/// Most lines that are published: each is a node of the domain's quota.
const MAX_NODES: usize = 64;
/// Bytes in a sector.
const SECTOR: u64 = 512;

impl Catalogue {
    /// One line for each disk, partition and logical volume: what it is called in a target, its size in bytes,
    /// and what else is known.
    pub fn lines(&self) -> Vec<String> {
        let disks = self.disks.iter().map(disk_line);
        let partitions = self.partitions.iter().map(|partition| self.partition_line(partition));
        disks.chain(partitions).chain(self.logical.iter().map(volume_line)).collect()
    }

    fn partition_line(&self, partition: &Partition) -> String {
        let disk = self.disks.iter().find(|named| named.disk == partition.piece.disk);
        let disk = disk.map_or("?", |named| named.name.as_str());
        let size = partition.piece.sectors.saturating_mul(SECTOR);
        let mut line = format!("partition {disk}:{} size={size}", partition.number);
        if let Some(label) = &partition.label {
            line.push_str(&format!(" label=\"{}\"", label.escape_default()));
        }
        line
    }
}

fn disk_line(NamedDisk { name, about, .. }: &NamedDisk) -> String {
    let geometry = &about.geometry;
    let access = if about.capabilities.read_only { "ro" } else { "rw" };
    let gone = if about.present { "" } else { " gone" };
    format!(
        "disk {name} size={} sector-size={} access={access} model=\"{}\" serial=\"{}\"{gone}",
        geometry.sectors.saturating_mul(SECTOR),
        geometry.logical_bytes,
        about.model.as_str().escape_default(),
        about.serial.as_str().escape_default(),
    )
}

fn volume_line(LogicalVolume { group, name, map }: &LogicalVolume) -> String {
    match map {
        Ok(map) => format!("volume {group}/{name} size={}", map.sectors().saturating_mul(SECTOR)),
        Err(why) => format!("volume {group}/{name} error=\"{}\"", why.escape_default()),
    }
}

/// Publishes the lines for Dom0, in place of the `before` lines that were there. What xenstore refuses is in the log all the
/// same.
pub(crate) async fn publish(xs: &impl Xenstore, lines: &[String], before: usize) {
    for number in 0..lines.len().max(before).min(MAX_NODES) {
        let path = format!("data/volumes/{number}");
        let done = match lines.get(number) {
            Some(line) => xs.write(Transaction::NONE, &path, line).await,
            None => xs.remove(Transaction::NONE, &path).await,
        };
        if let Err(error) = done {
            log::warn!("cannot publish the list of volumes: {error}");
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;

    use super::*;
    use crate::disk::{Capabilities, Disk, DiskId, DiskName, Geometry, Medium};
    use crate::volume::{DiskRef, Map, Piece};

    #[test]
    fn everything_has_a_line() {
        let disk = DiskRef { controller: 0, disk: DiskId(0) };
        let about = Disk {
            name: DiskName::Namespace(1),
            serial: heapless::String::try_from("SN\"1").unwrap_or_default(),
            model: heapless::String::try_from("Model X").unwrap_or_default(),
            geometry: Geometry {
                sectors: 4096,
                logical_bytes: 4096,
                physical_bytes: 4096,
                max_transfer_bytes: 4096,
                command_bytes: 4096,
                max_spans: 1,
            },
            capabilities: Capabilities {
                volatile_cache: false,
                fua: false,
                discard_granularity: 0,
                discard_alignment: 0,
                max_discard_sectors: 0,
                max_secure_erase_sectors: 0,
                max_write_zeroes_sectors: 0,
                shared_slots: 0,
                read_only: true,
            },
            medium: Medium::Solid,
            present: true,
        };
        let piece = Piece { disk, sector: 8, sectors: 16 };
        let label = Some("a\nb".to_string());
        let volume = |name: &str, map| LogicalVolume { group: "vg".to_string(), name: name.to_string(), map };
        let catalogue = Catalogue {
            disks: alloc::vec![NamedDisk { name: "nvme0n1".to_string(), disk, about }],
            partitions: alloc::vec![Partition { number: 2, label, uuid: None, piece }],
            logical: alloc::vec![volume("a", Ok(Map::linear(piece))), volume("b", Err("no".to_string()))],
        };
        assert_eq!(
            catalogue.lines(),
            [
                r#"disk nvme0n1 size=2097152 sector-size=4096 access=ro model="Model X" serial="SN\"1""#,
                r#"partition nvme0n1:2 size=8192 label="a\nb""#,
                "volume vg/a size=8192",
                r#"volume vg/b error="no""#,
            ]
        );
    }
}
