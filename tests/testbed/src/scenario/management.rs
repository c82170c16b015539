//! The driver domain's own address: DHCP from the wire, ping and metrics from a guest.

use std::time::Duration;

use smoltcp::wire::EthernetAddress;

use super::checks::{eventually, no_bad_frames, ping};
use crate::bed::Bed;
use crate::failure::{Doing, Failure, Result, ensure};
use crate::guest::Guest;
use crate::suite::TestBed as _;

const PAGE_LIMIT: Duration = Duration::from_secs(30);

pub(super) fn ping_and_metrics_work_at_the_management_address(bed: &mut Bed) -> Result<()> {
    bed.reset()?;
    let before = bed.wire.counters();
    bed.create_netdom("'extra=\"management=dhcp\"'")?;
    let mac = own_mac(bed)?;
    let lease = |bed: &Bed| bed.wire.leases().into_iter().rev().find(|lease| lease.mac == mac);
    eventually(PAGE_LIMIT, || lease(bed).is_some());
    let lease = lease(bed).ok_or_else(|| Failure::new(format!("{mac} asked for no address")))?;
    let guest = bed.guest(1)?;
    let address = lease.address.to_string();
    ping(&guest, &address)?;
    let sizes = format!("for size in 0 1 100 1471 1472; do ping -q -c 1 -W 5 -s $size {address} || exit 1; done");
    guest.check(&sizes, PAGE_LIMIT)?;
    let name = format!("bulkhead_vif_tx_packets_total{{domid=\"{}\",devid=\"0\"}}", guest.domid);
    let first = sample(&guest, &address, &name)?;
    ping(&guest, &address)?;
    let second = sample(&guest, &address, &name)?;
    ensure(first > 0 && second >= first.saturating_add(5), || format!("{name}: {first}, then {second}"))?;
    ensure(sample(&guest, &address, "bulkhead_nic_up{nic=\"0\"")? == 1, || "the card is not up".into())?;
    hostile_requests_do_no_harm(&guest, &address)?;
    sample(&guest, &address, &name).doing("after hostile requests")?;
    no_bad_frames(&bed.wire.counters().since(&before))?;
    bed.reset()
}

/// The number of the sample whose line starts with `name`.
fn sample(guest: &Guest, address: &str, name: &str) -> Result<u64> {
    // Not `-T`: with it, the busybox of Debian 12 crashes when a page comes in pieces.
    let page = guest.check(&format!("timeout 15 wget -q -O - http://{address}:9100/metrics"), PAGE_LIMIT)?;
    let line = page.lines().find(|line| line.starts_with(name));
    let value = line.and_then(|line| line.rsplit_once(' ')?.1.parse().ok());
    value.ok_or_else(|| Failure::new(format!("no {name} in:\n{page}")))
}

/// Connections that say nothing, more of them than there are, and garbage.
fn hostile_requests_do_no_harm(guest: &Guest, address: &str) -> Result<()> {
    let script = format!(
        "for i in 1 2 3 4 5 6; do (sleep 3 | nc {address} 9100 >/dev/null 2>&1) & done; wait\n\
         head -c 100000 /dev/urandom | timeout 5 nc {address} 9100 >/dev/null 2>&1; true"
    );
    guest.check(&script, PAGE_LIMIT).map(|_| ())
}

/// The management address's MAC, as `docs/management.md` says: from the card's.
fn own_mac(bed: &Bed) -> Result<EthernetAddress> {
    let card: EthernetAddress = bed.nic().mac().parse().map_err(|()| Failure::new("the card's MAC"))?;
    let [first, rest @ ..] = card.0;
    let [b, c, d, e, f] = rest;
    Ok(EthernetAddress([(first | 2) ^ 8, b, c, d, e, f]))
}
