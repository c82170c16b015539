//! Devices that come and go while their domain runs.

use super::checks::{nothing_left_behind, ping, stock, wire_address, xl_quietly};
use crate::bed::{ADDRESS_LIMIT, Bed, NETDOM};
use crate::failure::{Doing, Result};
use crate::guest::mac;
use crate::shell::until;

const ROUNDS: u8 = 10;

pub(super) fn hot_attach_and_detach_ten_times_leaks_nothing(bed: &mut Bed) -> Result<()> {
    let guest = bed.guest(1)?;
    // The first round warms up what is kept on purpose (xenstore directories, frontend state).
    round(bed, 0)?;
    let before = stock(bed)?;
    for number in 1..=ROUNDS {
        round(bed, number).doing(format!("round {number}"))?;
    }
    nothing_left_behind(bed, &before)?;
    ping(&guest, &wire_address(bed))
}

fn round(bed: &mut Bed, number: u8) -> Result<()> {
    let guest = bed.guest(1)?;
    let name = &guest.name;
    xl_quietly(bed, &format!("network-attach {name} mac={} backend={NETDOM}", mac(number, 1)))?;
    guest.bring_up("eth1", ADDRESS_LIMIT).doing("the new vif")?;
    let wire = wire_address(bed);
    let script = format!(
        "ip addr flush dev eth0; ping -c 1 -W 3 {wire}; status=$?; udhcpc -i eth0 -n -q >/dev/null 2>&1; exit $status"
    );
    guest.check(&script, ADDRESS_LIMIT).doing("ping through the new vif")?;
    xl_quietly(bed, &format!("network-detach {name} 1"))?;
    guest.check(&until("[ ! -e /sys/class/net/eth1 ]"), ADDRESS_LIMIT).doing("waiting for the vif to go").map(|_| ())
}
