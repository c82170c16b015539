//! The callers' commands in flight, whatever they are made of on the device.
//!
//! Two changes to the same sectors are never in flight at the same time: a device may carry them out in either
//! order, and a driver may give the first to the device again after a reset, so that a change could undo a later
//! one that was answered. The second waits until the first was answered.

use alloc::vec::Vec;

use super::{Command, DiskError, DiskId, Tag};

/// Sectors of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    disk: u16,
    /// First 512-byte sector.
    first: u64,
    /// The first one behind it.
    end: u64,
}

impl Extent {
    /// What the command changes.
    pub(crate) fn changed(disk: DiskId, command: &Command<'_>) -> Option<Self> {
        let (first, count) = command.range();
        command.op.is_change().then(|| Self { disk: disk.0, first, end: first.saturating_add(count) })
    }

    const fn overlaps(&self, other: &Self) -> bool {
        self.disk == other.disk && self.first < other.end && other.first < self.end
    }
}

/// A command as its caller sees it.
pub(crate) struct Request {
    pub(crate) tag: Tag,
    /// What it changes.
    change: Option<Extent>,
    /// Device commands that have not completed.
    remaining: u16,
    /// The first error of them.
    error: Option<DiskError>,
}

impl Request {
    /// A command of `parts` device commands.
    pub(crate) const fn new(tag: Tag, change: Option<Extent>, parts: u16) -> Self {
        Self { tag, change, remaining: parts, error: None }
    }

    /// The answer to its caller.
    pub(crate) fn result(&self) -> Result<(), DiskError> {
        self.error.map_or(Ok(()), Err)
    }
}

/// Requests by number.
#[derive(Default)]
pub(crate) struct Requests {
    entries: Vec<Option<Request>>,
    free: Vec<u16>,
    /// What is being changed, and by which request: close together, as every change is compared with it.
    changing: Vec<(u16, Extent)>,
}

impl Requests {
    pub(crate) fn new(count: u16) -> Self {
        let changing = Vec::with_capacity(count.into());
        Self { entries: (0..count).map(|_| None).collect(), free: (0..count).rev().collect(), changing }
    }
    pub(crate) fn in_use(&self) -> usize {
        self.entries.len().saturating_sub(self.free.len())
    }

    /// Whether a request with that change can be inserted now: there is room, and nobody changes the same
    /// sectors.
    pub(crate) fn admits(&self, change: Option<&Extent>) -> bool {
        !self.free.is_empty()
            && change.is_none_or(|change| !self.changing.iter().any(|(_, other)| other.overlaps(change)))
    }

    pub(crate) fn insert(&mut self, request: Request) -> Option<u16> {
        let index = self.free.pop()?;
        if let Some(change) = request.change {
            self.changing.push((index, change));
        }
        *self.entries.get_mut(usize::from(index))? = Some(request);
        Some(index)
    }

    /// Notes that one of its device commands completed. Returns the request if that was the last.
    pub(crate) fn complete_one(&mut self, index: u16, result: Result<(), DiskError>) -> Option<Request> {
        let entry = self.entries.get_mut(usize::from(index))?;
        let request = entry.as_mut()?;
        request.remaining = request.remaining.saturating_sub(1);
        if let Err(error) = result {
            request.error.get_or_insert(error);
        }
        if request.remaining > 0 {
            return None;
        }
        self.free.push(index);
        let request = entry.take()?;
        if request.change.is_some() {
            let place = self.changing.iter().position(|(other, _)| *other == index);
            place.map(|place| self.changing.swap_remove(place));
        }
        Some(request)
    }
}
