//! A card with several queue pairs.

use std::time::Duration;

use serde_json::{Value, json};

use super::checks::{no_bad_frames, wire_address};
use crate::bed::{Bed, NETDOM};
use crate::failure::{Doing, Failure, Result, ensure};
use crate::guest::console_log;
use crate::nic::QUEUE_PAIRS;
use crate::wire::pattern;

/// Bytes of each download.
const BYTES: u64 = 1_500_000;
/// Downloads at the same time, each a flow of its own: with sixteen, a queue without any is rare, and three are not
/// to be expected.
const FLOWS: usize = 16;
const LIMIT: Duration = Duration::from_secs(240);

pub(super) fn flows_use_several_queue_pairs_of_the_card(bed: &mut Bed) -> Result<()> {
    let guest = bed.guest(1)?;
    let log = bed.dom0().check(&format!("cat {}", console_log(NETDOM)), LIMIT)?;
    let says = format!("{QUEUE_PAIRS} queue pairs");
    ensure(log.contains(&says), || format!("the driver domain does not say {says:?}"))?;
    let (frames, idle) = (bed.wire.counters(), used(bed)?);
    let (wire, hash) = (wire_address(bed), pattern::sha256(BYTES));
    let script = format!(
        "for i in $(seq {FLOWS}); do wget -q -O - http://{wire}/bytes/{BYTES} | sha256sum >/run/sum.$i & done; wait\n\
         [ $(cat /run/sum.* | grep -c {hash}) = {FLOWS} ] || {{ cat /run/sum.*; exit 1; }}"
    );
    guest.check(&script, LIMIT).doing("downloads at the same time")?;
    let busy = used(bed)?;
    let moved: Vec<bool> = idle.iter().zip(&busy).map(|(before, after)| before != after).collect();
    // Even numbers receive. The tap gives a flow to the pair that it was sent on.
    for direction in 0..2 {
        let queues = moved.iter().skip(direction).step_by(2).filter(|moved| **moved).count();
        ensure(queues >= 2, || format!("queues that moved: {moved:?}"))?;
    }
    no_bad_frames(&bed.wire.counters().since(&frames))
}

/// How far the device has got with each queue of the pairs.
fn used(bed: &Bed) -> Result<Vec<u64>> {
    let devices = bed.machine.monitor("x-query-virtio", &json!({}))?;
    let net = |device: &&Value| device.get("name").and_then(Value::as_str) == Some("virtio-net");
    let device = devices.as_array().into_iter().flatten().find(net);
    let path = device.and_then(|device| device.get("path"));
    let path = path.ok_or_else(|| Failure::new(format!("QEMU has no virtio-net in {devices}")))?;
    (0..2 * QUEUE_PAIRS)
        .map(|queue| {
            let status =
                bed.machine.monitor("x-query-virtio-queue-status", &json!({ "path": path, "queue": queue }))?;
            let index = status.get("used-idx").and_then(Value::as_u64);
            index.ok_or_else(|| Failure::new(format!("QEMU says of queue {queue}: {status}")))
        })
        .collect()
}
