//! The domains that both benchmarks are made of.

use std::time::Duration;

use crate::dom0::Dom0;
use crate::failure::{Doing, Result};
use crate::guest::{Guest, XL_LIMIT, console_log};
use crate::machine::{Content, Dom0File};

/// Memory of a guest in MiB.
const GUEST_MIB: u32 = 256;
const COMMAND_LIMIT: Duration = Duration::from_secs(60);

/// A running driver domain.
#[derive(Debug, Clone)]
pub struct DriverDomain {
    /// Its name in `xl list`.
    pub name: &'static str,
    dom0: Dom0,
}

impl DriverDomain {
    /// Creates one that owns the device at `bdf`; a Linux one is up when this returns.
    ///
    /// # Errors
    /// It could not be created, or did not come up in time.
    pub fn create(dom0: &Dom0, name: &'static str, config: &str, bdf: &str) -> Result<Self> {
        dom0.check(&format!("xl create {config} 'name=\"{name}\"' 'pci=[\"{bdf}\"]'"), XL_LIMIT)?;
        if config.contains("linux") {
            dom0.check(&format!("guest-wait {} 1 90; sleep 2", console_log(name)), Duration::from_secs(120))?;
        }
        Ok(Self { name, dom0: dom0.clone() })
    }

    /// The seconds of CPU that it has used, to a tenth.
    ///
    /// # Errors
    /// `xl list` failed.
    pub fn cpu_seconds(&self) -> Result<f64> {
        let script = format!("xl list {} | awk 'NR == 2 {{ print $NF }}'", self.name);
        self.dom0.check(&script, XL_LIMIT)?.trim().parse().doing("the CPU time in xl list")
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
