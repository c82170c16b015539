//! Flushes and barriers: what an answer promises (`docs/durability.md`).

use std::time::Duration;

use blkback_dom::disk::{DiskError, Op};
use fake_xen::BlkRequest;

use crate::rig::{Guest, Rig};

fn page_write(rig: &mut Rig, guest: Guest, sector: u64, byte: u8) -> BlkRequest {
    let (segments, _pages) = rig.pages(guest, 1, |_| byte);
    BlkRequest::direct(1, rig.id(), sector, &segments)
}

#[test]
fn an_answered_flush_covers_every_write_answered_before_it() {
    let mut rig = Rig::new();
    let guest = rig.guest_on("nvme0n1");
    for sector in 0..8 {
        assert_eq!(rig.write(guest, sector * 8, &[sector as u8 + 1; 4096]), 0);
    }
    let flush = BlkRequest::flush(rig.id());
    assert_eq!(rig.ask(guest, &[flush]), [0]);
    assert_eq!(rig.write(guest, 100, &[0x77; 512]), 0);
    rig.ram.cut_power();
    for sector in 0..8 {
        assert!(rig.ram.bytes(0, sector * 8, 8).iter().all(|byte| *byte == sector as u8 + 1));
    }
    // What was answered but not flushed has no such promise: the model loses it, or the test would show nothing.
    assert!(rig.ram.bytes(0, 100, 1).iter().all(|byte| *byte == 0));
}

#[test]
fn a_flush_is_seen_by_the_device_after_the_writes_answered_before_it_dv_35() {
    let mut rig = Rig::new();
    let guest = rig.guest_on("nvme0n1");
    for round in 0..5 {
        assert_eq!(rig.write(guest, round * 8, &[1; 4096]), 0);
        let flush = BlkRequest::flush(rig.id());
        assert_eq!(rig.ask(guest, &[flush]), [0]);
        let ops: Vec<_> = rig.ram.trace.iter().map(|asked| asked.op).collect();
        assert_eq!(ops[ops.len() - 2..], [Op::Write, Op::Flush]);
        assert_eq!(ops.len() as u64, (round + 1) * 2);
    }
}

#[test]
fn a_failed_flush_is_never_okay_dv_29() {
    for error in [DiskError::Media, DiskError::TimedOut, DiskError::Reset, DiskError::Gone, DiskError::Device(6)] {
        let mut rig = Rig::new();
        let guest = rig.guest_on("nvme0n1");
        rig.ram.fail = Box::new(move |asked| (asked.op == Op::Flush).then_some(error));
        let flush = BlkRequest::flush(rig.id());
        assert_eq!(rig.ask(guest, &[flush]), [-1], "{error:?}");
        let barrier = page_write(&mut rig, guest, 0, 1);
        let barrier = BlkRequest::direct(2, barrier.id(), 0, &[]).with_segments(0);
        assert_eq!(rig.ask(guest, &[barrier]), [-1], "{error:?}");
    }
}

#[test]
fn a_flush_of_a_volume_on_two_disks_flushes_both() {
    let mut rig = Rig::with(blkback_dom::vbd::Budget::default(), |catalogue| {
        let disks = [catalogue.disks[0].disk, catalogue.disks[1].disk];
        let mut map = blkback_dom::volume::Map::default();
        map.push(64, disks.map(|disk| (disk, 0)).to_vec(), 8).unwrap();
        let volume = blkback_dom::volume::LogicalVolume { group: "vg".into(), name: "lv".into(), map: Ok(map) };
        catalogue.logical.push(volume);
    });
    let guest = rig.guest_on("vg/lv");
    assert_eq!(rig.write(guest, 0, &[5; 8192]), 0);
    assert!(rig.ram.bytes(0, 0, 8).iter().chain(rig.ram.bytes(1, 0, 8)).all(|byte| *byte == 5));
    let flush = BlkRequest::flush(rig.id());
    assert_eq!(rig.ask(guest, &[flush]), [0]);
    rig.ram.cut_power();
    assert_eq!(rig.read(guest, 0, 8192), Ok(vec![5; 8192]));
    // One of the two fails: so does the flush.
    rig.ram.fail = Box::new(|asked| (asked.op == Op::Flush && asked.disk == 1).then_some(DiskError::Media));
    let flush = BlkRequest::flush(rig.id());
    assert_eq!(rig.ask(guest, &[flush]), [-1]);
}

#[test]
fn a_barrier_is_ordered_with_everything_bf_21() {
    for backwards in [false, true] {
        let mut rig = Rig::new();
        rig.ram.backwards = backwards;
        let guest = rig.guest_on("nvme0n1");
        let mut requests: Vec<_> = (0..10).map(|n| page_write(&mut rig, guest, n * 8, 1)).collect();
        let barrier = page_write(&mut rig, guest, 800, 2);
        let mut words = barrier;
        words = BlkRequest::direct(2, words.id(), 800, &segments_of(&mut rig, guest));
        requests.push(words);
        requests.extend((0..10).map(|n| page_write(&mut rig, guest, 1600 + n * 8, 3)).collect::<Vec<_>>());
        assert_eq!(rig.ask(guest, &requests), [0; 21]);
        let trace = &rig.ram.trace;
        let at = trace.iter().position(|asked| asked.sector == 800 && asked.op == Op::Write).unwrap();
        assert!(trace[..at].iter().filter(|asked| asked.op == Op::Write).all(|asked| asked.sector < 800));
        assert_eq!((trace[at - 1].op, trace[at + 1].op), (Op::Flush, Op::Flush));
        assert_eq!(trace[..at - 1].iter().map(|asked| asked.sectors).sum::<u64>(), 80);
        assert!(trace[at + 2..].iter().all(|asked| asked.sector >= 1600));
    }
}

fn segments_of(rig: &mut Rig, guest: Guest) -> Vec<fake_xen::BlkSegment> {
    rig.pages(guest, 1, |_| 9).0
}

#[test]
fn a_barrier_waits_for_what_is_in_flight() {
    let mut rig = Rig::new();
    let guest = rig.guest_on("nvme0n1");
    rig.ram.hold = true;
    let before = page_write(&mut rig, guest, 0, 1);
    let barrier = BlkRequest::direct(2, rig.id(), 8, &segments_of(&mut rig, guest));
    let after = page_write(&mut rig, guest, 16, 1);
    rig.fronts[guest].submit(&[before, barrier, after]);
    rig.run(Duration::from_millis(20));
    assert_eq!(rig.ram.trace.len(), 1, "the barrier has overtaken a write, or been overtaken");
    rig.ram.hold = false;
    rig.until("all are answered", |rig| rig.fronts[guest].unanswered() == 0);
    let order: Vec<_> = rig.fronts[guest].take_answers().iter().map(|answer| answer.id).collect();
    assert_eq!(order, [before.id(), barrier.id(), after.id()]);
}

#[test]
fn a_write_of_a_connection_that_was_closed_is_not_carried_out_later_ft_14() {
    let mut rig = Rig::new();
    let guest = rig.guest();
    rig.ram.hold = true;
    let old = page_write(&mut rig, guest, 0, 1);
    rig.fronts[guest].submit(&[old]);
    rig.run(Duration::from_millis(10));
    rig.fronts[guest].close();
    rig.run(Duration::from_secs(2));
    // Not closed while the disk has the write: a successor's write could be overtaken by it.
    assert_eq!(rig.fronts[guest].backend_state(), 5);
    rig.ram.hold = false;
    rig.until("closed", |rig| rig.fronts[guest].backend_state() == 6);
    rig.until("the rings are back", |rig| !rig.fronts[guest].is_connected());
    rig.fronts[guest].reopen();
    rig.until("connected again", |rig| rig.is_connected(guest));
    assert_eq!(rig.write(guest, 0, &[2; 4096]), 0);
    rig.run(Duration::from_secs(1));
    assert!(rig.ram.bytes(0, 0, 8).iter().all(|byte| *byte == 2));
}

#[test]
fn random_writes_and_power_cuts_lose_nothing_that_was_flushed_ft_13() {
    // A small generator of its own, so that a failure repeats.
    let mut state = 0x1234_5678_u32;
    let mut random = move |below: u32| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state % below
    };
    for round in 0..20 {
        let mut rig = Rig::new();
        rig.ram.backwards = round % 2 == 0;
        let guest = rig.guest_on("nvme0n1");
        // Per page of the disk: the value flushed last, and those answered since.
        let mut flushed = [0_u8; 32];
        let mut answered: Vec<Vec<u8>> = vec![Vec::new(); 32];
        for step in 0..60_u8 {
            if random(8) == 0 {
                let flush = BlkRequest::flush(rig.id());
                assert_eq!(rig.ask(guest, &[flush]), [0]);
                for (stable, since) in flushed.iter_mut().zip(&mut answered) {
                    *stable = since.drain(..).next_back().unwrap_or(*stable);
                }
            } else {
                let page = random(32) as usize;
                assert_eq!(rig.write(guest, page as u64 * 8, &[step + 1; 4096]), 0);
                answered[page].push(step + 1);
            }
        }
        rig.ram.cut_power();
        for (page, (stable, since)) in flushed.iter().zip(&answered).enumerate() {
            let there = rig.ram.bytes(0, page as u64 * 8, 8);
            assert!(there.iter().all(|byte| byte == stable || since.contains(byte)), "page {page} lost {stable}");
        }
    }
}
