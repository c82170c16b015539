//! What an attacker does right after it was thrown out: case NF-55, for each reason to be thrown out.

use std::time::Duration;

use fake_xen::{Netfront, Usage};

use crate::packets::{EXTRA_INFO, MORE_DATA, REMOTE, frame, slot};
use crate::rig::{Guest, Rig};

/// A packet of one slot with this extra segment behind it.
fn with_extra(front: &mut Netfront, words: [u32; 2]) {
    slot(front, 0, 100, EXTRA_INFO);
    front.put_extra(words);
}

type Attack = (&'static str, fn(&mut Netfront));

/// Everything on a ring that costs a vif.
const ATTACKS: [Attack; 10] = [
    ("TX_PROD", |front| front.set_tx_req_prod(front.tx_req_prod().wrapping_add(1000))),
    ("RX_PROD", |front| front.set_rx_req_prod(front.rx_req_prod().wrapping_add(1000))),
    ("TX_PAGE", |front| slot(front, 4095, 2, 0)),
    ("TX_CHAIN", |front| slot(front, 0, 100, MORE_DATA)),
    ("TX_SLOTS", |front| (0..30).for_each(|_| slot(front, 0, 60, MORE_DATA))),
    ("TX_EXTRA_MISSING", |front| slot(front, 0, 100, EXTRA_INFO)),
    ("TX_EXTRA_TYPE", |front| with_extra(front, [9, 0])),
    ("TX_EXTRA_CHAIN", |front| {
        slot(front, 0, 100, EXTRA_INFO);
        (0..9).for_each(|_| front.put_extra([1 | 1 << 8 | 1400 << 16, 1]));
    }),
    ("GSO_SIZE", |front| with_extra(front, [1, 1])),
    ("GSO_TYPE", |front| with_extra(front, [1 | 1400 << 16, 7])),
];

#[derive(Clone, Copy, Debug, PartialEq)]
enum Ending {
    Close,
    Destroy,
    Reconnect,
    Vanish,
    /// The guest is paused, or suspended.
    Freeze,
    /// It closes its event channels and takes its pages back.
    Abandon,
}

const ENDINGS: [Ending; 6] =
    [Ending::Close, Ending::Destroy, Ending::Reconnect, Ending::Vanish, Ending::Freeze, Ending::Abandon];

fn end(rig: &mut Rig, attacker: Guest, ending: Ending) {
    let device = rig.device(attacker);
    match ending {
        Ending::Close => rig.fronts[attacker].close(),
        Ending::Reconnect => rig.fronts[attacker].set_state(1),
        Ending::Freeze => rig.fronts[attacker].frozen = true,
        Ending::Destroy => {
            rig.fronts[attacker].frozen = true;
            rig.toolstack.destroy_device(device);
        }
        Ending::Vanish => {
            rig.fronts[attacker].frozen = true;
            rig.xen.remove_store(&rig.toolstack.backend_path(&device));
        }
        Ending::Abandon => {
            rig.fronts[attacker].frozen = true;
            for port in [rig.fronts[attacker].tx_port(), rig.fronts[attacker].rx_port()] {
                rig.xen.close_port(device.frontend, port);
            }
            for gref in rig.fronts[attacker].ring_grefs() {
                rig.xen.revoke(device.frontend, gref);
            }
        }
    }
}

/// Whether every pair is to be tried: with `CASES` in the environment, as for property tests.
fn all() -> bool {
    std::env::var("CASES").is_ok()
}

#[test]
fn every_kill_may_be_followed_by_anything_at_once_nf_55() {
    let (mut rig, _, victim) = Rig::attacker_and_victim();
    let first = rig.fronts[0].device();
    rig.toolstack.destroy_device(first);
    rig.fronts[0].frozen = true;
    rig.run(Duration::from_secs(5));
    let before = rig.usage();
    for (number, (cause, attack)) in ATTACKS.into_iter().enumerate() {
        // Each attack with two endings and each ending with several attacks, or with all of them.
        let endings = ENDINGS.iter().cycle().skip(number).take(if all() { ENDINGS.len() } else { 2 });
        for (ending, delay) in endings.copied().zip([1, 0, 150, 0, 1, 0].into_iter().cycle().skip(number % 3)) {
            let attacker = rig.guest();
            rig.fronts[attacker].keep_posted(0);
            attack(&mut rig.fronts[attacker]);
            if cause != "TX_PROD" && cause != "RX_PROD" {
                rig.fronts[attacker].push_tx();
            }
            // The receive ring is looked at when there is something to receive.
            rig.wire.inject(&frame(Rig::mac(attacker), REMOTE, 60, 0));
            rig.run(Duration::from_millis(delay));
            end(&mut rig, attacker, ending);
            // Longer than a frontend may take to close.
            rig.run(Duration::from_secs(6));
            let lines = rig.lines(attacker, cause).len();
            // Who closes before it is looked at is not found out.
            assert!(lines == 1 || lines == 0 && delay == 0, "{cause}, {ending:?}: {lines} lines\n{}", rig.state());
            let usage = rig.usage();
            assert_eq!((usage.mapped, usage.ports), (2, 2), "{cause}, {ending:?}");
            rig.assert_works(victim);
            // The toolstack gets rid of it without complaint.
            rig.fronts[attacker].frozen = true;
            let device = rig.device(attacker);
            let job = rig.toolstack.destroy_device(device);
            rig.until("destroy ends", |rig| rig.toolstack.outcome(job).is_some());
            assert_eq!(rig.toolstack.outcome(job), Some(Ok(())), "{cause}, {ending:?}");
            rig.toolstack.destroy_domain(device.frontend);
        }
    }
    rig.run(Duration::from_secs(1));
    let after = rig.usage();
    // The two directories above all error nodes stay.
    assert!(after.nodes <= before.nodes + 2, "{}", rig.state());
    assert_eq!(Usage { nodes: before.nodes, ..after }, before);
    rig.assert_works(victim);
}
