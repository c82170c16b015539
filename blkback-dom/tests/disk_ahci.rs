//! The AHCI driver against a controller model, well behaved and not.
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

use blkback_dom::disk::ahci::{Ahci, Quiet};
use blkback_dom::disk::{
    Command, Controller, DiskError, DiskEvent, DiskId, Failure, Health, Medium, Op, Span, SubmitError, Tag,
};
use device::ahci::{Device, Fate, Got, Model, Registers, op};
use device::{Answers, Pages, RunningClock, TestClock, gather, pattern, run, scatter};
use proptest::prelude::*;
use xen_pv_rt::hyp::HostMemory;

struct Bench {
    ahci: Ahci<Registers, RunningClock>,
    pages: Pages,
    memory: HostMemory,
    clock: TestClock,
    running: RunningClock,
    model: Rc<RefCell<Model>>,
    answers: Answers,
}

impl Bench {
    fn disk() -> Self {
        Self::start(vec![Some(Device::disk(1 << 16))])
    }

    fn start(devices: Vec<Option<Device>>) -> Self {
        Self::start_with(devices, |_| {})
    }

    fn start_with(devices: Vec<Option<Device>>, change: impl FnOnce(&mut Model)) -> Self {
        let mut this = Self::attach(&HostMemory::new(), devices, change).unwrap();
        this.settle();
        this
    }

    fn attach(
        memory: &HostMemory,
        devices: Vec<Option<Device>>,
        change: impl FnOnce(&mut Model),
    ) -> Result<Self, Failure> {
        let mut model = Model::new(memory, devices);
        change(&mut model);
        let model = Rc::new(RefCell::new(model));
        let clock = TestClock::default();
        let running = RunningClock(clock.clone(), Rc::default());
        let quiet = run(&clock, Quiet::reset(Registers(model.clone()), running.clone()))?;
        let ahci = quiet.start(memory, Duration::from_secs(30))?;
        let pages = Pages::new(memory, 256);
        Ok(Self { ahci, pages, memory: memory.clone(), clock, running, model, answers: Answers::default() })
    }

    fn judge(&self, judge: impl FnMut(&Got) -> Fate + 'static) {
        self.model.borrow_mut().judge = Some(Box::new(judge));
    }
    fn obey(&self) {
        self.model.borrow_mut().judge = None;
    }

    fn poll(&mut self) {
        self.answers.poll(&mut self.ahci, &self.clock);
    }

    fn idle(&mut self, seconds: u32) {
        for _ in 0..seconds * 200 {
            self.poll();
            self.clock.advance(Duration::from_millis(5));
        }
    }

    fn submit_to(&mut self, disk: u16, tag: u64, op: Op, sector: u64, spans: &[Span]) -> Result<(), SubmitError> {
        self.ahci.submit(DiskId(disk), &Command { tag: Tag(tag), op, sector, spans, lane: 0 })
    }
    fn submit(&mut self, tag: u64, op: Op, sector: u64, spans: &[Span]) -> Result<(), SubmitError> {
        self.submit_to(0, tag, op, sector, spans)
    }

    fn settle(&mut self) {
        self.ahci.kick();
        for _ in 0..60_000 {
            self.poll();
            if self.ahci.in_flight() == 0 && self.ahci.health() != Health::Recovering {
                return;
            }
            self.clock.advance(Duration::from_millis(5));
        }
        panic!("still {} in flight, {:?}", self.ahci.in_flight(), self.ahci.health());
    }

    fn execute_on(&mut self, disk: u16, op: Op, sector: u64, spans: &[Span]) -> Result<(), DiskError> {
        self.settle();
        self.answers.take();
        for _ in 0..1000 {
            match self.submit_to(disk, 7, op, sector, spans) {
                // The port recovers.
                Err(SubmitError::Full) => self.idle(1),
                accepted => {
                    accepted.expect("accepted");
                    break;
                }
            }
        }
        self.settle();
        let answers = self.answers.take();
        let [(7, result)] = answers[..] else { panic!("one answer: {answers:?}") };
        result
    }
    fn execute(&mut self, op: Op, sector: u64, spans: &[Span]) -> Result<(), DiskError> {
        self.execute_on(0, op, sector, spans)
    }

    fn commands(&self) -> Vec<u8> {
        self.model.borrow().trace.iter().map(|got| got.command).collect()
    }

    fn exactly_once(&self, count: u64) -> Vec<Result<(), DiskError>> {
        let mut answers = self.answers.take();
        answers.sort_by_key(|(tag, _)| *tag);
        assert_eq!(answers.iter().map(|(tag, _)| *tag).collect::<Vec<_>>(), (0..count).collect::<Vec<_>>());
        answers.into_iter().map(|(_, result)| result).collect()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        // The driver waits for its disks when it is dropped, but not for ever.
        self.running.1.set(true);
    }
}

#[test]
fn the_controller_is_reset_and_its_disks_are_described() {
    let mut big = Device::disk(1000);
    big.block_bytes = 4096;
    let bench = Bench::start(vec![None, Some(Device::disk(1 << 16)), None, Some(big), Some(Device::cd(100))]);
    assert_eq!(bench.model.borrow().resets, 1);
    let disks = bench.ahci.disks();
    assert_eq!(disks.len(), 3);
    let names: Vec<String> = disks.iter().map(|disk| disk.name.to_string()).collect();
    assert_eq!(names.len(), 3);
    let by_name = |name: &str| &disks[names.iter().position(|other| other == name).unwrap()];
    let (first, second, cd) = (by_name("p1"), by_name("p3"), by_name("p4"));
    assert_eq!((first.geometry.sectors, first.geometry.logical_bytes), (1 << 16, 512));
    assert_eq!(first.geometry.physical_bytes, 4096);
    assert_eq!((first.serial.as_str(), first.model.as_str()), ("S1", "A model"));
    assert_eq!((second.geometry.sectors, second.geometry.logical_bytes), (8000, 4096));
    assert!(first.capabilities.volatile_cache && first.capabilities.fua && !first.capabilities.read_only);
    assert_eq!([first.capabilities.shared_slots, cd.capabilities.shared_slots], [32, 32]);
    assert_eq!((cd.medium, cd.geometry.sectors, cd.capabilities.read_only), (Medium::CdRom, 400, true));
}

#[test]
fn what_was_written_is_read_back_with_and_without_a_queue() {
    for (queue, block_bytes) in [(32, 512), (0, 512), (32, 4096), (0, 4096)] {
        let mut bench = Bench::start(vec![Some(Device { queue, block_bytes, ..Device::disk(1 << 16) })]);
        for bytes in [4096, 40960, 1 << 20] {
            let spans = bench.pages.whole(bytes);
            let data = pattern(bytes.into(), bytes as usize);
            scatter(&bench.memory, &spans, &data);
            // Without a queue, what takes several commands may not fit.
            if queue == 0 && bytes == 1 << 20 {
                continue;
            }
            assert_eq!(bench.execute(Op::Write, 64, &spans), Ok(()));
            scatter(&bench.memory, &spans, &vec![0; bytes as usize]);
            assert_eq!(bench.execute(Op::Read, 64, &spans), Ok(()));
            assert!(gather(&bench.memory, &spans) == data, "{bytes} bytes, queue of {queue}");
        }
        let queued = bench.commands().iter().any(|command| matches!(*command, op::READ_QUEUED | op::WRITE_QUEUED));
        assert_eq!(queued, queue > 0);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn any_ranges_of_sectors_are_transferred(
        ranges in prop::collection::vec((0..8_u32).prop_flat_map(|first| (Just(first), first + 1..=8)), 1..=256),
    ) {
        let mut bench = Bench::disk();
        let spans: Vec<Span> = ranges
            .iter()
            .enumerate()
            .map(|(page, (first, end))| bench.pages.span(page, first * 512, (end - first) * 512))
            .collect();
        let bytes: usize = spans.iter().map(|span| span.len as usize).sum();
        let data = pattern(bytes as u64, bytes);
        scatter(&bench.memory, &spans, &data);
        prop_assert_eq!(bench.execute(Op::Write, 8, &spans), Ok(()));
        scatter(&bench.memory, &spans, &vec![0; bytes]);
        prop_assert_eq!(bench.execute(Op::Read, 8, &spans), Ok(()));
        prop_assert!(gather(&bench.memory, &spans) == data);
    }
}

#[test]
fn half_a_mebibyte_in_pages_is_one_command() {
    let mut bench = Bench::disk();
    assert!(bench.ahci.disks()[0].geometry.command_bytes >= 512 << 10);
    let spans: Vec<_> = (0..256).step_by(2).map(|page| bench.pages.span(page, 0, 4096)).collect();
    let before = bench.commands().len();
    assert_eq!(bench.execute(Op::Read, 8, &spans), Ok(()));
    assert_eq!(bench.commands()[before..], [op::READ_QUEUED]);
}

#[test]
fn a_batch_of_queued_commands_costs_two_writes_and_one_read() {
    let mut bench = Bench::disk();
    bench.poll();
    let spans = bench.pages.whole(4096);
    for tag in 0..32 {
        bench.submit(tag, Op::Read, tag * 8, &spans).unwrap();
    }
    assert_eq!(bench.submit(32, Op::Read, 0, &spans), Err(SubmitError::Full));
    let (writes, reads) = (bench.model.borrow().writes, bench.model.borrow().reads);
    bench.ahci.kick();
    bench.ahci.kick();
    bench.poll();
    bench.poll();
    assert_eq!(bench.exactly_once(32), [Ok(()); 32]);
    assert_eq!((bench.model.borrow().writes - writes, bench.model.borrow().reads - reads), (2, 1));
}

#[test]
fn a_flush_waits_for_queued_commands_and_is_not_overtaken() {
    let mut bench = Bench::disk();
    let spans = bench.pages.whole(4096);
    bench.judge(|_| Fate::Hold);
    for (tag, operation) in [Op::Write, Op::Write, Op::Flush, Op::Read].into_iter().enumerate() {
        let spans = if operation.has_data() { &spans[..] } else { &[] };
        bench.submit(tag as u64, operation, 8 * tag as u64, spans).unwrap();
    }
    bench.ahci.kick();
    for held in [2, 1, 1, 1] {
        assert_eq!(bench.model.borrow().ports[0].held.len(), held);
        bench.model.borrow_mut().release(0);
        bench.poll();
        bench.ahci.kick();
    }
    assert_eq!(bench.exactly_once(4), [Ok(()); 4]);
    let tail = bench.commands();
    assert_eq!(tail[tail.len() - 4..], [op::WRITE_QUEUED, op::WRITE_QUEUED, op::FLUSH, op::READ_QUEUED]);
}

#[test]
fn every_flush_reaches_the_disk() {
    let mut bench = Bench::disk();
    let spans = bench.pages.whole(512);
    scatter(&bench.memory, &spans, &[5; 512]);
    bench.execute(Op::Write, 3, &spans).unwrap();
    let stable = |bench: &Bench, lba| bench.model.borrow().ports[0].device.as_ref().unwrap().stable.contains_key(&lba);
    assert!(!stable(&bench, 3));
    bench.execute(Op::Flush, 0, &[]).unwrap();
    assert!(stable(&bench, 3));
    bench.execute(Op::WriteFua, 4, &spans).unwrap();
    assert!(stable(&bench, 4));
}

#[test]
fn trim_reaches_exactly_its_sectors() {
    let mut bench = Bench::start(vec![Some(Device::disk(1 << 22))]);
    let spans = bench.pages.whole(16384);
    scatter(&bench.memory, &spans, &[7; 16384]);
    bench.execute(Op::Write, 0, &spans).unwrap();
    bench.execute(Op::Discard { sectors: 16 }, 8, &[]).unwrap();
    bench.execute(Op::Read, 0, &spans).unwrap();
    let read = gather(&bench.memory, &spans);
    let zeros: Vec<usize> = (0..32).filter(|sector| read[sector * 512] == 0).collect();
    assert_eq!(zeros, (8..24).collect::<Vec<_>>());
    let most = bench.ahci.disks()[0].capabilities.max_discard_sectors;
    assert_eq!(bench.execute(Op::Discard { sectors: most.min(1 << 22) }, 0, &[]), Ok(()));
    assert!(bench.model.borrow().ports[0].device.as_ref().unwrap().data.is_empty());
}

#[test]
fn one_failed_queued_command_fails_alone() {
    let mut bench = Bench::disk();
    let spans = bench.pages.whole(4096);
    bench.judge(|got| if got.lba == 16 && got.command != op::IDENTIFY { Fate::Fail(0x40) } else { Fate::Hold });
    for tag in 0..8 {
        bench.submit(tag, Op::Read, tag * 8, &spans).unwrap();
    }
    bench.ahci.kick();
    bench.judge(|got| if got.lba == 16 { Fate::Fail(0x40) } else { Fate::Execute });
    bench.settle();
    let results = bench.exactly_once(8);
    assert_eq!(results[2], Err(DiskError::Media));
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 7);
    // Afterwards the queue is used again.
    bench.obey();
    bench.execute(Op::Read, 0, &spans).unwrap();
    assert_eq!(bench.commands().last(), Some(&op::READ_QUEUED));
}

#[test]
fn errors_are_told_apart_and_a_failed_flush_is_one() {
    let mut bench = Bench::disk();
    let spans = bench.pages.whole(4096);
    for (field, error) in [
        (0x40, DiskError::Media),
        (0x10, DiskError::OutOfRange),
        (0x04, DiskError::Device(4)),
        (0x84, DiskError::Device(0x84)),
    ] {
        bench.judge(move |got| if got.command == op::IDENTIFY { Fate::Execute } else { Fate::Fail(field) });
        assert_eq!(bench.execute(Op::Read, 0, &spans), Err(error));
        let flushes = |bench: &Bench| bench.commands().iter().filter(|command| **command == op::FLUSH).count();
        let before = flushes(&bench);
        assert_eq!(bench.execute(Op::Flush, 0, &[]), Err(error));
        assert_eq!(flushes(&bench), before + 1, "a failed flush is not repeated");
    }
    // An error on the cable is worth another try.
    let mut left = 2;
    bench.judge(move |got| {
        left -= i32::from(got.command != op::IDENTIFY);
        if left >= 0 && got.command != op::IDENTIFY { Fate::Fail(0x80) } else { Fate::Execute }
    });
    assert_eq!(bench.execute(Op::Read, 0, &spans), Ok(()));
}

#[test]
fn a_lost_command_times_out_after_a_reset_of_its_port_and_others_are_repeated() {
    let mut bench =
        Bench::start(vec![Some(Device::disk(1 << 16)), Some(Device { serial: 2, ..Device::disk(1 << 16) })]);
    let spans = bench.pages.whole(4096);
    bench.judge(|got| if got.port == 0 && got.lba == 8 { Fate::Lose } else { Fate::Execute });
    bench.submit(0, Op::Read, 8, &spans).unwrap();
    bench.ahci.kick();
    bench.idle(29);
    assert_eq!(bench.answers.len(), 0);
    bench.judge(|got| if got.port == 0 { Fate::Hold } else { Fate::Execute });
    bench.submit(1, Op::Read, 16, &spans).unwrap();
    bench.submit_to(1, 2, Op::Read, 16, &spans).unwrap();
    bench.ahci.kick();
    bench.poll();
    assert_eq!(bench.answers.len(), 1, "the other port goes on");
    bench.obey();
    bench.settle();
    assert_eq!(bench.exactly_once(3), [Err(DiskError::TimedOut), Ok(()), Ok(())]);
    assert_eq!((bench.ahci.counters().timeouts, bench.ahci.counters().resets), (1, 1));
}

#[test]
fn a_write_waits_for_an_earlier_one_to_its_sectors_even_over_an_error() {
    let mut bench = Bench::disk();
    let (old, new) = ([bench.pages.span(0, 0, 4096)], [bench.pages.span(1, 0, 4096)]);
    bench.judge(|got| if got.lba == 100 { Fate::Fail(0x84) } else { Fate::Hold });
    bench.submit(0, Op::Write, 0, &old).unwrap();
    assert_eq!(bench.submit(1, Op::Write, 4, &new), Err(SubmitError::Full));
    bench.submit(1, Op::Read, 100, &[bench.pages.span(2, 0, 512)]).unwrap();
    bench.ahci.kick();
    bench.obey();
    bench.settle();
    scatter(&bench.memory, &new, &[2; 4096]);
    bench.submit(2, Op::Write, 4, &new).unwrap();
    bench.settle();
    assert_eq!(bench.exactly_once(3), [Ok(()); 3]);
    assert_eq!(bench.model.borrow().ports[0].device.as_ref().unwrap().block(4), [2; 512]);
}

#[test]
fn a_port_that_does_not_stop_has_the_controller_reset() {
    let mut bench =
        Bench::start(vec![Some(Device::disk(1 << 16)), Some(Device { serial: 2, ..Device::disk(1 << 16) })]);
    let spans = bench.pages.whole(4096);
    bench.judge(|_| Fate::Lose);
    bench.submit(0, Op::Read, 8, &spans).unwrap();
    bench.ahci.kick();
    bench.model.borrow_mut().ports[0].wont_stop = true;
    bench.idle(29);
    bench.submit_to(1, 1, Op::Read, 8, &spans).unwrap();
    bench.ahci.kick();
    bench.obey();
    bench.settle();
    assert_eq!(bench.exactly_once(2), [Err(DiskError::TimedOut), Ok(())]);
    assert_eq!(bench.model.borrow().resets, 2);
}

#[test]
fn pages_are_held_while_the_controller_does_not_come_out_of_its_reset() {
    let mut bench = Bench::disk();
    bench.judge(|_| Fate::Lose);
    bench.submit(0, Op::Write, 0, &bench.pages.whole(4096)).unwrap();
    bench.ahci.kick();
    bench.model.borrow_mut().ports[0].wont_stop = true;
    bench.model.borrow_mut().never_resets = true;
    bench.idle(40);
    assert!(matches!(bench.ahci.health(), Health::Stuck(_)));
    assert_eq!(bench.answers.len(), 0);
    bench.answers.abandon(&mut bench.ahci);
    assert_eq!(bench.exactly_once(1), [Err(DiskError::Reset)]);
}

#[test]
fn a_controller_that_is_gone_fails_everything() {
    let mut bench = Bench::disk();
    bench.judge(|_| Fate::Lose);
    let spans = bench.pages.whole(4096);
    for tag in 0..32 {
        bench.submit(tag, Op::Write, tag * 8, &spans).unwrap();
    }
    bench.ahci.kick();
    bench.model.borrow_mut().gone = true;
    bench.idle(2);
    assert_eq!(bench.exactly_once(32), [Err(DiskError::Gone); 32]);
    assert_eq!(bench.ahci.health(), Health::Failed(Failure::Gone));
    assert_eq!(bench.submit(0, Op::Read, 0, &spans), Err(SubmitError::Gone));
}

#[test]
fn a_pulled_disk_is_gone_and_a_plugged_one_is_added() {
    let mut bench = Bench::start(vec![Some(Device::disk(1 << 16)), None]);
    let spans = bench.pages.whole(4096);
    bench.judge(|_| Fate::Lose);
    bench.submit(0, Op::Read, 0, &spans).unwrap();
    bench.ahci.kick();
    let disk = bench.model.borrow_mut().plug(0, None);
    bench.obey();
    bench.idle(2);
    assert_eq!(bench.exactly_once(1), [Err(DiskError::Gone)]);
    assert_eq!(bench.ahci.take_event(), Some(DiskEvent::Removed(DiskId(0))));
    assert_eq!(bench.submit(0, Op::Read, 0, &spans), Err(SubmitError::Gone));
    bench.model.borrow_mut().plug(0, disk);
    bench.model.borrow_mut().plug(1, Some(Device { serial: 9, ..Device::disk(64) }));
    bench.idle(3);
    let mut events = Vec::from_iter(std::iter::from_fn(|| bench.ahci.take_event()));
    events.sort_by_key(|event| format!("{event:?}"));
    assert_eq!(events, [DiskEvent::Added(DiskId(0)), DiskEvent::Added(DiskId(1))]);
    assert_eq!(bench.execute_on(0, Op::Read, 0, &spans), Ok(()));
    assert_eq!(bench.execute_on(1, Op::Read, 0, &spans), Ok(()));
}

#[test]
fn a_cd_is_read_and_cannot_be_written() {
    let mut device = Device::cd(100);
    device.not_ready = 2;
    for lba in 0..100 {
        device.data.insert(lba, pattern(lba, 2048));
    }
    let mut bench = Bench::start(vec![Some(device)]);
    let spans = bench.pages.whole(20480);
    assert_eq!(bench.execute(Op::Read, 40, &spans), Ok(()));
    let expected: Vec<u8> = (10..20).flat_map(|lba| pattern(lba, 2048)).collect();
    assert!(gather(&bench.memory, &spans) == expected);
    assert_eq!(bench.submit(0, Op::Write, 0, &spans), Err(SubmitError::ReadOnly));
    assert_eq!(bench.submit(0, Op::Read, 1, &spans), Err(SubmitError::Unaligned));
    assert_eq!(bench.submit(0, Op::Read, 396, &spans), Err(SubmitError::OutOfRange));
    bench.judge(|_| Fate::Fail(0x34));
    assert_eq!(bench.execute(Op::Read, 0, &spans), Err(DiskError::Media));
}

#[test]
fn a_cd_drive_without_a_medium_is_no_disk() {
    let bench = Bench::start(vec![Some(Device { not_ready: 255, ..Device::cd(100) })]);
    assert!(bench.ahci.disks().is_empty());
}

#[test]
fn what_cannot_be_driven_is_refused() {
    let memory = HostMemory::new();
    let refused = |change: fn(&mut Model)| Bench::attach(&memory, vec![None], change).err();
    assert_eq!(refused(|model| model.gone = true), Some(Failure::Gone));
    assert_eq!(refused(|model| model.never_resets = true), Some(Failure::TimedOut("reset")));
}

#[test]
fn a_completion_before_going_to_sleep_is_seen() {
    let mut bench = Bench::disk();
    bench.judge(|_| Fate::Hold);
    bench.submit(0, Op::Read, 0, &bench.pages.whole(512)).unwrap();
    bench.ahci.kick();
    for _ in 0..3 {
        bench.ahci.enable_interrupts();
        bench.poll();
    }
    assert!(!bench.ahci.enable_interrupts(), "nothing to do");
    bench.model.borrow_mut().release(0);
    assert!(bench.ahci.enable_interrupts());
    bench.poll();
    assert_eq!(bench.exactly_once(1), [Ok(())]);
    bench.ahci.enable_interrupts();
    assert!(!bench.ahci.enable_interrupts(), "the causes are cleared");
}

#[test]
fn shutdown_flushes_parks_and_stops() {
    let memory = HostMemory::new();
    let mut bench = Bench::attach(&memory, vec![Some(Device::disk(64))], |_| {}).unwrap();
    bench.settle();
    let spans = bench.pages.whole(512);
    bench.execute(Op::Write, 3, &spans).unwrap();
    bench.ahci.quiesce();
    assert_eq!(bench.ahci.health(), Health::Stopped);
    let commands = bench.commands();
    assert_eq!(commands[commands.len() - 2..], [op::FLUSH, op::STANDBY]);
    drop(bench);
    assert_eq!(memory.pages_in_use(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn whatever_the_disk_does_each_command_is_answered_once(
        fates in prop::collection::vec(0..8_u8, 200),
        pull in prop::option::of(0..20_u32),
    ) {
        let mut bench = Bench::disk();
        let mut fates = fates.into_iter();
        bench.judge(move |got| match fates.next() {
            Some(0) if got.command != op::IDENTIFY => Fate::Lose,
            Some(1) => Fate::Fail(0x40),
            Some(2) => Fate::Fail(0x84),
            _ => Fate::Execute,
        });
        let spans = bench.pages.whole(8192);
        for tag in 0..24 {
            let op = [Op::Read, Op::Write, Op::Flush, Op::Discard { sectors: 16 }][tag as usize % 4];
            let spans = if op.has_data() { &spans[..] } else { &[] };
            bench.submit(tag, op, tag * 16, spans).unwrap();
        }
        bench.ahci.kick();
        if let Some(seconds) = pull {
            bench.idle(seconds);
            bench.model.borrow_mut().plug(0, None);
        }
        bench.settle();
        let mut tags: Vec<u64> = bench.answers.take().iter().map(|(tag, _)| *tag).collect();
        tags.sort_unstable();
        prop_assert_eq!(tags, (0..24).collect::<Vec<_>>());
    }
}
