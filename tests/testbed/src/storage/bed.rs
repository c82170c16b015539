//! A booted machine with disks, the storage domain, and its guests: what the scenarios work on.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::disks::{self, pci};
use super::image::ROOT;
use crate::bed::{claim_folder, images};
use crate::disk::DiskModel;
use crate::failure::{Doing, Result, ensure};
use crate::guest::{Guest, GuestConfig, XL_LIMIT, console_log};
use crate::leaks::Resources;
use crate::machine::{Content, Dom0File, Machine, MachineConfig};
use crate::shell::until;
use crate::suite::TestBed;

/// The driver domain's name.
pub(super) const NAME: &str = "blkdom";
/// What commands in a guest may take.
pub(super) const GUEST_LIMIT: Duration = Duration::from_secs(120);

/// What to test.
#[derive(Debug, Clone)]
pub struct StorageConfig {
    /// Xen release.
    pub xen: String,
    /// The controller.
    pub model: DiskModel,
    /// The domain image.
    pub image: PathBuf,
    /// Where logs go.
    pub logs: PathBuf,
    /// Virtual CPUs of the machine.
    pub cpus: u8,
}

/// The machine and everything on it.
#[derive(Debug)]
pub struct Storage {
    machine: Machine,
    config: StorageConfig,
    guests: BTreeMap<String, Guest>,
    /// Held as long as the bed writes its logs.
    _lock: File,
}

impl TestBed for Storage {
    fn machine(&self) -> &Machine {
        &self.machine
    }

    fn reset(&mut self) -> Result<()> {
        self.guests.clear();
        let script = "for mount in $(awk '$1 ~ /xvd/ { print $2 }' /proc/mounts); do umount -l $mount; done\n\
                      dmsetup remove_all 2>/dev/null\n\
                      for id in $(xl list | awk 'NR > 2 { print $2 }' | sort -rn); do xl destroy $id; done\n\
                      for id in $(xl block-list 0 | awk 'NR > 1 { print $1 }'); do xl block-detach 0 $id force; done";
        self.machine.dom0.run(script, Duration::from_secs(240)).map(|_| ())
    }
}

impl Storage {
    /// Boots the machine with fresh disks; no domain besides Dom0 runs yet.
    ///
    /// # Errors
    /// The machine did not come up.
    pub fn set_up(config: &StorageConfig) -> Result<Self> {
        let (logs, lock) = claim_folder(&config.logs)?;
        let config = &StorageConfig { logs, ..config.clone() };
        disks::make(config)?;
        Ok(Self { machine: boot(config, None)?, config: config.clone(), guests: BTreeMap::new(), _lock: lock })
    }

    /// Cuts the power: no domain is asked or told.
    pub(super) fn power_off(&mut self) {
        self.machine.cut_power();
        self.guests.clear();
    }

    /// Boots the machine again with the disks as they are. QEMU records what the first one is told into `record`.
    pub(super) fn power_on(&mut self, record: Option<&Path>) -> Result<()> {
        self.machine = boot(&self.config, record)?;
        Ok(())
    }

    /// The machine.
    pub(super) fn machine(&self) -> &Machine {
        &self.machine
    }

    /// How it was set up.
    pub(super) fn config(&self) -> &StorageConfig {
        &self.config
    }

    /// Runs a script in Dom0 that must succeed.
    pub(super) fn dom0(&self, script: &str) -> Result<String> {
        self.machine.dom0.check(script, GUEST_LIMIT)
    }

    /// The driver domain's id; starts it unless it runs.
    pub(super) fn ensure_blkdom(&self) -> Result<u16> {
        let start = format!(
            "xl domid {NAME} 2>/dev/null && exit 0\n\
             before=$(grep -c serving {log} 2>/dev/null)\n\
             xl create -q /root/xl/blkback-dom.cfg 'pci=[{pci}]' >&2 || exit 1\n\
             {serving} && xl domid {NAME}",
            log = console_log(NAME),
            pci = pci(),
            serving = until(&format!("[ \"$(grep -c serving {})\" -gt \"${{before:-0}}\" ]", console_log(NAME))),
        );
        let said = self.machine.dom0.check(&start, XL_LIMIT).doing("starting the driver domain")?;
        // libxl says above it that a device cannot be reset from sysfs.
        let domid = said.lines().last().unwrap_or_default();
        domid.trim().parse().doing(format!("the driver domain's id in {said:?}"))
    }

    /// The guest `name`, with an initramfs and without disks; created unless it runs.
    pub(super) fn guest(&mut self, name: &str) -> Result<Guest> {
        self.guest_with(&guest_config(name))
    }

    /// The guest `root`, which has its root file system, with fio in it, on a vbd; created unless it runs.
    pub(super) fn root_guest(&mut self) -> Result<Guest> {
        self.guest_with(&self.root_config())
    }

    /// How `root` is made.
    pub(super) fn root_config(&self) -> GuestConfig {
        let disk = disk_setting("xvda", "rw", &format!("{}{ROOT}", self.disk()));
        let options = "root=/dev/xvda".into();
        // fio links a hundred MiB of libraries for remote storage.
        GuestConfig { options, memory_mib: 384, settings: format!("'disk=[{disk}]'"), ..guest_config("root") }
    }

    /// As [`Self::guest`], with a configuration of the scenario's own.
    pub(super) fn guest_with(&mut self, config: &GuestConfig) -> Result<Guest> {
        if let Some(guest) = self.guests.get(&config.name) {
            return Ok(guest.clone());
        }
        self.ensure_blkdom()?;
        let guest = Guest::create(&self.machine.dom0, config)?;
        self.guests.insert(config.name.clone(), guest.clone());
        Ok(guest)
    }

    /// Destroys a guest and forgets it.
    pub(super) fn destroy(&mut self, guest: Guest) -> Result<()> {
        self.guests.remove(&guest.name);
        guest.destroy()
    }

    /// Destroys a guest if an earlier scenario left it running.
    pub(super) fn destroy_if_running(&mut self, name: &str) -> Result<()> {
        self.guests.remove(name).map_or(Ok(()), Guest::destroy)
    }

    /// Forgets a guest that somebody else destroys.
    pub(super) fn forget(&mut self, name: &str) {
        self.guests.remove(name);
    }

    /// Destroys every guest; the driver domain goes on.
    pub(super) fn destroy_everyone(&mut self) -> Result<()> {
        let guests = std::mem::take(&mut self.guests);
        guests.into_values().try_for_each(Guest::destroy)
    }

    /// Creates several guests and waits for them all: they boot while the next ones are created.
    pub(super) fn guests_at_once(&mut self, configs: &[GuestConfig]) -> Result<()> {
        for config in configs {
            let guest = Guest::start(&self.machine.dom0, config, "")?;
            self.guests.insert(config.name.clone(), guest);
        }
        self.guests.values().try_for_each(Guest::wait_until_up)
    }

    /// Replaces what is known of a guest after it rebooted.
    pub(super) fn keep(&mut self, guest: Guest) {
        self.guests.insert(guest.name.clone(), guest);
    }

    /// Attaches a vbd; `xl` must say nothing.
    pub(super) fn attach(&self, domid: u16, vdev: &str, access: &str, target: &str) -> Result<()> {
        let spec = format!("format=raw backendtype=phy backend={NAME} vdev={vdev} access={access} 'target={target}'");
        self.xl_quietly(&format!("block-attach {domid} {spec}"))
    }

    /// Detaches a vbd; `xl` must say nothing.
    pub(super) fn detach(&self, domid: u16, vdev: &str) -> Result<()> {
        self.xl_quietly(&format!("block-detach {domid} {vdev}"))
    }

    fn xl_quietly(&self, command: &str) -> Result<()> {
        let said = self.machine.dom0.check(&format!("xl {command}"), XL_LIMIT)?;
        ensure(said.trim().is_empty(), || format!("`xl {command}` said: {}", said.trim()))
    }

    /// Attaches a vbd to a guest, runs a script there once its device exists, and detaches it.
    pub(super) fn with_vbd(&self, guest: &Guest, access: &str, target: &str, script: &str) -> Result<String> {
        self.with_vbds(guest, access, &[("xvdb", target)], script)
    }

    /// As [`Self::with_vbd`], with several at a time, each a device and its target.
    pub(super) fn with_vbds(&self, guest: &Guest, access: &str, vbds: &[(&str, &str)], script: &str) -> Result<String> {
        for (vdev, target) in vbds {
            self.attach(guest.domid, vdev, access, target)?;
        }
        let devices: Vec<_> = vbds.iter().map(|(vdev, _)| *vdev).collect();
        let wait: Vec<_> = devices.iter().map(|vdev| wait_for(vdev)).collect();
        let said = guest.check(&format!("set -e; {}; {script}", wait.join("; ")), GUEST_LIMIT)?;
        self.detach_and_wait(guest, &devices)?;
        Ok(said)
    }

    /// Detaches vbds, and waits until their guest has seen them go: blkfront of Linux 6.12 dies (BUG_ON in `negotiate_mq`) if
    /// a device comes back before.
    pub(super) fn detach_and_wait(&self, guest: &Guest, vdevs: &[&str]) -> Result<()> {
        vdevs.iter().try_for_each(|vdev| self.detach(guest.domid, vdev))?;
        let gone: Vec<_> = vdevs.iter().map(|vdev| format!("! -b /dev/{vdev}")).collect();
        guest.check(&until(&format!("[ {} ]", gone.join(" -a "))), GUEST_LIMIT).map(|_| ())
    }

    /// Has the driver domain read the tables again; what there is then, a line each.
    pub(super) fn rescan(&self) -> Result<String> {
        let data = format!("/local/domain/{}/data", self.ensure_blkdom()?);
        self.dom0(&format!(
            "xenstore-write {data}/rescan 1; {done} || exit 1\n\
             xenstore-read $(xenstore-list {data}/volumes | sed 's,^,{data}/volumes/,')",
            done = until(&format!("! xenstore-read {data}/rescan >/dev/null 2>&1")),
        ))
    }

    /// Takes stock of what the domains hold.
    pub(super) fn stock(&self) -> Result<Resources> {
        Resources::take(&self.machine.dom0, self.ensure_blkdom()?)
    }

    /// Fails if more (or less) is held than `before`; what is still being closed gets a while.
    pub(super) fn nothing_left_behind(&self, before: &Resources) -> Result<()> {
        before.are_all(|| self.stock())
    }
}

/// A guest without vifs and vbds, with what Debian 12's initramfs needs to unpack.
pub(super) fn guest_config(name: &str) -> GuestConfig {
    GuestConfig { name: name.into(), memory_mib: 160, vifs: Vec::new(), ..GuestConfig::numbered(0, NAME) }
}

/// One disk as `xl` writes it in `disk=[...]`, in double quotes.
pub(super) fn disk_setting(vdev: &str, access: &str, target: &str) -> String {
    format!("\"format=raw,backendtype=phy,backend={NAME},vdev={vdev},access={access},target={target}\"")
}

/// A script that waits for a block device.
pub(super) fn wait_for(vdev: &str) -> String {
    until(&format!("[ -b /dev/{vdev} ]"))
}

fn boot(config: &StorageConfig, record: Option<&Path>) -> Result<Machine> {
    let copy = |path: &str, from: &Path| Dom0File { path: path.into(), content: Content::CopyOf(from.into()) };
    let machine = Machine::boot(&MachineConfig {
        images: images(&config.xen),
        logs: config.logs.clone(),
        nics: Vec::new(),
        disks: disks::of_machine(config, record),
        files: vec![
            copy("/root/blkback-dom", &config.image),
            copy("/root/xl/blkback-dom.cfg", Path::new("images/xl/blkback-dom.cfg")),
            copy("/root/xl/guest.cfg", Path::new("images/xl/guest.cfg")),
        ],
        cpus: config.cpus,
        memory_mib: 3072,
        xen_options: String::new(),
    })?;
    let assign = format!("for device in {}; do xl pci-assignable-add $device || exit 1; done", pci().replace(',', " "));
    machine.dom0.check(&format!("{assign}; modprobe xen-blkfront"), XL_LIMIT)?;
    Ok(machine)
}
