//! The callers' commands in flight, whatever they are made of on the device.

use alloc::vec::Vec;

use super::journal::Extent;
use super::{DiskError, Tag};

/// A command as its caller sees it.
pub(crate) struct Request {
    pub(crate) tag: Tag,
    /// What it changes; `None` if nothing.
    pub(crate) change: Option<Extent>,
    /// Place in the order of submission.
    pub(crate) sequence: u64,
    /// Device commands that have not completed.
    pub(crate) remaining: u16,
    /// The first error of them.
    pub(crate) error: Option<DiskError>,
}

/// Requests by number.
#[derive(Default)]
pub(crate) struct Requests {
    entries: Vec<Option<Request>>,
    free: Vec<u16>,
}

impl Requests {
    pub(crate) fn new(count: u16) -> Self {
        Self { entries: (0..count).map(|_| None).collect(), free: (0..count).rev().collect() }
    }
    pub(crate) fn in_use(&self) -> usize {
        self.entries.len().saturating_sub(self.free.len())
    }
    pub(crate) fn has_room(&self) -> bool {
        !self.free.is_empty()
    }
    pub(crate) fn insert(&mut self, request: Request) -> Option<u16> {
        let index = self.free.pop()?;
        *self.entries.get_mut(usize::from(index))? = Some(request);
        Some(index)
    }
    pub(crate) fn get(&self, index: u16) -> Option<&Request> {
        self.entries.get(usize::from(index))?.as_ref()
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
        entry.take()
    }
}
