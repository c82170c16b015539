//! Requests on their way: in line, in flight, answered.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;

use crate::hyp::XsError;

use super::wire::{Kind, encode};

/// Requests that xenstored may owe us a reply for: its default quota (`outstanding`).
pub(super) const IN_FLIGHT_MAX: usize = 20;
/// Requests of tasks that may wait behind those.
pub(super) const LINE_MAX: usize = 1024;

/// Who wants the reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// A task holds a future for it.
    Task,
    /// Nobody.
    Nobody,
    /// The connection: where is the next message?
    Probe,
    /// The connection: is this watch, by token, registered again?
    Rewatch(u32),
}

/// What became of a reply.
pub(super) enum Settled {
    /// A task has something new.
    Task,
    /// Nobody cares.
    Discarded,
    /// The stream is in step again.
    Probe,
    /// A transaction was begun for a task that has gone.
    OrphanTransaction(Vec<u8>),
    /// A watch could not be registered again.
    WatchLost(u32, XsError),
    /// There is no such request, or the reply is of another type. The stream is still in step.
    Unexpected,
}

struct Request {
    kind: Kind,
    owner: Owner,
    stage: Stage,
}

enum Stage {
    InLine,
    InFlight,
    Answered(Result<Vec<u8>, XsError>),
}

/// All requests that were not handed back yet.
pub(super) struct Requests {
    next_id: u32,
    line: VecDeque<(u32, Vec<u8>)>,
    open: BTreeMap<u32, Request>,
    in_flight: usize,
}

impl Requests {
    /// No requests. `first_id` numbers the first one.
    pub(super) fn new(first_id: u32) -> Self {
        Self { next_id: first_id, line: VecDeque::new(), open: BTreeMap::new(), in_flight: 0 }
    }

    /// Continues with other numbers. Only when nothing is in flight.
    pub(super) fn renumber(&mut self, first_id: u32) {
        self.next_id = first_id;
    }

    /// Puts a request in line and returns its number.
    ///
    /// # Errors
    /// [`XsError::TooBig`], or [`XsError::Busy`] when the line is full; nothing is sent then.
    pub(super) fn submit(&mut self, owner: Owner, kind: Kind, tx_id: u32, body: &[&[u8]]) -> Result<u32, XsError> {
        // The end of a transaction frees something, and there are no more of them than of beginnings.
        if owner == Owner::Task && kind != Kind::TRANSACTION_END && self.line.len() >= LINE_MAX {
            return Err(XsError::Busy);
        }
        let id = self.free_id();
        self.line.push_back((id, encode(kind, id, tx_id, body)?));
        self.open.insert(id, Request { kind, owner, stage: Stage::InLine });
        Ok(id)
    }

    /// The next request to send, unless enough are in flight.
    pub(super) fn next(&mut self) -> Option<Vec<u8>> {
        if self.in_flight >= IN_FLIGHT_MAX {
            return None;
        }
        let (id, bytes) = self.line.pop_front()?;
        if let Some(request) = self.open.get_mut(&id) {
            request.stage = Stage::InFlight;
            self.in_flight = self.in_flight.saturating_add(1);
        }
        Some(bytes)
    }

    /// Files the reply to request `id`.
    pub(super) fn settle(&mut self, id: u32, kind: Kind, body: Vec<u8>, error: Option<XsError>) -> Settled {
        let Some(request) = self.open.get_mut(&id) else { return Settled::Unexpected };
        if !matches!(request.stage, Stage::InFlight) {
            return Settled::Unexpected;
        }
        self.in_flight = self.in_flight.saturating_sub(1);
        let mismatch = error.is_none() && kind != request.kind;
        let outcome = match error {
            Some(error) => Err(error),
            None if mismatch => Err(XsError::Malformed),
            None => Ok(body),
        };
        let settled = match (request.owner, outcome) {
            (Owner::Task, outcome) => {
                request.stage = Stage::Answered(outcome);
                return if mismatch { Settled::Unexpected } else { Settled::Task };
            }
            // Whatever the answer is, it is the answer.
            (Owner::Probe, _) => Settled::Probe,
            (Owner::Rewatch(token), Err(error)) => Settled::WatchLost(token, error),
            (Owner::Nobody, Ok(body)) if request.kind == Kind::TRANSACTION_START => Settled::OrphanTransaction(body),
            _ if mismatch => Settled::Unexpected,
            _ => Settled::Discarded,
        };
        self.open.remove(&id);
        settled
    }

    /// Hands the answer to request `id` to its task, once.
    pub(super) fn take(&mut self, id: u32) -> Option<Result<Vec<u8>, XsError>> {
        if !matches!(self.open.get(&id)?.stage, Stage::Answered(_)) {
            return None;
        }
        match self.open.remove(&id)?.stage {
            Stage::Answered(outcome) => Some(outcome),
            Stage::InLine | Stage::InFlight => None,
        }
    }

    /// The task that waited for request `id` has gone. What has not been sent will not be, except for the end of a
    /// transaction. Returns the reply to a `TRANSACTION_START` that came, but was not fetched.
    pub(super) fn abandon(&mut self, id: u32) -> Option<Vec<u8>> {
        let request = self.open.get_mut(&id)?;
        match request.stage {
            Stage::InLine if request.kind != Kind::TRANSACTION_END => {
                self.line.retain(|(waiting, _)| *waiting != id);
            }
            Stage::InLine | Stage::InFlight => {
                request.owner = Owner::Nobody;
                return None;
            }
            Stage::Answered(_) => {}
        }
        let request = self.open.remove(&id)?;
        match request.stage {
            Stage::Answered(Ok(body)) if request.kind == Kind::TRANSACTION_START => Some(body),
            _ => None,
        }
    }

    /// Answers everything with [`XsError::Reset`]. Returns whether a task has something new.
    pub(super) fn fail_all(&mut self) -> bool {
        self.line.clear();
        self.in_flight = 0;
        self.open.retain(|_, request| request.owner == Owner::Task);
        for request in self.open.values_mut() {
            let done = matches!(request.stage, Stage::Answered(_)) && request.kind != Kind::TRANSACTION_START;
            if !done {
                request.stage = Stage::Answered(Err(XsError::Reset));
            }
        }
        !self.open.is_empty()
    }

    /// A number that no request bears. 0 is not used: it marks watch events.
    fn free_id(&mut self) -> u32 {
        loop {
            self.next_id = self.next_id.wrapping_add(1).max(1);
            // Ends: the table holds far fewer requests than there are numbers.
            if !self.open.contains_key(&self.next_id) {
                return self.next_id;
            }
        }
    }

    /// Requests that xenstored owes us a reply for.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight
    }

    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.line.len()
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty() && self.line.is_empty()
    }
}
