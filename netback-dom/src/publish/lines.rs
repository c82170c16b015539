//! Reports as words: `name=value name=value`. Names are stable; new ones may be added at the end.

use alloc::format;
use alloc::string::String;

use xen_pv_rt::hyp::MemoryUse;
use xen_pv_rt::statistics::Words;

use super::counters::{OF_CARDS, OF_DOMAIN, OF_VIFS};
use super::{CardReport, VifReport, Work};
use crate::nic::Link;
use crate::vif::Cause;
use crate::vif::counters::DropCounts;

/// The domain: version, memory, vifs in service, what it has done.
pub fn domain_line(memory: MemoryUse, vifs: usize, work: Work) -> String {
    let words = Words::of_domain(env!("CARGO_PKG_VERSION"), memory).with("vifs", vifs);
    words.with_counters(&work, &OF_DOMAIN).into_line()
}

/// A card: what it is, its link, its counters. `link=` is `up` or `down`; `speed=`, in Mbit/s, is 0 if it is unknown.
pub fn card_line(card: &CardReport) -> String {
    let (link, speed) = match card.link {
        Link::Up(speed) => ("up", speed),
        Link::Down => ("down", 0),
    };
    let words =
        Words::new().with("pci", card.sbdf).with("card", format_args!("\"{}\"", card.name)).with("mac", card.mac);
    words.with("link", link).with("speed", speed).with_counters(card, &OF_CARDS).into_line()
}

/// A vif: its counters, and those causes of drops that happened, as `tx-drop-CODE=` and `rx-drop-CODE=`, as far as they fit.
pub fn vif_line(vif: &VifReport) -> String {
    let words = Words::new().with_counters(vif, &OF_VIFS);
    let words = with_drops(words, "tx", &vif.counters.tx_drops);
    with_drops(words, "rx", &vif.counters.rx_drops).into_line()
}

fn with_drops(words: Words, direction: &str, drops: &DropCounts) -> Words {
    let happened = Cause::ALL.iter().map(|cause| (cause, drops.of(*cause))).filter(|(_, count)| *count != 0);
    happened.fold(words, |words, (cause, count)| words.with(&format!("{direction}-drop-{}", cause.code()), count))
}

#[cfg(test)]
mod tests;
