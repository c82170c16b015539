//! Several queue pairs of virtio-net: how they are agreed on, which frames they carry, and a device that lies about them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::model::virtio::{CONTROL, CTRL_RX, CTRL_VQ, EVENT_IDX, MQ, RX, TX, USUAL};
use crate::model::{bytes_of, payload, tcp};
use crate::virtio::{Bench, Driver, PLAIN, SPARE};
use netback_dom::nic::{Nic, NicError};

/// Most pairs that the driver uses.
const PAIRS: usize = 4;
/// Descriptors, and so buffers, of each queue then, and of all together.
const SHARE: u16 = 64;
const ALL: u16 = 256;
/// What tells the device to use four pairs.
const USE_FOUR: [u8; 4] = [4, 0, 4, 0];

/// A device with four pairs.
fn four() -> Bench {
    Bench::with_pairs(USUAL, 4)
}

fn rx(pair: usize) -> usize {
    2 * pair + RX
}

fn tx(pair: usize) -> usize {
    2 * pair + TX
}

/// Packet `number` of flow `flow`.
fn packet(flow: u16, number: u32) -> Vec<u8> {
    let (mut bytes, start) = tcp(false, 100);
    bytes[start..start + 2].copy_from_slice(&flow.to_be_bytes());
    bytes[start + 4..start + 8].copy_from_slice(&number.to_be_bytes());
    bytes
}

fn receive_on(bench: &Bench, pair: usize, bytes: &[u8]) -> bool {
    bench.device.receive_on(rx(pair), PLAIN, bytes, 2048)
}

/// Takes the frames that were sent, each with its queue.
fn sent(bench: &Bench) -> Vec<(usize, Vec<u8>)> {
    let queues = std::mem::take(&mut bench.device.state.borrow_mut().sent_on);
    queues.into_iter().zip(bench.device.sent()).collect()
}

/// The queue that a flow is sent on.
fn queue_of(bench: &Bench, driver: &mut Driver, flow: u16) -> usize {
    bench.send(driver, &packet(flow, 0));
    driver.flush();
    sent(bench)[0].0
}

/// A flow that is sent on transmit queue `queue`.
fn flow_on(bench: &Bench, driver: &mut Driver, queue: usize) -> u16 {
    (1000..2000).find(|flow| queue_of(bench, driver, *flow) == queue).expect("no flow is sent on this queue")
}

/// A driver that sends and receives on this many pairs and no others.
fn serving(bench: &Bench, pairs: usize) -> Driver {
    let mut driver = bench.running();
    for pair in 0..pairs {
        assert!(receive_on(bench, pair, &payload(7, 100)), "pair {pair}");
        assert_eq!(bytes_of(&driver.receive().unwrap()), payload(7, 100));
    }
    let used: BTreeSet<_> = (1000..1100).map(|flow| queue_of(bench, &mut driver, flow)).collect();
    assert_eq!(used, (0..pairs).map(tx).collect());
    driver.poll().unwrap();
    assert_eq!(bench.frames.outstanding(), 0);
    driver
}

#[test]
fn several_pairs_are_set_up_before_the_device_is_told_to_use_them() {
    let bench = Bench::with_pairs(USUAL | CTRL_RX, 4);
    let _driver = bench.running();
    let state = bench.device.state.borrow();
    assert_eq!(state.accepted & MQ, MQ);
    assert!(state.queues.iter().all(|queue| queue.enabled));
    let sizes: Vec<u16> = state.queues.iter().map(|queue| queue.size).collect();
    assert_eq!(sizes, [[SHARE; 2 * PAIRS].as_slice(), &[ALL]].concat());
    assert_eq!(state.commands, [USE_FOUR.to_vec(), vec![0, 0, 1], vec![0, 1, 1]]);
    assert_eq!(state.active, 4);
}

#[test]
fn the_control_queue_follows_all_pairs_of_the_device_whichever_are_used() {
    for pairs in [2_u16, 3, 4, 5, 16, 0x7fff] {
        let bench = Bench::with_pairs(USUAL, pairs);
        let _driver = bench.running();
        let state = bench.device.state.borrow();
        let used = pairs.min(4);
        assert_eq!(state.commands, [[4, 0, used as u8, 0]], "{pairs}");
        let enabled: Vec<usize> =
            (0..).zip(&state.queues).filter(|(_, queue)| queue.enabled).map(|(at, _)| at).collect();
        let expected: Vec<usize> = (0..2 * usize::from(used)).chain([2 * usize::from(pairs)]).collect();
        assert_eq!(enabled, expected, "{pairs}");
    }
}

#[test]
fn a_device_with_one_pair_is_used_as_ever() {
    // One that does not say how many, says one, or has no control queue to be told by.
    for (features, pairs) in [(USUAL & !MQ, 4), (USUAL, 1), (USUAL & !CTRL_VQ, 4)] {
        let bench = Bench::with_pairs(features | CTRL_RX, pairs);
        let _driver = serving(&bench, 1);
        let state = bench.device.state.borrow();
        assert_eq!((state.accepted & MQ, state.queues[RX].size, state.queues[TX].size), (0, ALL, ALL));
        let commands = if features & CTRL_VQ == 0 { vec![] } else { vec![[0, 0, 1], [0, 1, 1]] };
        assert_eq!(state.commands, commands);
        assert!(state.queues.iter().skip(CONTROL + 1).all(|queue| !queue.enabled));
    }
}

#[test]
fn a_flow_stays_on_its_queue_and_in_order_and_flows_use_all_queues() {
    let bench = four();
    let mut driver = bench.running();
    let mut flows: BTreeMap<u16, (usize, u32)> = BTreeMap::new();
    for number in 0..20 {
        for flow in 1000..1040_u16 {
            bench.send(&mut driver, &packet(flow, number));
        }
        driver.flush();
        let frames = sent(&bench);
        assert_eq!(frames.len(), 40);
        for (queue, bytes) in frames {
            let flow = u16::from_be_bytes([bytes[34], bytes[35]]);
            let next = flows.entry(flow).or_insert((queue, 0));
            assert_eq!(*next, (queue, number), "flow {flow}");
            assert_eq!(bytes, packet(flow, number));
            next.1 += 1;
        }
        driver.poll().unwrap();
    }
    let used: BTreeSet<usize> = flows.values().map(|(queue, _)| *queue).collect();
    assert_eq!(used, (0..PAIRS).map(tx).collect());
    assert_eq!((driver.counters().tx_frames, bench.frames.outstanding()), (800, 0));
}

#[test]
fn frames_of_no_flow_are_sent_on_the_first_queue() {
    let bench = four();
    let mut driver = bench.running();
    for number in 0..50 {
        let mut bytes = payload(number, 100);
        bytes[12..14].copy_from_slice(&[8, 6]);
        bench.send(&mut driver, &bytes);
    }
    driver.flush();
    assert!(sent(&bench).iter().all(|(queue, _)| *queue == TX));
}

#[test]
fn all_queues_receive_over_many_laps() {
    let bench = four();
    let mut driver = bench.running();
    for number in 0..300 {
        for pair in 0..PAIRS {
            assert!(receive_on(&bench, pair, &payload(number, 100 + pair)), "pair {pair} at {number}");
        }
        let lengths: BTreeSet<usize> = (0..PAIRS).map(|_| driver.receive().unwrap().len()).collect();
        assert_eq!(lengths, (100..100 + PAIRS).collect());
        if number % 9 == 0 {
            assert!(driver.receive().is_none());
        }
    }
    assert_eq!(driver.counters().rx_frames, 1200);
}

#[test]
fn a_queue_that_is_flooded_delays_the_others_by_one_frame_each() {
    let bench = four();
    let mut driver = bench.running();
    for number in 0..50 {
        assert!(receive_on(&bench, 1, &payload(number, 100)));
    }
    assert!(receive_on(&bench, 3, &payload(1000, 100)));
    let first: Vec<_> = (0..2).map(|_| bytes_of(&driver.receive().unwrap())).collect();
    assert!(first.contains(&payload(1000, 100)));
    let rest: Vec<_> = std::iter::from_fn(|| driver.receive().as_ref().map(bytes_of)).collect();
    assert_eq!(rest, (1..50).map(|number| payload(number, 100)).collect::<Vec<_>>());
}

#[test]
fn parts_of_frames_on_different_queues_do_not_mix() {
    let bench = Bench { max_frame: 9018, ..four() };
    let mut driver = bench.running();
    let frames: Vec<_> = (0..4).map(|number| payload(number, 5000)).collect();
    let mut header = PLAIN;
    header[10] = 3;
    let pieces: Vec<Vec<Vec<u8>>> =
        frames.iter().map(|frame| [&header[..], frame].concat().chunks(2048).map(<[u8]>::to_vec).collect()).collect();
    for part in 0..3 {
        for (pair, pieces) in pieces.iter().enumerate() {
            let chain = bench.device.take(rx(pair)).unwrap();
            bench.memory.write(xen_pv_rt::hyp::Maddr::from_raw(chain.buffers[0].0), &pieces[part]).unwrap();
            bench.device.complete(rx(pair), chain.head.into(), pieces[part].len() as u32);
        }
        if part < 2 {
            assert!(driver.receive().is_none());
        }
    }
    let received: Vec<_> = std::iter::from_fn(|| driver.receive().as_ref().map(bytes_of)).collect();
    assert_eq!(received.len(), 4);
    assert!(frames.iter().all(|frame| received.contains(frame)));
}

#[test]
fn a_queue_that_is_full_pushes_back_its_own_flows_only() {
    let bench = four();
    let mut driver = bench.running();
    let flows: Vec<u16> = (0..PAIRS).map(|pair| flow_on(&bench, &mut driver, tx(pair))).collect();
    bench.device.manners(|manners| manners.queue_hangs = Some(tx(2)));
    let mut queued = 0;
    let refused = loop {
        match driver.transmit(bench.frames.whole(&packet(flows[2], queued))) {
            Ok(()) => queued += 1,
            Err(frame) => break frame,
        }
        assert!(queued <= u32::from(SHARE), "it goes to other queues");
    };
    assert_eq!(queued, u32::from(SHARE) / 2, "a header and a segment each");
    for pair in [0, 1, 3] {
        assert_eq!(queue_of(&bench, &mut driver, flows[pair]), tx(pair));
    }
    bench.device.manners(|manners| manners.queue_hangs = None);
    assert_eq!(driver.transmit(refused).map_err(drop), Err(()), "the device has not looked yet");
    bench.device.state.borrow_mut().sent_on.clear();
    bench.device.sent();
    // It looks when it is notified, and all of it comes in order.
    let frame = bench.frames.whole(&packet(flows[2], queued));
    bench.device.transmit(tx(2));
    driver.transmit(frame).map_err(drop).unwrap();
    driver.flush();
    let numbers: Vec<_> = sent(&bench).into_iter().map(|(_, bytes)| bytes).collect();
    assert_eq!(numbers, (0..=queued).map(|number| packet(flows[2], number)).collect::<Vec<_>>());
}

#[test]
fn dv_06_a_queue_that_stops_sending_while_others_go_on_has_the_device_reset() {
    let bench = four();
    let mut driver = bench.running();
    let (stuck, fine) = (flow_on(&bench, &mut driver, tx(3)), flow_on(&bench, &mut driver, tx(1)));
    driver.poll().unwrap();
    bench.device.manners(|manners| manners.queue_hangs = Some(tx(3)));
    bench.send(&mut driver, &packet(stuck, 1));
    for _ in 0..4 {
        assert_eq!(queue_of(&bench, &mut driver, fine), tx(1));
        driver.poll().unwrap();
        bench.clock.advance(Duration::from_secs(1));
    }
    assert_eq!((driver.counters().resets, bench.frames.outstanding()), (0, 1));
    bench.clock.advance(Duration::from_secs(2));
    bench.device.manners(|manners| manners.queue_hangs = None);
    driver.poll().unwrap();
    let counters = driver.counters();
    assert_eq!((counters.resets, counters.tx_dropped, bench.frames.outstanding()), (1, 1, 0));
    assert_eq!(bench.device.state.borrow().commands, [USE_FOUR, USE_FOUR]);
    for pair in 0..PAIRS {
        assert!(receive_on(&bench, pair, &payload(7, 100)));
        assert_eq!(bytes_of(&driver.receive().unwrap()), payload(7, 100));
        flow_on(&bench, &mut driver, tx(pair));
    }
}

#[test]
fn after_a_reset_a_device_may_have_fewer_pairs_and_gets_no_more_than_at_the_start() {
    for (first, second, used) in [(4_u16, 2_u16, 2_usize), (4, 1, 1), (2, 4, 2), (1, 4, 1)] {
        let bench = Bench::with_pairs(USUAL, 4);
        bench.device.state.borrow_mut().config[8] = first as u8;
        let mut driver = bench.running();
        // Frames lie in every queue.
        (0..usize::from(first)).for_each(|pair| assert!(receive_on(&bench, pair, &[0x5e; 1500])));
        bench.device.state.borrow_mut().config[8] = second as u8;
        bench.device.state.borrow_mut().status |= 0x40;
        bench.clock.advance(Duration::from_secs(2));
        driver.poll().unwrap();
        assert_eq!(driver.counters().resets, 1);
        assert!(driver.receive().is_none(), "a frame of before");
        let sizes: Vec<u16> = bench.device.state.borrow().queues.iter().map(|queue| queue.size).collect();
        assert!(sizes[..2 * used].iter().all(|size| usize::from(*size) == usize::from(ALL) / used), "{sizes:?}");
        for pair in 0..used {
            for number in 0..usize::from(ALL) / used {
                let chain = bench.device.take(rx(pair)).unwrap_or_else(|| panic!("no buffer {number} in pair {pair}"));
                // And nothing of the frames that lay there.
                let mut left = [1; 2048];
                bench.memory.read(xen_pv_rt::hyp::Maddr::from_raw(chain.buffers[0].0), &mut left).unwrap();
                assert_eq!(left, [0; 2048]);
            }
        }
    }
}

#[test]
fn four_pairs_take_fifteen_pages_more_than_one_and_no_buffer() {
    let pages = |pairs| {
        let bench = Bench::with_pairs(USUAL, pairs);
        let before = bench.memory.pages_in_use();
        let _driver = bench.running();
        let buffers: u16 = (0..pairs.min(4)).map(|pair| bench.device.queue(rx(pair.into())).size).sum();
        assert!(buffers <= ALL, "{pairs} pairs: {buffers} buffers");
        bench.memory.pages_in_use() - before
    };
    let one = pages(1);
    assert_eq!([2, 3, 4, 5, 64].map(|pairs| pages(pairs) - one), [5, 10, 15, 15, 15]);
}

#[test]
fn frames_that_are_on_their_way_leave_every_queue_its_buffers() {
    let bench = four();
    let mut driver = bench.running();
    for pair in 0..PAIRS {
        while receive_on(&bench, pair, &payload(1, 100)) {}
    }
    let held: Vec<_> = std::iter::from_fn(|| driver.receive()).collect();
    assert_eq!(held.len(), SPARE);
    // What could not be handed on was dropped, and its buffers are the device's again.
    for pair in 0..PAIRS {
        let buffers = std::iter::from_fn(|| bench.device.take(rx(pair))).count();
        assert_eq!(buffers, usize::from(SHARE), "pair {pair}");
    }
}

#[test]
fn an_interrupt_comes_for_any_queue_and_what_came_just_before_is_not_missed() {
    for (features, msix) in [(USUAL, true), (USUAL, false), (USUAL & !EVENT_IDX, true), (USUAL & !EVENT_IDX, false)] {
        let bench = Bench { msix, ..Bench::with_pairs(features, 4) };
        let mut driver = bench.start().unwrap();
        let vectors: Vec<_> = bench.device.accesses().into_iter().filter(|(at, _)| *at == 26).collect();
        let set = vectors.iter().filter(|(_, value)| value.is_some()).count();
        assert_eq!(set, if msix { 2 * PAIRS + 1 } else { 0 });
        assert!(vectors.iter().all(|(_, value)| value.is_none_or(|vector| vector == 0)), "one vector for all");
        for number in 1..100 {
            for pair in 0..PAIRS {
                assert!(!driver.enable_interrupts());
                assert_eq!(bench.device.state.borrow().isr, if msix { u8::from(number > 1 || pair > 0) } else { 0 });
                assert!(receive_on(&bench, pair, &payload(number, 100)));
                assert_eq!(bench.device.queue(rx(pair)).interrupts, number, "pair {pair}");
                assert!(driver.enable_interrupts(), "work was there already");
                assert!(driver.receive().is_some());
                assert!(driver.receive().is_none());
            }
        }
    }
}

#[test]
fn a_frame_on_any_queue_costs_no_access_but_its_notification() {
    let bench = four();
    let mut driver = bench.running();
    let flow = flow_on(&bench, &mut driver, tx(2));
    driver.poll().unwrap();
    bench.device.accesses();
    bench.send(&mut driver, &packet(flow, 1));
    for pair in 0..PAIRS {
        assert!(receive_on(&bench, pair, &payload(1, 100)));
        driver.receive().unwrap();
    }
    driver.flush();
    driver.flush();
    driver.poll().unwrap();
    assert!(!driver.enable_interrupts());
    assert_eq!(bench.device.accesses(), [(0x3000 + 4 * tx(2), Some(tx(2) as u64))]);
}

#[test]
fn a_device_that_refuses_several_pairs_is_used_with_one_that_has_all_buffers() {
    // An error, and answers that there are none such.
    for answer in [1, 2, 0x80, 0xff] {
        let bench = four();
        bench.device.manners(|manners| manners.answers_pairs = Some(answer));
        let _driver = serving(&bench, 1);
        let state = bench.device.state.borrow();
        assert_eq!((state.commands.as_slice(), state.accepted & MQ), (&[USE_FOUR.to_vec()][..], 0), "{answer}");
        assert_eq!((state.queues[RX].size, state.queues[TX].size), (ALL, ALL));
        assert!(state.queues[CONTROL..].iter().all(|queue| !queue.enabled));
    }
}

#[test]
fn a_device_that_has_refused_several_pairs_is_not_asked_again() {
    let bench = four();
    bench.device.manners(|manners| manners.answers_pairs = Some(1));
    let mut driver = bench.running();
    let pages = bench.memory.pages_in_use();
    bench.device.state.borrow_mut().status |= 0x40;
    bench.clock.advance(Duration::from_secs(2));
    driver.poll().unwrap();
    assert_eq!((driver.counters().resets, bench.device.state.borrow().commands.len()), (1, 1));
    let one = Bench::new();
    let _driver = one.running();
    assert_eq!(pages, one.memory.pages_in_use(), "the other pairs are gone");
}

#[test]
fn dv_15_a_device_that_never_says_whether_it_uses_several_pairs_is_not_waited_for_forever() {
    let bench = four();
    bench.device.manners(|manners| manners.control_hangs = true);
    assert_eq!(bench.start().err(), Some(NicError::TimedOut("control queue")));
    assert_eq!(bench.device.state.borrow().status, 0, "and it is stopped");
}

#[test]
fn dv_16_an_impossible_number_of_pairs_is_not_believed() {
    for pairs in [0_u16, 0x8000, 0x8001, 0xffff] {
        let bench = four();
        bench.device.state.borrow_mut().config[8..10].copy_from_slice(&pairs.to_le_bytes());
        let _driver = serving(&bench, 1);
        let state = bench.device.state.borrow();
        assert_eq!((state.accepted & MQ, state.queues[RX].size, state.commands.len()), (0, ALL, 0), "{pairs:#x}");
    }
}

#[test]
fn dv_16_pairs_without_queues_that_hold_a_frame_are_not_used() {
    for (queue, size, pairs) in [(7, 0, 3), (6, 0, 3), (5, 16, 2), (4, 1, 2), (3, 0, 1), (2, 31, 1), (7, 32, 4)] {
        let bench = four();
        bench.device.state.borrow_mut().queues[queue].max = size;
        let _driver = serving(&bench, pairs);
        let state = bench.device.state.borrow();
        let expected = if pairs > 1 { vec![[4, 0, pairs as u8, 0]] } else { vec![] };
        assert_eq!(state.commands, expected, "queue {queue} of {size}");
        assert!(state.queues[2 * pairs..2 * PAIRS].iter().all(|queue| !queue.enabled));
    }
    // The first pair and the control queue have to be there.
    for queue in [RX, TX, 2 * PAIRS] {
        let bench = four();
        bench.device.state.borrow_mut().queues[queue].max = 0;
        assert!(matches!(bench.start().err(), Some(NicError::Unsupported(_))), "queue {queue}");
    }
}

#[test]
fn dv_05_completions_of_queues_that_are_not_in_use_reach_nobody() {
    let bench = four();
    bench.device.manners(|manners| (manners.completes_early, manners.answers_pairs) = (true, Some(1)));
    let mut driver = bench.running();
    assert!(driver.receive().is_none());
    assert!(!driver.enable_interrupts());
    driver.poll().unwrap();
    assert!(receive_on(&bench, 0, &payload(1, 100)));
    assert_eq!(bytes_of(&driver.receive().unwrap()), payload(1, 100));
    assert_eq!((driver.counters().rx_frames, driver.counters().tx_frames), (1, 0));
    // Nor are they believed if it takes the queues into use then: nothing was sent yet.
    let bench = four();
    bench.device.manners(|manners| manners.completes_early = true);
    let mut driver = bench.running();
    assert_eq!(driver.poll(), Err(NicError::Confused("descriptor id")));
}

#[test]
fn dv_05_a_descriptor_that_is_not_the_devices_is_not_believed_on_any_queue() {
    for pair in 0..PAIRS {
        for id in [u32::from(SHARE), 255, 256, 0xffff, u32::MAX] {
            let bench = four();
            let mut driver = bench.running();
            bench.device.complete(rx(pair), id, 100);
            assert!(driver.receive().is_none());
            assert_eq!(driver.poll(), Err(NicError::Confused("descriptor id")), "pair {pair}, id {id}");
            let bench = four();
            let mut driver = bench.running();
            bench.device.complete(tx(pair), id, 0);
            assert_eq!(driver.poll(), Err(NicError::Confused("descriptor id")), "pair {pair}, id {id}");
        }
    }
}

#[test]
fn dv_02_queues_that_complete_nonsense_hold_nobody_longer_than_one_queue_would() {
    let bench = four();
    let mut driver = bench.running();
    let mut buffers = 0;
    for pair in 0..PAIRS {
        while let Some(chain) = bench.device.take(rx(pair)) {
            bench.device.complete(rx(pair), chain.head.into(), 0);
            buffers += 1;
        }
    }
    assert!(driver.receive().is_none());
    // One call took all that there was: as many buffers as one queue has.
    assert_eq!((buffers, driver.counters().rx_dropped), (u64::from(ALL), u64::from(ALL)));
}

#[test]
fn dv_18_memory_of_all_queues_of_a_device_that_does_not_stop_is_never_given_back() {
    let bench = four();
    let mut driver = bench.running();
    let running = bench.memory.pages_in_use();
    bench.device.manners(|manners| (manners.reset_hangs, manners.tx_hangs) = (true, true));
    for flow in 1000..1020 {
        bench.send(&mut driver, &packet(flow, 0));
    }
    driver.flush();
    drop(driver);
    assert_eq!((bench.memory.pages_in_use(), bench.frames.outstanding()), (running, 20));
    bench.device.manners(|manners| (manners.reset_hangs, manners.tx_hangs) = (false, false));
    drop(bench.running());
    assert_eq!(bench.memory.pages_in_use(), running, "a device that stops gives its memory back");
}

#[test]
fn quiescing_stops_all_queues() {
    let bench = four();
    let mut driver = bench.running();
    driver.quiesce();
    assert!(bench.device.state.borrow().queues.iter().all(|queue| !queue.enabled));
    assert!((0..PAIRS).all(|pair| !receive_on(&bench, pair, &payload(1, 100))));
    assert!(driver.transmit(bench.frames.whole(&packet(1000, 0))).is_err());
}
