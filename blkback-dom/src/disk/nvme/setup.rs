//! From a stopped controller to disks, one step per completed admin command.
//!
//! Stopped, started, identified; I/O queues asked for and created; events asked for; namespaces listed and
//! identified one by one. The last two steps are repeated when the controller says that they changed.

use xen_pv_rt::hyp::{Clock, Mmio};

use super::admin::{Completion, Task};
use super::command::{self, Feature, Identify};
use super::identify::{ControllerData, MAX_NAMESPACES, NamespaceData, namespace_ids};
use super::queue::Cqe;
use super::regs::csts;
use super::status::Status;
use super::{Done, Namespace, Nvme, pointer};
use crate::disk::describe::MAX_SPANS;
use crate::disk::layout::MAX_PIECES;
use crate::disk::words::low16;
use crate::disk::{Capabilities, Disk, DiskEvent, DiskId, DiskName, Failure, Geometry, Health, Medium, SECTOR_BYTES};

/// Most bytes of a command, unless it takes too many pieces.
const MAX_TRANSFER: u32 = 1 << 20;
/// Log page with the ids of namespaces that changed.
const LOG_CHANGED_NAMESPACES: u8 = 4;

impl<R: Mmio, C: Clock> Nvme<R, C> {
    /// Stops the controller; [`Task::Disable`] waits until it has.
    pub(super) fn disable(&mut self) {
        self.regs.disable();
        self.admin.task = Task::Disable;
        self.admin.until = self.now.saturating_add(self.regs.capability().ready_time);
    }

    /// Starts a stopped controller.
    pub(super) fn enable(&mut self) {
        self.admin.clear();
        for queue in &mut self.io {
            queue.pair.clear();
        }
        let (sq, cq) = self.admin.queue.addresses();
        self.regs.enable(self.admin.queue.sq_entries(), self.admin.queue.cq_entries(), sq, cq);
        self.admin.task = Task::Enable;
        self.admin.until = self.now.saturating_add(self.regs.capability().ready_time);
    }

    /// Goes on with whatever the admin queue is busy with.
    pub(super) fn serve_admin(&mut self, done: Done<'_>) {
        match self.admin.task {
            Task::Disable => self.await_stop(done),
            Task::Enable => self.await_start(),
            _ => {}
        }
        if matches!(self.admin.task, Task::Disable | Task::Enable) || !self.is_alive() {
            return;
        }
        loop {
            match self.admin.take() {
                Ok(None) => break,
                Ok(Some(Completion::Event { log, failed })) => self.admin.log = (!failed).then_some(log),
                Ok(Some(Completion::Task(cqe))) => self.finish(cqe, done),
                Err(failure) => {
                    self.counters.confusions = self.counters.confusions.wrapping_add(1);
                    return self.recover(failure);
                }
            }
        }
        if matches!(self.admin.task, Task::Disable | Task::Enable) {
            return;
        }
        self.admin.queue.acknowledge(&self.regs);
        if self.admin.task != Task::Idle && self.now >= self.admin.until {
            self.recover(Failure::TimedOut("an admin command"));
        }
    }

    fn is_alive(&self) -> bool {
        matches!(self.health, Health::Running | Health::Recovering)
    }

    fn await_stop(&mut self, done: Done<'_>) {
        match self.regs.status() {
            Err(failure) => self.give_up(failure),
            Ok(status) if status & csts::RDY == 0 => {
                // From here on it does not touch memory.
                self.settle(done);
                match self.doomed {
                    Some(failure) => self.give_up(failure),
                    None => self.enable(),
                }
            }
            Ok(_) if self.now >= self.admin.until => {
                self.health = Health::Stuck(self.doomed.unwrap_or(Failure::TimedOut("reset")));
                self.admin.task = Task::Idle;
            }
            Ok(_) => {}
        }
    }

    fn await_start(&mut self) {
        match self.regs.status() {
            Err(failure) => self.give_up(failure),
            Ok(status) if status & csts::CFS != 0 => self.recover(Failure::Confused("fatal status while starting")),
            Ok(status) if status & csts::RDY != 0 => self.start_identify(Task::Controller, Identify::Controller),
            Ok(_) if self.now >= self.admin.until => {
                self.doomed = Some(Failure::TimedOut("the controller to become ready"));
                self.disable();
            }
            Ok(_) => {}
        }
    }

    fn start_identify(&mut self, task: Task, what: Identify) {
        let sqe = command::identify(what, self.admin.data_maddr());
        self.start_task(task, sqe);
    }

    pub(super) fn start_task(&mut self, task: Task, sqe: super::queue::Sqe) {
        let until = self.now.saturating_add(self.patience.admin);
        self.admin.start(&self.regs, task, sqe, until);
    }

    /// The command of the present task has completed.
    fn finish(&mut self, cqe: Cqe, done: Done<'_>) {
        let status = Status::new(cqe.status);
        let refused = |what| Failure::Refused(what, status.kind());
        match self.admin.task {
            Task::Controller if status.is_success() => self.identified(),
            Task::Controller => self.doom(refused("to identify itself")),
            Task::Queues if status.is_success() => self.got_queues(cqe.result),
            Task::Queues => self.doom(refused("I/O queues")),
            Task::CreateCq(index) if status.is_success() => self.create_sq(index),
            Task::CreateSq(index) if status.is_success() => self.create_cq(index.saturating_add(1)),
            Task::CreateCq(_) | Task::CreateSq(_) => self.doom(refused("to create a queue")),
            // Without them changes are noticed late; that is all.
            Task::Events => self.start_identify(Task::List, Identify::ActiveNamespaces),
            Task::List => self.listed(status, done),
            Task::Namespace(index) => self.namespace(index, status, done),
            Task::Log(LOG_CHANGED_NAMESPACES) => self.start_identify(Task::List, Identify::ActiveNamespaces),
            Task::Log(_) | Task::Abort | Task::Idle | Task::Disable | Task::Enable => self.admin.task = Task::Idle,
        }
    }

    /// Nothing can be done with this controller.
    fn doom(&mut self, failure: Failure) {
        self.doomed = Some(failure);
        self.health = Health::Recovering;
        self.disable();
    }

    fn identified(&mut self) {
        match ControllerData::decode(self.admin.data()) {
            Ok(data) => self.data = Some(data),
            Err(what) => return self.doom(Failure::Unsupported(what)),
        }
        let count = u16::try_from(self.io.len()).unwrap_or(1);
        self.start_task(Task::Queues, command::set_feature(Feature::Queues(count)));
    }

    /// `result` holds the numbers of submission and completion queues, counted from 0.
    fn got_queues(&mut self, result: u32) {
        let granted = u32::from(low16(result)).min(result >> 16).saturating_add(1);
        let granted = usize::try_from(granted).unwrap_or(usize::MAX);
        if granted < self.io.len() {
            if self.served_before {
                return self.doom(Failure::Confused("number of queues"));
            }
            self.io.truncate(granted);
        }
        self.create_cq(0);
    }

    fn create_cq(&mut self, index: usize) {
        let Some(queue) = self.io.get(index) else { return self.ask_for_events() };
        let (_, at) = queue.pair.addresses();
        let sqe = command::create_cq(queue.pair.id(), queue.pair.cq_entries(), at);
        self.start_task(Task::CreateCq(index), sqe);
    }

    fn create_sq(&mut self, index: usize) {
        let Some(queue) = self.io.get(index) else { return self.ask_for_events() };
        let (at, _) = queue.pair.addresses();
        let sqe = command::create_sq(queue.pair.id(), queue.pair.sq_entries(), at);
        self.start_task(Task::CreateSq(index), sqe);
    }

    fn ask_for_events(&mut self) {
        if self.data.as_ref().is_some_and(|data| data.namespace_events) {
            self.start_task(Task::Events, command::set_feature(Feature::NamespaceEvents));
        } else {
            self.start_identify(Task::List, Identify::ActiveNamespaces);
        }
    }

    fn listed(&mut self, status: Status, done: Done<'_>) {
        self.found.clear();
        let count = self.data.as_ref().map_or(0, |data| data.namespaces);
        if status.is_success() {
            self.found.extend(namespace_ids(self.admin.data()).take(MAX_NAMESPACES));
        } else {
            // Controllers older than 1.1 have no list: their ids are dense.
            self.found.extend((1..=count).take(MAX_NAMESPACES));
        }
        self.identify_namespace(0, done);
    }

    fn identify_namespace(&mut self, index: usize, done: Done<'_>) {
        match self.found.get(index) {
            Some(nsid) => self.start_identify(Task::Namespace(index), Identify::Namespace(*nsid)),
            None => self.all_identified(done),
        }
    }

    fn namespace(&mut self, index: usize, status: Status, done: Done<'_>) {
        let nsid = self.found.get(index).copied().unwrap_or(0);
        let decoded = if status.is_success() { NamespaceData::decode(self.admin.data()) } else { Ok(None) };
        match decoded {
            Ok(Some(data)) => self.update_disk(nsid, &data),
            Ok(None) => self.remove_disk(nsid),
            Err(why) => {
                log::warn!("nvme: namespace {nsid} is not served: it {why}");
                self.remove_disk(nsid);
            }
        }
        self.identify_namespace(index.saturating_add(1), done);
    }

    fn all_identified(&mut self, done: Done<'_>) {
        let missing: heapless::Vec<u32, MAX_NAMESPACES> = self
            .namespaces
            .iter()
            .map(|namespace| namespace.nsid)
            .filter(|nsid| !self.found.contains(nsid))
            .take(MAX_NAMESPACES)
            .collect();
        for nsid in missing {
            self.remove_disk(nsid);
        }
        self.admin.task = Task::Idle;
        if self.health == Health::Recovering {
            self.enter_service(done);
        }
    }

    fn position(&self, nsid: u32) -> Option<usize> {
        self.namespaces.iter().position(|namespace| namespace.nsid == nsid)
    }

    fn note(&mut self, index: usize, event: fn(DiskId) -> DiskEvent) {
        let id = DiskId(u16::try_from(index).unwrap_or(u16::MAX));
        // The first time round, `disks` says it all.
        if let (true, Some(place)) = (self.served_before, self.events.get_mut(index)) {
            *place = Some(event(id));
        }
    }

    fn remove_disk(&mut self, nsid: u32) {
        let Some(index) = self.position(nsid) else { return };
        if let Some(disk) = self.disks.get_mut(index).filter(|disk| disk.present) {
            disk.present = false;
            self.note(index, DiskEvent::Removed);
        }
    }

    fn update_disk(&mut self, nsid: u32, data: &NamespaceData) {
        let disk = self.describe(nsid, data);
        let shift = (data.block_bytes / SECTOR_BYTES).checked_ilog2().unwrap_or(0);
        let Some(index) = self.position(nsid) else {
            if self.disks.len() < MAX_NAMESPACES {
                self.disks.push(disk);
                self.namespaces.push(Namespace { nsid, shift });
                self.events.push(None);
                self.note(self.disks.len().saturating_sub(1), DiskEvent::Added);
            }
            return;
        };
        let Some(known) = self.disks.get_mut(index) else { return };
        let (was, same_blocks) = (known.present, known.geometry.logical_bytes == disk.geometry.logical_bytes);
        let resized = known.geometry.sectors != disk.geometry.sectors;
        *known = disk;
        if let Some(namespace) = self.namespaces.get_mut(index) {
            namespace.shift = shift;
        }
        // Formatted to other blocks, it is another disk: whatever was known about it is wrong.
        if !was || !same_blocks {
            self.note(index, DiskEvent::Added);
        } else if resized {
            self.note(index, DiskEvent::Resized);
        }
    }

    /// Bytes that one device command moves at most.
    pub(super) fn piece_bytes(&self) -> u32 {
        let most = self.data.as_ref().and_then(|data| data.max_transfer).unwrap_or(u32::MAX);
        most.min(pointer::MAX_BYTES)
    }

    fn describe(&self, nsid: u32, data: &NamespaceData) -> Disk {
        let per_block = data.block_bytes / SECTOR_BYTES;
        let granularity = data.preferred_deallocate.saturating_mul(per_block);
        let info = self.data.as_ref();
        let offered = |yes: Option<bool>| yes.unwrap_or(false);
        let pieces = u32::try_from(MAX_PIECES).unwrap_or(1);
        Disk {
            name: DiskName::Namespace(nsid),
            serial: info.map(|info| info.serial.clone()).unwrap_or_default(),
            model: info.map(|info| info.model.clone()).unwrap_or_default(),
            geometry: Geometry {
                sectors: data.blocks.saturating_mul(per_block.into()),
                logical_bytes: data.block_bytes,
                physical_bytes: data.preferred_write.saturating_mul(data.block_bytes).min(1 << 20),
                max_transfer_bytes: self.piece_bytes().saturating_mul(pieces).min(MAX_TRANSFER),
                command_bytes: self.piece_bytes(),
                max_spans: MAX_SPANS,
            },
            capabilities: Capabilities {
                volatile_cache: info.is_none_or(|info| info.volatile_cache),
                fua: true,
                discard_granularity: if offered(info.map(|info| info.deallocate)) { granularity } else { 0 },
                discard_alignment: 0,
                max_discard_sectors: super::io::max_discard(per_block),
                shared_slots: 0,
                // Erasing is for whole namespaces (Format NVM, Sanitize), not for ranges.
                max_secure_erase_sectors: 0,
                max_write_zeroes_sectors: if offered(info.map(|info| info.write_zeroes)) {
                    u64::from(per_block).saturating_mul(super::io::MAX_BLOCKS)
                } else {
                    0
                },
                read_only: data.read_only,
            },
            medium: Medium::Solid,
            present: true,
        }
    }
}
