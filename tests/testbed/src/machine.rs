//! One run of Xen in QEMU: the command line, the initramfs, the process and its logs.
//!
//! The options are those known to boot Xen, PV guests and PCI passthrough without hardware virtualisation;
//! `docs/testing.md` says why each is there. The first serial port carries Xen's and Dom0's consoles into a
//! log (and, for a person, a socket); the second is the command channel, see [`crate::dom0`].

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::cpio::Archive;
use crate::disk::Disk;
use crate::dom0::Dom0;
use crate::failure::{Doing, Failure, Result, ensure};
use crate::nic::Nic;
use crate::qmp::Qmp;
use crate::taps;

/// How long Xen and Dom0 may take until the command agent answers.
const BOOT_LIMIT: Duration = Duration::from_secs(300);

/// A file put into Dom0.
#[derive(Debug, Clone)]
pub struct Dom0File {
    /// Absolute path in Dom0.
    pub path: String,
    /// What it holds.
    pub content: Content,
}

/// Where the content of a [`Dom0File`] comes from.
#[derive(Debug, Clone)]
pub enum Content {
    /// A file of this machine; an executable one stays executable.
    CopyOf(PathBuf),
    /// Text made by the harness.
    Text(String),
}

/// Added to every domain's configuration. TCG cannot give its CPU the invariant time stamp counter that every server has,
/// so Xen would emulate it for all guests but Dom0: a trap for each look at a clock, a sixth of the machine's time under load.
const NATIVE_TSC: &[u8] = b"\ntsc_mode = \"native\"\n";

/// What to boot.
#[derive(Debug, Clone)]
pub struct MachineConfig {
    /// The folder `images/build` filled for the wanted Xen release.
    pub images: PathBuf,
    /// Where logs and sockets go; created if missing.
    pub logs: PathBuf,
    /// The machine's NICs.
    pub nics: Vec<Nic>,
    /// The machine's disks: the first is 00:10.0, the next 00:11.0, and so on.
    pub disks: Vec<Disk>,
    /// Files to put into Dom0 besides the guest's kernel and initramfs.
    pub files: Vec<Dom0File>,
    /// Virtual CPUs of the machine.
    pub cpus: u8,
    /// Memory of the machine in MiB; Dom0 takes 1024 of it.
    pub memory_mib: u32,
    /// More of Xen's command line.
    pub xen_options: String,
}

/// A running machine; dropping it ends QEMU.
#[derive(Debug)]
pub struct Machine {
    qemu: Child,
    /// Where this run keeps its logs and sockets.
    pub logs: PathBuf,
    /// The machine's NICs.
    pub nics: Vec<Nic>,
    /// Commands in Dom0.
    pub dom0: Dom0,
    /// From the start of QEMU until Dom0's agent answered.
    pub boot_time: Duration,
}

impl Machine {
    /// Boots Xen and Dom0 and waits until Dom0 runs commands.
    ///
    /// # Errors
    /// QEMU cannot be started or ended early, or Dom0 did not come up in time; the sentence names the log.
    pub fn boot(config: &MachineConfig) -> Result<Self> {
        fs::create_dir_all(&config.logs).doing("creating the log folder")?;
        let initramfs = config.logs.join("dom0-initramfs");
        write_initramfs(config, &initramfs).doing("writing Dom0's initramfs")?;
        remove_old_logs(&config.logs)?;
        let started = Instant::now();
        let mut qemu = start_qemu(config, &initramfs)?;
        let dom0 = connect(&mut qemu, config, started);
        let _ = fs::remove_file(&initramfs);
        match dom0 {
            Ok(dom0) => Ok(Self {
                qemu,
                logs: config.logs.clone(),
                nics: config.nics.clone(),
                dom0,
                boot_time: started.elapsed(),
            }),
            Err(cause) => {
                let _ = qemu.kill();
                let _ = qemu.wait();
                Err(cause)
            }
        }
    }

    /// The log of Xen's and Dom0's consoles.
    #[must_use]
    pub fn console_log(&self) -> PathBuf {
        self.logs.join("console.log")
    }

    /// The socket on which a person can talk to Dom0's console.
    #[must_use]
    pub fn console_socket(&self) -> PathBuf {
        self.logs.join("com1.sock")
    }

    /// Runs a command of QEMU's monitor; see [`Qmp::ask`].
    ///
    /// # Errors
    /// QEMU is gone or refused the command.
    pub fn monitor(&self, command: &str, arguments: &Value) -> Result<Value> {
        Qmp::connect(&self.logs.join("qmp.sock"))?.ask(command, arguments)
    }

    /// Ends QEMU at once, as a power cut ends a machine.
    pub fn cut_power(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }

    /// Copies the log of every domain's console and of Xen into the log folder.
    ///
    /// # Errors
    /// Dom0 does not answer any more.
    pub fn collect_logs(&self) -> Result<()> {
        let limit = Duration::from_secs(60);
        let names = self.dom0.run("ls /var/log/xen/console /var/log/xen", limit)?.output;
        for name in names.lines().filter(|name| name.ends_with(".log")) {
            let script = format!("cat /var/log/xen/console/{name} 2>/dev/null || cat /var/log/xen/{name}");
            let content = self.dom0.run(&script, limit)?.output;
            fs::write(self.logs.join(name), content)?;
        }
        fs::write(
            self.logs.join("dom0-dmesg.log"),
            self.dom0.run("dmesg; cat /proc/tty/driver/serial", limit)?.output,
        )?;
        fs::write(self.logs.join("xenstore.log"), self.dom0.run("xenstore-ls -fp", limit)?.output)?;
        Ok(())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.cut_power();
    }
}

fn remove_old_logs(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "log") {
            fs::remove_file(path)?;
        }
    }
    for name in ["com1.sock", "com2.sock", "qmp.sock"] {
        let _ = fs::remove_file(folder.join(name));
    }
    Ok(())
}

fn write_initramfs(config: &MachineConfig, to: &Path) -> Result<()> {
    let mut file = BufWriter::with_capacity(1 << 20, File::create(to)?);
    let dom0 = fs::read(config.images.join("dom0.cpio")).doing("reading dom0.cpio (run images/build first)")?;
    file.write_all(&dom0)?;
    let mut archive = Archive::new(file);
    for (name, path) in [
        ("vmlinux", "/root/guest/vmlinux"),
        ("guest.cpio", "/root/guest/guest.cpio"),
        ("driver.cpio", "/root/guest/driver.cpio"),
    ] {
        archive.file(path, &fs::read(config.images.join(name)).doing(name)?, false)?;
    }
    for file in &config.files {
        let (mut content, executable) = match &file.content {
            Content::CopyOf(path) => (fs::read(path).doing(path.display())?, is_executable(path)?),
            Content::Text(text) => (text.clone().into_bytes(), text.starts_with("#!")),
        };
        if file.path.ends_with(".cfg") {
            content.extend(NATIVE_TSC);
        }
        archive.file(&file.path, &content, executable)?;
    }
    archive.finish()?;
    Ok(())
}

fn is_executable(path: &Path) -> Result<bool> {
    use std::os::unix::fs::PermissionsExt as _;
    Ok(fs::metadata(path)?.permissions().mode() & 0o111 != 0)
}

fn start_qemu(config: &MachineConfig, initramfs: &Path) -> Result<Child> {
    let logs = config.logs.display();
    let xen = config.images.join("xen");
    let kernel = config.images.join("vmlinux");
    let xen_line = format!(
        "console=com1 com1=115200,8n1 dom0=pv dom0_mem=1024M dom0_max_vcpus=1 loglvl=all guest_loglvl=all conring_size=1M bootscrub=0 noreboot {}",
        config.xen_options
    );
    // QEMU must not outlive a harness that is killed.
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]);
    let taps: Vec<_> = config.nics.iter().filter_map(Nic::taps).collect();
    if !taps.is_empty() {
        let within = taps::within(&taps);
        command.arg(within.get_program()).args(within.get_args());
    }
    command
        .arg("qemu-system-x86_64")
        .args(["-accel", "tcg,thread=multi", "-machine", "q35,kernel-irqchip=split"])
        .args(["-device", "intel-iommu,intremap=on", "-cpu", "max,-xsave,-avx,-avx2,-erms,-fsrm"])
        .args(["-nodefaults", "-no-reboot", "-display", "none"])
        .args(["-m", &config.memory_mib.to_string(), "-smp", &config.cpus.to_string()])
        .args([
            "-chardev",
            &format!("socket,id=com1,path={logs}/com1.sock,server=on,wait=off,logfile={logs}/console.log"),
        ])
        .args(["-serial", "chardev:com1"])
        .args(["-chardev", &format!("socket,id=com2,path={logs}/com2.sock,server=on,wait=off")])
        .args(["-serial", "chardev:com2"])
        .args(["-qmp", &format!("unix:{logs}/qmp.sock,server=on,wait=off")])
        .arg("-kernel")
        .arg(xen)
        .args(["-append", &xen_line])
        .args([
            "-initrd",
            &format!("{} console=hvc0 quiet cryptomgr.notests,{}", kernel.display(), initramfs.display()),
        ]);
    for nic in &config.nics {
        command.args(nic.qemu_arguments());
    }
    for (disk, index) in config.disks.iter().zip(0..) {
        command.args(disk.qemu_arguments(index));
    }
    let log = File::create(config.logs.join("qemu.log"))?;
    writeln!(&log, "{command:?}")?;
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    command.spawn().doing("starting qemu-system-x86_64 (images/host-packages installs it)")
}

fn connect(qemu: &mut Child, config: &MachineConfig, started: Instant) -> Result<Dom0> {
    let socket = config.logs.join("com2.sock");
    let log = config.logs.join("console.log");
    let mut dom0 = None;
    loop {
        if let Some(status) = qemu.try_wait()? {
            let said = fs::read_to_string(config.logs.join("qemu.log")).unwrap_or_default();
            let last = said.lines().last().unwrap_or_default();
            return Err(Failure::new(format!("QEMU ended ({status}): {last}")));
        }
        if dom0.is_none() {
            dom0 = Dom0::connect(&socket).ok();
            dom0.as_ref().map_or(Ok(()), |dom0| dom0.trace_to(&config.logs.join("commands.log")))?;
        }
        if let Some(dom0) = dom0.take_if(|dom0| dom0.is_ready()) {
            return Ok(dom0);
        }
        ensure(started.elapsed() < BOOT_LIMIT, || {
            format!("Dom0 did not come up within {} s, see {}", BOOT_LIMIT.as_secs(), log.display())
        })?;
        thread::sleep(Duration::from_millis(50));
    }
}
