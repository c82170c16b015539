//! What a guest was told, and what a disk may hold after that (`docs/durability.md`).
//!
//! Every write of a trace fills its sectors with a number of its own, so that a sector's content says which
//! write it is of. Times count what the guest has done and seen; a write that was submitted after another one
//! was answered replaces it, and of writes that were under way together either may come last.

use std::collections::BTreeMap;
use std::ops::Range;

/// The content of a sector that nothing was written to.
pub const NOTHING: u64 = 0;

/// What makes data stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Promise {
    /// None.
    None,
    /// That of a flush: for what was answered before it was submitted.
    Flush,
    /// That of a barrier: for what was submitted before it to its queue, or answered, and for itself.
    Barrier,
}

/// A request as the guest sees it.
#[derive(Clone, Debug)]
struct Asked {
    /// Queues are not ordered with each other.
    queue: usize,
    sectors: Range<u64>,
    promise: Promise,
    submitted: u64,
    /// When it was answered with success.
    done: Option<u64>,
    durable: bool,
}

/// All requests of a trace; the number of a write is one more than its place.
#[derive(Default)]
pub struct History {
    asked: Vec<Asked>,
    time: u64,
    /// By sector, when the last write that an answered flush covers was submitted.
    durable: BTreeMap<u64, u64>,
    /// The same for the last write that was answered.
    answered: BTreeMap<u64, u64>,
    /// The same by queue and sector.
    answered_in: BTreeMap<(usize, u64), u64>,
}

impl History {
    /// The guest submits a request; `sectors` is what it writes, if anything. Returns its number.
    pub fn submit(&mut self, queue: usize, sectors: Range<u64>, promise: Promise) -> u64 {
        self.time += 1;
        self.asked.push(Asked { queue, sectors, promise, submitted: self.time, done: None, durable: false });
        self.asked.len() as u64
    }

    /// The guest sees the answer to a request.
    pub fn answer(&mut self, number: u64, ok: bool) {
        self.time += 1;
        if !ok {
            return;
        }
        let asked = &mut self.asked[number as usize - 1];
        asked.done = Some(self.time);
        let asked = asked.clone();
        for sector in asked.sectors.clone() {
            raise(self.answered.entry(sector).or_default(), asked.submitted);
            raise(self.answered_in.entry((asked.queue, sector)).or_default(), asked.submitted);
        }
        if asked.promise != Promise::None {
            self.make_durable(&asked);
        }
    }

    fn make_durable(&mut self, by: &Asked) {
        for write in self.asked.iter_mut().filter(|write| !write.durable) {
            let before = write.done.is_some_and(|done| done < by.submitted);
            let ordered = by.promise == Promise::Barrier && write.queue == by.queue && write.submitted <= by.submitted;
            if before || (ordered && write.done.is_some()) {
                write.durable = true;
                for sector in write.sectors.clone() {
                    raise(self.durable.entry(sector).or_default(), write.submitted);
                }
            }
        }
    }

    fn get(&self, number: u64) -> Option<&Asked> {
        number.checked_sub(1).and_then(|at| self.asked.get(at as usize))
    }

    /// Checks what may be read of a sector after a power cut now: nothing that an answered flush covers was lost.
    pub fn check_stable(&self, sector: u64, content: u64) -> Result<(), String> {
        self.check(sector, content, &self.durable, "made stable")
    }

    /// Checks what is read of a sector now: nothing that was answered was lost.
    pub fn check_seen(&self, sector: u64, content: u64) -> Result<(), String> {
        self.check(sector, content, &self.answered, "answered")
    }

    fn check(&self, sector: u64, content: u64, latest: &BTreeMap<u64, u64>, what: &str) -> Result<(), String> {
        let write = self.get(content);
        if content != NOTHING && !write.is_some_and(|write| write.sectors.contains(&sector)) {
            return Err(format!("sector {sector} holds {content:#x}, which nobody wrote there"));
        }
        let latest = latest.get(&sector).copied().unwrap_or(0);
        // One that was never answered may have been carried out at any time.
        let over = write.map_or(Some(0), |write| write.done);
        if over.is_some_and(|over| over < latest) {
            return Err(format!("sector {sector} holds write {content}, but one submitted at {latest} was {what}"));
        }
        Ok(())
    }

    /// Checks a write that the disk carries out now: no later one of its queue to the sector was answered already.
    pub fn check_order(&self, sector: u64, content: u64) -> Result<(), String> {
        let Some(write) = self.get(content) else { return Ok(()) };
        match self.answered_in.get(&(write.queue, sector)) {
            Some(later) if *later > write.submitted => {
                Err(format!("write {content} to sector {sector} comes after one of {later} was answered"))
            }
            _ => Ok(()),
        }
    }
}

fn raise(value: &mut u64, to: u64) {
    *value = to.max(*value);
}
