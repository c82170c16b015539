//! A stock Debian guest: made with `xl`, driven through the command agent on its console.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::dom0::{Dom0, Outcome, PATIENCE};
use crate::failure::{Doing, Failure, Result};

/// How long a guest may take from `xl create` until it runs commands: long, because others may be busy.
const BOOT_LIMIT: Duration = Duration::from_secs(240);
/// How long an `xl` command may take before it counts as hung: longer than any time-out of libxl.
pub const XL_LIMIT: Duration = Duration::from_secs(60);

/// What to create.
#[derive(Debug, Clone)]
pub struct GuestConfig {
    /// Its name in `xl list`.
    pub name: String,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// The vifs, as `xl` writes them: `mac=...,backend=...`.
    pub vifs: Vec<String>,
    /// Virtual CPUs.
    pub vcpus: u8,
    /// More of the kernel's command line.
    pub options: String,
    /// More settings for `xl create`, each quoted for the shell; they win over those of `guest.cfg`.
    pub settings: String,
}

impl GuestConfig {
    /// A guest of 128 MiB with one vif served by `backend`; `number` decides its name and MAC address.
    #[must_use]
    pub fn numbered(number: u8, backend: &str) -> Self {
        Self {
            name: format!("g{number}"),
            memory_mib: 128,
            vifs: vec![format!("mac={},backend={backend}", mac(number, 0))],
            vcpus: 1,
            options: String::new(),
            settings: String::new(),
        }
    }
}

/// The MAC address of guest `number`'s vif `index`, in Xen's range.
#[must_use]
pub fn mac(number: u8, index: u8) -> String {
    format!("00:16:3e:00:{index:02x}:{number:02x}")
}

/// A running guest; clones are the same guest.
#[derive(Debug, Clone)]
pub struct Guest {
    /// Its name in `xl list`.
    pub name: String,
    /// Its domain id; another one after a reboot.
    pub domid: u16,
    dom0: Dom0,
    console: String,
    boots: u32,
}

impl Guest {
    /// Creates a guest and waits until it runs commands.
    ///
    /// # Errors
    /// `xl create` failed, or the guest did not come up in time.
    pub fn create(dom0: &Dom0, config: &GuestConfig) -> Result<Self> {
        let guest = Self::start(dom0, config, "")?;
        guest.wait_until_up()?;
        Ok(guest)
    }

    /// Creates a guest without waiting for it; `xl_options` go to `xl create` (`-p` leaves it paused).
    ///
    /// # Errors
    /// `xl create` failed.
    pub fn start(dom0: &Dom0, config: &GuestConfig, xl_options: &str) -> Result<Self> {
        let GuestConfig { name, memory_mib, vifs, vcpus, options, settings } = config;
        let vifs: Vec<_> = vifs.iter().map(|vif| format!("\"{vif}\"")).collect();
        let script = format!(
            "boots=$(grep -c ^@ready {log} 2>/dev/null)\n\
             xl create {xl_options} /root/xl/guest.cfg 'name=\"{name}\"' 'memory={memory_mib}' 'vcpus={vcpus}' 'vif=[{vifs}]' \
             'extra=\"quiet console=hvc0 cryptomgr.notests hostname={name} {options}\"' {settings} >&2 || exit 1\n\
             echo \"@created $(({boots} + 1))\"",
            log = console_log(name),
            vifs = vifs.join(","),
            boots = "${boots:-0}",
        );
        let output = dom0.check(&script, XL_LIMIT).doing(format!("creating {name}"))?;
        let boots = output.lines().find_map(|line| line.strip_prefix("@created ")?.parse().ok()).unwrap_or(1);
        let mut guest = Self { name: name.clone(), domid: 0, dom0: dom0.clone(), console: String::new(), boots };
        guest.find()?;
        Ok(guest)
    }

    /// A guest that was created in another way, once it runs commands.
    ///
    /// # Errors
    /// There is none of that name, or it did not come up in time.
    pub fn join(dom0: &Dom0, name: &str) -> Result<Self> {
        let mut guest = Self { name: name.into(), domid: 0, dom0: dom0.clone(), console: String::new(), boots: 1 };
        guest.find()?;
        guest.wait_until_up()?;
        Ok(guest)
    }

    /// Waits until the guest runs commands.
    ///
    /// # Errors
    /// It did not come up in time.
    pub fn wait_until_up(&self) -> Result<()> {
        let seconds = BOOT_LIMIT.as_secs();
        let script = format!("guest-wait {} {} {seconds}", console_log(&self.name), self.boots);
        let outcome = self.dom0.run(&script, BOOT_LIMIT.saturating_add(Duration::from_secs(30)))?;
        if outcome.ok() { Ok(()) } else { Err(Failure::new(format!("{} did not boot within {seconds} s", self.name))) }
    }

    /// Runs a shell script in the guest.
    ///
    /// # Errors
    /// Dom0 does not answer. A script that fails, or a guest that does not answer (status 255), is an [`Outcome`].
    pub fn run(&self, script: &str, limit: Duration) -> Result<Outcome> {
        let seconds = limit.saturating_mul(PATIENCE).as_secs().max(1);
        let (console, log) = (&self.console, console_log(&self.name));
        let request = format!("guest-exec {console} {log} {seconds} {}", BASE64.encode(script));
        self.dom0.run_as(&self.name, script, &request, limit.saturating_add(Duration::from_secs(15)))
    }

    /// Runs a script that must succeed and returns its output.
    ///
    /// # Errors
    /// As [`Self::run`], or the script's exit status is not 0.
    pub fn check(&self, script: &str, limit: Duration) -> Result<String> {
        let outcome = self.run(script, limit)?;
        if outcome.ok() {
            return Ok(outcome.output);
        }
        let (name, status, said) = (&self.name, outcome.status, outcome.output.trim_end());
        Err(Failure::new(format!("`{script}` in {name} exited with {status}:\n{said}")))
    }

    /// Waits for the address DHCP gives to an interface.
    ///
    /// # Errors
    /// None within `limit`; the sentence holds what the DHCP client said.
    pub fn address(&self, interface: &str, limit: Duration) -> Result<String> {
        let script = address_script(interface, limit);
        Ok(self.check(&script, limit.saturating_add(Duration::from_secs(5)))?.trim().to_owned())
    }

    /// Brings up an interface that was added to the running guest and waits for its address.
    ///
    /// # Errors
    /// It did not appear, or got no address, within `limit`.
    pub fn bring_up(&self, interface: &str, limit: Duration) -> Result<String> {
        let script = format!(
            "until [ -e /sys/class/net/{interface} ]; do sleep 0.1; done; \
             udhcpc -i {interface} -n -q -t 10 -T 1 >/run/udhcpc.{interface}.log 2>&1\n{}",
            address_script(interface, limit)
        );
        Ok(self.check(&script, limit.saturating_add(Duration::from_secs(15)))?.trim().to_owned())
    }

    /// Asks the guest to reboot as `xl reboot` does, and waits until it is up again under its new domain id.
    ///
    /// # Errors
    /// It did not come back in time.
    pub fn reboot(&mut self) -> Result<()> {
        self.dom0.check(&format!("xl reboot {}", self.name), XL_LIMIT)?;
        self.boots = self.boots.saturating_add(1);
        self.wait_until_up().doing("rebooting")?;
        self.find()
    }

    /// Saves the guest to a file in Dom0 and restores it from there under a new domain id.
    ///
    /// # Errors
    /// `xl` failed, or the guest does not answer afterwards.
    pub fn save_and_restore(&mut self, file: &str) -> Result<()> {
        let limit = XL_LIMIT.saturating_mul(4);
        self.dom0.check(&format!("xl save {} {file} >&2", self.name), limit).doing("saving")?;
        self.dom0
            .check(&format!("xl restore {file} >&2; status=$?; rm {file}; exit $status"), limit)
            .doing("restoring")?;
        self.find()?;
        self.check("true", BOOT_LIMIT).doing("after restoring").map(drop)
    }

    /// Destroys the guest.
    ///
    /// # Errors
    /// `xl destroy` failed.
    pub fn destroy(self) -> Result<()> {
        self.dom0.check(&format!("xl destroy {}", self.name), XL_LIMIT).map(|_| ())
    }

    /// Looks up the domain id and the console of the current incarnation.
    fn find(&mut self) -> Result<()> {
        let script =
            format!("domid=$(xl domid {}) && echo $domid && xenstore-read /local/domain/$domid/console/tty", self.name);
        let output = self.dom0.check(&script, XL_LIMIT)?;
        let mut lines = output.lines();
        let domid = lines.next().and_then(|line| line.trim().parse().ok());
        self.domid = domid.ok_or_else(|| Failure::new(format!("no domain id in {output:?}")))?;
        self.console = lines.next().unwrap_or_default().trim().to_owned();
        Ok(())
    }
}

/// Where xenconsoled keeps the console of the domain `name`.
#[must_use]
pub fn console_log(name: &str) -> String {
    format!("/var/log/xen/console/guest-{name}.log")
}

/// A script that prints the interface's IPv4 address as soon as it has one.
fn address_script(interface: &str, limit: Duration) -> String {
    format!(
        "for i in $(seq {}); do\n\
         address=$(ip -4 -o addr show dev {interface} 2>/dev/null | awk '{{ sub(/\\/.*/, \"\", $4); print $4 }}')\n\
         [ -n \"$address\" ] && echo $address && exit 0\n\
         sleep 0.2\ndone\n\
         echo 'no address on {interface}:'; ip -s link show dev {interface}; cat /run/udhcpc.{interface}.log\nexit 1",
        limit.saturating_mul(PATIENCE).as_secs().saturating_mul(5)
    )
}
