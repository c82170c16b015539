//! The disks of a storage bed: the files behind them, the controllers they are on, and their names in targets.

use std::path::{Path, PathBuf};

use super::bed::{Storage, StorageConfig};
use super::image::{SPARE_BYTES, TABLES_BYTES, make_cd, make_disk, make_empty, make_spare};
use crate::bed::images;
use crate::disk::{Disk, DiskModel, FIRST_DISK_SLOT};
use crate::failure::Result;

impl Storage {
    /// What the first disk is called in targets.
    pub(super) fn disk(&self) -> &'static str {
        match self.config().model {
            DiskModel::Nvme => "nvme0n1",
            DiskModel::Ahci => "ahci0p0",
            DiskModel::Virtio => "vda",
        }
    }

    /// What the second disk is called, which is a virtio disk whatever the first one is.
    pub(super) fn spare(&self) -> &'static str {
        if self.config().model == DiskModel::Virtio { "vdb" } else { "vda" }
    }

    /// What the third disk is called, on which Dom0 makes tables. It has a controller of its own, of the model under test.
    pub(super) fn tables(&self) -> &'static str {
        match self.config().model {
            DiskModel::Nvme => "nvme1n1",
            DiskModel::Ahci => "ahci1p0",
            DiskModel::Virtio => "vdc",
        }
    }

    /// The file behind the first disk.
    pub(super) fn disk_file(&self) -> PathBuf {
        file(self.config(), "disk.img")
    }

    /// The medium in the CD-ROM, which only AHCI has: at the next port of the first controller.
    pub(super) fn cd_file(&self) -> PathBuf {
        file(self.config(), "cd.img")
    }
}

/// Makes fresh files.
pub(super) fn make(config: &StorageConfig) -> Result<()> {
    make_disk(&file(config, "disk.img"), &images(&config.xen).join("root.ext4"))?;
    make_spare(&file(config, "spare.img"), SPARE_BYTES)?;
    make_empty(&file(config, "tables.img"), TABLES_BYTES)?;
    make_cd(&file(config, "cd.img"))
}

/// The machine's disks. QEMU records what the first one is told into `record`.
pub(super) fn of_machine(config: &StorageConfig, record: Option<&Path>) -> Vec<Disk> {
    let cd = (config.model == DiskModel::Ahci).then(|| file(config, "cd.img"));
    let first = Disk::new(config.model, file(config, "disk.img"));
    vec![
        Disk { record: record.map(Path::to_owned), cd, ..first },
        Disk::new(DiskModel::Virtio, file(config, "spare.img")),
        Disk::new(config.model, file(config, "tables.img")),
    ]
}

/// The controllers, as `pci=[...]` takes them.
pub(super) fn pci() -> String {
    let slots = (FIRST_DISK_SLOT..).take(3).map(|slot| format!("\"00:{slot:x}.0\""));
    slots.collect::<Vec<_>>().join(",")
}

fn file(config: &StorageConfig, name: &str) -> PathBuf {
    config.logs.join(name)
}
