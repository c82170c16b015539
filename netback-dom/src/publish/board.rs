//! Where the event loop leaves its numbers for those who report them.

use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

use pciback::Sbdf;
use xen_pv_rt::hyp::Domid;

use crate::nic::{Link, MacAddress, NicCounters};
use crate::vif::counters::VifCounters;

/// A card at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CardReport {
    /// Its position in `pci=[...]`, from 0.
    pub index: u8,
    /// Where it is on our bus.
    pub sbdf: Sbdf,
    /// What it is called.
    pub name: &'static str,
    /// Its own address.
    pub mac: MacAddress,
    /// Its link.
    pub link: Link,
    /// What it has counted since start.
    pub counters: NicCounters,
    /// Its interrupts since then, as far as they were noticed one by one.
    pub interrupts: u64,
}

/// A connected vif at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VifReport {
    /// The guest.
    pub frontend: Domid,
    /// Its device id.
    pub devid: u32,
    /// What it has counted since it connected.
    pub counters: VifCounters,
}

/// What the domain has done for all packets together, since start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Sleeps that ended with something to do.
    pub wakeups: u64,
    /// Grant copy hypercalls.
    pub copy_calls: u64,
    /// Operations in those.
    pub copies: u64,
}

/// The latest numbers, and whether newer ones are wanted.
#[derive(Debug, Default)]
pub struct Board {
    asked: Cell<bool>,
    work: Cell<Work>,
    cards: RefCell<Vec<CardReport>>,
    vifs: RefCell<Vec<VifReport>>,
}

impl Board {
    /// Asks the event loop for new numbers.
    pub fn ask(&self) {
        self.asked.set(true);
    }

    /// Whether somebody has asked since the last [`post`](Self::post). One load: cheap enough for each turn.
    pub fn is_asked(&self) -> bool {
        self.asked.get()
    }

    /// Leaves new numbers. A card that has failed is not among them.
    pub fn post(&self, work: Work, cards: Vec<CardReport>, vifs: Vec<VifReport>) {
        self.asked.set(false);
        self.work.set(work);
        self.cards.replace(cards);
        self.vifs.replace(vifs);
    }

    /// The work as last posted.
    pub fn work(&self) -> Work {
        self.work.get()
    }

    /// The cards as last posted.
    pub fn cards(&self) -> Vec<CardReport> {
        self.cards.borrow().clone()
    }

    /// The vifs as last posted.
    pub fn vifs(&self) -> Vec<VifReport> {
        self.vifs.borrow().clone()
    }
}
