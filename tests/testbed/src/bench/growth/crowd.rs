//! The machine of the growth measurement: for each contender a card, a driver domain, and a crowd of stock guests.

use std::path::Path;
use std::time::Duration;

use super::super::bed::{BedConfig, boot};
use super::super::domains::DriverDomain;
use super::super::ramdisk::{self, LOAD};
use super::super::samples::Contender;
use crate::bed::images;
use crate::dom0::Dom0;
use crate::failure::{Doing, Failure, Result};
use crate::guest::{Guest, GuestConfig, XL_LIMIT, mac};
use crate::machine::{Content, Dom0File, Machine};
use crate::nic::Nic;
use crate::wire::Wire;

/// Who is compared, in the order in which they are set up.
pub const CONTENDERS: &[Contender] = &[Contender::Bulkhead, Contender::Linux];
/// Guests of a crowd: the most that take part, and one that watches.
pub const CROWD: u8 = 17;
/// Memory of a guest in MiB: what a stock one boots with, and a little for the generator, which its initramfs holds twice.
const GUEST_MIB: u32 = 160;
/// Memory of the machine in MiB: Dom0, both driver domains, two crowds, and Xen.
const MACHINE_MIB: u32 = 7680;
/// Our domain, with the memory that 32 vifs are tested with.
const OURS: &str = "/root/xl/netback-dom.cfg 'memory=32'";
const LINUX: &str = "/root/xl/linux-driver-domain.cfg";
/// The stock guest with the load generator in it.
const RAMDISK: &str = "/root/stock.cpio";
/// Guests that boot at the same time: while one waits for its devices, another has the processor.
const AT_ONCE: usize = 4;
/// How long a guest may wait for its address: all of a crowd ask at once, and a Linux driver domain ties their vifs to the
/// bridge one after the other.
const ADDRESS_LIMIT: Duration = Duration::from_secs(180);

/// The machine with everyone on it.
#[derive(Debug)]
pub struct GrowthBed {
    /// Xen and Dom0.
    pub machine: Machine,
    /// The contenders.
    pub crowds: Vec<Crowd>,
}

/// A driver domain and its guests.
#[derive(Debug)]
pub struct Crowd {
    /// Whose.
    pub contender: Contender,
    /// What its card is plugged into.
    pub wire: Wire,
    /// The driver domain.
    pub domain: DriverDomain,
    /// Those that take part.
    pub guests: Vec<Guest>,
    /// One more, which only pings.
    pub watcher: Guest,
}

impl GrowthBed {
    /// Boots the machine and everyone on it.
    ///
    /// # Errors
    /// Someone did not come up.
    pub fn set_up(config: &BedConfig) -> Result<Self> {
        std::fs::create_dir_all(&config.logs).doing("creating the log folder")?;
        let stock = config.logs.join("stock.cpio");
        ramdisk::write(&images(&config.xen).join("guest.cpio"), &config.load, &stock)?;
        let (machine, wires) = boot(config, MACHINE_MIB, files(config, &stock))?;
        let _ = std::fs::remove_file(&stock);
        let mut crowds = Vec::new();
        for ((wire, nic), contender) in wires.into_iter().zip(config.contenders) {
            let crowd = Crowd::set_up(&machine.dom0, *contender, wire, &nic);
            crowds.push(crowd.doing(format!("setting up {}", contender.name()))?);
        }
        Ok(Self { machine, crowds })
    }
}

impl Crowd {
    fn set_up(dom0: &Dom0, contender: Contender, wire: Wire, nic: &Nic) -> Result<Self> {
        dom0.check(&format!("xl pci-assignable-add {}", nic.bdf()), XL_LIMIT)?;
        let linux = contender == Contender::Linux;
        let (name, config) = if linux { ("linuxdom", LINUX) } else { ("netdom", OURS) };
        let domain = DriverDomain::create(dom0, name, config, &nic.bdf())?;
        let [_, _, network, _] = wire.config.address.octets();
        if linux {
            // Its loop is needed for each new vif, and slows everyone's boot.
            domain.calm()?;
        }
        let mut guests = create(dom0, contender, name, network)?;
        if linux {
            domain.resume()?;
        }
        for guest in &guests {
            guest.address("eth0", ADDRESS_LIMIT).doing(format!("{}'s DHCP", guest.name))?;
        }
        if linux {
            domain.calm()?;
        }
        let watcher = guests.pop().ok_or_else(|| Failure::new("no guests"))?;
        println!("    {} has its {CROWD} guests", contender.name());
        Ok(Self { contender, wire, domain, guests, watcher })
    }
}

/// The guests of a crowd. `network` makes their MAC addresses differ from those of the others.
fn create(dom0: &Dom0, contender: Contender, backend: &str, network: u8) -> Result<Vec<Guest>> {
    let config = |number: u8| GuestConfig {
        name: format!("{}-{number}", contender.name()),
        vifs: vec![format!("mac={},backend={backend}", mac(number, network))],
        memory_mib: GUEST_MIB,
        settings: format!("'ramdisk=\"{RAMDISK}\"'"),
        ..GuestConfig::numbered(number, backend)
    };
    let configs: Vec<_> = (1..=CROWD).map(config).collect();
    let mut guests = Vec::new();
    for batch in configs.chunks(AT_ONCE) {
        let started = batch.iter().map(|config| Guest::start(dom0, config, "")).collect::<Result<Vec<_>>>()?;
        started.iter().try_for_each(Guest::wait_until_up)?;
        guests.extend(started);
    }
    Ok(guests)
}

fn files(config: &BedConfig, stock: &Path) -> Vec<Dom0File> {
    let copy = |path: &str, from: &Path| Dom0File { path: path.into(), content: Content::CopyOf(from.into()) };
    vec![
        copy("/root/netback-dom", &config.image),
        copy(RAMDISK, stock),
        copy(LOAD, &config.load),
        copy("/root/xl/netback-dom.cfg", Path::new("images/xl/netback-dom.cfg")),
        copy("/root/xl/linux-driver-domain.cfg", Path::new("images/xl/linux-driver-domain.cfg")),
        copy("/root/xl/guest.cfg", Path::new("images/xl/guest.cfg")),
    ]
}

#[cfg(test)]
mod tests {
    use super::super::COUNTS;
    use super::*;

    #[test]
    fn a_crowd_is_large_enough_for_every_count_and_a_watcher() {
        let most = COUNTS.iter().max().copied().unwrap_or_default();
        assert_eq!(usize::from(CROWD), most + 1);
    }

    #[test]
    fn the_machine_has_room_for_everybody() {
        let guests = u32::from(CROWD) * 2 * GUEST_MIB;
        // Dom0, our domain and Linux's; 64 MiB and 1 MiB for each domain are Xen's.
        let taken = 1024 + 32 + 256 + guests + 64 + u32::from(CROWD) * 2 + 2;
        assert!(MACHINE_MIB >= taken + 512, "{taken} MiB are taken");
    }
}
