//! The domains that both benchmarks are made of.

use std::time::Duration;

use super::metrics::{MEMORY, START, START_INSIDE};
use super::network::value;
use super::samples::{Contender, Samples};
use super::work::{Work, sum};
use crate::dom0::Dom0;
use crate::failure::{Doing, Result};
use crate::guest::{Guest, XL_LIMIT, console_log};
use crate::machine::{Content, Dom0File};

/// What a user may call what [`DriverDomain::note_costs`] tells, when only some of everything is wanted.
pub const COSTS: &str = "start and memory";
/// The configuration of a Linux driver domain.
const LINUX: &str = "/root/xl/linux-driver-domain.cfg";
/// In it: the time of its log at which it served.
const SERVING: &str = "dmesg | sed -n 's/^\\[ *\\([0-9.]*\\)\\] init: serving.*/\\1/p'";
/// Memory of a guest in MiB.
const GUEST_MIB: u32 = 256;
const COMMAND_LIMIT: Duration = Duration::from_secs(60);

/// A running driver domain.
#[derive(Debug, Clone)]
pub struct DriverDomain {
    /// Its name in `xl list`.
    pub name: &'static str,
    /// Seconds from the start of `xl create` until it served.
    start_seconds: f64,
    /// Of those, from its first moment on, by its own clock.
    inside_seconds: f64,
    /// Its memory in MiB.
    memory_mib: f64,
    linux: bool,
    dom0: Dom0,
}

impl DriverDomain {
    /// Creates one of ours that owns the device at `bdf`; it serves when this returns.
    ///
    /// # Errors
    /// It could not be created, or did not serve in time.
    pub fn create(dom0: &Dom0, name: &'static str, config: &str, bdf: &str) -> Result<Self> {
        let log = console_log(name);
        let wait =
            format!("for i in $(seq 1000); do grep -q 'serving;' {log} && break; sleep 0.02; done; [ $i -lt 1000 ]");
        let [started, serving] = xl_create(dom0, name, config, bdf, &wait)?;
        let inside = dom0.check(&format!("awk '/serving;/ {{ print \"inside\", $1; exit }}' {log}"), XL_LIMIT)?;
        Self::since(dom0, name, false, (serving - started) / 1000.0, value(&inside, "inside")?)
    }

    /// Creates a Linux one that owns the device at `bdf` and loads these modules, separated by commas; it serves when this
    /// returns.
    ///
    /// # Errors
    /// As [`Self::create`].
    pub fn create_linux(dom0: &Dom0, bdf: &str, modules: &str) -> Result<Self> {
        let name = "linuxdom";
        let config = format!("{LINUX} 'extra=\"quiet console=hvc0 modules={modules}\"'");
        // Dom0 does little meanwhile: it would have the processor that is needed.
        let log = console_log(name);
        let wait =
            format!("for i in $(seq 180); do grep -q 'init: serving' {log} && break; sleep 0.5; done; [ $i -lt 180 ]");
        let [started, _] = xl_create(dom0, name, &config, bdf, &wait)?;
        let script = format!("echo @now $(bash -c 'echo $EPOCHREALTIME') @up $(cat /proc/uptime) @served $({SERVING})");
        let said = Guest::join(dom0, name)?.check(&script, COMMAND_LIMIT)?;
        // It was asked later than it served, but knows when that was.
        let (first_moment, inside) = (value(&said, "@now")? - value(&said, "@up")?, value(&said, "@served")?);
        Self::since(dom0, name, true, first_moment - started / 1000.0 + inside, inside)
    }

    /// One that served so many seconds after `xl create` began, and after its own first moment.
    fn since(dom0: &Dom0, name: &'static str, linux: bool, start_seconds: f64, inside_seconds: f64) -> Result<Self> {
        let memory = dom0.check(&format!("xl list {name} | awk 'NR == 2 {{ print \"mib\", $3 }}'"), XL_LIMIT)?;
        Ok(Self { name, start_seconds, inside_seconds, memory_mib: value(&memory, "mib")?, linux, dom0: dom0.clone() })
    }

    /// Commands in Dom0.
    #[must_use]
    pub fn dom0(&self) -> &Dom0 {
        &self.dom0
    }

    /// Notes what is known since its start.
    pub fn note_costs(&self, contender: Contender, samples: &mut Samples) {
        samples.add(START, contender, self.start_seconds);
        samples.add(START_INSIDE, contender, self.inside_seconds);
        samples.add(MEMORY, contender, self.memory_mib);
    }

    /// The seconds of CPU that it has used, to a tenth.
    ///
    /// # Errors
    /// `xl list` failed.
    pub fn cpu_seconds(&self) -> Result<f64> {
        let script = format!("xl list {} | awk 'NR == 2 {{ print $NF }}'", self.name);
        self.dom0.check(&script, XL_LIMIT)?.trim().parse().doing("the CPU time in xl list")
    }

    /// What it has counted so far; of ours, what was published last.
    ///
    /// # Errors
    /// The domain, or Dom0, does not answer.
    pub fn work(&self) -> Result<Work> {
        if self.linux {
            let said = Guest::join(&self.dom0, self.name)?.check("cat /proc/interrupts", COMMAND_LIMIT)?;
            return Ok(Work::interrupts(&said));
        }
        self.statistics().map(|nodes| Work::published(&nodes))
    }

    /// What it has in use of its memory, as ours last said; nothing is known of a Linux one.
    ///
    /// # Errors
    /// As [`Self::statistics`].
    pub fn memory_used_kib(&self) -> Result<Option<f64>> {
        if self.linux { Ok(None) } else { self.statistics().map(|nodes| sum(&nodes, "memory-used-kib")) }
    }

    /// The nodes that a domain of ours publishes, one a line.
    ///
    /// # Errors
    /// Dom0 does not answer, or there are none.
    pub fn statistics(&self) -> Result<String> {
        let script = format!(
            "dir=/local/domain/$(xl domid {})/data/statistics\n             for node in $(xenstore-list $dir); do xenstore-read $dir/$node || exit 1; done",
            self.name
        );
        self.dom0.check(&script, XL_LIMIT)
    }

    /// Halts what a Linux driver domain does beside its job: the loop that ties vifs to the bridge.
    ///
    /// # Errors
    /// The domain does not answer.
    pub fn calm(&self) -> Result<()> {
        self.signal_loop("STOP")
    }

    /// Lets that loop go on.
    ///
    /// # Errors
    /// The domain does not answer.
    pub fn resume(&self) -> Result<()> {
        self.signal_loop("CONT")
    }

    fn signal_loop(&self, signal: &str) -> Result<()> {
        let script = format!(
            "for status in /proc/[0-9]*/status; do\n\
             pid=${{status#/proc/}}; pid=${{pid%/status}}\n\
             [ \"$(awk '/^PPid/ {{ print $2 }}' $status 2>/dev/null)\" = 1 ] || continue\n\
             tr '\\0' ' ' </proc/$pid/cmdline | grep -q '/init' && kill -{signal} $pid\ndone; true"
        );
        Guest::join(&self.dom0, self.name)?.check(&script, COMMAND_LIMIT).map(drop)
    }
}

/// Creates a domain and carries out what waits for it; when it began and when that ended, in ms of Dom0's clock.
fn xl_create(dom0: &Dom0, name: &str, config: &str, bdf: &str, wait: &str) -> Result<[f64; 2]> {
    let script = format!(
        "start=$(date +%s%3N)\n\
         xl create {config} 'name=\"{name}\"' 'pci=[\"{bdf}\"]' >&2 || exit 1\n\
         {wait} || exit 1\n\
         echo @started $start @ended $(date +%s%3N)"
    );
    let said = dom0.check(&script, Duration::from_secs(150))?;
    Ok([value(&said, "@started")?, value(&said, "@ended")?])
}

/// Creates a guest with one more setting, as `xl` writes it, and waits until it runs commands.
///
/// # Errors
/// It could not be created, or did not come up in time.
pub fn create_guest(dom0: &Dom0, name: &str, setting: &str) -> Result<Guest> {
    let script = format!(
        "xl create /root/xl/bench-guest.cfg 'name=\"{name}\"' 'memory={GUEST_MIB}' '{setting}' \
         'extra=\"quiet console=hvc0 hostname={name}\"'"
    );
    dom0.check(&script, XL_LIMIT)?;
    Guest::join(dom0, name)
}

/// A script that loads what a guest needs for a passed-through device, and these modules, separated by commas.
#[must_use]
pub fn modprobe(modules: &str) -> String {
    format!("modprobe xen-pcifront; modprobe {}", modules.replace(',', "; modprobe "))
}

/// Creates a guest that owns the device at `bdf`.
///
/// # Errors
/// As [`create_guest`].
pub fn create_bare(dom0: &Dom0, name: &str, bdf: &str) -> Result<Guest> {
    create_guest(dom0, &format!("{name}-a"), &format!("pci=[\"{bdf}\"]"))
}

/// The configuration that all guests start from.
#[must_use]
pub fn guest_config() -> Dom0File {
    let guest = "kernel = \"/root/guest/vmlinux\"\nramdisk = \"/root/bench.cpio\"\nvcpus = 1\n";
    Dom0File { path: "/root/xl/bench-guest.cfg".into(), content: Content::Text(guest.into()) }
}
