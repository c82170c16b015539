//! The network's growth: for each contender a card and a crowd of stock guests with a vif each.

use std::time::Duration;

use super::super::bed::{BedConfig, boot, linux_modules};
use super::super::domains::DriverDomain;
use super::super::network::{Direction, mbit_per_second, round_trips};
use super::super::ramdisk::LOAD;
use super::super::samples::{Contender, float, percentile};
use super::crowd::{self, CROWD, Crowd, MACHINE_MIB, Members};
use super::load::{self, COOL_DOWN_MS, OUTPUT, WARM_UP_MS, WINDOW_MS};
use super::{Load, Seen, sender};
use crate::dom0::Dom0;
use crate::failure::{Doing, Failure, Result};
use crate::guest::{Guest, GuestConfig, XL_LIMIT, mac};
use crate::machine::Machine;
use crate::nic::Nic;
use crate::wire::Wire;

/// Our domain, with the memory that 32 vifs are tested with.
const OURS: &str = "/root/xl/netback-dom.cfg 'memory=32'";
/// How long a guest may wait for its address: all of a crowd ask at once, and a Linux driver domain ties their vifs to the
/// bridge one after the other.
const ADDRESS_LIMIT: Duration = Duration::from_secs(180);
/// The least segments of a packet, if enough data is at hand: what Linux has without being told, and 58 KB.
const LINUX_DEFAULT: u8 = 2;
const LARGE: u8 = 40;
/// Pings, 100 ms apart: they begin and end within the window.
const PINGS: usize = 60;

/// The machine with everyone on it.
#[derive(Debug)]
pub struct NetworkBed {
    /// Xen and Dom0.
    pub machine: Machine,
    /// The contenders.
    pub crowds: Vec<NetworkCrowd>,
}

/// A driver domain with a card, and its guests.
#[derive(Debug)]
pub struct NetworkCrowd {
    members: Members,
    /// What its card is plugged into.
    wire: Wire,
}

impl NetworkBed {
    /// Boots the machine and everyone on it.
    ///
    /// # Errors
    /// Someone did not come up.
    pub fn set_up(config: &BedConfig) -> Result<Self> {
        let stock = crowd::write_ramdisk(&config.xen, &config.load, &config.logs)?;
        let files = crowd::files(&config.image, "netback-dom.cfg", &stock, &config.load);
        let (machine, wires) = boot(config, MACHINE_MIB, files)?;
        let _ = std::fs::remove_file(&stock);
        let mut crowds = Vec::new();
        for ((wire, nic), contender) in wires.into_iter().zip(config.contenders) {
            let crowd = NetworkCrowd::set_up(&machine.dom0, *contender, wire, &nic);
            crowds.push(crowd.doing(format!("setting up {}", contender.name()))?);
        }
        Ok(Self { machine, crowds })
    }
}

impl NetworkCrowd {
    fn set_up(dom0: &Dom0, contender: Contender, wire: Wire, nic: &Nic) -> Result<Self> {
        dom0.check(&format!("xl pci-assignable-add {}", nic.bdf()), XL_LIMIT)?;
        let linux = contender == Contender::Linux;
        let domain = if linux {
            DriverDomain::create_linux(dom0, &nic.bdf(), &linux_modules(nic.model))?
        } else {
            DriverDomain::create(dom0, "netdom", OURS, &nic.bdf())?
        };
        let [_, _, network, _] = wire.config.address.octets();
        if linux {
            // Its loop is needed for each new vif, and slows everyone's boot.
            domain.calm()?;
        }
        let with_vif = |number| GuestConfig {
            vifs: vec![format!("mac={},backend={}", mac(number, network), domain.name)],
            ..crowd::config(contender, number, "")
        };
        let configs: Vec<_> = (1..=CROWD).map(with_vif).collect();
        let guests = crowd::create(dom0, &configs)?;
        if linux {
            domain.resume()?;
        }
        for guest in &guests {
            guest.address("eth0", ADDRESS_LIMIT).doing(format!("{}'s DHCP", guest.name))?;
        }
        if linux {
            domain.calm()?;
        }
        Ok(Self { members: Members::rest(contender, domain, guests)?, wire })
    }

    /// What the guests, and the watcher, are to run.
    fn scripts(&self, load: Load, direction: Direction) -> [String; 2] {
        let (verb, port) = direction.service();
        let segments = if load == Load::LargeOut { LARGE } else { LINUX_DEFAULT };
        let sysctl = format!("echo {segments} >/proc/sys/net/ipv4/tcp_min_tso_segs");
        let address = self.wire.config.address;
        let generator = format!(
            "{LOAD} {verb} {address}:{port} --warm-up-ms {WARM_UP_MS} --milliseconds {WINDOW_MS} --cool-down-ms {COOL_DOWN_MS}"
        );
        [format!("{sysctl}; {}", sender::noted_before(&generator)), format!("ping -c {PINGS} -i 0.1 -W 3 {address}")]
    }
}

impl Crowd for NetworkCrowd {
    fn members(&self) -> &Members {
        &self.members
    }

    fn measure(&self, count: usize, load: Load) -> Result<Seen> {
        let direction = match load {
            Load::Out | Load::LargeOut => Direction::Out,
            Load::In => Direction::In,
            Load::Read | Load::Write => return Err(Failure::new("this is a network")),
        };
        let Members { domain, guests, watcher, .. } = &self.members;
        let (cpu, wire) = (domain.cpu_seconds()?, self.wire.counters());
        let guests = load::run(guests, count, watcher, self.scripts(load, direction))?;
        let said = guests.iter().map(collect).collect::<Result<Vec<_>>>()?;
        let rates = said.iter().map(|said| mbit_per_second(said)).collect::<Result<Vec<_>>>()?;
        let sends = direction == Direction::Out;
        let counted = said.iter().filter(|_| sends).map(|said| sender::since(said)).collect::<Result<Vec<_>>>()?;
        let latency = collect_ping(watcher)?;
        let (cpu, wire) = (domain.cpu_seconds()? - cpu, self.wire.counters().since(&wire));
        let gib = float(wire.bytes_in.saturating_add(wire.bytes_out)) / float(1 << 30);
        Ok(Seen { senders: counted, ..Seen::new(rates, cpu / gib, latency, domain.memory_used_kib()?) })
    }
}

/// What a guest's generator said, as soon as it has ended, and what its TCP counted. Who gets nothing while others do has a
/// rate of 0.
fn collect(guest: &Guest) -> Result<String> {
    load::wait_for(guest, "^bytes ", &sender::told())
}

/// The watcher's median round trip, if at least half of its pings were answered.
fn collect_ping(watcher: &Guest) -> Result<Option<f64>> {
    let script = format!(
        "for i in $(seq 100); do grep -q 'packets transmitted' {OUTPUT} && break; sleep 0.2; done; cat {OUTPUT}"
    );
    Ok(median_of_most(&round_trips(&watcher.check(&script, load::LIMIT)?)))
}

fn median_of_most(times: &[f64]) -> Option<f64> {
    percentile(times, 50).filter(|_| times.len().saturating_mul(2) >= PINGS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_gets_nothing_has_a_rate_of_nothing() {
        assert_eq!(mbit_per_second("bytes 0 us 8000000").unwrap(), 0.0);
        assert_eq!(mbit_per_second("bytes 1000000 us 8000000").unwrap(), 1.0);
        assert!(mbit_per_second("load: connection refused").is_err());
    }

    #[test]
    fn a_median_needs_half_of_the_pings() {
        assert_eq!(median_of_most(&vec![2.0; PINGS / 2]), Some(2.0));
        assert_eq!(median_of_most(&vec![2.0; PINGS / 2 - 1]), None);
    }
}
