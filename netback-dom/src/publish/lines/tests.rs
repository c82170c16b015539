use super::*;
use crate::nic::{MacAddress, NicCounters};
use crate::vif::counters::{Traffic, VifCounters};
use alloc::collections::BTreeSet;
use pciback::BadSbdf;
use xen_pv_rt::hyp::Domid;
use xen_pv_rt::statistics::MAX_LINE;

fn words(line: &str) -> BTreeSet<&str> {
    line.split(' ').filter_map(|word| word.split_once('=')).map(|(name, _)| name).collect()
}

#[test]
fn a_card_has_its_link_and_its_counters() -> Result<(), BadSbdf> {
    let card = CardReport {
        index: 0,
        sbdf: "0000:00:03.0".parse()?,
        name: "Intel 82540EM",
        mac: MacAddress([2, 0, 0, 0, 0, 1]),
        link: Link::Up(1000),
        counters: NicCounters { tx_frames: 5, rx_bytes: 7, ..NicCounters::default() },
        interrupts: 11,
    };
    assert_eq!(
        card_line(&card),
        "pci=0000:00:03.0 card=\"Intel 82540EM\" mac=02:00:00:00:00:01 link=up speed=1000 tx-frames=5 tx-bytes=0 tx-dropped=0 \
         rx-frames=0 rx-bytes=7 rx-dropped=0 resets=0 rx-missed=0 interrupts=11"
    );
    assert!(card_line(&CardReport { link: Link::Down, ..card }).contains(" link=down speed=0 "));
    Ok(())
}

#[test]
fn a_vif_has_its_counters_and_only_the_drops_that_happened() {
    let mut counters = VifCounters { tx: Traffic { packets: 3, bytes: 300 }, ..VifCounters::default() };
    counters.rx_drops.add(Cause::RxQueue);
    let line = vif_line(&VifReport { frontend: Domid::from_raw(7), devid: 1, counters });
    assert_eq!(
        line,
        "tx-packets=3 tx-bytes=300 tx-dropped=0 rx-packets=0 rx-bytes=0 rx-dropped=1 notifications=0 rx-joined=0 \
         events=0 rx-drop-RX_QUEUE=1"
    );
}

#[test]
fn every_cause_has_room_and_a_name_of_its_own() {
    let most = Traffic { packets: u64::MAX, bytes: u64::MAX };
    let most_of_all = u64::MAX;
    let mut counters = VifCounters {
        tx: most,
        rx: most,
        notifications: most_of_all,
        rx_joined: most_of_all,
        events: most_of_all,
        ..VifCounters::default()
    };
    for cause in Cause::ALL {
        counters.tx_drops.add(*cause);
        counters.rx_drops.add(*cause);
    }
    let line = vif_line(&VifReport { frontend: Domid::from_raw(7), devid: 1, counters });
    // A count of one digit is written above; most counts have no more than eight.
    assert!(line.len() + 2 * Cause::COUNT * 7 <= MAX_LINE, "{} bytes", line.len());
    assert_eq!(words(&line).len(), 9 + 2 * Cause::COUNT);
}
