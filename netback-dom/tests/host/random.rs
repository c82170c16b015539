//! Random frontends, several at a time: whatever they do, a well-behaved guest does not notice, and nothing of
//! them is left when they are gone.

use std::time::Duration;

use fake_xen::{NetfrontOptions, Page};
use proptest::collection::vec;
use proptest::prelude::*;
use xen_pv_rt::hyp::{Access, GrantRef};

use crate::packets::{BROADCAST, REMOTE, frame};
use crate::rig::{Rig, cases};

const ATTACKERS: usize = 3;

#[derive(Clone, Debug)]
enum Act {
    /// Publishes slots of anything.
    Raw(Vec<[u32; 3]>),
    /// Publishes slots that are nearly right: offset, size, flags.
    Slots(Vec<(u16, u16, u16)>),
    /// Publishes extra segments.
    Extras(Vec<[u32; 2]>),
    /// Moves a producer index by this much.
    TxProducer(u32),
    RxProducer(u32),
    /// Posts this many buffers, some of which are none.
    Buffers(u8),
    Scribble(u32),
    /// Writes a state.
    State(String),
    /// Writes another key.
    Key(&'static str, &'static str),
    /// Connects again if it was thrown out.
    Reopen,
    Notify,
    /// Frames from the wire and from the victim arrive.
    Traffic(u16),
    /// Time passes, in milliseconds.
    Run(u64),
    /// xenstored tells of what did not happen.
    Spurious,
}

fn act() -> impl Strategy<Value = Act> {
    let size = prop_oneof![Just(0), Just(14), 1..200_u16, Just(1514), Just(4096), any::<u16>()];
    let offset = prop_oneof![4 => Just(0), 1 => 0..4096_u16, 1 => any::<u16>()];
    let flags = prop_oneof![4 => Just(0), 3 => Just(4), 1 => Just(8), 1 => Just(1), 1 => 0..16_u16];
    let near = prop_oneof![0..600_u32, (0..600_u32).prop_map(|back| 0_u32.wrapping_sub(back)), any::<u32>()];
    let word = prop_oneof![any::<u32>(), 0..64_u32];
    let state = prop_oneof![(0..9_u32).prop_map(|state| state.to_string()), Just("x".to_string())];
    prop_oneof![
        1 => vec(any::<[u32; 3]>(), 1..30).prop_map(Act::Raw),
        6 => vec((offset, size, flags), 1..24).prop_map(Act::Slots),
        2 => vec([0..8_u32, 0..4_u32].prop_map(|[a, b]| [a | 1000 << 16, b]), 1..4).prop_map(Act::Extras),
        1 => near.clone().prop_map(Act::TxProducer),
        1 => near.prop_map(Act::RxProducer),
        3 => (1..40_u8).prop_map(Act::Buffers),
        1 => word.prop_map(Act::Scribble),
        1 => state.prop_map(Act::State),
        1 => prop_oneof![Just("feature-sg"), Just("tx-ring-ref"), Just("event-channel-tx"), Just("request-rx-copy")]
            .prop_flat_map(|key| prop_oneof![Just("0"), Just("1"), Just(""), Just("-1"), Just("9")].prop_map(move |value| Act::Key(key, value))),
        3 => Just(Act::Reopen),
        1 => Just(Act::Notify),
        3 => (14..6000_u16).prop_map(Act::Traffic),
        8 => (0..300_u64).prop_map(Act::Run),
        1 => Just(Act::Spurious),
    ]
}

fn attack(rig: &mut Rig, attacker: usize, victim: usize, act: &Act) {
    let device = rig.device(attacker);
    match act {
        Act::State(value) => return rig.fronts[attacker].write("state", value),
        Act::Key(key, value) => return rig.fronts[attacker].write(key, value),
        Act::Spurious => return rig.xen.spurious_events(),
        Act::Run(time) => return rig.run(Duration::from_millis(*time)),
        Act::Reopen => {
            let front = &mut rig.fronts[attacker];
            if front.backend_state() == 6 && !front.is_connected() {
                front.reopen();
            }
            return;
        }
        Act::Traffic(len) => {
            for to in [Rig::mac(attacker), BROADCAST] {
                rig.wire.inject(&frame(to, REMOTE, usize::from(*len).min(1514), 0));
                rig.fronts[victim].send(&frame(to, Rig::mac(victim), (*len).into(), 0));
            }
            return;
        }
        _ => {}
    }
    let xen = rig.xen.clone();
    let front = &mut rig.fronts[attacker];
    if !front.is_connected() {
        return;
    }
    match act {
        Act::Raw(slots) => slots.iter().for_each(|words| front.put_raw(*words)),
        Act::Slots(slots) => {
            for (offset, size, flags) in slots {
                let page = Page::new();
                page.write(0, &frame(REMOTE, Rig::mac(attacker), 200, 0));
                front.put_request(&page, *offset, *size, *flags);
            }
        }
        Act::Extras(extras) => extras.iter().for_each(|words| front.put_raw([words[0], words[1], 0])),
        Act::TxProducer(by) => {
            let value = front.tx_req_prod().wrapping_add(*by);
            return front.set_tx_req_prod(value);
        }
        Act::RxProducer(by) => {
            let value = front.rx_req_prod().wrapping_add(*by);
            return front.set_rx_req_prod(value);
        }
        Act::Buffers(count) => {
            for number in 0..*count {
                let page = Page::new();
                let gref = xen.grant_for(device, &page, Access::ReadWrite);
                let gref = if number % 7 == 6 { GrantRef::from_raw(number.into()) } else { gref };
                front.put_buffer(number.into(), gref, page);
            }
            return front.push_rx();
        }
        Act::Scribble(value) => return front.scribble_indices(*value),
        _ => {}
    }
    front.push_tx();
    front.notify_tx();
}

proptest! {
    #![proptest_config(cases(40))]

    #[test]
    fn a_victim_does_not_notice_what_others_do(acts in vec((0..ATTACKERS, act()), 10..120)) {
        let mut rig = Rig::new();
        let victim = rig.guest();
        rig.assert_works(victim);
        rig.run(Duration::from_secs(1));
        let (before, buffers) = (rig.usage(), rig.buffers.available());
        let attackers: Vec<usize> = (0..ATTACKERS)
            .map(|_| rig.guest_with(NetfrontOptions { rx_buffers: 0, ..NetfrontOptions::default() }))
            .collect();
        attackers.iter().for_each(|attacker| rig.fronts[*attacker].liar = true);
        let started = rig.xen.now();
        for (attacker, act) in &acts {
            attack(&mut rig, attackers[*attacker], victim, act);
        }
        rig.until("the victim has its answers", |rig| rig.fronts[victim].tx_unanswered() == 0);
        // Frames that the attackers sent to unknown stations reach it too.
        rig.run(Duration::from_millis(50));
        rig.assert_works(victim);
        let seconds = rig.xen.now().saturating_since(started).as_secs() as usize + 1;
        prop_assert!(rig.log().len() <= 20 + ATTACKERS * 8 * seconds, "{} lines in {} s", rig.log().len(), seconds);
        for attacker in attackers {
            rig.fronts[attacker].frozen = true;
            let device = rig.device(attacker);
            let job = rig.toolstack.destroy_device(device);
            rig.until("the attacker is gone", |rig| rig.toolstack.outcome(job).is_some());
            prop_assert_eq!(rig.toolstack.outcome(job), Some(Ok(())));
            rig.toolstack.destroy_domain(device.frontend);
        }
        rig.run(Duration::from_secs(1));
        let after = rig.usage();
        // The directories above the error nodes stay.
        prop_assert!(after.nodes <= before.nodes + 2, "{}", rig.state());
        prop_assert_eq!(after, fake_xen::Usage { nodes: after.nodes, ..before });
        prop_assert_eq!(rig.buffers.available(), buffers);
        rig.assert_works(victim);
    }

    #[test]
    fn packets_of_any_size_arrive_whole_whatever_the_receiver_posts(
        sizes in vec(prop_oneof![14..200_usize, 1400..1600_usize, 4000..4200_usize, 8000..8300_usize, 14..65536_usize], 1..20),
        buffers in 17..64_u32,
        splits in vec(1..4096_usize, 20),
    ) {
        let mut rig = Rig::new();
        let sender = rig.guest();
        let receiver = rig.guest_with(NetfrontOptions { rx_buffers: buffers, ..NetfrontOptions::default() });
        for (len, split) in sizes.iter().zip(splits) {
            let packet = frame(Rig::mac(receiver), Rig::mac(sender), *len, *len as u8);
            let first = split.min(*len);
            let mut lengths = vec![first];
            lengths.extend(packet[first..].chunks(4096).map(<[u8]>::len));
            // A first slot costs one more than there may be at most.
            let lengths = if lengths.len() > 18 { packet.chunks(4096).map(<[u8]>::len).collect() } else { lengths };
            rig.fronts[sender].send_in(&packet, &lengths);
            rig.until("answered", |rig| rig.fronts[sender].tx_unanswered() == 0);
            rig.run(Duration::from_millis(3));
            prop_assert!(rig.fronts[sender].take_answers().iter().all(|answer| answer.status == 0));
            let received = rig.fronts[receiver].receive_all();
            prop_assert_eq!(received.len(), 1);
            prop_assert!(received[0].bytes == packet, "{} bytes", len);
        }
    }
}
