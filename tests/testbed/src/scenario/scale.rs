//! Many vifs on one small driver domain, all busy at once.

use std::thread;
use std::time::Duration;

use super::checks::{console_lines, faults_on_console, no_bad_frames, wire_address};
use super::content::{add_address_v6, address_v6, fetch, send, wire_address_v6};
use crate::bed::{ADDRESS_LIMIT, Bed, NETDOM};
use crate::failure::{Doing, Failure, Result, ensure};
use crate::guest::{Guest, GuestConfig, mac};
use crate::suite::TestBed as _;

const GUESTS: u8 = 16;
/// How long the traffic of all guests may take: they share one emulated processor.
const TRAFFIC_LIMIT: Duration = Duration::from_secs(600);

pub(super) fn sixteen_guests_with_two_vifs_each_on_32_mib_all_pass_traffic(bed: &mut Bed) -> Result<()> {
    // They need the memory of all others, and the driver domain must be a small one.
    bed.reset()?;
    let lines = console_lines(bed)?;
    bed.create_netdom("'memory=32'")?;
    let netdom = bed.netdom()?.ok_or_else(|| Failure::new("the driver domain ended right after its start"))?;
    let guests = (1..=GUESTS).map(|number| boot(bed, number)).collect::<Result<Vec<_>>>()?;
    let states = format!("xenstore-ls -f /local/domain/{netdom}/backend/vif | grep -c '/[0-9]*/[0-9]*/state = \"4\"'");
    let connected = bed.dom0().check(&states, Duration::from_secs(20))?;
    ensure(connected.trim() == "32", || format!("{} of 32 vifs are connected", connected.trim()))?;
    let before = bed.wire.counters();
    everybody_at_once(bed, &guests)?;
    let seen = bed.wire.counters().since(&before);
    no_bad_frames(&seen)?;
    faults_on_console(bed, lines)?;
    // The scenarios after this one expect the memory back, and a driver domain of the usual size.
    bed.reset()
}

/// A guest with an IPv4 address on its first vif and an IPv6 address on its second, so that both carry traffic.
fn boot(bed: &Bed, number: u8) -> Result<Guest> {
    let config = GuestConfig {
        name: format!("s{number}"),
        vifs: (0..2).map(|vif| format!("mac={},backend={NETDOM}", mac(number, vif))).collect(),
        ..GuestConfig::numbered(number, NETDOM)
    };
    let guest = Guest::create(bed.dom0(), &config)?;
    for interface in ["eth0", "eth1"] {
        guest.address(interface, ADDRESS_LIMIT).doing(format!("{}'s DHCP on {interface}", guest.name))?;
    }
    let second = add_address_v6("eth1", &address_v6(number, 1));
    guest.check(&format!("kill $(cat /run/udhcpc.eth1.pid); ip -4 addr flush dev eth1; {second}"), ADDRESS_LIMIT)?;
    Ok(guest)
}

fn everybody_at_once(bed: &Bed, guests: &[Guest]) -> Result<()> {
    let (v4, v6) = (wire_address(bed), wire_address_v6(bed));
    let threads: Vec<_> = (1..)
        .zip(guests)
        .map(|(number, guest): (u8, _)| {
            // Its own size gives each guest its own hash.
            let bytes = u64::from(number).saturating_mul(1000).saturating_add(2_000_000);
            let next = address_v6(if number == GUESTS { 1 } else { number.saturating_add(1) }, 1);
            let script = format!(
                "one() {{ {}\n{}\n}}\ntwo() {{ {}\n{}\n}}\n\
                 (one) & first=$!; (two) & second=$!; ping -q -c 20 -W 10 -s 1000 {next} >/run/ping; pinged=$?\n\
                 wait $first || exit 1; wait $second || exit 1\n\
                 [ $pinged = 0 ] || {{ cat /run/ping; exit 1; }}\n\
                 for path in /sys/class/net/eth?/statistics/?x_bytes; do\n\
                 [ $(cat $path) -ge {bytes} ] || {{ echo \"$path: only $(cat $path)\"; exit 1; }}; done",
                fetch(&v4, bytes),
                send(&v4, bytes),
                fetch(&v6, bytes.saturating_add(1)),
                send(&v6, bytes.saturating_add(1)),
            );
            let guest = guest.clone();
            thread::spawn(move || guest.check(&script, TRAFFIC_LIMIT))
        })
        .collect();
    let outcomes: Vec<_> = threads
        .into_iter()
        .map(|thread| thread.join().unwrap_or_else(|_| Err(Failure::new("a traffic thread died"))))
        .collect();
    outcomes.into_iter().try_for_each(|outcome| outcome.map(|_| ()))
}
