//! Reports as words: `name=value name=value`. Names are stable; new ones may be added at the end.

use alloc::format;
use alloc::string::String;
use core::fmt::Write as _;

use xen_pv_rt::hyp::MemoryUse;

use super::counters::{OF_CARDS, OF_DOMAIN, OF_VIFS};
use super::{CardReport, VifReport, Work};
use crate::nic::Link;
use crate::vif::Cause;
use crate::vif::counters::DropCounts;

/// Most bytes of a node: Xen's default quota (`entry-size`).
const MAX_LINE: usize = 2048;

/// The domain: version, memory, vifs in service, what it has done.
pub fn domain_line(memory: MemoryUse, vifs: usize, work: Work) -> String {
    let mut line = format!(
        "version={} memory-total-kib={} memory-used-kib={} heap-used-bytes={} vifs={vifs}",
        env!("CARGO_PKG_VERSION"),
        memory.total_kib(),
        memory.used_kib(),
        memory.heap_bytes,
    );
    for (name, get) in OF_DOMAIN {
        add(&mut line, name, get(&work));
    }
    line
}

/// A card: what it is, its link, its counters. `link=` is `up` or `down`; `speed=`, in Mbit/s, is 0 if it is unknown.
pub fn card_line(card: &CardReport) -> String {
    let (link, speed) = match card.link {
        Link::Up(speed) => ("up", speed),
        Link::Down => ("down", 0),
    };
    let mut line = format!("pci={} card=\"{}\" mac={} link={link} speed={speed}", card.sbdf, card.name, card.mac);
    for (name, get) in OF_CARDS {
        add(&mut line, name, get(card));
    }
    line
}

/// A vif: its counters, and those causes of drops that happened, as `tx-drop-CODE=` and `rx-drop-CODE=`, as far as they fit.
pub fn vif_line(vif: &VifReport) -> String {
    let mut line = String::new();
    for (name, get) in OF_VIFS {
        add(&mut line, name, get(vif));
    }
    add_drops(&mut line, "tx", &vif.counters.tx_drops);
    add_drops(&mut line, "rx", &vif.counters.rx_drops);
    line
}

/// Adds a counter to a line.
fn add(line: &mut String, name: &str, count: u64) {
    let space = if line.is_empty() { "" } else { " " };
    // A string takes everything.
    let _ = write!(line, "{space}{name}={count}");
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
