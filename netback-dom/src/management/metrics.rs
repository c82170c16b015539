//! The page: Prometheus' text format. Names are stable, and listed in `docs/management.md`.

use alloc::string::String;
use core::fmt::{Display, Write as _};

use xen_pv_rt::hyp::MemoryUse;

use crate::nic::Link;
use crate::publish::{CardReport, VifReport};

/// A counter of a report.
type Get<T> = fn(&T) -> u64;

const OF_CARDS: [(&str, Get<CardReport>); 7] = [
    ("tx_frames_total", |card| card.counters.tx_frames),
    ("tx_bytes_total", |card| card.counters.tx_bytes),
    ("tx_dropped_total", |card| card.counters.tx_dropped),
    ("rx_frames_total", |card| card.counters.rx_frames),
    ("rx_bytes_total", |card| card.counters.rx_bytes),
    ("rx_dropped_total", |card| card.counters.rx_dropped),
    ("resets_total", |card| card.counters.resets),
];

const OF_VIFS: [(&str, Get<VifReport>); 7] = [
    ("tx_packets_total", |vif| vif.counters.tx.packets),
    ("tx_bytes_total", |vif| vif.counters.tx.bytes),
    ("tx_dropped_total", |vif| vif.counters.tx_drops.total()),
    ("rx_packets_total", |vif| vif.counters.rx.packets),
    ("rx_bytes_total", |vif| vif.counters.rx.bytes),
    ("rx_dropped_total", |vif| vif.counters.rx_drops.total()),
    ("notifications_total", |vif| vif.counters.notifications),
];

/// The page as of now. Its length is bounded by the number of cards and vifs: about 600 bytes for each.
pub fn page(cards: &[CardReport], vifs: &[VifReport], memory: MemoryUse) -> String {
    let mut page = String::new();
    typed(&mut page, "build_info", "gauge");
    line(&mut page, "build_info", format_args!("version=\"{}\"", env!("CARGO_PKG_VERSION")), 1);
    typed(&mut page, "memory_bytes", "gauge");
    for (kind, bytes) in [
        ("total", memory.total_kib().saturating_mul(1024)),
        ("used", memory.used_kib().saturating_mul(1024)),
        ("heap", memory.heap_bytes),
    ] {
        line(&mut page, "memory_bytes", format_args!("kind=\"{kind}\""), bytes);
    }
    typed(&mut page, "nic_up", "gauge");
    for card in cards {
        let up = u64::from(card.link != Link::Down);
        line(&mut page, "nic_up", format_args!("nic=\"{}\",pci=\"{}\"", card.index, card.sbdf), up);
    }
    for (name, get) in OF_CARDS {
        let name = &*alloc::format!("nic_{name}");
        typed(&mut page, name, "counter");
        cards.iter().for_each(|card| line(&mut page, name, format_args!("nic=\"{}\"", card.index), get(card)));
    }
    for (name, get) in OF_VIFS {
        let name = &*alloc::format!("vif_{name}");
        typed(&mut page, name, "counter");
        for vif in vifs {
            line(&mut page, name, format_args!("domid=\"{}\",devid=\"{}\"", vif.frontend, vif.devid), get(vif));
        }
    }
    page
}

// A string takes everything, here and below.
fn typed(page: &mut String, name: &str, kind: &str) {
    let _ = writeln!(page, "# TYPE bulkhead_{name} {kind}");
}

fn line(page: &mut String, name: &str, labels: impl Display, value: u64) {
    let _ = writeln!(page, "bulkhead_{name}{{{labels}}} {value}");
}
