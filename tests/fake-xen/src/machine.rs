//! The machine: what all domains share, and the two handles to it.

use std::cell::{Cell, RefCell, RefMut};
use std::rc::Rc;
use std::time::Duration;

use xen_pv_rt::hyp::{Clock, Dma, DmaError, DmaPool, DmaRing, Domid, HostMemory, Instant};

use crate::client::Client;
use crate::events::Events;
use crate::faults::Faults;
use crate::grants::Grants;
use crate::store::Store;

/// The driver domain's id, unless a test wants another one.
pub const BACKEND: Domid = Domid::from_raw(3);

pub(crate) struct Machine {
    pub(crate) backend: Domid,
    pub(crate) now: Cell<Instant>,
    pub(crate) wake_at: Cell<Option<Instant>>,
    /// Sleeps of the driver domain that ended at once since it last took what ended them.
    pub(crate) sleepless: Cell<u32>,
    pub(crate) grants: RefCell<Grants>,
    pub(crate) events: RefCell<Events>,
    pub(crate) store: RefCell<Store>,
    pub(crate) client: RefCell<Client>,
    pub(crate) faults: RefCell<Faults>,
    pub(crate) memory: HostMemory,
    /// A rule that was broken where panicking was not possible, in a destructor.
    pub(crate) broken: RefCell<Option<String>>,
}

impl Machine {
    /// Notes a broken rule; the end of the test reports it.
    pub(crate) fn break_rule(&self, rule: String) {
        self.broken.borrow_mut().get_or_insert(rule);
    }
}

/// What the driver domain holds at one moment. Compare two of them to find a leak.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Pages of peers that are mapped.
    pub mapped: usize,
    /// Event channels that are bound or offered.
    pub ports: usize,
    /// Watches.
    pub watches: usize,
    /// Transactions under way.
    pub transactions: usize,
    /// Nodes in xenstore that are charged to it.
    pub nodes: usize,
}

/// The test's handle to the machine. Cloning gives another one; when the last is dropped, leaks are looked
/// for.
#[derive(Clone)]
pub struct FakeXen(pub(crate) Rc<Machine>, #[expect(dead_code, reason = "is there to be dropped")] Rc<LeakCheck>);

/// Runs when the test's last handle is dropped, whatever the driver domain still holds on to.
struct LeakCheck(Rc<Machine>);

impl Drop for LeakCheck {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        let broken = self.0.broken.borrow_mut().take();
        if let Some(rule) = broken {
            panic!("{rule}");
        }
        let leaked = self.0.grants.borrow().mapped_of_closed();
        assert!(leaked.is_empty(), "pages of closed or destroyed frontends are still mapped: {leaked:?}");
    }
}

impl Default for FakeXen {
    fn default() -> Self {
        Self::new()
    }
}

impl FakeXen {
    /// A machine with Dom0 and an empty driver domain, [`BACKEND`].
    pub fn new() -> Self {
        Self::with_backend(BACKEND)
    }

    /// A machine whose driver domain has the id `backend`.
    pub fn with_backend(backend: Domid) -> Self {
        let machine = Rc::new(Machine {
            backend,
            // Not 0, so that a forgotten initialisation shows.
            now: Cell::new(Instant::from_nanos(50_000_000)),
            wake_at: Cell::new(None),
            sleepless: Cell::new(0),
            grants: RefCell::default(),
            events: RefCell::default(),
            store: RefCell::new(Store::new(backend)),
            client: RefCell::default(),
            faults: RefCell::default(),
            memory: HostMemory::new(),
            broken: RefCell::default(),
        });
        Self(machine.clone(), Rc::new(LeakCheck(machine)))
    }

    /// The driver domain's handle.
    pub fn hyp(&self) -> FakeHyp {
        FakeHyp(self.0.clone())
    }

    /// The driver domain's id.
    pub fn backend(&self) -> Domid {
        self.0.backend
    }

    /// The hooks for faults.
    pub fn faults(&self) -> RefMut<'_, Faults> {
        self.0.faults.borrow_mut()
    }

    /// The memory that device models reach by machine address.
    pub fn memory(&self) -> &HostMemory {
        &self.0.memory
    }

    /// The time.
    pub fn now(&self) -> Instant {
        self.0.now.get()
    }

    /// Lets time pass.
    pub fn advance(&self, time: Duration) {
        self.0.now.set(self.now().saturating_add(time));
    }

    /// What the driver domain holds now.
    pub fn usage(&self) -> Usage {
        let store = self.0.store.borrow();
        Usage {
            mapped: self.0.grants.borrow().mapped(),
            ports: self.0.events.borrow().ports_of(self.0.backend),
            watches: store.watch_count(self.0.backend),
            transactions: store.transaction_count(self.0.backend),
            nodes: store.node_count(self.0.backend),
        }
    }
}

/// The driver domain's handle to the hypervisor: implements the traits of `xen_pv_rt::hyp`.
#[derive(Clone)]
pub struct FakeHyp(pub(crate) Rc<Machine>);

impl Clock for FakeHyp {
    fn now(&self) -> Instant {
        self.0.now.get()
    }
    fn wake_at(&self, at: Instant) {
        let earliest = self.0.wake_at.get().map_or(at, |other| other.min(at));
        self.0.wake_at.set(Some(earliest));
    }
    fn take_wake_at(&self) -> Option<Instant> {
        self.0.wake_at.take()
    }
}

impl Dma for FakeHyp {
    fn dma_ring(&self, pages: usize) -> Result<DmaRing, DmaError> {
        self.0.memory.dma_ring(pages)
    }
    fn dma_pool(&self, buffers: usize) -> Result<DmaPool, DmaError> {
        self.0.memory.dma_pool(buffers)
    }
}
