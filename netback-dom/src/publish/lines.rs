//! Reports as words: `name=value name=value`. Names are stable; new ones may be added at the end.

use alloc::format;
use alloc::string::String;

use xen_pv_rt::hyp::MemoryUse;

use super::{CardReport, VifReport};
use crate::nic::Link;
use crate::vif::Cause;
use crate::vif::counters::DropCounts;

/// Most bytes of a node: Xen's default quota (`entry-size`).
const MAX_LINE: usize = 2048;

/// The domain: version and memory.
pub fn domain_line(memory: MemoryUse, vifs: usize) -> String {
    format!(
        "version={} memory-total-kib={} memory-used-kib={} heap-used-bytes={} vifs={vifs}",
        env!("CARGO_PKG_VERSION"),
        memory.total_kib(),
        memory.used_kib(),
        memory.heap_bytes,
    )
}

/// A card: what it is, its link, its counters. `link=` is `up` or `down`; `speed=`, in Mbit/s, is 0 if it is unknown.
pub fn card_line(card: &CardReport) -> String {
    let (link, speed) = match card.link {
        Link::Up(speed) => ("up", speed),
        Link::Down => ("down", 0),
    };
    let counters = &card.counters;
    format!(
        "pci={} card=\"{}\" mac={} link={link} speed={speed} tx-frames={} tx-bytes={} tx-dropped={} rx-frames={} \
         rx-bytes={} rx-dropped={} resets={}",
        card.sbdf,
        card.name,
        card.mac,
        counters.tx_frames,
        counters.tx_bytes,
        counters.tx_dropped,
        counters.rx_frames,
        counters.rx_bytes,
        counters.rx_dropped,
        counters.resets,
    )
}

/// A vif: its counters, and those causes of drops that happened, as `tx-drop-CODE=` and `rx-drop-CODE=`, as far as they fit.
pub fn vif_line(vif: &VifReport) -> String {
    let counters = &vif.counters;
    let mut line = format!(
        "tx-packets={} tx-bytes={} tx-dropped={} rx-packets={} rx-bytes={} rx-dropped={} notifications={}",
        counters.tx.packets,
        counters.tx.bytes,
        counters.tx_drops.total(),
        counters.rx.packets,
        counters.rx.bytes,
        counters.rx_drops.total(),
        counters.notifications,
    );
    add_drops(&mut line, "tx", &counters.tx_drops);
    add_drops(&mut line, "rx", &counters.rx_drops);
    line
}

fn add_drops(line: &mut String, direction: &str, drops: &DropCounts) {
    for cause in Cause::ALL {
        let count = drops.of(*cause);
        if count != 0 {
            let word = format!(" {direction}-drop-{}={count}", cause.code());
            if line.len().saturating_add(word.len()) <= MAX_LINE {
                line.push_str(&word);
            }
        }
    }
}

#[cfg(test)]
mod tests;
