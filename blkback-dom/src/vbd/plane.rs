//! The data plane: every connected vbd and what the disks have of theirs. What it does is in [`turn`](super::turn).

use alloc::boxed::Box;
use alloc::vec::Vec;

use xen_pv_rt::hyp::{Copied, Domid, Hypervisor, Instant};
use xen_pv_rt::xenbus::backend::Fault;

use super::cause::{Cause, VbdCounters};
use super::device::{Vbd, VbdParts};
use super::work::Part;
use crate::disk::{Controller, DiskError, Tag};
use crate::volume::Map;

/// The disk controllers, by number.
pub trait Controllers {
    /// The controller of that number; `None` if there is none, or no more.
    fn get(&mut self, number: u8) -> Option<&mut dyn Controller>;
    /// One more than the greatest number.
    fn count(&self) -> u8;
    /// Takes completions of all controllers.
    fn poll(&mut self, now: Instant, done: &mut dyn FnMut(Tag, Result<(), DiskError>)) {
        for number in 0..self.count() {
            if let Some(controller) = self.get(number) {
                controller.poll(now, done);
            }
        }
    }
}

/// Whether there is more to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "nobody will wake us for what was left"]
pub enum Turn {
    /// Call again before sleeping.
    Busy,
    /// Nothing until an event.
    Idle,
}

/// A vbd's number on the data plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct VbdId(u16);

/// Vbds and what they have in flight.
pub(crate) struct Plane<H: Hypervisor> {
    pub(super) hyp: H,
    pub(super) vbds: Vec<Option<Vbd<H>>>,
    /// What the disks have, by tag: a part, with those that are in the same command.
    pub(super) in_flight: Vec<Option<Box<Part>>>,
    /// Unused tags.
    pub(super) tags: Vec<u32>,
    /// Tags that the vbds in service may need.
    reserved: usize,
    /// Parts that came back in this turn.
    #[expect(clippy::vec_box, reason = "parts are large and move from list to list")]
    pub(super) finished: Vec<Box<Part>>,
    /// Whose turn it is to be first.
    pub(super) first: usize,
    /// When every vbd is looked at, event or not.
    pub(super) next_scan: Instant,
    /// Since start.
    pub(super) copied: Copied,
}

impl<H: Hypervisor> Plane<H> {
    pub(crate) const fn new(hyp: H) -> Self {
        Self {
            hyp,
            vbds: Vec::new(),
            in_flight: Vec::new(),
            tags: Vec::new(),
            reserved: 0,
            finished: Vec::new(),
            first: 0,
            next_scan: Instant::from_nanos(0),
            copied: Copied { calls: 0, operations: 0 },
        }
    }

    /// Takes a vbd into service.
    pub(crate) fn attach(&mut self, parts: VbdParts<H>) -> VbdId {
        // Room for all of its parts, so that the data path never allocates.
        self.reserved = self.reserved.saturating_add(parts.budget.parts);
        while self.in_flight.len() < self.reserved {
            let tag = u32::try_from(self.in_flight.len()).unwrap_or(u32::MAX);
            self.in_flight.push(None);
            self.tags.push(tag);
        }
        self.finished.reserve(self.in_flight.len());
        let vbd = Vbd::new(parts);
        let free = self.vbds.iter().position(Option::is_none).unwrap_or(self.vbds.len());
        match self.vbds.get_mut(free) {
            Some(slot) => *slot = Some(vbd),
            None => self.vbds.push(Some(vbd)),
        }
        VbdId(u16::try_from(free).unwrap_or(u16::MAX))
    }

    /// Takes no more requests of a vbd; its signal is raised when none is under way any more.
    pub(crate) fn close(&mut self, id: VbdId) {
        if let Some(vbd) = self.get_mut(id) {
            vbd.close();
        }
    }

    /// Whether nothing of a vbd is under way.
    pub(crate) fn is_drained(&self, id: VbdId) -> bool {
        self.get(id).is_none_or(|vbd| vbd.under_way() == 0)
    }

    /// Forgets a vbd that is drained. Its event channels are closed; its rings are to be unmapped.
    pub(crate) fn detach(&mut self, id: VbdId) -> Vec<H::Page> {
        let Some(vbd) = self.vbds.get_mut(usize::from(id.0)).and_then(Option::take) else { return Vec::new() };
        self.reserved = self.reserved.saturating_sub(vbd.part_count);
        let rings = vbd.queues.into_iter().flat_map(super::queue::Queue::into_pages);
        rings.chain(vbd.mappings.into_pages()).collect()
    }

    fn get(&self, id: VbdId) -> Option<&Vbd<H>> {
        self.vbds.get(usize::from(id.0))?.as_ref()
    }

    fn get_mut(&mut self, id: VbdId) -> Option<&mut Vbd<H>> {
        self.vbds.get_mut(usize::from(id.0))?.as_mut()
    }

    /// Why a vbd has to be taken out of service, and in which queue that showed.
    pub(crate) fn fault(&self, id: VbdId) -> Option<(u8, Fault)> {
        self.get(id)?.fault.clone()
    }

    /// Gives a vbd's volume a new size.
    pub(crate) fn resize(&mut self, id: VbdId, map: Map) {
        if let Some(vbd) = self.get_mut(id) {
            vbd.limits.sectors = map.sectors();
            vbd.map = map;
        }
    }

    /// Errors with requests since the last call, by cause.
    pub(crate) fn take_report(&mut self, id: VbdId) -> Vec<(Cause, u64)> {
        self.get_mut(id).map(Vbd::take_report).unwrap_or_default()
    }

    /// The counters of every vbd in service.
    pub(crate) fn counters(&self) -> impl Iterator<Item = (Domid, u32, VbdCounters)> {
        let counters = |vbd: &Vbd<H>| VbdCounters { pages_mapped: vbd.mappings.count(), ..vbd.counters };
        self.vbds.iter().flatten().map(move |vbd| (vbd.frontend, vbd.devid, counters(vbd)))
    }

    /// Copies since start.
    pub(crate) const fn copied(&self) -> Copied {
        self.copied
    }
}
