//! The virtio-blk driver against a device model, well behaved and not.
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

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use blkback_dom::disk::virtio::{Quiet, VirtioBlk};
use blkback_dom::disk::{
    Command, Controller, DiskError, DiskEvent, DiskId, Failure, Health, Op, Span, SubmitError, Tag,
};
use device::virtio::{ALL, Fate, Model, ModelTransport, Taken, feature};
use device::{Answers, Pages, RunningClock, TestClock, gather, pattern, run, scatter};
use proptest::prelude::*;
use xen_pv_rt::hyp::HostMemory;

struct Bench {
    blk: VirtioBlk<ModelTransport, RunningClock>,
    pages: Pages,
    memory: HostMemory,
    clock: TestClock,
    running: RunningClock,
    model: Rc<RefCell<Model>>,
    answers: Answers,
}

impl Bench {
    fn start(change: impl FnOnce(&mut Model)) -> Self {
        Self::attach(&HostMemory::new(), change).unwrap()
    }

    fn attach(memory: &HostMemory, change: impl FnOnce(&mut Model)) -> Result<Self, Failure> {
        let mut model = Model::new(memory, 1 << 16).running();
        change(&mut model);
        let model = Rc::new(RefCell::new(model));
        let clock = TestClock::default();
        let running = RunningClock(clock.clone(), Rc::default());
        let quiet = run(&clock, Quiet::reset(ModelTransport(model.clone()), running.clone()))?;
        let blk = quiet.start(memory, Duration::from_secs(30))?;
        let pages = Pages::new(memory, 256);
        Ok(Self { blk, pages, memory: memory.clone(), clock, running, model, answers: Answers::default() })
    }

    fn judge(&self, judge: impl FnMut(&Taken) -> Fate + 'static) {
        self.model.borrow_mut().judge = Some(Box::new(judge));
    }

    fn poll(&mut self) {
        self.answers.poll(&mut self.blk, &self.clock);
    }

    fn idle(&mut self, seconds: u32) {
        for _ in 0..seconds * 100 {
            self.poll();
            self.clock.advance(Duration::from_millis(10));
        }
    }

    fn submit(&mut self, lane: u16, tag: u64, op: Op, sector: u64, spans: &[Span]) -> Result<(), SubmitError> {
        self.blk.submit(DiskId(0), &Command { tag: Tag(tag), op, sector, spans, lane })
    }

    fn settle(&mut self) {
        self.blk.kick();
        for _ in 0..60_000 {
            self.poll();
            if self.blk.in_flight() == 0 && self.blk.health() != Health::Recovering {
                return;
            }
            self.clock.advance(Duration::from_millis(10));
        }
        panic!("still {} in flight, {:?}", self.blk.in_flight(), self.blk.health());
    }

    fn execute(&mut self, op: Op, sector: u64, spans: &[Span]) -> Result<(), DiskError> {
        self.settle();
        self.answers.take();
        self.submit(0, 7, op, sector, spans).expect("accepted");
        self.settle();
        let answers = self.answers.take();
        let [(7, result)] = answers[..] else { panic!("one answer: {answers:?}") };
        result
    }

    fn exactly_once(&self, count: u64) -> Vec<Result<(), DiskError>> {
        let mut answers = self.answers.take();
        answers.sort_by_key(|(tag, _)| *tag);
        assert_eq!(answers.iter().map(|(tag, _)| *tag).collect::<Vec<_>>(), (0..count).collect::<Vec<_>>());
        answers.into_iter().map(|(_, result)| result).collect()
    }
}

#[test]
fn the_device_is_reset_before_anything_else() {
    let bench = Bench::start(|_| {});
    assert_eq!(bench.model.borrow().statuses[0], 0);
    assert_eq!(bench.model.borrow().accepted, ALL);
}

#[test]
fn the_disk_is_described() {
    let bench = Bench::start(|model| {
        model.block_bytes = 4096;
        model.offered |= feature::RO;
        model.capacity = 1001;
    });
    let [disk] = bench.blk.disks() else { panic!("one disk") };
    assert_eq!((disk.geometry.sectors, disk.geometry.logical_bytes), (1000, 4096), "whole blocks");
    assert!(disk.capabilities.read_only && disk.capabilities.volatile_cache && !disk.capabilities.fua);
    assert_eq!(disk.capabilities.discard_granularity, 8);
}

#[test]
fn what_was_written_is_read_back_with_and_without_indirect_tables() {
    for offered in [ALL, ALL & !feature::INDIRECT, ALL & !feature::EVENT_IDX, feature::VERSION_1] {
        let mut bench = Bench::start(|model| model.offered = offered);
        let most = bench.blk.disks()[0].geometry.max_transfer_bytes;
        for bytes in [512, 4096, 40960, most] {
            let spans = bench.pages.whole(bytes.min(most));
            let data = pattern(bytes.into(), bytes.min(most) as usize);
            scatter(&bench.memory, &spans, &data);
            assert_eq!(bench.execute(Op::Write, 8, &spans), Ok(()));
            scatter(&bench.memory, &spans, &vec![0; data.len()]);
            assert_eq!(bench.execute(Op::Read, 8, &spans), Ok(()));
            assert!(gather(&bench.memory, &spans) == data, "{bytes} bytes with {offered:#x}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn any_ranges_of_sectors_are_transferred(
        ranges in prop::collection::vec((0..8_u32).prop_flat_map(|first| (Just(first), first + 1..=8)), 1..=256),
        indirect: bool,
        segments in 3..255_u32,
    ) {
        let mut bench = Bench::start(|model| {
            model.segments = segments;
            if !indirect {
                model.offered &= !feature::INDIRECT;
            }
        });
        let most = bench.blk.disks()[0].geometry.max_spans.into();
        let spans: Vec<Span> = ranges
            .iter()
            .enumerate()
            .take(most)
            .map(|(page, (first, end))| bench.pages.span(page, first * 512, (end - first) * 512))
            .collect();
        let bytes: usize = spans.iter().map(|span| span.len as usize).sum();
        prop_assume!(bytes <= bench.blk.disks()[0].geometry.max_transfer_bytes as usize);
        let data = pattern(bytes as u64, bytes);
        scatter(&bench.memory, &spans, &data);
        prop_assert_eq!(bench.execute(Op::Write, 8, &spans), Ok(()));
        let written: Vec<u8> =
            (8..8 + bytes as u64 / 512).flat_map(|sector| bench.model.borrow().sector(sector)).collect();
        prop_assert!(written == data);
        scatter(&bench.memory, &spans, &vec![0; bytes]);
        prop_assert_eq!(bench.execute(Op::Read, 8, &spans), Ok(()));
        prop_assert!(gather(&bench.memory, &spans) == data);
    }
}

#[test]
fn half_a_mebibyte_in_pages_is_one_request() {
    let mut bench = Bench::start(|_| {});
    bench.poll();
    assert!(bench.blk.disks()[0].geometry.command_bytes >= 512 << 10);
    let spans: Vec<_> = (0..256).step_by(2).map(|page| bench.pages.span(page, 0, 4096)).collect();
    let before = bench.model.borrow().trace.len();
    assert_eq!(bench.execute(Op::Read, 8, &spans), Ok(()));
    let requests: Vec<_> = bench.model.borrow().trace[before..].iter().map(|taken| taken.segments).collect();
    assert_eq!(requests, [128]);
}

#[test]
fn one_notification_for_a_batch_and_no_register_reads() {
    let mut bench = Bench::start(|_| {});
    bench.poll();
    let spans = bench.pages.whole(4096);
    let reads = *bench.model.borrow().register_reads.borrow();
    for tag in 0..100 {
        bench.submit(0, tag, Op::Read, tag * 8, &spans).unwrap();
    }
    assert_eq!(bench.model.borrow().notifications, 0);
    bench.blk.kick();
    bench.blk.kick();
    bench.poll();
    assert_eq!(bench.exactly_once(100), [Ok(()); 100]);
    assert_eq!(bench.model.borrow().notifications, 1);
    assert_eq!(*bench.model.borrow().register_reads.borrow(), reads);
}

#[test]
fn a_full_queue_pushes_back_and_other_lanes_go_on() {
    let mut bench = Bench::start(|_| {});
    bench.judge(|taken| if taken.queue == 0 { Fate::Hold } else { Fate::Execute });
    let spans = bench.pages.whole(4096);
    let mut accepted = 0;
    while bench.submit(0, accepted, Op::Read, 0, &spans) == Ok(()) {
        accepted += 1;
    }
    assert_eq!(accepted, 128);
    assert_eq!(bench.submit(0, 500, Op::Read, 0, &spans), Err(SubmitError::Full));
    bench.submit(1, 501, Op::Read, 0, &spans).unwrap();
    bench.blk.kick();
    bench.poll();
    assert_eq!(bench.answers.take(), [(501, Ok(()))]);
    bench.model.borrow_mut().release();
    bench.poll();
    assert_eq!(bench.answers.take(), [(0, Ok(()))]);
    assert_eq!(bench.submit(0, 502, Op::Read, 0, &spans), Ok(()));
}

#[test]
fn queues_wrap_many_times_without_losing_anything() {
    let mut bench = Bench::start(|model| model.queue_size = 16);
    let spans = bench.pages.whole(512);
    let mut next = 0;
    for _ in 0..5000 {
        while next % 7 != 6 && bench.submit(0, next, Op::Write, next % 4096, &spans) == Ok(()) {
            next += 1;
        }
        bench.submit(0, next, Op::Flush, 0, &[]).unwrap();
        next += 1;
        bench.blk.kick();
        bench.poll();
    }
    bench.settle();
    assert!(next > 30_000);
    assert!(bench.exactly_once(next).iter().all(Result::is_ok));
}

#[test]
fn every_flush_reaches_a_device_with_a_cache_and_none_a_device_without() {
    let mut bench = Bench::start(|_| {});
    let spans = bench.pages.whole(512);
    scatter(&bench.memory, &spans, &[5; 512]);
    bench.execute(Op::Write, 3, &spans).unwrap();
    assert!(bench.model.borrow().stable.is_empty());
    bench.execute(Op::Flush, 0, &[]).unwrap();
    assert_eq!(bench.model.borrow().stable[&3], [5; 512]);
    let flushes = |bench: &Bench| bench.model.borrow().trace.iter().filter(|taken| taken.kind == 4).count();
    assert_eq!(flushes(&bench), 1);

    let mut bench = Bench::start(|model| model.offered &= !feature::FLUSH);
    assert!(!bench.blk.disks()[0].capabilities.volatile_cache);
    bench.execute(Op::Flush, 0, &[]).unwrap();
    assert_eq!(flushes(&bench), 0);
}

#[test]
fn errors_are_told_apart_and_a_failed_flush_is_one() {
    let mut bench = Bench::start(|_| {});
    let spans = bench.pages.whole(4096);
    for (status, error) in
        [(1, DiskError::Media), (2, DiskError::Unsupported), (3, DiskError::Device(3)), (0xff, DiskError::Device(0xff))]
    {
        bench.judge(move |_| Fate::Fail(status));
        assert_eq!(bench.execute(Op::Read, 0, &spans), Err(error));
        assert_eq!(bench.execute(Op::Flush, 0, &[]), Err(error));
    }
}

#[test]
fn discard_and_write_zeroes_reach_exactly_their_sectors() {
    let mut bench = Bench::start(|_| {});
    let spans = bench.pages.whole(16384);
    for operation in [Op::Discard { sectors: 16 }, Op::WriteZeroes { sectors: 16 }, Op::SecureErase { sectors: 16 }] {
        scatter(&bench.memory, &spans, &[7; 16384]);
        bench.execute(Op::Write, 0, &spans).unwrap();
        bench.execute(operation, 8, &[]).unwrap();
        let zeros: Vec<u64> = (0..32).filter(|sector| bench.model.borrow().sector(*sector)[0] == 0).collect();
        assert_eq!(zeros, (8..24).collect::<Vec<_>>(), "{operation:?}");
        let secure = matches!(operation, Op::SecureErase { .. });
        assert_eq!(bench.model.borrow().erased, secure, "a discard is no erasure, and the other way round");
    }
}

#[test]
fn a_device_that_returns_what_it_was_not_given_is_reset_and_nothing_is_lost() {
    for junk in [3_u32, 255, 256, 0x1_0000, u32::MAX] {
        let mut bench = Bench::start(|_| {});
        bench.judge(|_| Fate::Hold);
        let spans = bench.pages.whole(4096);
        for tag in 0..3 {
            bench.submit(0, tag, Op::Read, tag, &spans).unwrap();
        }
        bench.blk.kick();
        bench.model.borrow_mut().judge = None;
        bench.model.borrow_mut().put_used(0, junk);
        bench.settle();
        assert_eq!(bench.exactly_once(3), [Ok(()); 3], "{junk}");
        assert_eq!((bench.blk.counters().confusions, bench.blk.counters().resets), (1, 1));
    }
    let mut bench = Bench::start(|_| {});
    bench.model.borrow_mut().jump_used(0, 300);
    bench.settle();
    bench.poll();
    assert_eq!(bench.blk.counters().confusions, 1);
}

#[test]
fn a_lost_request_times_out_after_a_reset_and_others_are_repeated() {
    let mut bench = Bench::start(|_| {});
    bench.judge(|taken| if taken.sector == 0 { Fate::Lose } else { Fate::Execute });
    let spans = bench.pages.whole(4096);
    bench.submit(0, 0, Op::Read, 0, &spans).unwrap();
    bench.blk.kick();
    bench.idle(29);
    assert_eq!(bench.answers.len(), 0);
    bench.judge(|_| Fate::Hold);
    bench.submit(1, 1, Op::Read, 8, &spans).unwrap();
    bench.blk.kick();
    bench.model.borrow_mut().judge = None;
    bench.settle();
    assert_eq!(bench.exactly_once(2), [Err(DiskError::TimedOut), Ok(())]);
    assert_eq!((bench.blk.counters().timeouts, bench.blk.counters().resets), (1, 1));
}

#[test]
fn a_write_waits_for_an_earlier_one_to_its_sectors_even_over_a_reset() {
    let mut bench = Bench::start(|_| {});
    let (old, new) = ([bench.pages.span(0, 0, 4096)], [bench.pages.span(1, 0, 4096)]);
    scatter(&bench.memory, &new, &[2; 4096]);
    bench.judge(|_| Fate::Lose);
    bench.submit(0, 0, Op::Write, 0, &old).unwrap();
    bench.blk.kick();
    assert_eq!(bench.submit(1, 1, Op::Write, 4, &new), Err(SubmitError::Full));
    bench.model.borrow_mut().judge = None;
    bench.model.borrow_mut().needs_reset();
    bench.settle();
    bench.submit(1, 1, Op::Write, 4, &new).unwrap();
    bench.settle();
    assert_eq!(bench.exactly_once(2), [Ok(()), Ok(())]);
    assert_eq!(bench.model.borrow().sector(4), [2; 512]);
}

#[test]
fn a_device_that_is_gone_fails_everything() {
    let mut bench = Bench::start(|_| {});
    bench.judge(|_| Fate::Lose);
    let spans = bench.pages.whole(4096);
    for tag in 0..200 {
        bench.submit((tag % 2) as u16, tag, Op::Write, tag * 8, &spans).unwrap();
    }
    bench.blk.kick();
    bench.model.borrow_mut().gone = true;
    bench.idle(2);
    assert_eq!(bench.exactly_once(200), [Err(DiskError::Gone); 200]);
    assert_eq!(bench.blk.health(), Health::Failed(Failure::Gone));
    assert_eq!(bench.submit(0, 0, Op::Read, 0, &spans), Err(SubmitError::Gone));
}

#[test]
fn pages_are_held_while_the_device_does_not_come_out_of_its_reset() {
    let mut bench = Bench::start(|_| {});
    bench.judge(|_| Fate::Lose);
    bench.submit(0, 0, Op::Write, 0, &bench.pages.whole(4096)).unwrap();
    bench.blk.kick();
    bench.model.borrow_mut().never_resets = true;
    bench.idle(40);
    assert!(matches!(bench.blk.health(), Health::Stuck(_)));
    assert_eq!(bench.answers.len(), 0);
    bench.answers.abandon(&mut bench.blk);
    assert_eq!(bench.exactly_once(1), [Err(DiskError::Reset)]);
}

#[test]
fn what_cannot_be_driven_is_refused() {
    let memory = HostMemory::new();
    let refused = |change: fn(&mut Model)| Bench::attach(&memory, change).err();
    assert_eq!(refused(|model| model.gone = true), Some(Failure::Gone));
    assert_eq!(refused(|model| model.never_resets = true), Some(Failure::TimedOut("reset")));
    assert_eq!(refused(|model| model.offered = feature::FLUSH), Some(Failure::Unsupported("virtio 1.0")));
    assert_eq!(refused(|model| model.block_bytes = 520), Some(Failure::Unsupported("blocks of 512 or 4096 bytes")));
    assert_eq!(refused(|model| model.queue_size = 0), Some(Failure::Unsupported("queues of at least two descriptors")));
    assert_eq!(refused(|model| model.queue_size = 2), Some(Failure::Unsupported("queues that hold a whole request")));
}

#[test]
fn a_new_size_is_noticed() {
    let mut bench = Bench::start(|_| {});
    bench.model.borrow_mut().capacity = 1 << 17;
    bench.idle(2);
    assert_eq!(bench.blk.take_event(), Some(DiskEvent::Resized(DiskId(0))));
    assert_eq!(bench.blk.take_event(), None);
    assert_eq!(bench.blk.disks()[0].geometry.sectors, 1 << 17);
    let spans = bench.pages.whole(4096);
    assert_eq!(bench.execute(Op::Read, (1 << 17) - 8, &spans), Ok(()));
}

#[test]
fn shutdown_stops_the_device_and_answers_what_is_in_flight() {
    let memory = HostMemory::new();
    let mut bench = Bench::attach(&memory, |_| {}).unwrap();
    bench.judge(|_| Fate::Hold);
    bench.submit(0, 0, Op::Read, 0, &bench.pages.whole(4096)).unwrap();
    bench.blk.kick();
    bench.blk.quiesce();
    assert_eq!(bench.blk.health(), Health::Stopped);
    assert!(bench.model.borrow().is_reset());
    bench.poll();
    assert_eq!(bench.exactly_once(1), [Err(DiskError::Gone)]);
    drop(bench);
    assert_eq!(memory.pages_in_use(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn whatever_the_device_does_each_command_is_answered_once(
        fates in prop::collection::vec(0..6_u8, 64),
        junk in prop::collection::vec((0..2_u16, any::<u32>()), 0..6),
        jump in prop::option::of((0..2_u16, any::<u16>())),
        offered in any::<u64>(),
    ) {
        let mut bench = Bench::start(|model| model.offered = ALL & offered | feature::VERSION_1 | feature::MQ);
        let mut fates = fates.into_iter();
        bench.judge(move |_| match fates.next() {
            Some(0) => Fate::Lose,
            Some(1) => Fate::Fail(9),
            _ => Fate::Execute,
        });
        let spans = bench.pages.whole(8192);
        let mut accepted = 0;
        for tag in 0..40 {
            let op = [Op::Read, Op::Write, Op::Flush][tag as usize % 3];
            let spans = if op.has_data() { &spans[..] } else { &[] };
            if bench.submit((tag % 3) as u16, accepted, op, tag % 7 * 8, spans).is_ok() {
                accepted += 1;
            }
        }
        bench.blk.kick();
        for (queue, id) in junk {
            bench.model.borrow_mut().put_used(queue, id);
        }
        if let Some((queue, by)) = jump {
            bench.model.borrow_mut().jump_used(queue, by);
        }
        bench.settle();
        let mut tags: Vec<u64> = bench.answers.take().iter().map(|(tag, _)| *tag).collect();
        tags.sort_unstable();
        prop_assert_eq!(tags, (0..accepted).collect::<Vec<_>>());
    }
}
