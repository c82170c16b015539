//! A connected vbd on the data plane.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;

use ring::Ticket;
use ring::blkif::{Limits, Request, Response};
use xen_pv_rt::hyp::{DmaPool, Domid, Hypervisor, Instant};
use xen_pv_rt::task::Signal;
use xen_pv_rt::xenbus::backend::Fault;

use super::Budget;
use super::cause::{Cause, VbdCounters};
use super::mappings::{Mappings, Wanted};
use super::queue::Queue;
use super::work::{Part, Segments, Stage, Work};
use crate::volume::{DiskRef, Map};

/// The frontend broke the rules of the ring.
pub(super) const BLK_PROD: Fault = Fault::new("BLK_PROD", "impossible producer index on the ring");

/// What a vbd is made of when it is handed over by the control plane.
pub(crate) struct VbdParts<H: Hypervisor> {
    pub(crate) frontend: Domid,
    pub(crate) devid: u32,
    pub(crate) queues: Vec<Queue<H>>,
    pub(crate) map: Map,
    /// Other vbds may write to the same sectors.
    pub(crate) shared: bool,
    pub(crate) limits: Limits,
    pub(crate) buffers: DmaPool,
    pub(crate) budget: Budget,
    /// The frontend uses its grants again.
    pub(crate) persistent: bool,
    /// Raised on a fault, when errors are to be reported, and when everything is back after the end.
    pub(crate) signal: Signal,
}

/// A vbd in service.
pub(super) struct Vbd<H: Hypervisor> {
    pub(super) frontend: Domid,
    pub(super) devid: u32,
    pub(super) queues: Vec<Queue<H>>,
    pub(super) map: Map,
    /// Other vbds may write to the same sectors.
    pub(super) shared: bool,
    /// The disks that a flush goes to.
    pub(super) disks: Vec<DiskRef>,
    /// Parts at each of them.
    held: Vec<u32>,
    pub(super) limits: Limits,
    pub(super) buffers: DmaPool,
    pub(super) mappings: Mappings<H>,
    pub(super) works: Vec<Option<Work>>,
    /// Numbers of unused entries of `works`.
    pub(super) free_works: Vec<u16>,
    /// Requests that still have parts to hand out, oldest first.
    pub(super) todo: VecDeque<u16>,
    #[expect(clippy::vec_box, reason = "parts are large and move from list to list")]
    pub(super) free_parts: Vec<Box<Part>>,
    /// Parts that were not given to a disk yet, oldest first.
    pub(super) staged: VecDeque<Box<Part>>,
    /// Parts in all.
    pub(super) part_count: usize,
    /// Parts that a disk has.
    pub(super) in_flight: u32,
    next_queue: usize,
    /// A request that everything else waits for.
    pub(super) barrier: bool,
    pub(super) counters: VbdCounters,
    pub(super) reported: VbdCounters,
    pub(super) next_report: Instant,
    pub(super) fault: Option<(u8, Fault)>,
    /// No request is taken any more.
    pub(super) closing: bool,
    /// It has been asked for an event with its next request, and none is under way: until one comes, its rings are not
    /// looked at. With many vbds most are, and each ring is a cache line or two of somebody else's.
    pub(super) idle: bool,
    pub(super) signal: Signal,
}

impl<H: Hypervisor> Vbd<H> {
    pub(super) fn new(parts: VbdParts<H>) -> Self {
        let Budget { requests, parts: part_count, persistent, .. } = parts.budget;
        Self {
            frontend: parts.frontend,
            devid: parts.devid,
            queues: parts.queues,
            held: parts.map.disks().iter().map(|_| 0).collect(),
            disks: parts.map.disks(),
            map: parts.map,
            shared: parts.shared,
            limits: parts.limits,
            buffers: parts.buffers,
            mappings: Mappings::new(if parts.persistent { persistent } else { 0 }),
            works: (0..requests).map(|_| None).collect(),
            free_works: (0..requests).rev().collect(),
            todo: VecDeque::with_capacity(requests.into()),
            free_parts: (0..part_count).map(|_| Box::new(Part::new())).collect(),
            staged: VecDeque::with_capacity(part_count),
            part_count,
            in_flight: 0,
            next_queue: 0,
            barrier: false,
            counters: VbdCounters::default(),
            reported: VbdCounters::default(),
            next_report: Instant::default(),
            fault: None,
            closing: false,
            idle: false,
            signal: parts.signal,
        }
    }

    /// Whether another request may be taken.
    pub(super) fn has_room(&self) -> bool {
        !self.idle && !self.closing && self.fault.is_none() && !self.barrier && !self.free_works.is_empty()
    }

    /// Whether a request waits that may be taken. A ring that cannot be believed counts: taking it finds out.
    pub(super) fn has_requests(&self) -> bool {
        self.has_room() && self.queues.iter().any(|queue| queue.ring.unconsumed() != Ok(0))
    }

    /// Parts at a disk.
    pub(super) fn held(&self, disk: DiskRef) -> u32 {
        let mut all = self.disks.iter().zip(&self.held);
        all.find(|(other, _)| **other == disk).map_or(0, |(_, held)| *held)
    }

    /// Counts parts given to a disk, or back from it.
    pub(super) fn hold(&mut self, disk: DiskRef, change: i32) {
        let mut all = self.disks.iter().zip(&mut self.held);
        if let Some((_, held)) = all.find(|(other, _)| **other == disk) {
            *held = held.saturating_add_signed(change);
        }
    }

    /// Requests under way.
    pub(super) fn under_way(&self) -> usize {
        self.works.len().saturating_sub(self.free_works.len())
    }

    /// Takes up to `limit` requests, from each queue in turn. Returns how many.
    pub(super) fn take(&mut self, limit: usize, now: Instant) -> usize {
        let mut taken = 0;
        let mut idle = 0;
        while taken < limit && idle < self.queues.len() && self.has_room() {
            let index = self.next_queue;
            self.next_queue = index.saturating_add(1).checked_rem(self.queues.len()).unwrap_or(0);
            let Some(queue) = self.queues.get_mut(index) else { break };
            let number = u8::try_from(index).unwrap_or(0);
            match queue.take() {
                Ok(Some((request, ticket))) => {
                    idle = 0;
                    taken = taken.saturating_add(1);
                    self.begin(number, &request, ticket, now);
                }
                Ok(None) => idle = idle.saturating_add(1),
                Err(_) => self.kill(number, BLK_PROD),
            }
        }
        taken
    }

    fn begin(&mut self, queue: u8, request: &Request, ticket: Ticket, now: Instant) {
        let (id, operation) = (request.id(), request.answered_operation());
        match request.validate(&self.limits) {
            Ok(command) => {
                let work = Work::new(queue, ticket, id, operation, command);
                self.barrier |= work.barrier;
                self.enter(work);
            }
            Err(reject) => {
                let cause = Cause::from(reject);
                self.error(cause, now);
                let response = Response { id, operation, status: cause.status() };
                if let Some(queue) = self.queues.get_mut(usize::from(queue)) {
                    queue.respond(ticket, &response);
                }
            }
        }
    }

    fn enter(&mut self, work: Work) {
        // `has_room` vouches for both.
        let Some(index) = self.free_works.pop() else { return };
        if let Some(slot) = self.works.get_mut(usize::from(index)) {
            *slot = Some(work);
            self.todo.push_back(index);
        }
    }

    pub(super) fn work(&self, index: u16) -> Option<&Work> {
        self.works.get(usize::from(index))?.as_ref()
    }

    pub(super) fn work_mut(&mut self, index: u16) -> Option<&mut Work> {
        self.works.get_mut(usize::from(index))?.as_mut()
    }

    /// The works and the staged parts, which belong to each other.
    pub(super) fn works_and_staged(&mut self) -> (&[Option<Work>], &mut VecDeque<Box<Part>>) {
        (&self.works, &mut self.staged)
    }

    /// The mapped pages, and the requests whose list of segments is to be fetched.
    pub(super) fn mappings_and_fetching(&mut self) -> (&Mappings<H>, impl Iterator<Item = &mut Work>) {
        let fetching = self.works.iter_mut().flatten().filter(|work| matches!(work.stage, Stage::Fetch(_)));
        (&self.mappings, fetching)
    }

    /// Whether a request that has parts to hand out is as `wanted`. There are few of those, and many places for requests.
    fn has_todo(&self, wanted: impl Fn(&Work) -> bool) -> bool {
        self.todo.iter().filter_map(|index| self.work(*index)).any(wanted)
    }

    /// Whether a list of segments is to be fetched.
    pub(super) fn has_lists_to_fetch(&self) -> bool {
        self.has_todo(|work| matches!(work.stage, Stage::Fetch(_)))
    }

    /// Maps the pages of requests that were not considered yet, as far as there is room.
    pub(super) fn map_new(&mut self, hyp: &H, now: Instant) {
        if !self.has_todo(|work| !work.considered && work.stage == Stage::Data) {
            return;
        }
        let mut wanted = Wanted::new();
        let mut outcome = Ok(());
        for work in self.works.iter_mut().flatten().filter(|work| !work.considered && work.stage == Stage::Data) {
            work.considered = true;
            let segments = (0..).map_while(|index| work.segments.get(index)).map(|segment| segment.gref());
            for gref in segments.chain(work.list) {
                if self.mappings.wants(gref, &wanted) && wanted.push(gref).is_ok() && wanted.is_full() {
                    outcome = outcome.and(self.mappings.map(hyp, self.frontend, &wanted, now));
                    wanted.clear();
                }
            }
        }
        outcome = outcome.and(self.mappings.map(hyp, self.frontend, &wanted, now));
        if let Err(error) = outcome {
            let (domid, device, cause) = (self.frontend, self.devid, Cause::from(error).code());
            log::warn!(
                "be=vbd dom={domid} dev={device} q=0 cause={cause} text=\"a grant cannot be mapped; what is not mapped \
                 yet will be copied\" action=keep n=0"
            );
        }
    }

    /// Judges the lists that were fetched.
    pub(super) fn fetched(&mut self, now: Instant) {
        for index in 0..u16::try_from(self.works.len()).unwrap_or(0) {
            let limits = self.limits;
            let Some(work) = self.work_mut(index) else { continue };
            let (Stage::Fetch(indirect), Segments::Listed(list, _)) = (work.stage, &work.segments) else { continue };
            let outcome = match work.fetch_error.get() {
                Some(error) => Err(Cause::from(error)),
                None => indirect.validate(list.bytes(), &limits).map_err(Cause::from),
            };
            match outcome {
                Ok(transfer) => work.set_transfer(&transfer),
                Err(cause) => {
                    work.fail(cause);
                    self.todo.retain(|other| *other != index);
                    self.settle(index, now);
                }
            }
        }
    }

    /// Takes it out of service: the rings are not looked at any more.
    pub(super) fn kill(&mut self, queue: u8, fault: Fault) {
        self.fault.get_or_insert((queue, fault));
        self.signal.raise();
    }

    /// Takes no more requests; those under way are finished. The signal is raised when the last one is.
    pub(super) fn close(&mut self) {
        self.closing = true;
    }
}
