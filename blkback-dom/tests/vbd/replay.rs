//! Recorded traces of writes, flushes and barriers through the whole backend, with the power cut everywhere.
//!
//! The guest keeps requests in flight that overlap; the disk finishes a few in each step, in any order, fails
//! some, and keeps what it wrote in a cache that a cut may lose, sector by sector, back to the last flush.

use std::collections::BTreeMap;
use std::time::Duration;

use blkback_dom::disk::{DiskError, Op};
use blkback_dom::vbd::Budget;
use fake_xen::{BlkRequest, BlkfrontOptions, Page};
use xen_pv_rt::hyp::Access;

use crate::history::{History, NOTHING, Promise};
use crate::ram::Done;
use crate::rig::{Guest, Rig, target_config};

/// Sectors that are written to: few, so that writes meet.
pub const REGION: u64 = 256;

/// Repeatable random numbers.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.0 >> 33) % limit
    }
}

/// A guest that writes at random and remembers what it was told.
pub struct Writer {
    pub guest: Guest,
    pub random: Random,
    pub history: History,
    queues: u64,
    /// Pages of requests under way.
    pages: BTreeMap<u64, Vec<Page>>,
}

impl Writer {
    pub fn new(guest: Guest, queues: u64, seed: u64) -> Self {
        let pages = BTreeMap::new();
        Self { guest, random: Random(seed), history: History::default(), queues, pages }
    }

    /// Submits a request of any kind.
    pub fn submit(&mut self, rig: &mut Rig) {
        let queue = self.random.below(self.queues) as usize;
        if rig.fronts[self.guest].free(queue) == 0 {
            return;
        }
        let request = match self.random.below(12) {
            0 => self.flush(queue),
            1 => self.write(rig, queue, 2, 1, Promise::Barrier),
            2 => self.write(rig, queue, 3, 1, Promise::Barrier),
            3 | 4 => self.write_indirect(rig, queue),
            _ => {
                let pages = 1 + self.random.below(3);
                self.write(rig, queue, 1, pages, Promise::None)
            }
        };
        rig.fronts[self.guest].submit_to(queue, &[request]);
    }

    fn flush(&mut self, queue: usize) -> BlkRequest {
        BlkRequest::flush(self.history.submit(queue, 0..0, Promise::Flush))
    }

    /// Segments of random shape that hold the write's number, and where they go.
    fn data(&mut self, rig: &Rig, queue: usize, pages: u64, promise: Promise) -> (u64, u64, Vec<fake_xen::BlkSegment>) {
        let shapes: Vec<(u8, u8)> = (0..pages)
            .map(|_| {
                let first = self.random.below(8);
                (first as u8, (first + self.random.below(8 - first)) as u8)
            })
            .collect();
        let sectors: u64 = shapes.iter().map(|(first, last)| u64::from(last - first) + 1).sum();
        let start = self.random.below(REGION - sectors);
        let number = self.history.submit(queue, start..start + sectors, promise);
        let mut segments = Vec::new();
        for (first, last) in shapes {
            let (gref, page) = rig.fronts[self.guest].page(Access::ReadOnly);
            (0..8).for_each(|sector| page.write(sector * 512, &number.to_le_bytes()));
            segments.push((gref, first, last));
            self.pages.entry(number).or_default().push(page);
        }
        (number, start, segments)
    }

    fn write(&mut self, rig: &Rig, queue: usize, operation: u8, pages: u64, promise: Promise) -> BlkRequest {
        let (number, start, segments) = self.data(rig, queue, pages, promise);
        BlkRequest::direct(operation, number, start, &segments)
    }

    fn write_indirect(&mut self, rig: &Rig, queue: usize) -> BlkRequest {
        let count = 1 + self.random.below(20);
        let (number, start, segments) = self.data(rig, queue, count, Promise::None);
        let (list, page) = rig.fronts[self.guest].page(Access::ReadOnly);
        BlkRequest::write_list(&page, &segments);
        self.pages.entry(number).or_default().push(page);
        BlkRequest::indirect(1, number, start, segments.len() as u16, list)
    }

    /// Takes the answers that are there.
    pub fn take_answers(&mut self, rig: &mut Rig) {
        for answer in rig.fronts[self.guest].take_answers() {
            self.history.answer(answer.id, answer.status == 0);
            self.pages.remove(&answer.id);
        }
    }
}

/// What the disk's sectors may hold after a cut: the stable content, or anything written since.
struct Cache(Vec<Vec<u64>>);

impl Cache {
    fn new() -> Self {
        Self(vec![vec![NOTHING]; REGION as usize])
    }

    fn replay(&mut self, done: &Done) {
        match done {
            Done::Wrote(sector, content) => self.0[*sector as usize].push(u64::from_le_bytes(*content)),
            Done::Flushed => self.0.iter_mut().for_each(|contents| drop(contents.drain(..contents.len() - 1))),
        }
    }

    fn check(&self, history: &History) -> Result<(), String> {
        for (sector, contents) in (0..).zip(&self.0) {
            contents.iter().try_for_each(|content| history.check_stable(sector, *content))?;
            history.check_seen(sector, contents[contents.len() - 1])?;
        }
        Ok(())
    }
}

/// Runs a trace of `steps` steps and cuts the power after each. `lies`: the disk forgets to flush.
fn trace(seed: u64, steps: u64, budget: Budget, lies: bool) -> Result<(), String> {
    let mut rig = Rig::with(budget, |_| {});
    let queues = 1 + seed % 4;
    let options = BlkfrontOptions { queues: queues as u32, order: (seed % 3) as u32, ..BlkfrontOptions::default() };
    let options =
        BlkfrontOptions { x86_32: seed % 2 == 1, protocol: [Some("x86_64-abi"), None][seed as usize % 2], ..options };
    let guest = rig.guest_with(&target_config("nvme0n1"), options);
    rig.ram.records = true;
    rig.ram.disk_mut(0).geometry.max_transfer_bytes = [1 << 20, 8192, 4096][seed as usize / 2 % 3];
    let mut failures = Random(seed + 77);
    rig.ram.fail = Box::new(move |asked| {
        let fails = asked.op != Op::Read && failures.below(40) == 0;
        fails.then_some(DiskError::Media)
    });
    let mut writer = Writer::new(guest, queues, seed * 31 + 1);
    let (mut cache, mut replayed) = (Cache::new(), 0);
    for _ in 0..steps {
        for _ in 0..writer.random.below(4) {
            writer.submit(&mut rig);
        }
        rig.ram.quota = Some(writer.random.below(4) as usize);
        rig.step();
        for done in &rig.ram.journal[replayed..] {
            if let Done::Wrote(sector, content) = done {
                writer.history.check_order(*sector, u64::from_le_bytes(*content))?;
            }
            if !(lies && matches!(done, Done::Flushed)) {
                cache.replay(done);
            }
        }
        replayed = rig.ram.journal.len();
        writer.take_answers(&mut rig);
        cache.check(&writer.history)?;
    }
    rig.ram.quota = None;
    rig.wake();
    rig.until("all is answered", |rig| rig.fronts[guest].unanswered() == 0);
    rig.run(Duration::from_millis(5));
    Ok(())
}

#[test]
fn a_power_cut_anywhere_loses_nothing_that_was_flushed_ft_17() {
    for seed in 0..6 {
        let outcome = trace(seed, 250, Budget::default(), false);
        assert_eq!(outcome, Ok(()), "seed {seed}");
    }
}

#[test]
fn a_power_cut_loses_nothing_with_the_least_of_buffers_ft_17() {
    for seed in 0..6 {
        let outcome = trace(seed, 150, Budget { requests: 8, parts: 3, pages: 24, persistent: 0 }, false);
        assert_eq!(outcome, Ok(()), "seed {seed}");
    }
}

#[test]
fn a_disk_that_does_not_flush_is_noticed() {
    assert!(trace(1, 400, Budget::default(), true).is_err(), "this check sees nothing");
}
