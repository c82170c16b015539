//! The disk controllers QEMU emulates for a run: their models, addresses and the files behind them.

use std::fmt;
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

impl fmt::Display for DiskModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nvme => "nvme",
            Self::Ahci => "ahci",
            Self::Virtio => "virtio",
        })
    }
}

/// One disk of the machine: `MODEL=FILE`, a raw image.
#[derive(Debug, Clone)]
pub struct Disk {
    /// What QEMU emulates.
    pub model: DiskModel,
    /// The raw image.
    pub file: PathBuf,
    /// Where QEMU records every write, discard and flush (its `blklogwrites` driver), if it does.
    pub record: Option<PathBuf>,
    /// The medium of a CD-ROM at the next port of the controller, which must be AHCI.
    pub cd: Option<PathBuf>,
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
        Ok(Self::new(model, file.into()))
    }
}

impl Disk {
    /// A disk that is not recorded, and is alone on its controller.
    #[must_use]
    pub fn new(model: DiskModel, file: PathBuf) -> Self {
        Self { model, file, record: None, cd: None }
    }

    /// QEMU's arguments for the `index`th disk of the machine.
    #[must_use]
    pub fn qemu_arguments(&self, index: u8) -> Vec<String> {
        let (id, slot) = (format!("disk{index}"), FIRST_DISK_SLOT.saturating_add(index));
        let file = self.file.display();
        let drive = match &self.record {
            None => format!("file={file},if=none,id={id},format=raw,cache=writeback,discard=unmap"),
            Some(record) => format!(
                "if=none,id={id},cache=writeback,discard=unmap,driver=blklogwrites,log-sector-size=512,\
                 file.driver=file,file.filename={file},file.discard=unmap,log.driver=file,log.filename={}",
                record.display()
            ),
        };
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
        ["-drive".into(), drive].into_iter().chain(devices).chain(self.cd_arguments(index)).collect()
    }

    fn cd_arguments(&self, index: u8) -> Vec<String> {
        let Some(medium) = &self.cd else { return Vec::new() };
        let drive = format!("file={},if=none,id=cd{index},format=raw,readonly=on,media=cdrom", medium.display());
        vec!["-drive".into(), drive, "-device".into(), format!("ide-cd,drive=cd{index},bus=ahci{index}.1")]
    }
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum as _;

    use super::DiskModel;
    use crate::nic::NicModel;

    #[test]
    fn models_are_called_in_reports_what_the_command_line_calls_them() {
        for model in DiskModel::value_variants() {
            assert_eq!(DiskModel::from_str(&model.to_string(), false), Ok(*model));
        }
        for model in NicModel::value_variants() {
            assert_eq!(NicModel::from_str(&model.to_string(), false), Ok(*model));
        }
    }
}
