//! Storage's growth: for each contender a disk and a crowd of stock guests with a vbd each.
//!
//! All vbds of a crowd are the whole disk, so both driver domains have the same to do for each guest.

use std::fs::File;
use std::time::Duration;

use super::super::disks::{DISK_BYTES, DiskBedConfig, create_linux, target};
use super::super::domains::DriverDomain;
use super::super::network::value;
use super::super::ramdisk::LOAD;
use super::super::samples::Contender;
use super::crowd::{self, CONTENDERS, CROWD, Crowd, MACHINE_MIB, Members};
use super::load::{self, COOL_DOWN_MS, WARM_UP_MS, WINDOW_MS};
use super::{Load, Seen};
use crate::bed::images;
use crate::disk::{Disk, DiskModel, FIRST_DISK_SLOT};
use crate::dom0::Dom0;
use crate::failure::{Doing, Failure, Result};
use crate::guest::{Guest, XL_LIMIT};
use crate::machine::{Machine, MachineConfig};
use crate::shell::until;

/// Our domain, with the memory that sixteen vbds are tested with.
const OURS: &str = "/root/xl/blkback-dom.cfg 'memory=32'";
/// What a guest calls its vbd.
const VBD: &str = "/dev/xvda";
/// Requests that a guest has under way.
const DEPTH: u8 = 4;
const COMMAND_LIMIT: Duration = Duration::from_secs(60);

/// The machine with everyone on it.
#[derive(Debug)]
pub struct StorageBed {
    /// Xen and Dom0.
    pub machine: Machine,
    /// The contenders.
    pub crowds: Vec<StorageCrowd>,
}

/// A driver domain with a disk, and its guests.
#[derive(Debug)]
pub struct StorageCrowd {
    members: Members,
}

impl StorageBed {
    /// Boots the machine and everyone on it.
    ///
    /// # Errors
    /// Someone did not come up.
    pub fn set_up(config: &DiskBedConfig) -> Result<Self> {
        let stock = crowd::write_ramdisk(&config.xen, &config.load, &config.logs)?;
        let mut disks = Vec::new();
        for contender in CONTENDERS {
            let file = config.logs.join(format!("{}.img", contender.name()));
            File::create(&file).and_then(|file| file.set_len(DISK_BYTES)).doing("creating a disk image")?;
            disks.push(Disk::new(config.model, file));
        }
        let machine = Machine::boot(&MachineConfig {
            images: images(&config.xen),
            logs: config.logs.clone(),
            nics: Vec::new(),
            disks,
            files: crowd::files(&config.image, "blkback-dom.cfg", &stock, &config.load),
            cpus: config.cpus,
            memory_mib: MACHINE_MIB,
            xen_options: config.xen_options.clone(),
        })?;
        let _ = std::fs::remove_file(&stock);
        let mut crowds = Vec::new();
        for (contender, slot) in CONTENDERS.iter().zip(FIRST_DISK_SLOT..) {
            let crowd = StorageCrowd::set_up(&machine.dom0, *contender, config.model, &format!("00:{slot:02x}.0"));
            crowds.push(crowd.doing(format!("setting up {}", contender.name()))?);
        }
        Ok(Self { machine, crowds })
    }
}

impl StorageCrowd {
    fn set_up(dom0: &Dom0, contender: Contender, model: DiskModel, bdf: &str) -> Result<Self> {
        dom0.check(&format!("xl pci-assignable-add {bdf}"), XL_LIMIT)?;
        let linux = contender == Contender::Linux;
        let (domain, target) = if linux {
            let (domain, disk) = create_linux(dom0, model, bdf, CROWD)?;
            (domain, disk.to_owned())
        } else {
            // Everyone writes to all of it, which is a mistake unless it is said.
            (DriverDomain::create(dom0, "blkdom", OURS, bdf)?, format!("{},shared", target(model)))
        };
        let name = domain.name;
        let disk =
            format!("'disk=[\"format=raw,backendtype=phy,backend={name},vdev=xvda,access=rw,target={target}\"]'");
        let configs: Vec<_> = (1..=CROWD).map(|number| crowd::config(contender, number, &disk)).collect();
        let guests = crowd::create(dom0, &configs)?;
        for guest in &guests {
            guest.check(&until(&format!("[ -b {VBD} ]")), COMMAND_LIMIT).doing("waiting for the disk")?;
        }
        Ok(Self { members: Members::rest(contender, domain, guests)? })
    }
}

impl Crowd for StorageCrowd {
    fn members(&self) -> &Members {
        &self.members
    }

    fn measure(&self, count: usize, load: Load) -> Result<Seen> {
        let reads = match load {
            Load::Read => 100,
            Load::Write => 0,
            Load::Out | Load::LargeOut | Load::In => return Err(Failure::new("these are disks")),
        };
        let Members { domain, guests, watcher, .. } = &self.members;
        let cpu = domain.cpu_seconds()?;
        let guests = load::run(guests, count, watcher, scripts(reads))?;
        let done = guests.iter().map(collect).collect::<Result<Vec<_>>>()?;
        let watched = collect(watcher)?;
        let cpu = domain.cpu_seconds()? - cpu;
        let requests: f64 = done.iter().chain([&watched]).map(|done| done.all).sum();
        let rates = done.iter().map(|done| done.per_second).collect();
        Ok(Seen::new(rates, cpu * 1e6 / requests, Some(watched.median_us), domain.memory_used_kib()?))
    }
}

/// What the guests, and the watcher, are to run.
fn scripts(reads: u8) -> [String; 2] {
    let generator = |options: String| format!("{LOAD} disk {VBD} {options} --milliseconds {WINDOW_MS}");
    [
        generator(format!("--depth {DEPTH} --reads {reads} --warm-up-ms {WARM_UP_MS} --cool-down-ms {COOL_DOWN_MS}")),
        generator("--depth 1 --warm-up-ms 0".into()),
    ]
}

/// What a guest's generator did.
struct Done {
    /// Requests a second, in the window.
    per_second: f64,
    /// The median of their latencies in µs.
    median_us: f64,
    /// Requests in all, before and after it too.
    all: f64,
}

fn collect(guest: &Guest) -> Result<Done> {
    let said = load::wait_for(guest, "^ios ", "true")?;
    let per_second = value(&said, "ios")? * 1e6 / value(&said, "us")?;
    Ok(Done { per_second, median_us: value(&said, "p50")?, all: value(&said, "all")? })
}
