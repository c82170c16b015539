//! The storage benchmark's machine: a disk of the same model for each contender.

use std::cell::Cell;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::corner::{Corner, Moved};
use super::domains::{DriverDomain, create_bare, create_guest, modprobe};
use super::ramdisk::{self, LOAD};
use super::samples::{Contender, float};
use super::work::Work;
use crate::bed::images;
use crate::disk::{Disk, DiskModel, FIRST_DISK_SLOT};
use crate::dom0::Dom0;
use crate::failure::{Doing, Result};
use crate::guest::{Guest, XL_LIMIT};
use crate::machine::{Content, Dom0File, Machine, MachineConfig};
use crate::shell::until;

/// Bytes of each disk.
pub(super) const DISK_BYTES: u64 = 256 << 20;
const COMMAND_LIMIT: Duration = Duration::from_secs(30);
/// The configuration of our domain.
const OURS: &str = "/root/xl/blkback-dom.cfg 'memory=16'";
/// What the guest calls its vbd.
const VBD: &str = "/dev/xvda";

/// What to measure on.
#[derive(Debug, Clone)]
pub struct DiskBedConfig {
    /// Xen release.
    pub xen: String,
    /// Virtual CPUs of the machine.
    pub cpus: u8,
    /// Xen's command line: more than the test bed's.
    pub xen_options: String,
    /// The disks' model.
    pub model: DiskModel,
    /// Our domain image.
    pub image: PathBuf,
    /// Options of another domain of ours to measure beside, if any.
    pub variant: Option<String>,
    /// The load generator.
    pub load: PathBuf,
    /// Where logs go.
    pub logs: PathBuf,
}

/// The machine with everyone on it.
#[derive(Debug)]
pub struct DiskBed {
    /// Xen and Dom0.
    pub machine: Machine,
    /// The contenders.
    pub places: Vec<DiskPlace>,
}

/// One contender's corner of the machine.
#[derive(Debug)]
pub struct DiskPlace {
    /// Who it is.
    pub contender: Contender,
    /// The guest that uses the disk.
    pub guest: Guest,
    /// What the guest calls it.
    pub device: &'static str,
    /// Requests and bytes so far.
    pub moved: Cell<Moved>,
    /// The driver domain, if there is one.
    pub domain: Option<DriverDomain>,
}

impl Corner for DiskPlace {
    fn contender(&self) -> Contender {
        self.contender
    }

    fn domain(&self) -> Option<&DriverDomain> {
        self.domain.as_ref()
    }

    fn moved(&self) -> Moved {
        self.moved.get()
    }

    fn work(&self) -> Result<(Work, f64)> {
        let Some(domain) = &self.domain else { return Ok(Default::default()) };
        // What the generator tells leaves out its warm-up, and a large request is several of the kernel's.
        let stat = format!("cat /sys/block/{}/stat", self.device.trim_start_matches("/dev/"));
        Ok((domain.work()?, requests(&self.guest.check(&stat, COMMAND_LIMIT)?)))
    }
}

/// Reads, writes and flushes that a disk has done, from the kernel's `stat` of it (Linux, `block/stat.rst`).
fn requests(stat: &str) -> f64 {
    let fields: Vec<u64> = stat.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    float([0, 4, 15].iter().filter_map(|field| fields.get(*field)).fold(0, |sum, count| sum.saturating_add(*count)))
}

impl DiskBedConfig {
    /// Everyone who is compared, in the order in which they are set up.
    #[must_use]
    pub fn contenders(&self) -> Vec<Contender> {
        let variant = self.variant.as_ref().map(|_| Contender::Variant);
        [Contender::Bulkhead, Contender::Linux, Contender::Bare].into_iter().chain(variant).collect()
    }
}

impl DiskBed {
    /// Boots the machine and everyone on it.
    ///
    /// # Errors
    /// Someone did not come up.
    pub fn set_up(config: &DiskBedConfig) -> Result<Self> {
        std::fs::create_dir_all(&config.logs).doing("creating the log folder")?;
        let mut disks = Vec::new();
        for contender in config.contenders() {
            let file = config.logs.join(format!("{}.img", contender.name()));
            File::create(&file).and_then(|file| file.set_len(DISK_BYTES)).doing("creating a disk image")?;
            disks.push(Disk::new(config.model, file));
        }
        let ramdisk = config.logs.join("bench.cpio");
        ramdisk::write(&images(&config.xen).join("driver.cpio"), &config.load, &ramdisk)?;
        let stock = config.logs.join("stock.cpio");
        ramdisk::write(&images(&config.xen).join("guest.cpio"), &config.load, &stock)?;
        let machine = Machine::boot(&MachineConfig {
            images: images(&config.xen),
            logs: config.logs.clone(),
            nics: Vec::new(),
            disks,
            files: files(config, &ramdisk, &stock),
            cpus: config.cpus,
            memory_mib: 3072,
            xen_options: config.xen_options.clone(),
        })?;
        let mut bed = Self { machine, places: Vec::new() };
        for (contender, slot) in config.contenders().into_iter().zip(FIRST_DISK_SLOT..) {
            let options = config.variant.as_deref().unwrap_or_default();
            let place = place(&bed.machine.dom0, contender, config.model, &format!("00:{slot:02x}.0"), options);
            bed.places.push(place.doing(format!("setting up {}", contender.name()))?);
        }
        Ok(bed)
    }
}

fn place(dom0: &Dom0, contender: Contender, model: DiskModel, bdf: &str, options: &str) -> Result<DiskPlace> {
    dom0.check(&format!("xl pci-assignable-add {bdf}"), XL_LIMIT)?;
    let name = contender.name();
    let (guest, device, domain) = match contender {
        Contender::Bulkhead => {
            let domain = DriverDomain::create(dom0, "blkdom", OURS, bdf)?;
            (vbd_guest(dom0, name, "blkdom", target(model))?, VBD, Some(domain))
        }
        Contender::Variant => {
            let config = format!("{OURS} 'extra=\"{options}\"'");
            let domain = DriverDomain::create(dom0, "vardom", &config, bdf)?;
            (vbd_guest(dom0, name, "vardom", target(model))?, VBD, Some(domain))
        }
        Contender::Linux => {
            let (domain, disk) = create_linux(dom0, model, bdf, 1)?;
            (vbd_guest(dom0, name, domain.name, disk)?, VBD, Some(domain))
        }
        Contender::Bare => {
            let guest = create_bare(dom0, name, bdf)?;
            let (modules, disk) = linux_disk(model);
            guest.check(&modprobe(modules), COMMAND_LIMIT)?;
            (guest, disk, None)
        }
    };
    guest.check(&until(&format!("[ -b {device} ]")), COMMAND_LIMIT).doing("waiting for the disk")?;
    Ok(DiskPlace { contender, guest, device, moved: Cell::default(), domain })
}

fn vbd_guest(dom0: &Dom0, name: &str, backend: &str, target: &str) -> Result<Guest> {
    let disk = format!("disk=[\"format=raw,backendtype=phy,backend={backend},vdev=xvda,access=rw,target={target}\"]");
    create_guest(dom0, &format!("{name}-a"), &format!("ramdisk=\"/root/stock.cpio\"' '{disk}"))
}

/// Creates a Linux driver domain that drives the disk at `bdf` and serves it as the next `vbds` vbds, and says what it calls
/// the disk.
///
/// # Errors
/// The domain could not be created, or finds no disk.
pub(super) fn create_linux(dom0: &Dom0, model: DiskModel, bdf: &str, vbds: u8) -> Result<(DriverDomain, &'static str)> {
    let (modules, disk) = linux_disk(model);
    let domain = DriverDomain::create_linux(dom0, bdf, &format!("xen-blkback,{modules}"))?;
    domain.calm()?;
    Guest::join(dom0, domain.name)?.check(&plug_script(disk, vbds), COMMAND_LIMIT)?;
    Ok((domain, disk))
}

/// Stands in for the hotplug script of so many vbds: names the device to blkback, as soon as there is a vbd.
fn plug_script(disk: &str, vbds: u8) -> String {
    format!(
        "(left={vbds}; while [ $left -gt 0 ]; do for id in $(xenstore-list backend/vbd 2>/dev/null); do\n\
         [ -e /run/plugged.$id ] && continue\n\
         for vbd in $(xenstore-list backend/vbd/$id); do\n\
         xenstore-write backend/vbd/$id/$vbd/physical-device $(stat -c %t:%T {disk}) \
         backend/vbd/$id/$vbd/hotplug-status connected && touch /run/plugged.$id && left=$((left - 1))\ndone\ndone\n\
         sleep 0.5; done) >/dev/null 2>&1 &"
    )
}

/// What our domain calls the disk.
pub(super) fn target(model: DiskModel) -> &'static str {
    match model {
        DiskModel::Nvme => "nvme0n1",
        DiskModel::Ahci => "ahci0p0",
        DiskModel::Virtio => "vda",
    }
}

/// The modules that drive it in Linux, separated by commas, and what Linux calls it.
fn linux_disk(model: DiskModel) -> (&'static str, &'static str) {
    match model {
        DiskModel::Nvme => ("nvme", "/dev/nvme0n1"),
        DiskModel::Ahci => ("ahci,sd_mod", "/dev/sda"),
        DiskModel::Virtio => ("virtio_pci,virtio_blk", "/dev/vda"),
    }
}

fn files(config: &DiskBedConfig, ramdisk: &Path, stock: &Path) -> Vec<Dom0File> {
    let copy = |path: &str, from: &Path| Dom0File { path: path.into(), content: Content::CopyOf(from.into()) };
    vec![
        copy("/root/blkback-dom", &config.image),
        copy("/root/bench.cpio", ramdisk),
        copy("/root/stock.cpio", stock),
        copy(LOAD, &config.load),
        copy("/root/xl/blkback-dom.cfg", Path::new("images/xl/blkback-dom.cfg")),
        copy("/root/xl/linux-driver-domain.cfg", Path::new("images/xl/linux-driver-domain.cfg")),
        super::domains::guest_config(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_writes_and_flushes_are_requests_and_discards_are_not() {
        // Reads, writes, discards and flushes: each with more numbers behind it.
        let stat = "  100  1 2 3   20  5 6 7   0 8 9   1000 10 11 12   3 13\n";
        assert_eq!(requests(stat), 123.0);
        assert_eq!(requests("100 1 2 3 20 5 6 7 0 8 9"), 120.0, "an older kernel");
    }

    #[test]
    fn a_variant_is_one_more_contender() {
        let config = |variant: Option<&str>| DiskBedConfig {
            cpus: 1,
            xen_options: String::new(),
            xen: "4.20".into(),
            model: DiskModel::Nvme,
            image: PathBuf::new(),
            variant: variant.map(Into::into),
            load: PathBuf::new(),
            logs: PathBuf::new(),
        };
        assert_eq!(config(None).contenders().len(), 3);
        assert_eq!(config(Some("log=warn")).contenders().last(), Some(&Contender::Variant));
    }
}
