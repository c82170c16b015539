//! The NVMe driver against a controller model: what it must do when all goes well.
#![allow(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    reason = "a test"
)]
#![allow(dead_code, unreachable_pub, reason = "each test file uses its own part of the models")]

mod device;

use blkback_dom::disk::{Controller, DiskEvent, DiskId, Health, Op, Span, SubmitError};
use device::nvme::{Fate, Model, Namespace, op};
use device::nvme_bench::Bench;
use device::{gather, pattern, scatter, submit};
use proptest::prelude::*;
use xen_pv_rt::hyp::HostMemory;

fn small() -> Bench {
    Bench::start(|memory| Model::new(memory, vec![Namespace::new(1, 1 << 16, 512)]))
}

#[test]
fn a_controller_that_was_left_running_is_reset_before_it_is_used() {
    let bench = Bench::start(|memory| Model::new(memory, vec![Namespace::new(1, 1 << 16, 512)]).running());
    let model = bench.model.borrow();
    assert_eq!(model.cc_writes[0] & 1, 0, "the first thing is to stop it");
    assert_eq!(model.cc_writes[1] & 1, 1);
    assert_eq!(model.cc_writes.len(), 2);
}

#[test]
fn the_disk_is_described() {
    let bench = Bench::start(|memory| {
        let mut second = Namespace::new(7, 1000, 4096);
        second.read_only = true;
        Model::new(memory, vec![Namespace::new(1, 1 << 16, 512), second])
    });
    let [first, second] = bench.nvme.disks() else { panic!("two disks") };
    assert_eq!((first.geometry.sectors, first.geometry.logical_bytes), (1 << 16, 512));
    assert_eq!((second.geometry.sectors, second.geometry.logical_bytes), (8000, 4096));
    assert_eq!(first.serial, "SERIAL-1");
    assert_eq!(first.model, "A model of a disk?");
    assert_eq!(second.name.to_string(), "n7");
    assert!(!first.capabilities.read_only && second.capabilities.read_only);
    assert!(first.capabilities.volatile_cache && first.capabilities.fua);
    assert_eq!((first.capabilities.discard_granularity, second.capabilities.discard_granularity), (1, 8));
    assert_eq!(first.geometry.max_transfer_bytes, 1 << 20);
}

#[test]
fn what_was_written_is_read_back_on_both_block_sizes() {
    for block in [512, 4096] {
        let mut bench = Bench::start(|memory| Model::new(memory, vec![Namespace::new(1, 1 << 13, block)]));
        for bytes in [4096, 8192, 12288, 1 << 20] {
            let spans = bench.pages.whole(bytes);
            let data = pattern(bytes.into(), bytes as usize);
            scatter(&bench.memory, &spans, &data);
            assert_eq!(bench.execute(0, Op::Write, 64, &spans), Ok(()));
            scatter(&bench.memory, &spans, &vec![0; bytes as usize]);
            assert_eq!(bench.execute(0, Op::Read, 64, &spans), Ok(()));
            assert!(gather(&bench.memory, &spans) == data, "{bytes} bytes on blocks of {block}");
        }
    }
}

#[test]
fn namespaces_do_not_mix() {
    let mut bench =
        Bench::start(|memory| Model::new(memory, vec![Namespace::new(1, 64, 512), Namespace::new(2, 64, 512)]));
    let spans = bench.pages.whole(4096);
    scatter(&bench.memory, &spans, &[0xaa; 4096]);
    bench.execute(1, Op::Write, 8, &spans).unwrap();
    bench.execute(0, Op::Read, 8, &spans).unwrap();
    assert!(gather(&bench.memory, &spans) == [0; 4096]);
    bench.execute(1, Op::Read, 8, &spans).unwrap();
    assert!(gather(&bench.memory, &spans) == [0xaa; 4096]);
}

/// Ranges of sectors within pages, as a blkif request has them.
fn sector_ranges() -> impl Strategy<Value = Vec<(u32, u32)>> {
    prop::collection::vec((0..8_u32).prop_flat_map(|first| (Just(first), first + 1..=8)), 1..=64)
}

fn transfers_round_trip(ranges: &[(u32, u32)], sgl: bool, mdts: u8) {
    let mut bench = Bench::start(|memory| {
        let mut model = Model::new(memory, vec![Namespace::new(1, 1 << 16, 512)]);
        (model.sgl, model.mdts) = (sgl, mdts);
        model
    });
    let spans: Vec<Span> = ranges
        .iter()
        .enumerate()
        .map(|(page, (first, end))| bench.pages.span(page, first * 512, (end - first) * 512))
        .collect();
    let bytes: usize = spans.iter().map(|span| span.len as usize).sum();
    let data = pattern(bytes as u64, bytes);
    scatter(&bench.memory, &spans, &data);
    match bench.execute_or_refuse(0, Op::Write, 8, &spans) {
        Ok(result) => assert_eq!(result, Ok(())),
        // Too many pieces without SGLs: the caller copies, and whole pages always work.
        Err(error) => {
            assert_eq!(error, SubmitError::Layout);
            assert!(!sgl, "an SGL can describe anything");
            return;
        }
    }
    let written: Vec<u8> =
        (8..8 + bytes as u64 / 512).flat_map(|lba| bench.model.borrow().namespace(1).unwrap().block(lba)).collect();
    assert!(written == data, "written");
    // Between the spans nothing may be touched.
    bench.fill_pages(0x5a);
    assert_eq!(bench.execute(0, Op::Read, 8, &spans), Ok(()));
    assert!(gather(&bench.memory, &spans) == data, "read");
    let outside: usize = bench.pages.pages.iter().map(|page| page.bytes().iter().filter(|b| **b == 0x5a).count()).sum();
    let inside = data.iter().filter(|b| **b == 0x5a).count();
    assert_eq!(outside, bench.pages.pages.len() * 4096 - bytes + inside);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn any_ranges_of_sectors_are_transferred_or_refused(ranges in sector_ranges(), sgl: bool, mdts in 1..8_u8) {
        transfers_round_trip(&ranges, sgl, mdts);
    }
}

#[test]
fn a_gap_within_a_block_takes_an_sgl() {
    for sgl in [false, true] {
        let mut bench = Bench::start(|memory| {
            let mut model = Model::new(memory, vec![Namespace::new(1, 64, 4096)]);
            model.sgl = sgl;
            model
        });
        let spans = [bench.pages.span(0, 0, 2048), bench.pages.span(1, 512, 2048)];
        let result = bench.execute_or_refuse(0, Op::Read, 8, &spans);
        assert_eq!(result, if sgl { Ok(Ok(())) } else { Err(SubmitError::Layout) });
        assert_eq!(bench.execute(0, Op::Read, 8, &bench.pages.whole(4096)), Ok(()));
    }
}

#[test]
fn an_unaligned_buffer_over_adjacent_pages_is_one_command() {
    let mut bench = small();
    let mut spans = vec![bench.pages.span(0, 1024, 3072)];
    spans.extend((1..8).map(|page| bench.pages.span(page, 0, 4096)));
    spans.push(bench.pages.span(8, 0, 1024));
    assert_eq!(bench.execute(0, Op::Read, 0, &spans), Ok(()));
    assert_eq!(bench.model.borrow().trace.len(), 1);
}

#[test]
fn a_transfer_beyond_mdts_is_split_and_one_failed_part_fails_it() {
    let mut bench = Bench::start(|memory| {
        let mut model = Model::new(memory, vec![Namespace::new(1, 1 << 16, 512)]);
        model.mdts = 2;
        model
    });
    let spans = bench.pages.whole(1 << 16);
    assert_eq!(bench.execute(0, Op::Write, 0, &spans), Ok(()));
    assert_eq!(bench.model.borrow().trace.len(), 4);
    for failed in 0..4 {
        bench.judge(move |command| if command.lba() == failed * 32 { Fate::Fail(0x4281) } else { Fate::Execute });
        assert!(bench.execute(0, Op::Write, 0, &spans).is_err());
    }
}

#[test]
fn one_doorbell_for_a_batch_and_no_other_register() {
    let mut bench = small();
    let spans = bench.pages.whole(4096);
    let (doorbells, reads) = (bench.model.borrow().doorbells, bench.model.borrow().reads);
    for tag in 0..32 {
        submit(&mut bench.nvme, 0, tag, Op::Read, tag * 8, &spans).unwrap();
    }
    assert_eq!(bench.model.borrow().doorbells, doorbells, "nothing before the kick");
    bench.nvme.kick();
    bench.nvme.kick();
    bench.answers.poll(&mut bench.nvme, &bench.clock);
    assert_eq!(bench.answers.len(), 32);
    assert_eq!(bench.model.borrow().doorbells, doorbells + 1);
    assert_eq!(bench.model.borrow().reads, reads);
}

#[test]
fn a_full_queue_pushes_back_and_recovers() {
    let mut bench = small();
    bench.judge(|_| Fate::Hold);
    let spans = bench.pages.whole(4096);
    let mut accepted = 0;
    while submit(&mut bench.nvme, 0, accepted, Op::Read, 0, &spans) == Ok(()) {
        accepted += 1;
    }
    assert_eq!(submit(&mut bench.nvme, 0, 999, Op::Read, 0, &spans), Err(SubmitError::Full));
    assert_eq!(accepted, 127);
    bench.nvme.kick();
    bench.model.borrow_mut().release();
    bench.answers.poll(&mut bench.nvme, &bench.clock);
    assert_eq!(bench.answers.take(), [(0, Ok(()))]);
    assert_eq!(submit(&mut bench.nvme, 0, 1000, Op::Read, 0, &spans), Ok(()));
}

#[test]
fn queues_wrap_many_times_without_losing_anything() {
    let mut bench = small();
    let spans = bench.pages.whole(512);
    for round in 0..100 {
        for tag in 0..50 {
            submit(&mut bench.nvme, 0, round * 50 + tag, Op::Write, tag, &spans).unwrap();
        }
        bench.nvme.kick();
        bench.answers.poll(&mut bench.nvme, &bench.clock);
    }
    let answers = bench.answers.take();
    assert!(answers.iter().enumerate().all(|(index, answer)| *answer == (index as u64, Ok(()))));
    assert_eq!(answers.len(), 5000);
}

#[test]
fn lanes_use_queues_of_their_own() {
    let mut bench = small();
    let spans = bench.pages.whole(512);
    bench.judge(|command| if command.queue == 1 { Fate::Hold } else { Fate::Execute });
    for lane in 0..4 {
        bench.submit_in_lane(lane, lane.into(), Op::Read, 0, &spans).unwrap();
    }
    bench.nvme.kick();
    bench.answers.poll(&mut bench.nvme, &bench.clock);
    let tags: Vec<u64> = bench.answers.take().iter().map(|(tag, _)| *tag).collect();
    assert_eq!(tags, [1, 2, 3], "a slow command holds up nobody in another lane");
}

#[test]
fn fewer_queues_than_asked_for_will_do() {
    let mut bench = Bench::start(|memory| {
        let mut model = Model::new(memory, vec![Namespace::new(1, 64, 512)]);
        (model.queues_granted, model.entries) = (1, 4);
        model
    });
    let spans = bench.pages.whole(512);
    for lane in 0..3 {
        bench.submit_in_lane(lane, lane.into(), Op::Read, 0, &spans).unwrap();
    }
    assert_eq!(bench.submit_in_lane(3, 3, Op::Read, 0, &spans), Err(SubmitError::Full));
    bench.settle();
    assert_eq!(bench.answers.len(), 3);
}

#[test]
fn every_flush_reaches_the_device_and_makes_answered_writes_stable() {
    let mut bench = small();
    let spans = bench.pages.whole(4096);
    let data = pattern(1, 4096);
    scatter(&bench.memory, &spans, &data);
    bench.execute(0, Op::Write, 0, &spans).unwrap();
    assert!(bench.model.borrow().namespace(1).unwrap().stable_block(0) == [0; 512]);
    for _ in 0..3 {
        bench.execute(0, Op::Flush, 0, &[]).unwrap();
    }
    assert!(bench.model.borrow().namespace(1).unwrap().stable_block(0) == data[..512]);
    assert_eq!(bench.count(op::FLUSH), 3);
    bench.execute(0, Op::WriteFua, 8, &spans).unwrap();
    assert!(bench.model.borrow().namespace(1).unwrap().stable_block(8) == data[..512]);
}

#[test]
fn a_disk_that_says_it_has_no_cache_is_flushed_all_the_same_dv_34() {
    let mut bench = Bench::start(|memory| {
        let mut model = Model::new(memory, vec![Namespace::new(1, 64, 512)]);
        model.volatile_cache = false;
        model
    });
    assert!(!bench.nvme.disks()[0].capabilities.volatile_cache);
    for count in 1..4 {
        bench.execute(0, Op::Flush, 0, &[]).unwrap();
        assert_eq!(bench.count(op::FLUSH), count);
    }
}

#[test]
fn discard_and_write_zeroes_reach_exactly_their_sectors() {
    for block in [512_usize, 4096] {
        let mut bench = Bench::start(|memory| Model::new(memory, vec![Namespace::new(1, 1 << 10, block)]));
        let spans = bench.pages.whole(16384);
        for operation in [Op::Discard { sectors: 16 }, Op::WriteZeroes { sectors: 16 }] {
            scatter(&bench.memory, &spans, &[7; 16384]);
            bench.execute(0, Op::Write, 0, &spans).unwrap();
            bench.execute(0, operation, 8, &[]).unwrap();
            bench.execute(0, Op::Read, 0, &spans).unwrap();
            let read = gather(&bench.memory, &spans);
            let zeros: Vec<usize> = (0..32).filter(|sector| read[sector * 512] == 0).collect();
            assert_eq!(zeros, (8..24).collect::<Vec<_>>(), "{operation:?} on blocks of {block}");
        }
    }
}

#[test]
fn a_huge_discard_is_one_command_of_several_ranges() {
    let blocks = 10_u64 << 32;
    let mut bench = Bench::start(|memory| Model::new(memory, vec![Namespace::new(1, blocks, 512)]));
    let spans = bench.pages.whole(512);
    scatter(&bench.memory, &spans, &[7; 512]);
    bench.execute(0, Op::Write, blocks - 1, &spans).unwrap();
    bench.execute(0, Op::Discard { sectors: blocks }, 0, &[]).unwrap();
    assert_eq!(bench.count(op::DSM), 1);
    bench.execute(0, Op::Read, blocks - 1, &spans).unwrap();
    assert!(gather(&bench.memory, &spans) == [0; 512]);
}

#[test]
fn commands_that_make_no_sense_are_refused_before_the_device() {
    let mut bench = Bench::start(|memory| {
        let mut read_only = Namespace::new(2, 64, 4096);
        read_only.read_only = true;
        Model::new(memory, vec![Namespace::new(1, 64, 512), read_only])
    });
    let spans = bench.pages.whole(4096);
    let odd = [Span { maddr: spans[0].maddr.wrapping_add(2), len: 512 }];
    let short = [Span { len: 256, ..spans[0] }];
    let empty = [Span { len: 0, ..spans[0] }];
    let many = vec![Span { len: 512, ..spans[0] }; 257];
    for (disk, operation, sector, spans, error) in [
        (0, Op::Read, 57, &spans[..], SubmitError::OutOfRange),
        (0, Op::Read, u64::MAX - 7, &spans, SubmitError::OutOfRange),
        (0, Op::Read, 64, &spans, SubmitError::OutOfRange),
        (0, Op::Read, 0, &[], SubmitError::BadSpans),
        (0, Op::Read, 0, &odd, SubmitError::BadSpans),
        (0, Op::Read, 0, &short, SubmitError::BadSpans),
        (0, Op::Read, 0, &empty, SubmitError::BadSpans),
        (0, Op::Read, 0, &many, SubmitError::BadSpans),
        (0, Op::Flush, 0, &spans, SubmitError::BadSpans),
        (0, Op::Discard { sectors: 1 }, 0, &spans, SubmitError::BadSpans),
        (0, Op::Discard { sectors: 0 }, 0, &[], SubmitError::OutOfRange),
        (0, Op::Discard { sectors: u64::MAX }, 8, &[], SubmitError::OutOfRange),
        (0, Op::WriteZeroes { sectors: 1 << 17 }, 0, &[], SubmitError::OutOfRange),
        (1, Op::Write, 0, &spans, SubmitError::ReadOnly),
        (1, Op::Discard { sectors: 8 }, 0, &[], SubmitError::ReadOnly),
        (1, Op::Read, 1, &spans, SubmitError::Unaligned),
        (2, Op::Read, 0, &spans, SubmitError::Gone),
    ] {
        assert_eq!(submit(&mut bench.nvme, disk, 0, operation, sector, spans), Err(error), "{operation:?} at {sector}");
    }
    assert_eq!(bench.nvme.in_flight(), 0);
    assert!(bench.model.borrow().trace.is_empty());
    assert_eq!(bench.execute(0, Op::Read, 56, &spans), Ok(()), "up to the last sector");
}

#[test]
fn a_namespace_with_metadata_is_not_served_and_does_not_hide_others() {
    let bench = Bench::start(|memory| {
        let mut odd = Namespace::new(1, 64, 512);
        odd.metadata = 8;
        Model::new(memory, vec![odd, Namespace::new(2, 64, 512)])
    });
    assert_eq!(bench.nvme.disks().len(), 1);
    assert_eq!(bench.nvme.disks()[0].name.to_string(), "n2");
}

#[test]
fn resized_added_and_removed_namespaces_are_noticed() {
    let mut bench =
        Bench::start(|memory| Model::new(memory, vec![Namespace::new(1, 64, 512), Namespace::new(2, 64, 512)]));
    assert_eq!(bench.nvme.take_event(), None);
    {
        let mut model = bench.model.borrow_mut();
        model.namespaces[0].blocks = 128;
        model.namespaces[1] = Namespace::new(3, 32, 4096);
        assert!(model.raise_event(2, 4));
    }
    bench.idle(3);
    let mut events = Vec::from_iter(std::iter::from_fn(|| bench.nvme.take_event()));
    events.sort_by_key(|event| format!("{event:?}"));
    assert_eq!(events, [DiskEvent::Added(DiskId(2)), DiskEvent::Removed(DiskId(1)), DiskEvent::Resized(DiskId(0))]);
    assert_eq!(bench.nvme.disks()[0].geometry.sectors, 128);
    let spans = bench.pages.whole(4096);
    assert_eq!(submit(&mut bench.nvme, 1, 0, Op::Read, 0, &spans), Err(SubmitError::Gone));
    assert_eq!(bench.execute(2, Op::Read, 0, &spans), Ok(()));
    assert_eq!(bench.execute(0, Op::Read, 120, &spans), Ok(()));
}

#[test]
fn shutdown_is_announced_and_flushes_the_cache() {
    let mut bench = small();
    let spans = bench.pages.whole(4096);
    scatter(&bench.memory, &spans, &[9; 4096]);
    bench.execute(0, Op::Write, 0, &spans).unwrap();
    bench.nvme.quiesce();
    assert_eq!(bench.nvme.health(), Health::Stopped);
    assert!(bench.model.borrow().was_shut_down() && !bench.model.borrow().is_enabled());
    assert!(bench.model.borrow().namespace(1).unwrap().stable_block(0) == [9; 512]);
    assert_eq!(submit(&mut bench.nvme, 0, 0, Op::Read, 0, &spans), Err(SubmitError::Gone));
}

#[test]
fn a_dropped_driver_has_stopped_its_controller_and_returns_its_memory() {
    let memory = HostMemory::new();
    let bench = Bench::start_in(&memory, |memory| Model::new(memory, vec![Namespace::new(1, 64, 512)]));
    let model = bench.model.clone();
    let before = memory.pages_in_use();
    let pages = bench.pages.pages.len();
    drop(bench);
    assert!(!model.borrow().is_enabled());
    assert!(before > pages);
    assert_eq!(memory.pages_in_use(), 0);
}
