use super::super::metrics as m;
use super::*;

const NODES: &str = "version=0.1.0 memory-total-kib=16384 vifs=2 wakeups=40 copy-calls=100 copies=700\n\
    pci=0000:00:03.0 card=\"Intel 82540EM\" link=up tx-frames=5 interrupts=30\n\
    tx-packets=7 notifications=3 rx-joined=0 events=20\n\
    tx-packets=1 notifications=4 rx-joined=0 events=5 tx-drop-SPOOF=1\n";

/// A driver domain with a card, two vifs (one with a channel for each ring) and a vbd, as Linux 6.12 prints it.
const INTERRUPTS: &str = "           CPU0       CPU1\n\
     16:       1200         34  xen-pirq    -ioapic-level  eth0\n\
     48:          9          0  xen-percpu    -virq      timer0\n\
     52:        999          0  xen-dyn    -event     xenbus\n\
     53:         77          0  xen-dyn    -event     hvc_console\n\
     54:        100          0  xen-dyn    -event     vif5.0-q0-tx\n\
     55:         20          0  xen-dyn    -event     vif5.0-q0-rx\n\
     56:          3          0  xen-dyn    -event     vif6.0-q0\n\
     57:          0          7  xen-dyn-lateeoi     -event     blkif-backend\n\
    NMI:          0          0   Non-maskable interrupts\n\
    ERR:          0\n";

#[test]
fn words_of_our_nodes_are_added_up_by_name() {
    let work = Work::published(NODES);
    assert_eq!((work.copy_calls, work.copies, work.wakeups), (Some(100.0), Some(700.0), Some(40.0)));
    assert_eq!(work.interrupts, Some(55.0), "the card's and both vifs' events");
    assert_eq!(work.notifications, Some(7.0));
}

#[test]
fn what_is_not_published_is_not_zero() {
    assert_eq!(Work::published(""), Work::default());
    assert_eq!(Work::published("interrupts=3").interrupts, None, "only a part of what was received");
}

#[test]
fn only_interrupts_for_packets_and_requests_count() {
    assert_eq!(Work::interrupts(INTERRUPTS).interrupts, Some(1200.0 + 34.0 + 100.0 + 20.0 + 3.0 + 7.0));
    assert_eq!(Work::interrupts(INTERRUPTS).copies, None);
    assert_eq!(Work::interrupts(" 52:  999  xen-dyn  -event  xenbus\n").interrupts, None);
}

#[test]
fn a_difference_needs_both_ends() {
    let (later, earlier) = (Work::published(NODES), Work { copies: Some(500.0), ..Work::default() });
    let between = later.since(&earlier);
    assert_eq!(between, Work { copies: Some(200.0), ..Work::default() });
    assert_eq!(between.plus(&between).copies, Some(400.0));
}

#[test]
fn counts_are_told_by_the_item_and_missing_ones_are_left_out() {
    let mut samples = Samples::default();
    let work = Work { copy_calls: Some(50.0), copies: Some(500.0), ..Work::default() };
    work.note(&m::TCP_WORK, 250.0, Contender::Bulkhead, &mut samples);
    let rows = samples.rows();
    let value = |metric: Metric| {
        let row = rows.iter().find(|row| row.metric.id == metric.id)?;
        *row.samples.get(&Contender::Bulkhead)?.first()?
    };
    assert_eq!(value(m::TCP_WORK.copy_calls), Some(200.0));
    assert_eq!(value(m::TCP_WORK.copies), Some(2.0));
    assert_eq!((rows.len(), value(m::TCP_WORK.wakeups)), (2, None));
}
