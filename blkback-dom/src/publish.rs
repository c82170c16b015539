//! Counters and health for Dom0, in xenstore ([`xen_pv_rt::statistics`]).
//!
//! One node for the domain, one for each controller, one for each vbd. `docs/xenstore-keys.md` is the table of their words,
//! and names are stable.

use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

use pciback::Sbdf;
use xen_pv_rt::hyp::{Clock, Domid, MemoryUse, Xenstore};
use xen_pv_rt::statistics::{self, Counter, Node, Words};

use crate::disk::{DiskCounters, Health};
use crate::vbd::{Cause, VbdCounters};

/// A controller at one moment.
#[derive(Clone, Debug)]
pub struct ControllerReport {
    /// Its family and its number in it: `nvme0`.
    pub name: String,
    /// Where it is on our bus.
    pub sbdf: Sbdf,
    /// Whether it serves.
    pub health: Health,
    /// What it has counted since start.
    pub counters: DiskCounters,
    /// Its interrupts since then, as far as they were noticed one by one.
    pub interrupts: u64,
}

/// A connected vbd at one moment.
#[derive(Clone, Debug)]
pub struct VbdReport {
    /// The guest.
    pub frontend: Domid,
    /// Its device id.
    pub devid: u32,
    /// What it has counted since it connected.
    pub counters: VbdCounters,
}

/// What the domain has done for all requests together, since start.
#[derive(Clone, Copy, Debug, Default)]
pub struct Work {
    /// Sleeps that ended with something to do.
    pub wakeups: u64,
    /// Grant copy hypercalls.
    pub copy_calls: u64,
    /// Operations in those.
    pub copies: u64,
}

const OF_DOMAIN: [Counter<Work>; 3] =
    [("wakeups", |work| work.wakeups), ("copy-calls", |work| work.copy_calls), ("copies", |work| work.copies)];

const OF_CONTROLLERS: [Counter<ControllerReport>; 7] = [
    ("answered", |controller| controller.counters.answered),
    ("errors", |controller| controller.counters.errors),
    ("retries", |controller| controller.counters.retries),
    ("timeouts", |controller| controller.counters.timeouts),
    ("resets", |controller| controller.counters.resets),
    ("confusions", |controller| controller.counters.confusions),
    ("interrupts", |controller| controller.interrupts),
];

const OF_VBDS: [Counter<VbdCounters>; 10] = [
    ("reads", |vbd| vbd.reads),
    ("writes", |vbd| vbd.writes),
    ("flushes", |vbd| vbd.flushes),
    ("discards", |vbd| vbd.discards),
    ("sectors-read", |vbd| vbd.sectors_read),
    ("sectors-written", |vbd| vbd.sectors_written),
    ("errors", |vbd| vbd.errors.total()),
    ("notifications", |vbd| vbd.notifications),
    ("events", |vbd| vbd.events),
    ("pages-mapped", |vbd| vbd.pages_mapped),
];

/// Where the event loop leaves its numbers.
#[derive(Default)]
pub struct Board {
    asked: Cell<bool>,
    posted: RefCell<(Work, Vec<ControllerReport>, Vec<VbdReport>)>,
}

impl Board {
    /// Whether numbers are wanted. One load: cheap enough for each turn.
    pub fn is_asked(&self) -> bool {
        self.asked.get()
    }

    /// Leaves new numbers.
    pub fn post(&self, work: Work, controllers: Vec<ControllerReport>, vbds: Vec<VbdReport>) {
        self.asked.set(false);
        self.posted.replace((work, controllers, vbds));
    }

    fn nodes(&self, memory: MemoryUse) -> Vec<Node> {
        let (work, controllers, vbds) = &*self.posted.borrow();
        let domain = Words::of_domain(env!("CARGO_PKG_VERSION"), memory).with("vbds", vbds.len());
        let mut nodes = Vec::new();
        let mut add = |name, words: Words| nodes.push(Node { name, line: words.into_line() });
        add("domain".into(), domain.with_counters(work, &OF_DOMAIN));
        for controller in controllers {
            add(format!("controller-{}", controller.name), controller_words(controller));
        }
        for vbd in vbds {
            add(format!("vbd-{}-{}", vbd.frontend, vbd.devid), vbd_words(&vbd.counters));
        }
        nodes
    }
}

/// Publishes for ever what the event loop posts on the board.
pub async fn publish(hyp: impl Xenstore + Clock, board: Rc<Board>, memory: fn() -> MemoryUse) {
    statistics::publish(hyp, || board.asked.set(true), || board.nodes(memory())).await;
}

fn controller_words(controller: &ControllerReport) -> Words {
    let state = match controller.health {
        Health::Running => "running",
        Health::Recovering => "recovering",
        Health::Failed(_) | Health::Stuck(_) => "failed",
        Health::Stopped => "stopped",
    };
    let words = Words::new().with("pci", controller.sbdf).with("state", state);
    words.with_counters(controller, &OF_CONTROLLERS)
}

/// Its counters, and the causes of errors that happened.
fn vbd_words(vbd: &VbdCounters) -> Words {
    let words = Words::new().with_counters(vbd, &OF_VBDS);
    let happened = Cause::ALL.iter().map(|cause| (cause, vbd.errors.of(*cause))).filter(|(_, count)| *count != 0);
    happened.fold(words, |words, (cause, count)| words.with(&format!("error-{}", cause.code()), count))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::Failure;

    fn lines(board: &Board) -> Vec<(String, String)> {
        let nodes = board.nodes(MemoryUse { total: 8192, used: 1024, heap_bytes: 5 });
        nodes.into_iter().map(|node| (node.name, node.line)).collect()
    }

    #[test]
    fn everything_has_a_node_with_its_counters() -> Result<(), pciback::BadSbdf> {
        let board = Board::default();
        let counters = DiskCounters { answered: 9, resets: 1, ..DiskCounters::default() };
        let controller = |name: &str, health| -> Result<_, pciback::BadSbdf> {
            let sbdf = "0000:00:05.0".parse()?;
            Ok(ControllerReport { name: name.into(), sbdf, health, counters, interrupts: 4 })
        };
        let controllers =
            alloc::vec![controller("nvme0", Health::Running)?, controller("vda", Health::Failed(Failure::Gone))?];
        let mut counters = VbdCounters { reads: 3, sectors_read: 24, events: 2, ..VbdCounters::default() };
        counters.errors.add(Cause::Media);
        let vbd = VbdReport { frontend: Domid::from_raw(7), devid: 51712, counters };
        board.post(Work { wakeups: 6, copy_calls: 2, copies: 3 }, controllers, alloc::vec![vbd]);
        let words = "answered=9 errors=0 retries=0 timeouts=0 resets=1 confusions=0 interrupts=4";
        let expected = [
            (
                "domain",
                format!(
                    "version={} memory-total-kib=32768 memory-used-kib=4096 heap-used-bytes=5 vbds=1 wakeups=6 \
                     copy-calls=2 copies=3",
                    env!("CARGO_PKG_VERSION")
                ),
            ),
            ("controller-nvme0", format!("pci=0000:00:05.0 state=running {words}")),
            ("controller-vda", format!("pci=0000:00:05.0 state=failed {words}")),
            (
                "vbd-7-51712",
                "reads=3 writes=0 flushes=0 discards=0 sectors-read=24 sectors-written=0 errors=1 notifications=0 \
                 events=2 pages-mapped=0 error-MEDIA=1"
                    .into(),
            ),
        ];
        assert_eq!(lines(&board), expected.map(|(name, line)| (String::from(name), line)));
        Ok(())
    }

    #[test]
    fn every_cause_has_room() {
        let mut counters = VbdCounters::default();
        Cause::ALL.iter().for_each(|cause| counters.errors.add(*cause));
        let line = vbd_words(&counters).into_line();
        assert!(line.len() + 20 * (OF_VBDS.len() + Cause::COUNT) <= statistics::MAX_LINE, "{} bytes", line.len());
        assert_eq!(line.matches("error-").count(), Cause::COUNT);
    }
}
