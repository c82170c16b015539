//! A booted machine with one NIC, its wire, the driver domain under test and its guests: what scenarios work on.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::disk::{Disk, DiskModel};
use crate::dom0::Dom0;
use crate::failure::{Doing, Failure, Result};
use crate::guest::{Guest, GuestConfig, XL_LIMIT};
use crate::machine::{Content, Dom0File, Machine, MachineConfig};
use crate::nic::{Nic, NicModel};
use crate::suite::TestBed;
use crate::wire::{Wire, WireConfig};

/// The driver domain's name in `xl list` and in `backend=`.
pub const NETDOM: &str = "netdom";
/// Slot of the first NIC on PCI bus 0.
pub const FIRST_SLOT: u8 = 3;
/// Bytes of the storage domain's disk.
const DISK_BYTES: u64 = 512 << 20;
/// How long a guest may wait for its address.
pub const ADDRESS_LIMIT: Duration = Duration::from_secs(30);

/// Who drives the NIC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Driver {
    /// Our domain.
    Bulkhead,
    /// A Linux driver domain, to tell a wrong test from a wrong driver domain.
    Linux,
}

impl Driver {
    fn config(self) -> &'static str {
        match self {
            Self::Bulkhead => "/root/xl/netback-dom.cfg",
            Self::Linux => "/root/xl/linux-driver-domain.cfg",
        }
    }
}

/// What to set up.
#[derive(Debug, Clone)]
pub struct BedConfig {
    /// Xen release.
    pub xen: String,
    /// The NIC's model.
    pub nic: NicModel,
    /// Who drives it.
    pub driver: Driver,
    /// The domain image under test.
    pub image: PathBuf,
    /// The storage domain's image, if the machine is to have an NVMe disk for it.
    pub storage: Option<PathBuf>,
    /// Where logs go.
    pub logs: PathBuf,
    /// Virtual CPUs of the machine.
    pub cpus: u8,
    /// Memory of the machine in MiB; Dom0 takes 1024 of it.
    pub memory_mib: u32,
    /// How long the soak test takes, without its start and end.
    pub soak: Duration,
    /// What the soak test draws its order from.
    pub seed: u64,
}

impl BedConfig {
    /// The usual bed for a Xen release and a card, with our domain from `out/`.
    #[must_use]
    pub fn usual(xen: &str, nic: NicModel) -> Self {
        Self {
            xen: xen.to_owned(),
            nic,
            driver: Driver::Bulkhead,
            image: "out/netback-dom".into(),
            storage: None,
            logs: PathBuf::from(format!("out/logs/test-{xen}-{nic}")),
            cpus: 1,
            memory_mib: 3072,
            soak: Duration::from_secs(300),
            seed: 1,
        }
    }
}

/// The machine and everything on it.
#[derive(Debug)]
pub struct Bed {
    /// How it was set up.
    pub config: BedConfig,
    /// The network beyond the NIC.
    pub wire: Wire,
    /// The networks beyond further NICs, if scenarios asked for some.
    pub more_wires: Vec<Wire>,
    /// Xen and Dom0.
    pub machine: Machine,
    nic: Nic,
    guests: BTreeMap<String, Guest>,
    /// Held as long as the bed writes its logs.
    _lock: File,
}

impl TestBed for Bed {
    fn machine(&self) -> &Machine {
        &self.machine
    }

    fn reset(&mut self) -> Result<()> {
        self.guests.clear();
        let script = "kill -CONT $(cat /run/xen/xenstored.pid)\n\
                      for id in $(xl list | awk 'NR > 2 { print $2 }' | sort -rn); do xl destroy $id; done\n\
                      for id in $(xl network-list 0 | awk 'NR > 1 { print $1 }'); do xl network-detach 0 $id; done";
        self.dom0().run(script, Duration::from_secs(180)).map(|_| ())
    }
}

impl Bed {
    /// Boots the machine and makes its NIC assignable; no domain besides Dom0 runs yet.
    ///
    /// # Errors
    /// The machine did not come up or Dom0 refused the NIC.
    pub fn set_up(config: &BedConfig) -> Result<Self> {
        Self::set_up_with(config, 1)
    }

    /// As [`Self::set_up`], with `nics` NICs of the same model, at least 1; only the first is assignable.
    ///
    /// # Errors
    /// As [`Self::set_up`].
    pub fn set_up_with(config: &BedConfig, nics: u8) -> Result<Self> {
        let (logs, lock) = claim_folder(&config.logs)?;
        let config = &BedConfig { logs, ..config.clone() };
        let wire = Wire::start(WireConfig::numbered(0, &config.logs))?;
        let more_wires: Vec<_> =
            (1..nics).map(|index| Wire::start(WireConfig::numbered(index, &config.logs))).collect::<Result<_>>()?;
        let on = |wire: &Wire, slot| Nic { model: config.nic, slot, wire: Some(wire.config.socket.clone()) };
        let nic = on(&wire, FIRST_SLOT);
        let more_nics = more_wires.iter().zip((FIRST_SLOT..).skip(1)).map(|(wire, slot)| on(wire, slot));
        let nics = core::iter::once(nic.clone()).chain(more_nics).collect();
        let machine = Machine::boot(&MachineConfig {
            images: images(&config.xen),
            logs: config.logs.clone(),
            nics,
            disks: disks(config)?,
            files: files(config),
            cpus: config.cpus,
            memory_mib: config.memory_mib,
            xen_options: String::new(),
        })?;
        let bed = Self { config: config.clone(), wire, more_wires, machine, nic, guests: BTreeMap::new(), _lock: lock };
        bed.dom0().check(&format!("xl pci-assignable-add {}", bed.nic().bdf()), XL_LIMIT)?;
        Ok(bed)
    }

    /// Commands in Dom0.
    #[must_use]
    pub fn dom0(&self) -> &Dom0 {
        &self.machine.dom0
    }

    /// The NIC under test.
    #[must_use]
    pub fn nic(&self) -> &Nic {
        &self.nic
    }

    /// The driver domain's id, if it runs.
    ///
    /// # Errors
    /// Dom0 does not answer.
    pub fn netdom(&self) -> Result<Option<u16>> {
        let outcome = self.dom0().run(&format!("xl domid {NETDOM}"), XL_LIMIT)?;
        Ok(outcome.output.trim().parse().ok().filter(|_| outcome.ok()))
    }

    /// Starts the driver domain unless it runs.
    ///
    /// # Errors
    /// `xl create` failed.
    pub fn ensure_netdom(&self) -> Result<u16> {
        if let Some(domid) = self.netdom()? {
            return Ok(domid);
        }
        self.create_netdom("")?;
        self.netdom()?.ok_or_else(|| Failure::new("the driver domain ended right after its start"))
    }

    /// Runs `xl create` for the driver domain; `overrides` are more settings, each quoted for the shell.
    ///
    /// # Errors
    /// `xl create` failed.
    pub fn create_netdom(&self, overrides: &str) -> Result<()> {
        self.dom0().check(&self.create_command(overrides), XL_LIMIT).doing("creating the driver domain")?;
        if self.config.driver == Driver::Linux {
            let wait = format!("guest-wait {} 1 90; sleep 3", crate::guest::console_log(NETDOM));
            self.dom0().check(&wait, Duration::from_secs(120))?;
        }
        Ok(())
    }

    /// The `xl create` command for the driver domain.
    #[must_use]
    pub fn create_command(&self, overrides: &str) -> String {
        format!("xl create {} 'pci=[\"{}\"]' {overrides}", self.config.driver.config(), self.nic().bdf())
    }

    /// Guest `number`, created with one vif on the driver domain unless it runs already.
    ///
    /// # Errors
    /// It could not be created, or got no address.
    pub fn guest(&mut self, number: u8) -> Result<Guest> {
        self.guest_with(&GuestConfig { memory_mib: 256, ..GuestConfig::numbered(number, NETDOM) })
    }

    /// As [`Self::guest`], with a configuration of the scenario's own.
    ///
    /// # Errors
    /// It could not be created, or got no address.
    pub fn guest_with(&mut self, config: &GuestConfig) -> Result<Guest> {
        if let Some(guest) = self.guests.get(&config.name) {
            return Ok(guest.clone());
        }
        self.ensure_netdom()?;
        let guest = Guest::create(self.dom0(), config)?;
        self.guests.insert(config.name.clone(), guest.clone());
        guest.address("eth0", ADDRESS_LIMIT).doing(format!("{}'s DHCP", config.name))?;
        Ok(guest)
    }

    /// Guest `number`, if a scenario left it running.
    #[must_use]
    pub fn guest_if_running(&self, number: u8) -> Option<Guest> {
        self.guests.get(&format!("g{number}")).cloned()
    }

    /// Replaces what is known of a guest after it rebooted.
    pub fn keep(&mut self, guest: Guest) {
        self.guests.insert(guest.name.clone(), guest);
    }

    /// Destroys a guest and forgets it.
    ///
    /// # Errors
    /// `xl destroy` failed.
    pub fn destroy(&mut self, guest: Guest) -> Result<()> {
        self.guests.remove(&guest.name);
        guest.destroy()
    }
}

/// Creates and locks the folder for logs, or the same name with a number if another run writes there.
pub(crate) fn claim_folder(wanted: &Path) -> Result<(PathBuf, File)> {
    for number in 1..100 {
        let mut name = wanted.as_os_str().to_owned();
        if number > 1 {
            name.push(format!("-{number}"));
        }
        let folder = PathBuf::from(name);
        std::fs::create_dir_all(&folder).doing("creating the log folder")?;
        let lock = File::create(folder.join("lock")).doing("locking the log folder")?;
        if lock.try_lock().is_ok() {
            return Ok((folder, lock));
        }
    }
    Err(Failure::new(format!("a hundred runs write to {} already", wanted.display())))
}

/// The folder with the images of one Xen release.
#[must_use]
pub fn images(xen: &str) -> PathBuf {
    Path::new("out/testbed").join(xen)
}

/// An empty disk for the storage domain, if there is to be one.
fn disks(config: &BedConfig) -> Result<Vec<Disk>> {
    let Some(_) = &config.storage else { return Ok(Vec::new()) };
    let file = config.logs.join("disk.img");
    File::create(&file).and_then(|file| file.set_len(DISK_BYTES)).doing("creating the disk image")?;
    Ok(vec![Disk::new(DiskModel::Nvme, file)])
}

fn files(config: &BedConfig) -> Vec<Dom0File> {
    let mut files: Vec<_> = ["netback-dom.cfg", "guest.cfg", "linux-driver-domain.cfg"]
        .iter()
        .map(|name| Dom0File {
            path: format!("/root/xl/{name}"),
            content: Content::CopyOf(Path::new("images/xl").join(name)),
        })
        .collect();
    if config.driver == Driver::Bulkhead {
        let content = Content::CopyOf(config.image.clone());
        files.push(Dom0File { path: "/root/netback-dom".into(), content });
        let content = Content::CopyOf(config.image.with_file_name("rt-dom"));
        files.push(Dom0File { path: "/root/rt-dom".into(), content });
    }
    if let Some(image) = &config.storage {
        files.push(Dom0File { path: "/root/blkback-dom".into(), content: Content::CopyOf(image.clone()) });
        let content = Content::CopyOf("images/xl/blkback-dom.cfg".into());
        files.push(Dom0File { path: "/root/xl/blkback-dom.cfg".into(), content });
    }
    files
}
