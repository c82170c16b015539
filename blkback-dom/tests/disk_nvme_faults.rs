//! The NVMe driver against a controller that is broken or hostile: every command is answered exactly once, no
//! sooner than the device has let go of its memory, and never better than the truth.
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

use std::time::Duration;

use blkback_dom::disk::{Controller, DiskError, DiskEvent, DiskId, Failure, Health, Op, SubmitError};
use device::nvme::{Fate, Fetched, Model, Namespace, op};
use device::nvme_bench::Bench;
use device::{gather, pattern, scatter, submit};
use proptest::prelude::*;
use xen_pv_rt::hyp::HostMemory;

fn disk(memory: &HostMemory) -> Model {
    Model::new(memory, vec![Namespace::new(1, 1 << 16, 512)])
}

/// `count` reads with tags from 0 on, each of 8 sectors.
fn submit_reads(bench: &mut Bench, count: u64) {
    let spans = bench.pages.whole(4096);
    for tag in 0..count {
        submit(&mut bench.nvme, 0, tag, Op::Read, tag * 8, &spans).unwrap();
    }
    bench.nvme.kick();
}

/// Each tag below `count` was answered once; returns the answers by tag.
fn exactly_once(bench: &Bench, count: u64) -> Vec<Result<(), DiskError>> {
    let mut answers = bench.answers.take();
    answers.sort_by_key(|(tag, _)| *tag);
    assert_eq!(answers.iter().map(|(tag, _)| *tag).collect::<Vec<_>>(), (0..count).collect::<Vec<_>>());
    answers.into_iter().map(|(_, result)| result).collect()
}

#[test]
fn a_completion_for_what_was_never_issued_resets_the_controller_and_loses_nothing() {
    for (sqid, cid) in [(1, 0x3fff), (1, 126), (1, 0xffff), (2, 1 << 7), (0, 0), (9, 1 << 7)] {
        let mut bench = Bench::start(disk);
        bench.judge(|_| Fate::Hold);
        submit_reads(&mut bench, 4);
        bench.model.borrow_mut().complete(1, sqid, cid, 0, 0);
        bench.model.borrow_mut().judge = None;
        bench.answers.poll(&mut bench.nvme, &bench.clock);
        assert_eq!(bench.nvme.health(), Health::Recovering, "{sqid} {cid}");
        bench.settle();
        assert_eq!(exactly_once(&bench, 4), [Ok(()); 4], "{sqid} {cid}");
        assert_eq!((bench.nvme.counters().confusions, bench.nvme.counters().resets), (1, 1));
    }
}

#[test]
fn a_command_that_is_completed_twice_resets_the_controller() {
    let mut bench = Bench::start(disk);
    submit_reads(&mut bench, 1);
    bench.answers.poll(&mut bench.nvme, &bench.clock);
    let cid = bench.model.borrow().trace[0].cid();
    bench.judge(|_| Fate::Hold);
    // The slot is in use again, by another command.
    submit(&mut bench.nvme, 0, 1, Op::Read, 0, &bench.pages.whole(4096)).unwrap();
    bench.nvme.kick();
    bench.model.borrow_mut().complete(1, 1, cid, 0, 0);
    bench.model.borrow_mut().judge = None;
    bench.answers.poll(&mut bench.nvme, &bench.clock);
    assert_eq!(bench.nvme.counters().confusions, 1);
    bench.settle();
    assert_eq!(exactly_once(&bench, 2), [Ok(()); 2]);
}

#[test]
fn an_unknown_completion_on_the_admin_queue_resets_the_controller() {
    let mut bench = Bench::start(disk);
    bench.model.borrow_mut().complete(0, 0, 0x7777, 0, 0);
    bench.answers.poll(&mut bench.nvme, &bench.clock);
    assert_eq!(bench.nvme.health(), Health::Recovering);
    bench.until(|bench| bench.nvme.health() == Health::Running);
}

#[test]
fn transient_errors_are_retried_and_final_ones_are_not() {
    for (status, failures, attempts, result) in [
        (0x082, 3, 4, Ok(())),
        (0x281, 5, 6, Ok(())),
        (0x281, 99, 6, Err(DiskError::Media)),
        (0x4281, 1, 1, Err(DiskError::Media)),
        (0x4080, 1, 1, Err(DiskError::OutOfRange)),
        (0x4182, 1, 1, Err(DiskError::ReadOnly)),
        (0x4006, 1, 1, Err(DiskError::Device(6))),
    ] {
        let mut bench = Bench::start(disk);
        let mut left = failures;
        bench.judge(move |_| {
            left -= 1;
            if left >= 0 { Fate::Fail(status) } else { Fate::Execute }
        });
        let spans = bench.pages.whole(4096);
        assert_eq!(bench.execute(0, Op::Read, 0, &spans), result, "{status:#x}");
        assert_eq!(bench.count(op::READ), attempts, "{status:#x}");
    }
}

#[test]
fn a_failed_flush_is_never_a_success() {
    let mut bench = Bench::start(disk);
    bench.judge(|command| if command.opcode() == op::FLUSH { Fate::Fail(0x4006) } else { Fate::Execute });
    assert_eq!(bench.execute(0, Op::Flush, 0, &[]), Err(DiskError::Device(6)));
    // Also if the device would have it repeated: it may have forgotten by then what it could not write.
    let mut first = true;
    bench.judge(move |_| if std::mem::take(&mut first) { Fate::Fail(0x006) } else { Fate::Execute });
    assert_eq!(bench.execute(0, Op::Flush, 0, &[]), Err(DiskError::Device(6)));
    bench.judge(|command| if command.opcode() == op::FLUSH { Fate::Lose } else { Fate::Execute });
    assert_eq!(bench.execute(0, Op::Flush, 0, &[]), Err(DiskError::TimedOut));
    bench.judge(|command| if command.opcode() == op::FLUSH { Fate::LoseForGood } else { Fate::Execute });
    assert_eq!(bench.execute(0, Op::Flush, 0, &[]), Err(DiskError::TimedOut));
}

#[test]
fn a_lost_command_is_aborted_after_its_time_and_disturbs_nobody() {
    let mut bench = Bench::start(disk);
    bench.judge(|command| if command.lba() == 0 { Fate::Lose } else { Fate::Execute });
    submit_reads(&mut bench, 8);
    bench.idle(29);
    assert_eq!(bench.answers.len(), 7);
    bench.idle(3);
    let results = exactly_once(&bench, 8);
    assert_eq!(results[0], Err(DiskError::TimedOut));
    assert!(results[1..].iter().all(Result::is_ok));
    assert_eq!((bench.nvme.counters().timeouts, bench.nvme.counters().resets), (1, 0));
    assert_eq!(bench.model.borrow().admin_trace.iter().filter(|command| command.opcode() == 8).count(), 1);
}

#[test]
fn what_cannot_be_aborted_is_answered_after_a_reset_and_the_rest_goes_on() {
    let mut bench = Bench::start(disk);
    bench.judge(|command| if command.lba() == 0 { Fate::LoseForGood } else { Fate::Execute });
    submit_reads(&mut bench, 1);
    bench.idle(34);
    assert_eq!(bench.answers.len(), 0, "the device may still write to the pages");
    bench.judge(|command| if command.lba() == 0 { Fate::LoseForGood } else { Fate::Hold });
    submit(&mut bench.nvme, 0, 1, Op::Read, 8, &bench.pages.whole(4096)).unwrap();
    bench.nvme.kick();
    bench.model.borrow_mut().judge = None;
    bench.until(|bench| bench.nvme.in_flight() == 0);
    assert_eq!(exactly_once(&bench, 2), [Err(DiskError::TimedOut), Ok(())]);
    assert_eq!(bench.nvme.counters().resets, 1);
}

#[test]
fn a_fatal_status_and_a_controller_that_resets_itself_are_recovered_from() {
    for fatal in [true, false] {
        let mut bench = Bench::start(disk);
        bench.judge(|_| Fate::Lose);
        submit_reads(&mut bench, 100);
        {
            let mut model = bench.model.borrow_mut();
            model.judge = None;
            if fatal {
                model.fatal = true;
            } else {
                model.reset_itself();
            }
        }
        bench.idle(2);
        assert_eq!(exactly_once(&bench, 100), [Ok(()); 100], "fatal: {fatal}");
        assert_eq!(bench.nvme.health(), Health::Running);
    }
}

#[test]
fn data_survives_a_reset_in_the_middle() {
    let mut bench = Bench::start(disk);
    let spans = bench.pages.whole(1 << 18);
    let data = pattern(3, 1 << 18);
    scatter(&bench.memory, &spans, &data);
    bench.judge(|_| Fate::Lose);
    submit(&mut bench.nvme, 0, 0, Op::Write, 0, &spans).unwrap();
    bench.nvme.kick();
    bench.model.borrow_mut().judge = None;
    bench.model.borrow_mut().fatal = true;
    bench.settle();
    assert_eq!(exactly_once(&bench, 1), [Ok(())]);
    bench.fill_pages(0);
    bench.execute(0, Op::Read, 0, &spans).unwrap();
    assert!(gather(&bench.memory, &spans) == data);
}

#[test]
fn changes_to_the_same_sectors_are_never_in_flight_together() {
    let mut bench = Bench::start(disk);
    let (old, new) = ([bench.pages.span(0, 0, 4096)], [bench.pages.span(1, 0, 4096)]);
    scatter(&bench.memory, &old, &[1; 4096]);
    scatter(&bench.memory, &new, &[2; 4096]);
    bench.judge(|_| Fate::Lose);
    submit(&mut bench.nvme, 0, 0, Op::Write, 8, &old).unwrap();
    let discard = Op::Discard { sectors: 9 };
    for (sector, op) in [(4, Op::Write), (15, Op::Write), (0, discard), (8, Op::WriteZeroes { sectors: 1 })] {
        let spans = if op.has_data() { &new[..] } else { &[] };
        assert_eq!(submit(&mut bench.nvme, 0, 1, op, sector, spans), Err(SubmitError::Full), "{op:?} at {sector}");
    }
    submit(&mut bench.nvme, 0, 1, Op::Write, 16, &new).unwrap();
    submit(&mut bench.nvme, 0, 2, Op::Write, 0, &new).unwrap();
    submit(&mut bench.nvme, 0, 3, Op::Read, 100, &[bench.pages.span(2, 0, 512)]).unwrap();
    bench.nvme.kick();
    // A reset repeats the first one; only then the second can come.
    bench.model.borrow_mut().judge = None;
    bench.model.borrow_mut().fatal = true;
    bench.settle();
    assert_eq!(exactly_once(&bench, 4), [Ok(()); 4]);
    assert_eq!(bench.execute(0, Op::Write, 4, &new), Ok(()));
    bench.execute(0, Op::Read, 8, &old).unwrap();
    assert!(gather(&bench.memory, &old)[..2048] == [2; 2048]);
    assert!(gather(&bench.memory, &old)[2048..] == [1; 2048]);
}

#[test]
fn a_controller_that_does_not_become_ready_fails_in_time() {
    let memory = HostMemory::new();
    let mut model = disk(&memory);
    model.never_ready = true;
    let mut bench = Bench::attach(&memory, model).unwrap();
    bench.until(|bench| matches!(bench.nvme.health(), Health::Failed(_)));
    assert_eq!(bench.nvme.health(), Health::Failed(Failure::TimedOut("the controller to become ready")));
}

#[test]
fn a_controller_that_does_not_stop_is_refused() {
    let memory = HostMemory::new();
    let mut model = disk(&memory).running();
    model.never_stops = true;
    assert_eq!(Bench::attach(&memory, model).err(), Some(Failure::TimedOut("reset")));
}

#[test]
fn a_controller_that_is_not_there_is_refused() {
    let memory = HostMemory::new();
    let mut model = disk(&memory);
    model.gone = true;
    assert_eq!(Bench::attach(&memory, model).err(), Some(Failure::Gone));
}

#[test]
fn a_controller_that_answers_no_admin_command_is_given_up() {
    let memory = HostMemory::new();
    let mut model = disk(&memory);
    model.silent_admin = true;
    let mut bench = Bench::attach(&memory, model).unwrap();
    bench.until(|bench| matches!(bench.nvme.health(), Health::Failed(_)));
    assert_eq!(bench.nvme.health(), Health::Failed(Failure::Unstable));
}

#[test]
fn pages_are_held_while_the_controller_cannot_be_stopped() {
    let mut bench = Bench::start(disk);
    bench.judge(|_| Fate::LoseForGood);
    submit_reads(&mut bench, 3);
    bench.model.borrow_mut().never_stops = true;
    bench.until(|bench| matches!(bench.nvme.health(), Health::Stuck(_)));
    bench.idle(10);
    assert_eq!(bench.answers.len(), 0);
    assert_eq!(submit(&mut bench.nvme, 0, 9, Op::Read, 0, &bench.pages.whole(512)), Err(SubmitError::Gone));
    bench.answers.abandon(&mut bench.nvme);
    assert_eq!(exactly_once(&bench, 3), [Err(DiskError::Reset); 3]);
}

#[test]
fn removal_with_a_full_queue_is_answered_within_a_second_of_its_detection() {
    let mut bench = Bench::start(disk);
    bench.judge(|_| Fate::Lose);
    let spans = bench.pages.whole(4096);
    for tag in 0..256 {
        bench.submit_in_lane((tag % 4) as u16, tag, Op::Write, tag * 8, &spans).unwrap();
    }
    bench.nvme.kick();
    bench.model.borrow_mut().gone = true;
    bench.idle(2);
    assert_eq!(exactly_once(&bench, 256), [Err(DiskError::Gone); 256]);
    assert_eq!(bench.nvme.health(), Health::Failed(Failure::Gone));
    assert_eq!(submit(&mut bench.nvme, 0, 0, Op::Read, 0, &spans), Err(SubmitError::Gone));
    assert!(!bench.nvme.disks()[0].present);
}

#[test]
fn a_flood_of_events_costs_one_look_a_second() {
    let mut bench = Bench::start(disk);
    let before = bench.model.borrow().admin_trace.len();
    for _ in 0..2000 {
        bench.model.borrow_mut().raise_event(2, 4);
        bench.answers.poll(&mut bench.nvme, &bench.clock);
        bench.clock.advance(Duration::from_millis(5));
    }
    let commands = bench.model.borrow().admin_trace.len() - before;
    // Ten seconds: log page, list, one namespace, and the next wait, each.
    assert!((4..=44).contains(&commands), "{commands}");
    assert_eq!(bench.nvme.take_event(), None, "nothing has changed");
}

#[test]
fn a_disk_that_shrinks_or_disappears_under_commands_fails_them_honestly() {
    let mut bench = Bench::start(disk);
    bench.judge(|_| Fate::Hold);
    let spans = bench.pages.whole(4096);
    submit(&mut bench.nvme, 0, 0, Op::Read, 1000, &spans).unwrap();
    submit(&mut bench.nvme, 0, 1, Op::Read, 0, &spans).unwrap();
    bench.nvme.kick();
    bench.model.borrow_mut().namespaces[0].blocks = 64;
    bench.model.borrow_mut().raise_event(2, 4);
    bench.idle(3);
    bench.model.borrow_mut().release();
    bench.model.borrow_mut().release();
    bench.settle();
    assert_eq!(exactly_once(&bench, 2), [Err(DiskError::OutOfRange), Ok(())]);
    assert_eq!(bench.nvme.take_event(), Some(DiskEvent::Resized(DiskId(0))));
    assert_eq!(submit(&mut bench.nvme, 0, 2, Op::Read, 64, &spans), Err(SubmitError::OutOfRange));
}

#[test]
fn a_shutdown_that_the_controller_ignores_ends_in_time() {
    let mut bench = Bench::start(disk);
    bench.model.borrow_mut().never_stops = true;
    bench.running.1.set(true);
    bench.nvme.quiesce();
    assert!(matches!(bench.nvme.health(), Health::Stuck(_)));
}

#[test]
fn commands_in_flight_at_shutdown_are_answered() {
    let mut bench = Bench::start(disk);
    bench.judge(|_| Fate::Hold);
    submit_reads(&mut bench, 5);
    bench.nvme.quiesce();
    bench.answers.poll(&mut bench.nvme, &bench.clock);
    assert_eq!(exactly_once(&bench, 5), [Err(DiskError::Gone); 5]);
}

#[test]
fn a_completion_without_an_interrupt_is_found_by_polling() {
    let mut bench = Bench::start(disk);
    bench.judge(|_| Fate::Hold);
    submit_reads(&mut bench, 1);
    assert!(!bench.nvme.enable_interrupts());
    bench.model.borrow_mut().release();
    assert!(bench.nvme.enable_interrupts(), "what came before going to sleep is seen");
    bench.answers.poll(&mut bench.nvme, &bench.clock);
    assert_eq!(exactly_once(&bench, 1), [Ok(())]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn whatever_the_controller_does_each_command_is_answered_once(
        fates in prop::collection::vec(0..8_u8, 64),
        junk in prop::collection::vec((0..3_u16, 0..4_u16, any::<u16>(), any::<u16>(), any::<u32>()), 0..6),
        resets in prop::collection::vec(0..4_u8, 0..3),
    ) {
        let mut bench = Bench::start(disk);
        let mut fates = fates.into_iter();
        bench.judge(move |command: &Fetched| match fates.next() {
            Some(0) => Fate::Lose,
            Some(1) => Fate::LoseForGood,
            Some(2) => Fate::Fail(0x281),
            Some(3) => Fate::Fail(command.cid() & 0x47ff | 1),
            _ => Fate::Execute,
        });
        let spans = bench.pages.whole(8192);
        for tag in 0..40 {
            let op = [Op::Read, Op::Write, Op::Flush, Op::WriteZeroes { sectors: 16 }][tag as usize % 4];
            let spans = if op.has_data() { &spans[..] } else { &[] };
            bench.submit_in_lane((tag % 3) as u16, tag, op, tag * 16, spans).unwrap();
        }
        bench.nvme.kick();
        for (cq, sqid, cid, status, result) in junk {
            bench.model.borrow_mut().complete(cq, sqid, cid, status & 0x7fff, result);
        }
        for reset in resets {
            bench.idle(reset.into());
            bench.model.borrow_mut().reset_itself();
        }
        bench.until(|bench| bench.nvme.in_flight() == 0);
        let answers = bench.answers.take();
        let mut tags: Vec<u64> = answers.iter().map(|(tag, _)| *tag).collect();
        tags.sort_unstable();
        prop_assert_eq!(tags, (0..40).collect::<Vec<_>>());
    }
}
