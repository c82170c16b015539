//! Minutes of bulk traffic while guests and vifs come and go in an order drawn from a seed.
//!
//! Two guests stay and move data without a break, each byte of it compared; around them others are created, rebooted
//! and destroyed under traffic, and vifs are attached and detached, Dom0's among them. First everything that may come
//! does: queues and tables that keep their room have reached their size then. What the driver domain uses must not
//! grow from there.

use std::fmt;
use std::time::{Duration, Instant};

use smoltcp::wire::{IpEndpoint, Ipv4Address};

use super::checks::{
    console_lines, eventually, faults_on_console, no_bad_frames, nothing_left_behind, ping, stock, wire_address,
    xl_quietly,
};
use super::content::{add_address_v6, address_v6, fetch, send, wire_address_v6};
use super::statistics::{number, statistics};
use crate::bed::{ADDRESS_LIMIT, Bed, NETDOM};
use crate::failure::{Doing, Result, ensure};
use crate::guest::{Guest, GuestConfig, mac};
use crate::shell::until;
use crate::wire::services::Burst;

/// Number of the first guest that comes and goes.
const VISITOR: u8 = 7;
/// With less, its kernel cannot unpack the initramfs.
const VISITOR_MIB: u32 = 256;
/// How long a guest may take to end what its loop is at.
const LOOP_LIMIT: Duration = Duration::from_secs(330);
const COMMAND_LIMIT: Duration = Duration::from_secs(30);
/// How much the heap may differ for reasons of the moment: a line of text more, a request under way.
const HEAP_SLACK: u64 = 4 << 10;
/// A burst: large enough to fill queues, small enough to be over before the next step.
const BURST_DATAGRAMS: u64 = 500;

pub(super) fn traffic_survives_guests_and_vifs_that_come_and_go(bed: &mut Bed) -> Result<()> {
    let (duration, seed) = (bed.config.soak, bed.config.seed);
    let residents = [bed.guest(1)?, bed.guest(2)?];
    let (before, at_start, lines) = (stock(bed)?, memory_use(bed)?, console_lines(bed)?);
    let frames = bed.wire.counters();
    start_loops(bed, &residents)?;
    let mut soak =
        Soak { residents, second_vif: [false; 2], dom0_vif: false, visitors: [None, None], random: seed, steps: 0 };
    soak.all_at_once(bed).doing("everybody at once")?;
    let warm = memory_use(bed)?;
    soak.go_on(bed, duration).doing(format!("seed {seed}"))?;
    let at_end = memory_use(bed)?;
    let rounds = stop_loops(&soak.residents)?;
    println!("    {} steps from seed {seed}, rounds of traffic: {rounds:?}", soak.steps);
    println!("    memory: {at_start} at the start, {warm} after everybody at once, {at_end} after all steps");
    no_bad_frames(&bed.wire.counters().since(&frames))?;
    faults_on_console(bed, lines)?;
    nothing_left_behind(bed, &before)?;
    ensure(!at_end.exceeds(&warm), || format!("memory has grown: {warm} before the steps, {at_end} after them"))?;
    soak.residents.iter().try_for_each(|guest| ping(guest, &wire_address(bed)))
}

/// What the driver domain says of its memory.
#[derive(Debug)]
struct MemoryUse {
    heap_bytes: u64,
    used_kib: u64,
}

impl MemoryUse {
    /// Whether more is in use than at an `earlier` time for reasons that are not of the moment.
    fn exceeds(&self, earlier: &Self) -> bool {
        self.heap_bytes > earlier.heap_bytes.saturating_add(HEAP_SLACK) || self.used_kib > earlier.used_kib
    }
}

impl fmt::Display for MemoryUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes of heap, {} KiB of pages", self.heap_bytes, self.used_kib)
    }
}

/// The driver domain's memory with the two guests that stay and nobody else.
fn memory_use(bed: &Bed) -> Result<MemoryUse> {
    let domain = || statistics(bed, "domain").ok().flatten();
    let settled = || domain().is_some_and(|words| number(&words, "vifs") == 2);
    eventually(Duration::from_secs(30), settled);
    ensure(settled(), || format!("not two vifs: {:?}", domain()))?;
    // Two more rounds of publishing: what the first one used is counted only in the next.
    std::thread::sleep(Duration::from_secs(11));
    let words = domain().unwrap_or_default();
    Ok(MemoryUse { heap_bytes: number(&words, "heap-used-bytes"), used_kib: number(&words, "memory-used-kib") })
}

#[derive(Debug, Clone, Copy)]
enum Action {
    /// A second vif for a guest that stays, or its end.
    SecondVif(usize),
    /// A vif for Dom0, or its end.
    Dom0Vif,
    /// A guest comes, or goes.
    Visitor(usize),
    /// A guest that came reboots.
    Reboot(usize),
    /// Datagrams as fast as the wire can, to a guest that stays.
    Burst(usize),
}

struct Soak {
    residents: [Guest; 2],
    second_vif: [bool; 2],
    dom0_vif: bool,
    visitors: [Option<Guest>; 2],
    random: u64,
    steps: u32,
}

impl Soak {
    /// Everything that may come does, and goes.
    fn all_at_once(&mut self, bed: &mut Bed) -> Result<()> {
        self.act(bed, Action::Dom0Vif)?;
        for which in 0..2 {
            self.act(bed, Action::SecondVif(which))?;
            self.act(bed, Action::Burst(which))?;
            self.act(bed, Action::Visitor(which))?;
        }
        self.leave(bed)
    }

    /// Takes steps for so long, then everything that came goes.
    fn go_on(&mut self, bed: &mut Bed, duration: Duration) -> Result<()> {
        let started = Instant::now();
        while started.elapsed() < duration {
            self.steps = self.steps.saturating_add(1);
            let action = self.choose();
            self.act(bed, action).doing(format!("step {}, {action:?}", self.steps))?;
        }
        self.leave(bed).doing(format!("after {} steps", self.steps))
    }

    /// A number below `end`: SplitMix64.
    fn below(&mut self, end: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.random ^ (self.random >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)).checked_rem(end).unwrap_or(0)
    }

    fn choose(&mut self) -> Action {
        let which = usize::from(self.below(2) == 1);
        match self.below(8) {
            0..3 => Action::SecondVif(which),
            3 => Action::Dom0Vif,
            4 => Action::Burst(which),
            5 => Action::Reboot(which),
            _ => Action::Visitor(which),
        }
    }

    fn act(&mut self, bed: &mut Bed, action: Action) -> Result<()> {
        match action {
            Action::SecondVif(which) => self.toggle_second_vif(bed, which),
            Action::Dom0Vif => self.toggle_dom0_vif(bed),
            Action::Visitor(which) => self.toggle_visitor(bed, which),
            Action::Reboot(which) => self.reboot(bed, which),
            Action::Burst(which) => self.burst(bed, which),
        }
    }

    fn toggle_second_vif(&mut self, bed: &Bed, which: usize) -> Result<()> {
        let (Some(guest), Some(attached)) = (self.residents.get(which), self.second_vif.get_mut(which)) else {
            return Ok(());
        };
        let (name, number) = (&guest.name, number_of(which));
        *attached = !*attached;
        if *attached {
            xl_quietly(bed, &format!("network-attach {name} mac={} backend={NETDOM}", mac(number, 1)))?;
            let script =
                format!("{}; {}", until("[ -e /sys/class/net/eth1 ]"), add_address_v6("eth1", &address_v6(number, 1)));
            guest.check(&script, COMMAND_LIMIT).doing("the new vif")?;
            return ping(guest, &wire_address_v6(bed));
        }
        xl_quietly(bed, &format!("network-detach {name} 1"))?;
        guest
            .check(&until("[ ! -e /sys/class/net/eth1 ]"), COMMAND_LIMIT)
            .doing("waiting for the vif to go")
            .map(|_| ())
    }

    fn toggle_dom0_vif(&mut self, bed: &Bed) -> Result<()> {
        self.dom0_vif = !self.dom0_vif;
        if !self.dom0_vif {
            return xl_quietly(bed, "network-detach 0 0");
        }
        xl_quietly(bed, &format!("network-attach 0 mac={} backend={NETDOM}", mac(0xD0, 0)))?;
        let script = format!(
            "{}\nudhcpc -i eth0 -n -q -t 20 -T 1 || exit 1; ping -c 3 -W 5 {}",
            until("[ -e /sys/class/net/eth0 ]"),
            wire_address(bed)
        );
        bed.dom0().check(&script, COMMAND_LIMIT).doing("Dom0 on its vif").map(|_| ())
    }

    fn toggle_visitor(&mut self, bed: &mut Bed, which: usize) -> Result<()> {
        if let Some(guest) = self.visitors.get_mut(which).and_then(Option::take) {
            return bed.destroy(guest);
        }
        let number = VISITOR.saturating_add(number_of(which));
        let config = GuestConfig { memory_mib: VISITOR_MIB, ..GuestConfig::numbered(number, NETDOM) };
        let guest = bed.guest_with(&config)?;
        make_traffic(bed, &guest)?;
        if let Some(slot) = self.visitors.get_mut(which) {
            *slot = Some(guest);
        }
        Ok(())
    }

    fn reboot(&mut self, bed: &mut Bed, which: usize) -> Result<()> {
        let Some(Some(guest)) = self.visitors.get_mut(which) else { return Ok(()) };
        guest.reboot()?;
        guest.address("eth0", ADDRESS_LIMIT).doing("DHCP after the reboot")?;
        bed.keep(guest.clone());
        make_traffic(bed, guest)
    }

    fn burst(&mut self, bed: &Bed, which: usize) -> Result<()> {
        let payload_bytes = usize::try_from(self.below(1472)).unwrap_or(0).saturating_add(1);
        let Some(guest) = self.residents.get(which) else { return Ok(()) };
        let address: Ipv4Address = guest.address("eth0", ADDRESS_LIMIT)?.parse().doing("the guest's address")?;
        let to = IpEndpoint::new(address.into(), 5000);
        bed.wire.send_datagrams(Burst { to, payload_bytes, count: BURST_DATAGRAMS, per_second: 5000 });
        Ok(())
    }

    /// Everything that came goes.
    fn leave(&mut self, bed: &mut Bed) -> Result<()> {
        for which in 0..2 {
            if self.visitors.get(which).is_some_and(Option::is_some) {
                self.toggle_visitor(bed, which)?;
            }
            if self.second_vif.get(which) == Some(&true) {
                self.toggle_second_vif(bed, which)?;
            }
        }
        if self.dom0_vif { self.toggle_dom0_vif(bed) } else { Ok(()) }
    }
}

/// Number of a guest that stays, from its index.
fn number_of(which: usize) -> u8 {
    u8::try_from(which).unwrap_or(0).saturating_add(1)
}

/// Traffic of a guest that will be destroyed or rebooted in the middle of it, so nobody looks at its end. It pauses
/// now and then: with one emulated processor for all, nothing else would get on.
fn make_traffic(bed: &Bed, guest: &Guest) -> Result<()> {
    let (wire, v6) = (wire_address(bed), wire_address_v6(bed));
    let script = format!(
        "{}; while sleep 1; do nc {wire} 19 2>/dev/null | head -c 2000000 >/dev/null; done &\n\
         while sleep 1; do head -c 2000000 /dev/zero; done | nc {v6} 9 >/dev/null 2>&1 &\n\
         ping -s 1400 -i 0.05 {wire} >/dev/null 2>&1 & true",
        add_address_v6("eth0", &format!("fd00::7:{:x}", guest.domid)),
    );
    guest.check(&script, COMMAND_LIMIT).doing("starting traffic").map(|_| ())
}

/// Starts the loops of the guests that stay: to and from the wire, and from the first guest to the second.
fn start_loops(bed: &Bed, residents: &[Guest; 2]) -> Result<()> {
    let wire = wire_address(bed);
    let [first, second] = residents;
    let address = first.address("eth0", ADDRESS_LIMIT)?;
    let serve = "mkdir -p /run/www && head -c 3000000 /dev/urandom >/run/www/file && httpd -h /run/www && sha256sum </run/www/file";
    let sum = first.check(serve, COMMAND_LIMIT)?;
    let fetch_from_guest = format!(
        "sum=$(timeout 300 wget -q -O - http://{address}/file | sha256sum); [ \"${{sum%% *}}\" = {want} ] || \
         {{ echo \"the file of {name} has the sum $sum\"; exit 1; }}",
        want = sum.split_whitespace().next().unwrap_or_default(),
        name = first.name,
    );
    run_loop(first, &format!("{}\n{}", fetch(&wire, 3_000_003), send(&wire, 2_000_001)))?;
    run_loop(second, &format!("{}\n{fetch_from_guest}\n{}", fetch(&wire, 2_000_007), send(&wire, 1_000_003)))
}

/// Repeats a script in a guest until told to stop, and counts; the first failure ends it.
fn run_loop(guest: &Guest, body: &str) -> Result<()> {
    let script = format!(
        "rm -f /run/soak.*; : >/run/soak.rounds\n\
         cat >/run/soak.sh <<'END'\nround() {{\n{body}\n}}\n\
         while [ ! -e /run/soak.stop ]; do (round) >>/run/soak.said 2>&1 || {{ echo failed >/run/soak.failed; break; }}\n\
         echo >>/run/soak.rounds; sleep 1; done; : >/run/soak.done\nEND\n\
         setsid sh /run/soak.sh >/dev/null 2>&1 </dev/null &"
    );
    guest.check(&script, COMMAND_LIMIT).doing(format!("starting the loop in {}", guest.name)).map(|_| ())
}

/// Ends the loops; the rounds that each made, at least one.
fn stop_loops(residents: &[Guest; 2]) -> Result<Vec<u32>> {
    let mut rounds = Vec::new();
    for guest in residents {
        let script = "touch /run/soak.stop; until [ -e /run/soak.done ]; do sleep 0.2; done\n\
                      cat /run/soak.said; [ ! -e /run/soak.failed ] || exit 1; wc -l </run/soak.rounds";
        let output = guest.check(script, LOOP_LIMIT).doing(format!("the traffic of {}", guest.name))?;
        let count = output.lines().last().and_then(|line| line.trim().parse().ok()).unwrap_or(0);
        ensure(count > 0, || format!("{} finished no round of its traffic: {output}", guest.name))?;
        rounds.push(count);
    }
    residents
        .iter()
        .try_for_each(|guest| guest.check("killall httpd; rm -rf /run/www; true", COMMAND_LIMIT).map(drop))?;
    Ok(rounds)
}
