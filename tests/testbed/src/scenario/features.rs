//! What netif offers beyond plain packets, as stock guests use it.

use std::time::Duration;

use super::checks::{no_bad_frames, wire_address};
use crate::bed::{Bed, NETDOM};
use crate::failure::{Doing, Failure, Result, ensure};
use crate::guest::{Guest, GuestConfig};
use crate::wire::pattern;

/// Bytes of each download.
const BYTES: u64 = 1_500_000;
/// Downloads at the same time, each a flow of its own.
const FLOWS: usize = 8;

pub(super) fn flows_of_a_guest_use_all_its_queues(bed: &mut Bed) -> Result<()> {
    let config = GuestConfig { vcpus: 4, memory_mib: 256, ..GuestConfig::numbered(7, NETDOM) };
    let guest = bed.guest_with(&config)?;
    let queues = guest.check("ls /sys/class/net/eth0/queues", Duration::from_secs(10))?;
    for queue in ["rx-0", "rx-3", "tx-0", "tx-3"] {
        ensure(queues.contains(queue), || format!("the guest has no queue {queue}: {queues}"))?;
    }
    let before = bed.wire.counters();
    let idle = interrupts(&guest)?;
    let (wire, hash) = (wire_address(bed), pattern::sha256(BYTES));
    let script = format!(
        "for i in $(seq {FLOWS}); do wget -q -O - http://{wire}/bytes/{BYTES} | sha256sum >/run/sum.$i & done; wait\n\
         [ $(cat /run/sum.* | grep -c {hash}) = {FLOWS} ] || {{ cat /run/sum.*; exit 1; }}"
    );
    guest.check(&script, Duration::from_secs(240)).doing("downloads at the same time")?;
    let busy = interrupts(&guest)?;
    ensure(idle.len() == 4 && busy.len() == 4, || format!("receive interrupts of {} queues", busy.len()))?;
    let used: Vec<u64> = busy.iter().zip(&idle).map(|(after, before)| after.saturating_sub(*before)).collect();
    // Eight flows leave a queue out now and then, but not three.
    ensure(used.iter().filter(|count| **count > 20).count() >= 2, || format!("interrupts by queue: {used:?}"))?;
    no_bad_frames(&bed.wire.counters().since(&before))?;
    bed.destroy(guest)
}

/// Receive interrupts of each queue so far.
fn interrupts(guest: &Guest) -> Result<Vec<u64>> {
    let script = "awk '/vif0-q[0-9]+-rx/ { sum = 0; for (i = 2; i <= NF && $i ~ /^[0-9]+$/; i++) sum += $i; print sum }' /proc/interrupts";
    let counts = guest.check(script, Duration::from_secs(10))?;
    let parsed: Option<Vec<u64>> = counts.lines().map(|line| line.trim().parse().ok()).collect();
    parsed.ok_or_else(|| Failure::new(format!("no interrupt counts in {counts:?}")))
}
