//! The page: Prometheus' text format. Names are stable, and listed in `docs/management.md`.

use alloc::string::String;
use core::fmt::{Display, Write as _};

use xen_pv_rt::hyp::MemoryUse;

use crate::nic::Link;
use crate::publish::Board;
use crate::publish::counters::{OF_CARDS, OF_DOMAIN, OF_VIFS};

/// The page as of now. Its length is bounded by the number of cards and vifs: about 600 bytes for each.
pub fn page(board: &Board, memory: MemoryUse) -> String {
    let (work, cards, vifs) = (board.work(), board.cards(), board.vifs());
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
    for (name, get) in OF_DOMAIN {
        let name = &*metric("domain", name);
        typed(&mut page, name, "counter");
        line(&mut page, name, "", get(&work));
    }
    typed(&mut page, "nic_up", "gauge");
    for card in &cards {
        let up = u64::from(card.link != Link::Down);
        line(&mut page, "nic_up", format_args!("nic=\"{}\",pci=\"{}\"", card.index, card.sbdf), up);
    }
    for (name, get) in OF_CARDS {
        let name = &*metric("nic", name);
        typed(&mut page, name, "counter");
        cards.iter().for_each(|card| line(&mut page, name, format_args!("nic=\"{}\"", card.index), get(card)));
    }
    for (name, get) in OF_VIFS {
        let name = &*metric("vif", name);
        typed(&mut page, name, "counter");
        for vif in &vifs {
            line(&mut page, name, format_args!("domid=\"{}\",devid=\"{}\"", vif.frontend, vif.devid), get(vif));
        }
    }
    page
}

/// A counter's name as Prometheus wants it.
fn metric(of: &str, name: &str) -> String {
    alloc::format!("{of}_{}_total", name.replace('-', "_"))
}

// A string takes everything, here and below.
fn typed(page: &mut String, name: &str, kind: &str) {
    let _ = writeln!(page, "# TYPE bulkhead_{name} {kind}");
}

fn line(page: &mut String, name: &str, labels: impl Display, value: u64) {
    let _ = writeln!(page, "bulkhead_{name}{{{labels}}} {value}");
}
