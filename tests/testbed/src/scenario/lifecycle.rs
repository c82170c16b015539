//! Domains that end: guests under traffic, guests that come back, and the driver domain itself.

use std::time::Duration;

use super::checks::{nothing_left_behind, ping, stock, wire_address, xl_quietly};
use crate::bed::{ADDRESS_LIMIT, Bed, NETDOM};
use crate::failure::{Doing, Failure, Result, ensure};
use crate::guest::{GuestConfig, XL_LIMIT};
use crate::shell::until;

pub(super) fn guest_reboots_and_is_back_on_the_network(bed: &mut Bed) -> Result<()> {
    let mut guest = bed.guest(2)?;
    let before = guest.domid;
    guest.reboot()?;
    ensure(guest.domid != before, || format!("{} kept domain id {before}", guest.name))?;
    guest.address("eth0", ADDRESS_LIMIT).doing("DHCP after the reboot")?;
    bed.keep(guest.clone());
    ping(&guest, &wire_address(bed))
}

pub(super) fn guest_destroyed_under_traffic_leaves_nothing(bed: &mut Bed) -> Result<()> {
    let witness = bed.guest(1)?;
    let wire = wire_address(bed);
    let before = stock(bed)?;
    for round in 0..2 {
        let victim = bed.guest_with(&GuestConfig::numbered(3, NETDOM))?;
        let script = format!(
            "nc {wire} 19 >/dev/null & nc {wire} 9 </dev/zero >/dev/null & ping -s 1400 -i 0.02 {wire} >/dev/null & sleep 3"
        );
        let flowing = bed.wire.counters();
        victim.check(&script, Duration::from_secs(20)).doing("starting traffic")?;
        let seen = bed.wire.counters().since(&flowing);
        ensure(seen.tcp_sink_bytes > 0 && seen.tcp_source_bytes > 0, || {
            format!("no traffic in round {round}: {seen:?}")
        })?;
        bed.destroy(victim)?;
        ping(&witness, &wire).doing("another guest after the destruction")?;
    }
    nothing_left_behind(bed, &before)
}

pub(super) fn driver_domain_shuts_down_and_serves_again(bed: &mut Bed) -> Result<()> {
    let old = bed.ensure_netdom()?;
    // One guest is still attached while its backend goes.
    bed.guest(1)?;
    bed.dom0().check(&format!("xl shutdown -w {NETDOM}"), Duration::from_secs(60)).doing("xl shutdown")?;
    let gone = format!("{{ {}; }} || {{ xl list; exit 1; }}", until(&format!("! xl domid {NETDOM} >/dev/null 2>&1")));
    bed.dom0().check(&gone, XL_LIMIT).doing("waiting for the driver domain to be gone")?;
    for number in [1, 2] {
        let guest = bed.guest_if_running(number);
        guest.map_or(Ok(()), |guest| bed.destroy(guest))?;
    }
    let new = bed.ensure_netdom()?;
    ensure(new != old, || format!("the driver domain kept id {old}"))?;
    let guest = bed.guest(1)?;
    ping(&guest, &wire_address(bed))?;
    xl_quietly(bed, &format!("network-attach {} backend={NETDOM}", guest.name))?;
    xl_quietly(bed, &format!("network-detach {} 1", guest.name))?;
    bed.netdom()?.map(|_| ()).ok_or_else(|| Failure::new("the new driver domain is gone"))
}
