//! What the ports of a controller share: callers' commands, disks, counters.

use alloc::vec::Vec;
use core::time::Duration;

use xen_pv_rt::hyp::Instant;

use super::Done;
use crate::disk::requests::Requests;
use crate::disk::{Disk, DiskCounters, DiskError, DiskEvent, DiskId};

pub(super) struct Context {
    /// The time of the last poll.
    pub(super) now: Instant,
    /// What a command is given.
    pub(super) time: Duration,
    /// Slots of a port, as the controller says.
    pub(super) slots: u32,
    /// Whether the controller can queue commands.
    pub(super) ncq: bool,
    pub(super) requests: Requests,
    pub(super) disks: Vec<Disk>,
    /// By disk, what its users have not been told.
    events: Vec<Option<DiskEvent>>,
    pub(super) counters: DiskCounters,
    /// What the packet device that is being identified said of itself.
    pub(super) identity: [u16; 256],
    /// The first search for disks is over.
    pub(super) served: bool,
}

impl Context {
    pub(super) fn new(now: Instant, time: Duration, slots: u32, ncq: bool, requests: u16) -> Self {
        Self {
            now,
            time,
            slots,
            ncq,
            requests: Requests::new(requests),
            disks: Vec::new(),
            events: Vec::new(),
            counters: DiskCounters::default(),
            identity: [0; 256],
            served: false,
        }
    }

    pub(super) fn take_event(&mut self) -> Option<DiskEvent> {
        self.events.iter_mut().find_map(Option::take)
    }

    fn note(&mut self, index: u16, event: fn(DiskId) -> DiskEvent) {
        if let (true, Some(place)) = (self.served, self.events.get_mut(usize::from(index))) {
            *place = Some(event(DiskId(index)));
        }
    }

    /// The disk is gone.
    pub(super) fn remove(&mut self, index: Option<u16>) {
        let Some(index) = index else { return };
        if let Some(disk) = self.disks.get_mut(usize::from(index)).filter(|disk| disk.present) {
            disk.present = false;
            self.note(index, DiskEvent::Removed);
        }
    }

    /// Whether `disk` is the one that was there before.
    pub(super) fn is_same(&self, index: Option<u16>, disk: &Disk) -> bool {
        let known = index.and_then(|index| self.disks.get(usize::from(index)));
        known.is_none_or(|known| {
            known.serial == disk.serial
                && known.model == disk.model
                && known.geometry.logical_bytes == disk.geometry.logical_bytes
        })
    }

    /// A port's disk is in service.
    pub(super) fn update(&mut self, index: &mut Option<u16>, disk: Disk) {
        let same = self.is_same(*index, &disk);
        let known = index.and_then(|index| Some((index, self.disks.get_mut(usize::from(index))?)));
        let Some((number, known)) = known else {
            let number = u16::try_from(self.disks.len()).unwrap_or(u16::MAX);
            self.disks.push(disk);
            self.events.push(None);
            *index = Some(number);
            return self.note(number, DiskEvent::Added);
        };
        let (was, resized) = (known.present, known.geometry.sectors != disk.geometry.sectors);
        *known = disk;
        if !was || !same {
            self.note(number, DiskEvent::Added);
        } else if resized {
            self.note(number, DiskEvent::Resized);
        }
    }

    /// One device command of a request is over.
    pub(super) fn finish(&mut self, request: u16, result: Result<(), DiskError>, done: Done<'_>) {
        let Some(request) = self.requests.complete_one(request, result) else { return };
        self.counters.answered = self.counters.answered.wrapping_add(1);
        let result = request.result();
        self.counters.errors = self.counters.errors.wrapping_add(result.is_err().into());
        done(request.tag, result);
    }
}
