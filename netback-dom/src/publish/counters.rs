//! The counters of a report, by name: for xenstore and for the metrics page. Names are stable.

use xen_pv_rt::statistics::Counter;

use super::{CardReport, VifReport, Work};

/// Those of the domain.
pub(crate) const OF_DOMAIN: [Counter<Work>; 3] =
    [("wakeups", |work| work.wakeups), ("copy-calls", |work| work.copy_calls), ("copies", |work| work.copies)];

/// Those of a card.
pub(crate) const OF_CARDS: [Counter<CardReport>; 9] = [
    ("tx-frames", |card| card.counters.tx_frames),
    ("tx-bytes", |card| card.counters.tx_bytes),
    ("tx-dropped", |card| card.counters.tx_dropped),
    ("rx-frames", |card| card.counters.rx_frames),
    ("rx-bytes", |card| card.counters.rx_bytes),
    ("rx-dropped", |card| card.counters.rx_dropped),
    ("resets", |card| card.counters.resets),
    ("rx-missed", |card| card.counters.rx_missed),
    ("interrupts", |card| card.interrupts),
];

/// Those of a vif; the causes of its drops are listed elsewhere.
pub(crate) const OF_VIFS: [Counter<VifReport>; 9] = [
    ("tx-packets", |vif| vif.counters.tx.packets),
    ("tx-bytes", |vif| vif.counters.tx.bytes),
    ("tx-dropped", |vif| vif.counters.tx_drops.total()),
    ("rx-packets", |vif| vif.counters.rx.packets),
    ("rx-bytes", |vif| vif.counters.rx.bytes),
    ("rx-dropped", |vif| vif.counters.rx_drops.total()),
    ("notifications", |vif| vif.counters.notifications),
    ("rx-joined", |vif| vif.counters.rx_joined),
    ("events", |vif| vif.counters.events),
];
