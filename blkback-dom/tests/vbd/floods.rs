//! Guests that ask for more than their share, and disks that are slow: everybody else goes on.

use std::time::Duration;

use blkback_dom::disk::{Controller, Op};
use blkback_dom::vbd::Budget;
use fake_xen::{BlkRequest, BlkSegment, Blkfront, BlkfrontOptions};
use xen_pv_rt::hyp::Access;

use crate::ram::Asked;
use crate::rig::{Guest, Rig, target_config};

/// Keeps the greedy guest's ring full for 100 steps, in each of which the disk finishes 12 commands, while the
/// modest one reads a page at a time. Returns how many answers each of them got.
fn compete(rig: &mut Rig, greedy: Guest, modest: Guest, request: impl Fn(u64, u64) -> BlkRequest) -> (usize, usize) {
    let (mut answered, mut served, mut number) = (0, 0, 0);
    rig.fronts[modest].take_answers();
    let (read, _page) = rig.transfer(modest, 0, 0, 4096);
    for _ in 0..100 {
        while rig.fronts[greedy].free(0) > 0 {
            number += 1;
            let request = request(rig.id(), number);
            rig.fronts[greedy].submit(&[request]);
        }
        if rig.fronts[modest].unanswered() == 0 {
            rig.fronts[modest].submit(&[read]);
        }
        rig.ram.quota = Some(12);
        rig.step();
        answered += rig.fronts[greedy].take_answers().iter().filter(|answer| answer.status == 0).count();
        served += rig.fronts[modest].take_answers().iter().filter(|answer| answer.status == 0).count();
    }
    (answered, served)
}

/// The modest guest has a request answered in nearly every step, whatever the greedy one does.
fn assert_share(least: usize, request: impl Fn(&[BlkSegment], u64, u64) -> BlkRequest) {
    let mut rig = Rig::new();
    let (greedy, modest) = (rig.guest(), rig.guest());
    rig.assert_works(modest);
    rig.ram.depth = 4;
    let (segments, _pages) = rig.pages(greedy, 11, |_| 1);
    let (answered, served) = compete(&mut rig, greedy, modest, |id, number| request(&segments, id, number));
    assert!(answered >= least, "{answered}");
    assert!(served >= 95, "{served} of 100: the modest guest waits for the greedy one");
    rig.ram.quota = None;
    rig.wake();
    rig.until("the rest is answered", |rig| rig.fronts[greedy].unanswered() == 0);
    rig.assert_works(greedy);
}

#[test]
fn a_greedy_guest_leaves_the_others_their_share_bf_41() {
    assert_share(500, |segments, id, number| BlkRequest::direct(1, id, number % 10 * 32, &segments[..4]));
}

#[test]
fn a_flood_of_flushes_leaves_the_others_their_share_bf_22() {
    assert_share(500, |_, id, _| BlkRequest::flush(id));
}

#[test]
fn a_flood_of_barriers_leaves_the_others_their_share_bf_21() {
    assert_share(100, |segments, id, number| BlkRequest::direct(2, id, number % 64 * 8, &segments[..1]));
}

#[test]
fn a_flood_of_tiny_writes_to_one_sector_leaves_the_others_their_share_bf_50() {
    assert_share(100, |segments, id, _| BlkRequest::direct(1, id, 7, &[(segments[0].0, 3, 3)]));
}

#[test]
fn a_flood_of_whole_disk_discards_leaves_the_others_their_share_bf_19() {
    assert_share(30, |_, id, _| BlkRequest::discard(id, 0, 1024));
}

#[test]
fn a_long_discard_does_not_hold_up_other_requests_of_its_guest_bf_19() {
    for queue in [0, 1] {
        let mut rig = Rig::new();
        let options = BlkfrontOptions { queues: 2, ..BlkfrontOptions::default() };
        let guest = rig.guest_with(&target_config("nvme0n1"), options);
        // One sector at a time, of which the disk finishes one in each step.
        rig.ram.disk_mut(0).capabilities.max_discard_sectors = 1;
        rig.ram.quota = Some(0);
        let discard = BlkRequest::discard(rig.id(), 0, 2048);
        rig.fronts[guest].submit(&[discard]);
        rig.step();
        let (read, _pages) = rig.transfer(guest, 0, 3000, 4096);
        rig.fronts[guest].submit_to(queue, &[read]);
        let mut steps = 0;
        while rig.fronts[guest].unanswered() == 2 {
            rig.ram.quota = Some(1);
            rig.step();
            steps += 1;
            assert!(steps < 500, "the read waits for the discard");
        }
        assert_eq!(rig.fronts[guest].take_answers()[0].id, read.id());
        rig.ram.quota = None;
        rig.until("all is answered", |rig| rig.fronts[guest].unanswered() == 0);
        assert!(rig.ram.bytes(0, 0, 2048).iter().all(|byte| *byte == 0xdd));
    }
}

#[test]
fn a_write_does_not_overtake_a_discard_of_its_sectors_bf_19() {
    let mut rig = Rig::new();
    let guest = rig.guest_on("nvme0n1");
    rig.ram.disk_mut(0).capabilities.max_discard_sectors = 1;
    rig.ram.quota = Some(0);
    let (segments, _pages) = rig.pages(guest, 1, |_| 0x77);
    let requests =
        [BlkRequest::discard(rig.id(), 0, 1024), BlkRequest::direct(1, rig.id(), 512, &segments), BlkRequest::flush(5)];
    rig.fronts[guest].submit(&requests);
    while rig.fronts[guest].unanswered() > 0 {
        rig.ram.quota = Some(2);
        rig.step();
    }
    assert!(rig.ram.bytes(0, 512, 8).iter().all(|byte| *byte == 0x77), "the discard came after the write");
    assert!(rig.ram.bytes(0, 520, 504).iter().all(|byte| *byte == 0xdd));
}

#[test]
fn slow_commands_of_one_guest_hold_nobody_else_up_dv_33() {
    let mut rig = Rig::new();
    let (a, b) = (rig.guest(), rig.guest());
    // One part of the disk takes for ever; both guests have requests elsewhere.
    rig.ram.slow = Some(|asked: &Asked| asked.op == Op::Read && asked.sector < 8);
    let slow: Vec<_> = (0..16).map(|_| rig.transfer(a, 0, 0, 4096).0).collect();
    rig.fronts[a].submit(&slow);
    for round in 0..20 {
        let (read, _pages) = rig.transfer(a, 0, 64, 4096);
        rig.fronts[a].submit(&[read]);
        rig.until("the guest's other request is answered", |rig| rig.fronts[a].unanswered() == 16);
        assert_eq!(rig.fronts[a].take_answers().len(), 1, "round {round}");
        rig.assert_works(b);
    }
    rig.ram.slow = None;
    rig.wake();
    rig.until("the slow ones are answered", |rig| rig.fronts[a].unanswered() == 0);
    rig.assert_works(a);
}

#[test]
fn a_slow_guest_leaves_others_their_share_of_a_disk_with_few_slots_dv_33() {
    let mut rig = Rig::new();
    rig.ram.disk_mut(0).capabilities.shared_slots = 8;
    rig.ram.depth = 8;
    let (a, b) = (rig.guest(), rig.guest());
    rig.ram.slow = Some(|asked: &Asked| asked.op == Op::Read && asked.sector < 8);
    let slow: Vec<_> = (0..30).map(|_| rig.transfer(a, 0, 0, 4096).0).collect();
    rig.fronts[a].submit(&slow);
    rig.run(Duration::from_millis(10));
    assert_eq!(rig.ram.trace.len(), 4, "half of the slots");
    for _ in 0..20 {
        rig.assert_works(b);
    }
    // Who is left alone with the disk has all of it.
    let detach = rig.toolstack.detach(rig.device(b));
    rig.until("detached", |rig| rig.toolstack.outcome(detach) == Some(Ok(())));
    rig.run(Duration::from_millis(10));
    assert_eq!(rig.ram.in_flight(), 8);
    rig.ram.slow = None;
    rig.wake();
    rig.until("the slow ones are answered", |rig| rig.fronts[a].unanswered() == 0);
    rig.assert_works(a);
}

#[test]
fn a_frontend_that_never_reads_its_answers_is_served_within_its_ring_bf_42() {
    let (mut rig, attacker, victim) = Rig::attacker_and_victim();
    let held = rig.xen.memory().pages_in_use();
    rig.fronts[attacker].deaf = true;
    // What is in the slots after the first round are our own answers: nonsense, as requests go.
    let requests: Vec<_> = (0..20).map(|_| BlkRequest::flush(rig.id())).collect();
    rig.fronts[attacker].submit(&requests);
    for _ in 0..50 {
        rig.run(Duration::from_millis(5));
        let more = rig.fronts[attacker].req_prod(0).wrapping_add(32);
        rig.fronts[attacker].set_req_prod(0, more);
        rig.fronts[attacker].notify(0);
    }
    rig.run(Duration::from_millis(5));
    assert_eq!(rig.fronts[attacker].backend_state(), 4, "{}", rig.state());
    let (_, _, counters) = rig.blkback.counters()[0];
    let answered = counters.reads + counters.writes + counters.flushes + counters.discards + counters.errors.total();
    assert_eq!(answered, 3 + 20 + 50 * 32, "every slot that was published is answered, once");
    assert_eq!(rig.xen.memory().pages_in_use(), held);
    rig.assert_works(victim);
    let detach = rig.toolstack.detach(rig.device(attacker));
    rig.until("detached", |rig| rig.toolstack.outcome(detach) == Some(Ok(())));
    rig.assert_works(victim);
}

#[test]
fn the_largest_rings_and_requests_hold_what_the_budget_says_bf_43() {
    let budget = Budget { requests: 16, parts: 16, pages: 40, persistent: 0 };
    let mut rig = Rig::with(budget, |_| {});
    let before = rig.xen.memory().pages_in_use();
    let options = BlkfrontOptions { queues: 4, order: 4, ..BlkfrontOptions::default() };
    let guest = rig.guest_with(&target_config("nvme0n1"), options);
    assert_eq!(rig.usage().mapped, 64);
    let (segments, _pages) = rig.pages(guest, 256, |_| 0x43);
    let (list, list_page) = rig.fronts[guest].page(Access::ReadOnly);
    BlkRequest::write_list(&list_page, &segments);
    rig.ram.hold = true;
    for queue in 0..4 {
        let requests: Vec<_> = (0..128).map(|_| BlkRequest::indirect(1, rig.id(), 0, 256, list)).collect();
        rig.fronts[guest].submit_to(queue, &requests);
    }
    rig.run(Duration::from_millis(50));
    assert_eq!(rig.xen.memory().pages_in_use() - before, 40, "buffers are the budget's");
    assert_eq!(rig.ram.trace.iter().map(|asked| asked.sectors).sum::<u64>() % 8, 0);
    assert!(rig.ram.trace.len() <= 16, "{} commands", rig.ram.trace.len());
    rig.fronts[guest].close();
    rig.run(Duration::from_millis(50));
    rig.ram.hold = false;
    rig.wake();
    rig.until("closed", |rig| rig.fronts[guest].backend_state() == 6);
    assert_eq!(rig.xen.memory().pages_in_use(), before);
    rig.until("the rings are back", |rig| !rig.fronts[guest].is_connected());
}

#[test]
fn a_vbd_beyond_the_most_is_refused_and_the_others_go_on_bf_43() {
    let mut rig = Rig::new();
    let guests: Vec<_> = (0..32).map(|number| rig.guest_on(&format!("nvme0n1@{}+64", number * 64))).collect();
    let beyond = rig.add(&target_config("nvme0n1@2048+64"), BlkfrontOptions::default());
    rig.until("refused", |rig| rig.fronts[beyond].backend_state() == 6);
    assert!(rig.error_node(beyond).is_some(), "{}", rig.state());
    assert_eq!(rig.usage().mapped, 32);
    rig.assert_works(guests[0]);
    rig.assert_works(guests[31]);
}

#[test]
fn a_frontend_that_toggles_leaves_nothing_behind_bf_38() {
    let (mut rig, attacker, victim) = Rig::attacker_and_victim();
    let held = |rig: &Rig| {
        let usage = rig.usage();
        (usage.mapped, usage.ports, usage.watches, rig.xen.memory().pages_in_use())
    };
    let before = held(&rig);
    rig.fronts[attacker].frozen = true;
    for round in 0..2000_u64 {
        rig.fronts[attacker].set_state([5, 1, 4, 6, 3, 2, 1, 9][round as usize * 5 % 8]);
        if round % 3 == 0 {
            rig.step();
        }
    }
    rig.until("closed", |rig| {
        rig.fronts[attacker].set_state(6);
        rig.fronts[attacker].backend_state() == 6
    });
    let device = rig.device(attacker);
    rig.fronts[attacker].reclaim();
    rig.fronts[attacker] = Blkfront::new(&rig.xen, device, BlkfrontOptions::default());
    rig.fronts[attacker].reopen();
    rig.until("connected again", |rig| rig.is_connected(attacker));
    rig.assert_works(attacker);
    assert_eq!(held(&rig), before, "{}", rig.state());
    assert!(rig.log().len() < 200, "{} lines", rig.log().len());
    rig.assert_works(victim);
}
