//! The domain: start, event loop, end.
//!
//! One turn of the loop serves the control plane if it has something to do, looks at the cards that have
//! interrupted, and lets the data plane move a bounded number of packets. Only when nothing moved are cards
//! and frontends asked for an event each, and then the domain sleeps in one hypercall.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::fmt;

use embassy_futures::join::join;
use pciback::PciBus;
use xen_pv_rt::control::Request;
use xen_pv_rt::control_plane::ControlPlane;
use xen_pv_rt::hyp::{Copied, DmaError, Instant, MemoryUse, Platform, XsError};
use xen_pv_rt::task::{Tasks, block_on};
use xen_pv_rt::timekeeper::Timekeeper;
use xen_pv_rt::xenbus::read_text;

use crate::cards::{CardOptions, Cards, NoCards};
use crate::config::{Config, ConfigError};
use crate::dataplane::{Memory, Turn, Uplinks};
use crate::frame::TailPool;
use crate::management::{self, Management, ManagementOptions};
use crate::netback::Netback;
use crate::nic::Nic;
use crate::publish::{Board, Work, publish};
use crate::switch::bridges::{BridgeError, Bridges};

/// Buffers for packets from guests.
const BUFFERS: usize = 512;
/// Packets of several buffers at a time.
const TAILS: usize = 128;

/// Where more options are, below our own directory.
const OPTIONS: &str = "data/options";

/// Why the domain does not serve.
#[derive(Debug)]
pub enum StartError {
    /// The options.
    Config(ConfigError),
    /// The options in xenstore.
    Options(XsError),
    /// The cards.
    Cards(NoCards),
    /// The bridges between them.
    Bridges(BridgeError),
    /// The memory for buffers.
    Memory(DmaError),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(error) => error.fmt(f),
            Self::Options(error) => write!(f, "cannot read options from {OPTIONS} in xenstore: {error}"),
            Self::Cards(error) => error.fmt(f),
            Self::Bridges(error) => error.fmt(f),
            Self::Memory(error) => error.fmt(f),
        }
    }
}

/// The domain in service.
pub struct Domain<H: Platform> {
    hyp: H,
    control: ControlPlane<H>,
    cards: Cards<H>,
    netback: Netback<H>,
    board: Rc<Board>,
    management: Option<Management>,
    /// Sleeps that ended with something to do.
    wakeups: u64,
}

/// The cards, and the management address as one more.
struct Ports<'a, H: Platform> {
    cards: &'a mut Cards<H>,
    management: Option<&'a mut Management>,
}

impl<H: Platform> Uplinks for Ports<'_, H> {
    fn count(&self) -> u8 {
        self.cards.count().saturating_add(u8::from(self.management.is_some()))
    }

    fn nic(&mut self, index: u8) -> Option<&mut dyn Nic> {
        if index < self.cards.count() {
            return self.cards.nic(index);
        }
        match &mut self.management {
            Some(management) => Some(*management),
            None => None,
        }
    }
}

impl<H: Platform> Domain<H> {
    /// Reads the options, starts the cards, and begins to serve vifs. `memory_use` is asked when that is reported.
    ///
    /// # Errors
    /// [`StartError`]: one line that says what is wrong with the domain's configuration.
    pub fn start(hyp: H, command_line: &str, memory_use: fn() -> MemoryUse) -> Result<Self, StartError> {
        let mut config = Config::parse(command_line).map_err(StartError::Config)?;
        // Side by side: each is a few round trips to Dom0.
        let (words, bus) = block_on(&hyp, join(read_text(&hyp, OPTIONS), PciBus::connect(hyp.clone())));
        match words {
            Ok(words) => config.read(&words).map_err(StartError::Config)?,
            Err(XsError::NoEntry) => {}
            Err(error) => return Err(StartError::Options(error)),
        }
        log::set_max_level(config.log);
        let options = CardOptions { mtu: config.mtu, places: config.cards, pages: memory_use().total };
        let bus = bus.map_err(|error| StartError::Cards(NoCards::Bus(error)))?;
        let mut cards = block_on(&hyp, Cards::start(bus, options)).map_err(StartError::Cards)?;
        let tasks = Tasks::new();
        let buffers = hyp.dma_pool(BUFFERS).map_err(StartError::Memory)?;
        let memory = Memory { buffers, tails: TailPool::new(TAILS), held_pages: cards.held_pages() };
        let bridges = Bridges::new(config.bridges.clone(), cards.count()).map_err(StartError::Bridges)?;
        let uplinks: Vec<_> = (0..cards.count()).filter_map(|card| bridges.of_card(card)).collect();
        for card in 0..cards.count() {
            log::info!("nic {card}: bridge {}", bridges.name_of_card(card).unwrap_or("?"));
        }
        let local = bridges.of_management(config.management_bridge.as_deref()).map_err(StartError::Bridges)?;
        let options = config.options(bridges);
        let mut netback = Netback::new(hyp.clone(), tasks.clone(), memory, options);
        uplinks.into_iter().for_each(|bridge| netback.add_uplink(bridge));
        let board = Rc::new(Board::default());
        let management = start_management(&hyp, &config, &mut cards, &board, memory_use)?;
        if management.is_some() {
            netback.add_local(local);
        }
        netback.spawn_hotplug();
        cards.follow_bus(&hyp, &tasks);
        tasks.spawn(publish(hyp.clone(), board.clone(), memory_use));
        let control = ControlPlane::new(hyp.clone(), tasks);
        Ok(Self { hyp, control, cards, netback, board, management, wakeups: 0 })
    }

    /// Serves until the toolstack asks for the end, and says how.
    ///
    /// `each_turn` is called once per turn of the loop.
    pub fn serve(&mut self, each_turn: impl Fn()) -> Request {
        let (mut time, mut slept) = (Timekeeper::new(self.hyp.clone()), false);
        loop {
            each_turn();
            time.begin_turn();
            let now = time.now();
            if let Some(request) = self.control.poll(now) {
                return request;
            }
            if self.board.is_asked() {
                self.post();
            }
            let interrupted = self.cards.poll(now);
            let mut ports = Ports { cards: &mut self.cards, management: self.management.as_mut() };
            let turn = self.netback.poll(&mut ports, now);
            if let Some(management) = &mut self.management {
                management.poll(now);
            }
            if turn == Turn::Busy {
                self.cards.note_traffic(now);
                self.wakeups = self.wakeups.wrapping_add(u64::from(core::mem::take(&mut slept)));
            } else if !interrupted && self.sleep(now) {
                slept = time.note_wake_up();
            }
        }
    }

    /// Leaves the latest numbers for those who report them.
    fn post(&mut self) {
        let Copied { calls: copy_calls, operations: copies } = self.netback.copied();
        let work = Work { wakeups: self.wakeups, copy_calls, copies };
        self.board.post(work, self.cards.reports(), self.netback.reports());
    }

    /// Stops the cards and lets go of them, for the end of the domain.
    pub fn stop(self) {
        self.cards.stop();
    }

    /// Sleeps, unless something arrives while everybody is asked for an event. Returns whether it did.
    fn sleep(&mut self, now: Instant) -> bool {
        // Frontends first: asking them costs no exit to Xen.
        if self.netback.arm() == Turn::Busy || self.control.is_dirty() || self.cards.arm() {
            return false;
        }
        if self.board.is_asked() || self.management.as_ref().is_some_and(Management::has_work) {
            return false;
        }
        let own = self.management.as_ref().map(Management::deadline);
        let deadlines = [self.control.deadline(), self.netback.next_deadline(now), Some(self.cards.next_poll()), own];
        self.hyp.wait(deadlines.into_iter().flatten().min());
        true
    }
}

fn start_management<H: Platform>(
    hyp: &H,
    config: &Config,
    cards: &mut Cards<H>,
    board: &Rc<Board>,
    memory_use: fn() -> MemoryUse,
) -> Result<Option<Management>, StartError> {
    let (Some(address), Some(card)) = (config.management, cards.reports().first().map(|card| card.mac)) else {
        return Ok(None);
    };
    let options = ManagementOptions { address, port: config.management_port };
    let buffers = hyp.dma_pool(management::BUFFERS).map_err(StartError::Memory)?;
    let mac = management::own_mac(card);
    Ok(Some(Management::new(&options, mac, buffers, board.clone(), memory_use, hyp.now())))
}
