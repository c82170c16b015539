//! One machine on which all contenders stand side by side: a card, a wire, a driver domain and guests for each.
//!
//! An idle domain costs nothing, so nothing has to be handed over between measurements.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::ramdisk::{self, LOAD};
use super::rounds::CONTENDERS;
use super::samples::Contender;
use crate::bed::{ADDRESS_LIMIT, FIRST_SLOT, images};
use crate::dom0::Dom0;
use crate::failure::{Doing, Failure, Result};
use crate::guest::{Guest, XL_LIMIT, console_log, mac};
use crate::machine::{Content, Dom0File, Machine, MachineConfig};
use crate::nic::{Nic, NicModel};
use crate::wire::{Wire, WireConfig};

/// Memory of a guest in MiB.
const GUEST_MIB: u32 = 256;
const COMMAND_LIMIT: Duration = Duration::from_secs(30);

/// What to measure on.
#[derive(Debug, Clone)]
pub struct BedConfig {
    /// Xen release.
    pub xen: String,
    /// The cards' model.
    pub nic: NicModel,
    /// Our domain image.
    pub image: PathBuf,
    /// The load generator.
    pub load: PathBuf,
    /// Where logs go.
    pub logs: PathBuf,
}

/// The machine with everyone on it.
#[derive(Debug)]
pub struct Bed {
    /// Xen and Dom0.
    pub machine: Machine,
    /// The contenders, in the order in which they were set up.
    pub stations: Vec<Station>,
}

/// One contender's corner of the machine.
#[derive(Debug)]
pub struct Station {
    /// Who it is.
    pub contender: Contender,
    /// What its card is plugged into.
    pub wire: Wire,
    /// The guest that is measured.
    pub guest: Guest,
    /// That guest's address.
    pub address: String,
    /// A second guest behind the same driver domain, and its address.
    pub peer: Option<(Guest, String)>,
    /// Dom0's interface behind the same driver domain.
    pub dom0_interface: Option<String>,
    dom0: Dom0,
}

impl Station {
    /// Commands in Dom0.
    #[must_use]
    pub fn dom0(&self) -> &Dom0 {
        &self.dom0
    }

    /// The driver domain's name in `xl list`, if there is one.
    #[must_use]
    pub fn domain(&self) -> Option<&'static str> {
        domain(self.contender)
    }

    /// The seconds of CPU that the driver domain has used, to a tenth.
    ///
    /// # Errors
    /// `xl list` failed.
    pub fn cpu_seconds(&self) -> Result<f64> {
        let Some(domain) = self.domain() else { return Ok(0.0) };
        let script = format!("xl list {domain} | awk 'NR == 2 {{ print $NF }}'");
        self.dom0.check(&script, XL_LIMIT)?.trim().parse().doing("the CPU time in xl list")
    }
}

fn domain(contender: Contender) -> Option<&'static str> {
    match contender {
        Contender::Bulkhead => Some("netdom"),
        Contender::Linux => Some("linuxdom"),
        Contender::Bare => None,
    }
}

impl Bed {
    /// Boots the machine and everyone on it.
    ///
    /// # Errors
    /// Someone did not come up.
    pub fn set_up(config: &BedConfig) -> Result<Self> {
        std::fs::create_dir_all(&config.logs).doing("creating the log folder")?;
        let ramdisk = config.logs.join("bench.cpio");
        ramdisk::write(&images(&config.xen), &config.load, &ramdisk)?;
        let wires = (0..)
            .zip(CONTENDERS)
            .map(|(index, _)| Wire::start(WireConfig { capture: None, ..WireConfig::numbered(index, &config.logs) }))
            .collect::<Result<Vec<_>>>()?;
        let nics: Vec<Nic> = (FIRST_SLOT..)
            .zip(&wires)
            .map(|(slot, wire)| Nic { model: config.nic, slot, wire: Some(wire.config.socket.clone()) })
            .collect();
        let machine = Machine::boot(&MachineConfig {
            images: images(&config.xen),
            logs: config.logs.clone(),
            nics: nics.clone(),
            disks: Vec::new(),
            files: files(config, &ramdisk),
            cpus: 1,
            memory_mib: 3584,
            xen_options: String::new(),
        })?;
        let _ = std::fs::remove_file(&ramdisk);
        let mut bed = Self { machine, stations: Vec::new() };
        for ((wire, nic), contender) in wires.into_iter().zip(&nics).zip(CONTENDERS) {
            let station = bed.station(contender, wire, nic).doing(format!("setting up {}", contender.name()))?;
            bed.stations.push(station);
        }
        Ok(bed)
    }

    fn station(&self, contender: Contender, wire: Wire, nic: &Nic) -> Result<Station> {
        let dom0 = self.machine.dom0.clone();
        dom0.check(&format!("xl pci-assignable-add {}", nic.bdf()), XL_LIMIT)?;
        let name = contender.name();
        let number = wire.config.address.octets()[2].saturating_mul(2).saturating_add(1);
        if contender == Contender::Bare {
            let guest = create_guest(&dom0, &format!("{name}-a"), &format!("pci=[\"{}\"]", nic.bdf()))?;
            let modules = format!("modprobe xen-pcifront; modprobe {}", module(nic.model));
            guest.check(&modules, COMMAND_LIMIT).doing("loading the card's driver")?;
            let address = guest.bring_up("eth0", ADDRESS_LIMIT)?;
            return Ok(Station { contender, wire, guest, address, peer: None, dom0_interface: None, dom0 });
        }
        let domain = domain(contender).unwrap_or_default();
        create_driver_domain(&dom0, contender, nic)?;
        let vif = |number| format!("vif=[\"mac={},backend={domain}\"]", mac(number, 0));
        let guest = create_guest(&dom0, &format!("{name}-a"), &vif(number))?;
        let address = guest.address("eth0", ADDRESS_LIMIT)?;
        let peer = create_guest(&dom0, &format!("{name}-b"), &vif(number.saturating_add(1)))?;
        let peer_address = peer.address("eth0", ADDRESS_LIMIT)?;
        peer.check(&format!("{LOAD} tcp-sink 9 >/dev/null 2>&1 &"), COMMAND_LIMIT)?;
        let interface = attach_to_dom0(&dom0, domain, &mac(0xD0, number))?;
        if contender == Contender::Linux {
            calm_linux(&dom0, domain)?;
        }
        Ok(Station {
            contender,
            wire,
            guest,
            address,
            peer: Some((peer, peer_address)),
            dom0_interface: Some(interface),
            dom0,
        })
    }
}

/// The Linux module for a card.
fn module(model: NicModel) -> &'static str {
    match model {
        NicModel::E1000 => "e1000",
        NicModel::E1000e => "e1000e",
        NicModel::Igb => "igb",
        NicModel::Virtio => "virtio_pci; modprobe virtio_net",
    }
}

fn create_driver_domain(dom0: &Dom0, contender: Contender, nic: &Nic) -> Result<()> {
    let pci = format!("'pci=[\"{}\"]'", nic.bdf());
    let name = domain(contender).unwrap_or_default();
    let config = match contender {
        Contender::Bulkhead => "netback-dom.cfg",
        Contender::Linux | Contender::Bare => "linux-driver-domain.cfg",
    };
    dom0.check(&format!("xl create /root/xl/{config} 'name=\"{name}\"' {pci}"), XL_LIMIT)?;
    if contender == Contender::Linux {
        dom0.check(&format!("guest-wait {} 1 90; sleep 3", console_log(name)), Duration::from_secs(120))?;
    }
    Ok(())
}

fn create_guest(dom0: &Dom0, name: &str, setting: &str) -> Result<Guest> {
    let script = format!(
        "xl create /root/xl/bench-guest.cfg 'name=\"{name}\"' 'memory={GUEST_MIB}' '{setting}' \
         'extra=\"quiet console=hvc0 hostname={name}\"'"
    );
    dom0.check(&script, XL_LIMIT)?;
    Guest::join(dom0, name)
}

/// Gives Dom0 a vif and returns its interface.
fn attach_to_dom0(dom0: &Dom0, domain: &str, mac: &str) -> Result<String> {
    let script = format!(
        "xl network-attach 0 mac={mac} backend={domain} >&2 || exit 1\n\
         for i in $(seq 100); do\n\
         name=$(grep -il '^{mac}$' /sys/class/net/*/address | cut -d/ -f5)\n\
         [ -n \"$name\" ] && break; sleep 0.1; done\n\
         udhcpc -i $name -n -q -t 20 -T 1 >&2 && echo @interface $name"
    );
    let said = dom0.check(&script, XL_LIMIT)?;
    said.lines()
        .find_map(|line| line.strip_prefix("@interface "))
        .map(ToOwned::to_owned)
        .ok_or_else(|| Failure::new(format!("no interface in Dom0: {said}")))
}

/// Ends the loop that ties vifs to the bridge: it would cost CPU while something is measured.
fn calm_linux(dom0: &Dom0, domain: &str) -> Result<()> {
    let guest = Guest::join(dom0, domain)?;
    let script = "for status in /proc/[0-9]*/status; do\n\
                  pid=${status#/proc/}; pid=${pid%/status}\n\
                  [ \"$(awk '/^PPid/ { print $2 }' $status 2>/dev/null)\" = 1 ] || continue\n\
                  tr '\\0' ' ' </proc/$pid/cmdline | grep -q '/init' && kill -STOP $pid && echo stopped $pid\ndone\n\
                  ls /sys/class/net/xenbr0/brif";
    guest.check(script, COMMAND_LIMIT).map(drop)
}

fn files(config: &BedConfig, ramdisk: &Path) -> Vec<Dom0File> {
    let copy = |path: &str, from: &Path| Dom0File { path: path.into(), content: Content::CopyOf(from.into()) };
    let guest = "kernel = \"/root/guest/vmlinux\"\nramdisk = \"/root/bench.cpio\"\nvcpus = 1\n";
    vec![
        copy("/root/netback-dom", &config.image),
        copy("/root/bench.cpio", ramdisk),
        copy(LOAD, &config.load),
        copy("/root/xl/netback-dom.cfg", Path::new("images/xl/netback-dom.cfg")),
        copy("/root/xl/linux-driver-domain.cfg", Path::new("images/xl/linux-driver-domain.cfg")),
        Dom0File { path: "/root/xl/bench-guest.cfg".into(), content: Content::Text(guest.into()) },
    ]
}
