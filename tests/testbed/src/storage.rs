//! System tests of the storage driver domain: stock guests, and Dom0, on disks that it serves.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::bed::images;
use crate::disk::{Disk, DiskModel, FIRST_DISK_SLOT};
use crate::failure::{Doing, Failure, Result, ensure};
use crate::guest::{Guest, GuestConfig, XL_LIMIT};
use crate::leaks::Resources;
use crate::machine::{Content, Dom0File, Machine, MachineConfig};
use crate::scenario::Tally;

/// The driver domain's name, and its id: the first domain of a machine.
const NAME: &str = "blkdom";
const DOMID: u16 = 1;
/// Bytes of the disk.
const DISK_BYTES: u64 = 256 << 20;
/// Where the MBR partition starts, and its length, in sectors.
const PARTITION: (u32, u32) = (65_536, 65_536);
/// What commands in a guest may take.
const GUEST_LIMIT: Duration = Duration::from_secs(90);

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

struct Storage {
    machine: Machine,
    /// What the disk is called in targets.
    disk: &'static str,
    guest: Guest,
}

type Scenario = fn(&mut Storage) -> Result<()>;

const SCENARIOS: [(&str, Scenario); 6] = [
    ("a file system outlives its guest", file_system),
    ("a partition and a slice are where they should be", targets),
    ("a read-only vbd is not written", read_only),
    ("attached and detached again and again", attach_detach),
    ("Dom0 is a frontend", dom0_frontend),
    ("what cannot be served is refused and named", refusals),
];

/// Boots a machine and runs every scenario whose name contains `only`, one line each.
pub fn run_all(config: &StorageConfig, only: &str) -> Tally {
    let tag = format!("xen {} {:?}", config.xen, config.model);
    let mut tally = Tally::default();
    let mut storage = match Storage::set_up(config) {
        Ok(storage) => storage,
        Err(failure) => {
            println!("[{tag}] FAILED to boot: {failure}");
            return Tally { passed: 0, failed: 1 };
        }
    };
    for (name, scenario) in SCENARIOS.iter().filter(|(name, _)| name.contains(only)) {
        let started = Instant::now();
        match scenario(&mut storage) {
            Ok(()) => {
                println!("[{tag}] ok      {name} ({:.0} s)", started.elapsed().as_secs_f32());
                tally.passed = tally.passed.saturating_add(1);
            }
            Err(failure) => {
                println!("[{tag}] FAILED  {name}: {failure}");
                tally.failed = tally.failed.saturating_add(1);
            }
        }
    }
    // The logs are for people; a machine that does not answer was reported above.
    let _ = storage.machine.collect_logs();
    tally
}

/// A disk with an MBR of one partition, and a mark in the partition's and in one other sector.
fn make_disk(path: &Path) -> Result<()> {
    let file = File::create(path).doing("creating the disk image")?;
    file.set_len(DISK_BYTES)?;
    let mut table = [0_u8; 66];
    table[4] = 0x83;
    table[8..12].copy_from_slice(&PARTITION.0.to_le_bytes());
    table[12..16].copy_from_slice(&PARTITION.1.to_le_bytes());
    table[64..].copy_from_slice(&[0x55, 0xaa]);
    file.write_all_at(&table, 446)?;
    file.write_all_at(b"partition 1 starts here\n", u64::from(PARTITION.0) * 512)?;
    file.write_all_at(b"the slice starts here\n", 4 << 20)?;
    Ok(())
}

impl Storage {
    fn set_up(config: &StorageConfig) -> Result<Self> {
        std::fs::create_dir_all(&config.logs).doing("creating the log folder")?;
        let file = config.logs.join("disk.img");
        make_disk(&file)?;
        let copy = |path: &str, from: &Path| Dom0File { path: path.into(), content: Content::CopyOf(from.into()) };
        let machine = Machine::boot(&MachineConfig {
            images: images(&config.xen),
            logs: config.logs.clone(),
            nics: Vec::new(),
            disks: vec![Disk { model: config.model, file }],
            files: vec![
                copy("/root/blkback-dom", &config.image),
                copy("/root/xl/blkback-dom.cfg", Path::new("images/xl/blkback-dom.cfg")),
                copy("/root/xl/guest.cfg", Path::new("images/xl/guest.cfg")),
            ],
            cpus: config.cpus,
            memory_mib: 3072,
            xen_options: String::new(),
        })?;
        let script = format!(
            "xl pci-assignable-add 00:{FIRST_DISK_SLOT:x}.0 && xl create -q /root/xl/blkback-dom.cfg\n\
             for i in $(seq 100); do grep -q serving /var/log/xen/console/guest-{NAME}.log && exit 0; sleep 0.1; done; exit 1"
        );
        machine.dom0.check(&script, XL_LIMIT)?;
        let guest = Guest::create(&machine.dom0, &guest_config("g1"))?;
        let disk = match config.model {
            DiskModel::Nvme => "nvme0n1",
            DiskModel::Ahci => "ahci0p0",
            DiskModel::Virtio => "vda",
        };
        Ok(Self { machine, disk, guest })
    }

    fn attach(&self, domid: u16, vdev: &str, access: &str, target: &str) -> Result<String> {
        let spec = format!("format=raw backendtype=phy backend={NAME} vdev={vdev} access={access} 'target={target}'");
        self.machine.dom0.check(&format!("xl block-attach {domid} {spec}"), XL_LIMIT)
    }

    fn detach(&self, domid: u16, vdev: &str) -> Result<String> {
        let script =
            format!("out=$(xl block-detach {domid} {vdev} 2>&1) && [ -z \"$out\" ] || {{ echo \"$out\"; exit 1; }}");
        self.machine.dom0.check(&script, XL_LIMIT)
    }

    /// Runs a script in the guest once `/dev/xvda` is there.
    fn in_guest(&self, script: &str) -> Result<String> {
        let wait = "for i in $(seq 100); do [ -b /dev/xvda ] && break; sleep 0.1; done";
        self.guest.check(&format!("set -e; {wait}; {script}"), GUEST_LIMIT)
    }
}

fn guest_config(name: &str) -> GuestConfig {
    GuestConfig { name: name.into(), memory_mib: 160, vifs: Vec::new(), vcpus: 1, options: String::new() }
}

fn file_system(storage: &mut Storage) -> Result<()> {
    let slice = format!("{}@64M+64M", storage.disk);
    storage.attach(storage.guest.domid, "xvda", "rw", &slice)?;
    let sum = storage.in_guest(
        "mke2fs -q -t ext4 /dev/xvda; mkdir -p /m; mount -t ext4 /dev/xvda /m
         dd if=/dev/urandom of=/m/a bs=64k count=160 2>/dev/null; cp /m/a /m/b; sync; rm /m/a; fstrim -v /m >/dev/null
         umount /m; e2fsck -fn /dev/xvda >/dev/null 2>&1; mount -t ext4 /dev/xvda /m; sha256sum </m/b; sync",
    )?;
    // Destroyed with the file system mounted: what was synced must be there all the same.
    storage.guest.clone().destroy()?;
    storage.guest = Guest::create(&storage.machine.dom0, &guest_config("g2"))?;
    storage.attach(storage.guest.domid, "xvda", "rw", &slice)?;
    let again = storage.in_guest(
        "e2fsck -fy /dev/xvda >/dev/null 2>&1 || [ $? -eq 1 ]; mkdir -p /m; mount -t ext4 /dev/xvda /m; sha256sum </m/b; umount /m",
    )?;
    storage.detach(storage.guest.domid, "xvda")?;
    ensure(sum == again && sum.len() > 64, || format!("wrote {sum:?}, read {again:?}"))
}

fn targets(storage: &mut Storage) -> Result<()> {
    for (target, wanted) in [(":1", "partition 1 starts here\n"), ("@4M+1M", "the slice starts here\n")] {
        storage.attach(storage.guest.domid, "xvda", "rw", &format!("{}{target}", storage.disk))?;
        let found = storage.in_guest("head -n 1 /dev/xvda")?;
        storage.detach(storage.guest.domid, "xvda")?;
        ensure(found == wanted, || format!("{target} starts with {found:?}"))?;
    }
    Ok(())
}

fn read_only(storage: &mut Storage) -> Result<()> {
    storage.attach(storage.guest.domid, "xvda", "ro", &format!("{}:1", storage.disk))?;
    let found = storage.in_guest(
        "! dd if=/dev/zero of=/dev/xvda bs=4k count=1 oflag=direct 2>/dev/null; cat /sys/block/xvda/ro; head -n 1 /dev/xvda",
    )?;
    storage.detach(storage.guest.domid, "xvda")?;
    ensure(found == "1\npartition 1 starts here\n", || found)
}

fn attach_detach(storage: &mut Storage) -> Result<()> {
    let before = Resources::take(&storage.machine.dom0, DOMID)?;
    for _ in 0..20 {
        storage.attach(storage.guest.domid, "xvda", "rw", storage.disk)?;
        storage.in_guest("dd if=/dev/xvda of=/dev/null bs=64k count=16 iflag=direct 2>/dev/null")?;
        storage.detach(storage.guest.domid, "xvda")?;
        // blkfront of Linux 6.12 dies (BUG_ON in negotiate_mq) if its device comes back before it has seen it go.
        storage
            .guest
            .check("for i in $(seq 100); do [ -b /dev/xvda ] || exit 0; sleep 0.1; done; exit 1", GUEST_LIMIT)?;
    }
    nothing_left(storage, &before)
}

/// Guests let go of what was theirs a moment after `xl` is done.
fn nothing_left(storage: &Storage, before: &Resources) -> Result<()> {
    let mut changes = String::new();
    for _ in 0..10 {
        changes = Resources::take(&storage.machine.dom0, DOMID)?.changes_since(before);
        if changes.is_empty() {
            return Ok(());
        }
    }
    Err(Failure::new(format!("left behind: {changes}")))
}

fn dom0_frontend(storage: &mut Storage) -> Result<()> {
    storage.machine.dom0.check("modprobe xen-blkfront", XL_LIMIT)?;
    storage.attach(0, "xvdz", "rw", &format!("{}@128M+32M", storage.disk))?;
    let script = "for i in $(seq 100); do [ -b /dev/xvdz ] && break; sleep 0.1; done; [ -b /dev/xvdz ]
        dd if=/dev/urandom of=/tmp/r bs=1M count=8 2>/dev/null && dd if=/tmp/r of=/dev/xvdz bs=1M conv=fsync 2>/dev/null
        echo 3 >/proc/sys/vm/drop_caches; dd if=/dev/xvdz bs=1M count=8 2>/dev/null | cmp - /tmp/r";
    storage.machine.dom0.check(script, GUEST_LIMIT)?;
    storage.detach(0, "xvdz").map(drop)
}

fn refusals(storage: &mut Storage) -> Result<()> {
    let disk = storage.disk;
    storage.attach(storage.guest.domid, "xvdb", "rw", &format!("{disk}:1"))?;
    // The first one leaves the directories above its error node.
    ensure(storage.attach(storage.guest.domid, "xvda", "rw", "no/such/form").is_err(), || "was attached".into())?;
    storage.detach(storage.guest.domid, "xvda")?;
    let before = Resources::take(&storage.machine.dom0, DOMID)?;
    for (target, cause) in [("nosuch0", "NO_DISK"), (&format!("{disk}@30M+8M"), "IN_USE")] {
        let refused = storage.attach(storage.guest.domid, "xvda", "rw", target);
        ensure(refused.is_err(), || format!("{target} was attached"))?;
        // xl leaves the nodes of what it could not attach.
        storage.detach(storage.guest.domid, "xvda")?;
        let line = format!(
            "grep -c 'dom={} dev=51712 .*cause={cause} ' /var/log/xen/console/guest-{NAME}.log",
            storage.guest.domid
        );
        let count = storage.machine.dom0.check(&line, XL_LIMIT)?;
        ensure(count.trim() == "1", || format!("{target}: {} lines name {cause}", count.trim()))?;
    }
    let outcome = nothing_left(storage, &before);
    storage.detach(storage.guest.domid, "xvdb")?;
    outcome
}
