//! One machine on which all contenders stand side by side: a card, a wire, a driver domain and guests for each.
//!
//! An idle domain costs nothing, so nothing has to be handed over between measurements.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::corner::{Corner, Moved};
use super::domains::{DriverDomain, create_bare, create_guest, guest_config, modprobe};
use super::ramdisk::{self, LOAD};
use super::samples::{Contender, float};
use super::work::Work;
use crate::bed::{ADDRESS_LIMIT, FIRST_SLOT, images};
use crate::dom0::Dom0;
use crate::failure::{Doing, Failure, Result};
use crate::guest::{Guest, XL_LIMIT, mac};
use crate::machine::{Content, Dom0File, Machine, MachineConfig};
use crate::nic::{Nic, NicModel};
use crate::wire::{Wire, WireConfig};

/// Everyone who is compared, in the order in which they are set up.
pub const CONTENDERS: &[Contender] = &[Contender::Bulkhead, Contender::Bare, Contender::Linux];
/// Memory of the machine in MiB.
const MACHINE_MIB: u32 = 3584;
const COMMAND_LIMIT: Duration = Duration::from_secs(30);

/// What to measure on.
#[derive(Debug, Clone)]
pub struct BedConfig {
    /// Xen release.
    pub xen: String,
    /// Virtual CPUs of the machine.
    pub cpus: u8,
    /// Xen's command line: more than the test bed's.
    pub xen_options: String,
    /// The cards' model.
    pub nic: NicModel,
    /// Who has a corner.
    pub contenders: &'static [Contender],
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
    /// The driver domain, if there is one.
    pub domain: Option<DriverDomain>,
    dom0: Dom0,
}

impl Station {
    /// Commands in Dom0.
    #[must_use]
    pub fn dom0(&self) -> &Dom0 {
        &self.dom0
    }
}

impl Corner for Station {
    fn contender(&self) -> Contender {
        self.contender
    }

    fn domain(&self) -> Option<&DriverDomain> {
        self.domain.as_ref()
    }

    fn moved(&self) -> Moved {
        let wire = self.wire.counters();
        Moved {
            bytes: float(wire.bytes_in.saturating_add(wire.bytes_out)),
            items: float(wire.frames_in.saturating_add(wire.frames_out)),
        }
    }

    fn work(&self) -> Result<(Work, f64)> {
        let work = self.domain.as_ref().map_or(Ok(Work::default()), DriverDomain::work)?;
        Ok((work, self.moved().items))
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
        ramdisk::write(&images(&config.xen).join("driver.cpio"), &config.load, &ramdisk)?;
        let (machine, wires) = boot(config, MACHINE_MIB, files(config, &ramdisk))?;
        let _ = std::fs::remove_file(&ramdisk);
        let mut bed = Self { machine, stations: Vec::new() };
        for ((wire, nic), contender) in wires.into_iter().zip(config.contenders) {
            let station = bed.station(*contender, wire, &nic).doing(format!("setting up {}", contender.name()))?;
            bed.stations.push(station);
        }
        Ok(bed)
    }

    fn station(&self, contender: Contender, wire: Wire, nic: &Nic) -> Result<Station> {
        let dom0 = self.machine.dom0.clone();
        dom0.check(&format!("xl pci-assignable-add {}", nic.bdf()), XL_LIMIT)?;
        match contender {
            Contender::Bulkhead => {
                let domain = DriverDomain::create(&dom0, "netdom", "/root/xl/netback-dom.cfg", &nic.bdf())?;
                served(dom0, contender, wire, domain)
            }
            Contender::Linux => {
                let domain = DriverDomain::create_linux(&dom0, &nic.bdf(), &linux_modules(nic.model))?;
                served(dom0, contender, wire, domain)
            }
            Contender::Bare => bare(dom0, wire, nic),
            Contender::Variant => Err(Failure::new("the network is not measured with other options")),
        }
    }
}

/// Boots a machine of `memory_mib` with a card for each contender. No domain runs yet besides Dom0, which has `files`.
///
/// # Errors
/// A wire cannot be made, or the machine did not come up.
pub(super) fn boot(config: &BedConfig, memory_mib: u32, files: Vec<Dom0File>) -> Result<(Machine, Vec<(Wire, Nic)>)> {
    let wires = (0..)
        .zip(config.contenders)
        .map(|(index, _)| Wire::start(WireConfig { capture: None, ..WireConfig::numbered(index, &config.logs) }))
        .collect::<Result<Vec<_>>>()?;
    let nics: Vec<Nic> = slots()
        .zip(&wires)
        .map(|(slot, wire)| Nic { model: config.nic, slot, wire: Some(wire.config.socket.clone()) })
        .collect();
    let machine = Machine::boot(&MachineConfig {
        images: images(&config.xen),
        logs: config.logs.clone(),
        nics: nics.clone(),
        disks: Vec::new(),
        files,
        cpus: config.cpus,
        memory_mib,
        xen_options: config.xen_options.clone(),
    })?;
    Ok((machine, wires.into_iter().zip(nics).collect()))
}

/// Where cards are. QEMU's igb holds places for eight virtual functions, two apart from 80h behind its own on, so the next
/// slot's would overlap.
fn slots() -> impl Iterator<Item = u8> {
    (FIRST_SLOT..).step_by(2)
}

/// A guest that drives the card itself.
fn bare(dom0: Dom0, wire: Wire, nic: &Nic) -> Result<Station> {
    let contender = Contender::Bare;
    let guest = create_bare(&dom0, contender.name(), &nic.bdf())?;
    guest.check(&modprobe(module(nic.model)), COMMAND_LIMIT).doing("loading the card's driver")?;
    let address = guest.bring_up("eth0", ADDRESS_LIMIT)?;
    Ok(Station { contender, wire, guest, address, peer: None, dom0_interface: None, domain: None, dom0 })
}

/// Guests, and Dom0, behind a driver domain.
fn served(dom0: Dom0, contender: Contender, wire: Wire, domain: DriverDomain) -> Result<Station> {
    let (name, backend) = (contender.name(), domain.name);
    let number = wire.config.address.octets()[2].saturating_mul(2).saturating_add(1);
    let vif = |number| format!("vif=[\"mac={},backend={backend}\"]", mac(number, 0));
    if contender == Contender::Linux {
        // Its loop is needed for each new vif, and slows everyone's boot.
        domain.calm()?;
    }
    let guest = create_guest(&dom0, &format!("{name}-a"), &vif(number))?;
    let peer = create_guest(&dom0, &format!("{name}-b"), &vif(number.saturating_add(1)))?;
    if contender == Contender::Linux {
        domain.resume()?;
    }
    let address = guest.address("eth0", ADDRESS_LIMIT)?;
    let peer_address = peer.address("eth0", ADDRESS_LIMIT)?;
    peer.check(&format!("{LOAD} tcp-sink 9 >/dev/null 2>&1 &"), COMMAND_LIMIT)?;
    let interface = attach_to_dom0(&dom0, backend, &mac(0xD0, number))?;
    if contender == Contender::Linux {
        domain.calm()?;
    }
    Ok(Station {
        contender,
        wire,
        guest,
        address,
        peer: Some((peer, peer_address)),
        dom0_interface: Some(interface),
        domain: Some(domain),
        dom0,
    })
}

/// What a Linux driver domain with such a card needs, and nothing else.
pub(super) fn linux_modules(model: NicModel) -> String {
    format!("{},bridge,xen-netback", module(model))
}

/// The Linux modules for a card, separated by commas.
fn module(model: NicModel) -> &'static str {
    match model {
        NicModel::E1000 => "e1000",
        NicModel::E1000e => "e1000e",
        NicModel::Igb => "igb",
        NicModel::Virtio | NicModel::VirtioQueues => "virtio_pci,virtio_net",
    }
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

fn files(config: &BedConfig, ramdisk: &Path) -> Vec<Dom0File> {
    let copy = |path: &str, from: &Path| Dom0File { path: path.into(), content: Content::CopyOf(from.into()) };
    vec![
        copy("/root/netback-dom", &config.image),
        copy("/root/bench.cpio", ramdisk),
        copy(LOAD, &config.load),
        copy("/root/xl/netback-dom.cfg", Path::new("images/xl/netback-dom.cfg")),
        copy("/root/xl/linux-driver-domain.cfg", Path::new("images/xl/linux-driver-domain.cfg")),
        guest_config(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn virtual_functions_of_two_cards_do_not_overlap() {
        let functions = |slot: u8| (0..8).map(move |number: u32| u32::from(slot) * 8 + 0x80 + number * 2);
        let mut all: Vec<_> = slots().take(CONTENDERS.len()).flat_map(functions).collect();
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
    }
}
