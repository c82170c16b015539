//! The disk controllers QEMU emulates for a run: their models, addresses and the files behind them.

use std::path::PathBuf;
use std::str::FromStr;

/// The slot of the first disk controller, beyond those of NICs.
pub const FIRST_DISK_SLOT: u8 = 0x10;

/// An emulated disk controller that a driver domain can own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum DiskModel {
    /// NVMe with one namespace.
    Nvme,
    /// AHCI with one disk.
    Ahci,
    /// virtio-blk over modern virtio PCI, behind the IOMMU.
    Virtio,
}

/// One disk of the machine: `MODEL=FILE`, a raw image.
#[derive(Debug, Clone)]
pub struct Disk {
    /// What QEMU emulates.
    pub model: DiskModel,
    /// The raw image.
    pub file: PathBuf,
}

impl FromStr for Disk {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (model, file) = text.split_once('=').ok_or("want MODEL=FILE")?;
        let model = match model {
            "nvme" => DiskModel::Nvme,
            "ahci" => DiskModel::Ahci,
            "virtio" => DiskModel::Virtio,
            _ => return Err(format!("no disk model {model} (nvme, ahci, virtio)")),
        };
        Ok(Self { model, file: file.into() })
    }
}

impl Disk {
    /// QEMU's arguments for the `index`th disk of the machine.
    #[must_use]
    pub fn qemu_arguments(&self, index: u8) -> Vec<String> {
        let (id, slot) = (format!("disk{index}"), FIRST_DISK_SLOT.saturating_add(index));
        let drive = format!("file={},if=none,id={id},format=raw,cache=writeback,discard=unmap", self.file.display());
        let devices = match self.model {
            DiskModel::Nvme => vec![format!("nvme,drive={id},serial=BULKHEAD{index},addr={slot:x}")],
            DiskModel::Ahci => {
                vec![
                    format!("ich9-ahci,id=ahci{index},addr={slot:x}"),
                    format!("ide-hd,drive={id},bus=ahci{index}.0,rotation_rate=1"),
                ]
            }
            DiskModel::Virtio => {
                vec![format!("virtio-blk-pci,drive={id},disable-legacy=on,iommu_platform=on,addr={slot:x}")]
            }
        };
        let devices = devices.into_iter().flat_map(|device| ["-device".into(), device]);
        ["-drive".into(), drive].into_iter().chain(devices).collect()
    }
}
