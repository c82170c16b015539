//! A domain with passed-through functions: just enough of Xen, xenstored and Dom0's xen-pciback.
//!
//! xen-pciback here follows Linux's: it stages BAR sizing, keeps most of configuration space read-only, sets
//! up interrupts on request, and works one request at a time. It checks what it is asked and can misbehave.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::future::{Future, poll_fn};
use std::ops::Deref;
use std::pin::pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use xen_pv_rt::hyp::*;

pub const BACKEND: &str = "/local/domain/0/backend/pci/7/0";

/// A function as pciback shows it.
#[derive(Clone)]
pub struct Function {
    pub config: Vec<u8>,
    /// What each BAR slot reads back after all ones were written.
    pub sizes: [u32; 6],
    staged: [bool; 6],
    pub msix: bool,
    pub msi: bool,
}

impl Function {
    /// An endpoint with these ids and nothing else.
    pub fn new(vendor: u16, device: u16) -> Self {
        let mut config = vec![0; 256];
        config[0..2].copy_from_slice(&vendor.to_le_bytes());
        config[2..4].copy_from_slice(&device.to_le_bytes());
        config[8..12].copy_from_slice(&[0, 0, 0, 2]);
        Self { config, sizes: [0; 6], staged: [false; 6], msix: false, msi: false }
    }
    pub fn bar(mut self, index: usize, value: u32, size: u32) -> Self {
        let at = 0x10 + index * 4;
        self.config[at..at + 4].copy_from_slice(&value.to_le_bytes());
        self.sizes[index] = size;
        self
    }
    pub fn line(mut self, line: u8) -> Self {
        (self.config[0x3c], self.config[0x3d]) = (line, 1);
        self
    }
    /// Adds capabilities: id, offset, and what follows the pointer to the next.
    pub fn capabilities(mut self, list: &[(u8, u8, &[u8])]) -> Self {
        self.config[6] |= 0x10;
        self.config[0x34] = list.first().map_or(0, |(_, at, _)| *at);
        for (number, (id, at, body)) in list.iter().enumerate() {
            let start = usize::from(*at);
            self.config[start] = *id;
            self.config[start + 1] = list.get(number + 1).map_or(0, |(_, at, _)| *at);
            self.config[start + 2..start + 2 + body.len()].copy_from_slice(body);
        }
        self
    }
}

/// How xen-pciback and Xen misbehave.
#[derive(Default)]
pub struct Manners {
    /// The backend never gets beyond InitWait.
    pub never_connects: bool,
    /// Requests are not answered from this one on.
    pub silent_from: Option<usize>,
    /// Requests are answered while we sleep, not at once.
    pub is_late: bool,
    /// What enabling MSI-X answers: error, value, pirqs.
    pub msix: Option<(i32, u32, Vec<u16>)>,
    /// What enabling MSI answers: error, value.
    pub msi: Option<(i32, u32)>,
    /// pirqs that cannot be bound.
    pub unbindable: BTreeSet<u32>,
    /// The command register does not change.
    pub denies_command: bool,
}

#[derive(Default)]
pub struct World {
    now: Cell<u64>,
    wake_at: Cell<Option<Instant>>,
    pub store: RefCell<BTreeMap<String, String>>,
    changed: Cell<u64>,
    pages: RefCell<BTreeMap<u32, Rc<[AtomicU32]>>>,
    next: Cell<u32>,
    pub pending: RefCell<BTreeSet<u32>>,
    /// Ports by pirq.
    pub pirqs: RefCell<BTreeMap<u32, u32>>,
    pub eois: RefCell<Vec<u32>>,
    pub functions: RefCell<BTreeMap<(u32, u32, u32), Function>>,
    pub manners: RefCell<Manners>,
    /// Every request: command, offset, size, value.
    pub requests: RefCell<Vec<[u32; 4]>>,
    /// We have notified, and the backend has not looked yet.
    asked: Cell<bool>,
    /// How often we slept, or tried to.
    pub sleeps: Cell<u32>,
    /// Notifications from us that found no request.
    pub idle_notifications: Cell<u32>,
    pub mapped: RefCell<Vec<(u64, usize)>>,
}

#[derive(Clone, Default)]
pub struct Platform(pub Rc<World>);

impl Platform {
    /// A domain with these functions, by address.
    pub fn new(functions: &[(&str, (u32, u32, u32), Function)]) -> Self {
        let this = Self::default();
        this.set("device/pci/0/backend", BACKEND);
        this.set("device/pci/0/backend-id", "0");
        this.set("device/pci/0/state", "1");
        this.set(&format!("{BACKEND}/state"), "2");
        this.set(&format!("{BACKEND}/num_devs"), &functions.len().to_string());
        for (index, (vdev, at, function)) in functions.iter().enumerate() {
            this.set(&format!("{BACKEND}/vdev-{index}"), vdev);
            this.0.functions.borrow_mut().insert(*at, function.clone());
        }
        this
    }
    pub fn set(&self, path: &str, value: &str) {
        self.0.store.borrow_mut().insert(path.into(), value.into());
        self.0.changed.set(self.0.changed.get() + 1);
    }
    pub fn get(&self, path: &str) -> Option<String> {
        self.0.store.borrow().get(path).cloned()
    }
    pub fn commands(&self) -> Vec<u32> {
        self.0.requests.borrow().iter().map(|[command, ..]| *command).filter(|command| *command > 1).collect()
    }
    /// Raises an interrupt.
    pub fn raise(&self, pirq: u32) {
        let port = self.0.pirqs.borrow()[&pirq];
        self.0.pending.borrow_mut().insert(port);
    }

    /// The page for configuration requests.
    fn op_page(&self) -> Rc<[AtomicU32]> {
        let gref: u32 = self.get("device/pci/0/pci-op-ref").unwrap().parse().unwrap();
        self.0.pages.borrow()[&gref].clone()
    }
    /// The backend asks for PCI error recovery: `struct xen_pcie_aer_op` at word 138, and its flag.
    pub fn ask_for_recovery(&self, command: u32, devfn: u32) {
        let page = self.op_page();
        for (word, value) in [(138, command), (139, 0), (140, 9), (141, 9), (142, devfn)] {
            page[word].store(value, Ordering::Relaxed);
        }
        page[0].fetch_or(4, Ordering::Release);
        self.0.pending.borrow_mut().insert(self.get("device/pci/0/event-channel").unwrap().parse().unwrap());
    }
    pub fn aer_answer(&self) -> u32 {
        self.op_page()[139].load(Ordering::Relaxed)
    }
    pub fn recovery_is_pending(&self) -> bool {
        self.op_page()[0].load(Ordering::Relaxed) & 4 != 0
    }

    /// Runs a future to its end; Dom0 goes on and time passes while it waits.
    pub fn run<T>(&self, future: impl Future<Output = T>) -> T {
        let mut future = pin!(future);
        for _ in 0..10_000 {
            if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                return value;
            }
            self.backend();
            self.0.now.set(self.0.now.get() + 10_000_000);
        }
        panic!("waits for ever");
    }

    /// xen-pciback's state machine.
    fn backend(&self) {
        let state = |path: &str| self.get(path).unwrap_or_default();
        let (back, front) = (format!("{BACKEND}/state"), "device/pci/0/state");
        match (state(&back).as_str(), state(front).as_str()) {
            ("2", _) if !self.0.manners.borrow().never_connects => self.set(&back, "3"),
            ("3", "3") => {
                assert_eq!(state("device/pci/0/magic"), "7");
                let gref: u32 = state("device/pci/0/pci-op-ref").parse().unwrap();
                assert!(self.0.pages.borrow().contains_key(&gref), "the page is shared before it is published");
                self.set(&back, "4");
            }
            ("4", "5") => self.set(&back, "5"),
            ("5", "6") => self.set(&back, "6"),
            // Hot unplug: functions in state 5 go when the frontend has let go of them. Hot plug: those in state 1
            // get an address.
            ("7", "7") if !self.0.manners.borrow().never_connects => {
                for index in 0..8 {
                    if state(&format!("{BACKEND}/state-{index}")) == "5" {
                        self.0.store.borrow_mut().remove(&format!("{BACKEND}/vdev-{index}"));
                        self.set(&format!("{BACKEND}/state-{index}"), "6");
                    }
                    if state(&format!("{BACKEND}/state-{index}")) == "1" {
                        self.set(&format!("{BACKEND}/vdev-{index}"), &format!("0000:00:{index:02x}.00"));
                        self.set(&format!("{BACKEND}/state-{index}"), "3");
                    }
                }
                self.set(&back, "8");
            }
            ("8", "4") => self.set(&back, "4"),
            _ => {}
        }
    }

    /// Dom0 shares our CPU: it gets to work if we sleep.
    fn sleep(&self, pending: bool, deadline: Instant) {
        self.0.sleeps.set(self.0.sleeps.get() + 1);
        let now = self.0.now.get();
        if pending {
            self.0.now.set(now + 1_000_000);
        } else if self.0.asked.take() {
            self.0.now.set(now + 1_000_000);
            self.serve();
        } else {
            self.0.now.set(now.max(deadline.as_nanos()));
        }
    }

    fn serve(&self) {
        let Some(gref) = self.get("device/pci/0/pci-op-ref") else { return };
        let page = self.0.pages.borrow()[&gref.parse::<u32>().unwrap()].clone();
        let word = |at: usize| page[at].load(Ordering::Relaxed);
        if word(0) & 1 == 0 {
            self.0.idle_notifications.set(self.0.idle_notifications.get() + 1);
            return;
        }
        let number = self.0.requests.borrow().len();
        self.0.requests.borrow_mut().push([word(1), word(6), word(7), word(8)]);
        if self.0.manners.borrow().silent_from.is_some_and(|from| number >= from) {
            return;
        }
        let mut functions = self.0.functions.borrow_mut();
        let (error, value) = match functions.get_mut(&(word(3), word(4), word(5))) {
            None => (-1, 0),
            Some(function) => self.request(function, &page),
        };
        page[2].store(error as u32, Ordering::Relaxed);
        page[8].store(value, Ordering::Relaxed);
        page[0].fetch_and(!1, Ordering::Release);
        self.0.pending.borrow_mut().insert(self.get("device/pci/0/event-channel").unwrap().parse().unwrap());
    }

    fn request(&self, function: &mut Function, page: &[AtomicU32]) -> (i32, u32) {
        let word = |at: usize| page[at].load(Ordering::Relaxed);
        let manners = self.0.manners.borrow();
        let (offset, size, value) = (word(6) as usize, word(7) as usize, word(8));
        match word(1) {
            0 => {
                assert!(matches!(size, 1 | 2 | 4) && offset % size == 0 && offset + size <= 256, "a bad request");
                let slot = offset.wrapping_sub(0x10) / 4;
                if slot < 6 && function.staged[slot] {
                    return (0, function.sizes[slot]);
                }
                let mut bytes = [0; 4];
                bytes[..size].copy_from_slice(&function.config[offset..offset + size]);
                (0, u32::from_le_bytes(bytes))
            }
            1 => {
                match (offset, size) {
                    (4, 2) if !manners.denies_command => {
                        function.config[4..6].copy_from_slice(&(value as u16).to_le_bytes());
                    }
                    (0x10..0x28, 4) => function.staged[(offset - 0x10) / 4] = value == u32::MAX,
                    _ => {}
                }
                (0, 0)
            }
            2 => {
                assert!(!function.msi && !function.msix, "interrupts enabled twice");
                let (error, pirq) = manners.msi.unwrap_or((0, 60));
                function.msi = error == 0;
                (error, pirq)
            }
            3 => {
                assert!(std::mem::take(&mut function.msi), "MSI disabled twice");
                (0, 0)
            }
            4 => {
                assert!(!function.msi && !function.msix, "interrupts enabled twice");
                assert_ne!(function.config[4] & 2, 0, "MSI-X without memory decoding");
                let (error, left, pirqs) =
                    manners.msix.clone().unwrap_or((0, 0, (40..).take(value as usize).collect()));
                for (at, pirq) in (10..).zip(pirqs) {
                    page[at].store(word(at) & 0xffff_0000 | u32::from(pirq), Ordering::Relaxed);
                }
                function.msix = error == 0 && left == 0;
                (error, left)
            }
            5 => {
                assert!(std::mem::take(&mut function.msix), "MSI-X disabled twice");
                (0, 0)
            }
            _ => (-4, 0),
        }
    }
}

pub struct Shared(u32, Rc<[AtomicU32]>, Rc<World>);
impl Deref for Shared {
    type Target = [AtomicU32];
    fn deref(&self) -> &[AtomicU32] {
        &self.1
    }
}
impl SharedPage for Shared {
    fn gref(&self) -> GrantRef {
        GrantRef::from_raw(self.0)
    }
}
impl Drop for Shared {
    fn drop(&mut self) {
        self.2.pages.borrow_mut().remove(&self.0);
    }
}

impl Grants for Platform {
    type Page = Box<[AtomicU32]>;
    type Shared = Shared;
    fn map(&self, _: Domid, _: &[GrantRef], _: Access) -> Vec<Result<Self::Page, GrantError>> {
        unimplemented!()
    }
    fn maddr(&self, _: &Self::Page) -> Maddr {
        unimplemented!()
    }
    fn unmap(&self, _: Vec<Self::Page>) {
        unimplemented!()
    }
    fn copy<O>(&self, _: &mut [GrantCopy<'_, O>]) {
        unimplemented!()
    }
    fn share(&self, domid: Domid, access: Access) -> Result<Shared, GrantError> {
        assert_eq!((domid, access), (Domid::DOM0, Access::ReadWrite));
        self.0.next.set(self.0.next.get() + 1);
        let (gref, page) = (self.0.next.get(), (0..1024).map(|_| AtomicU32::new(0)).collect::<Rc<[_]>>());
        self.0.pages.borrow_mut().insert(gref, page.clone());
        Ok(Shared(gref, page, self.0.clone()))
    }
}

pub struct LocalPort(u32, Rc<World>);
impl BoundPort for LocalPort {
    fn port(&self) -> Port {
        Port::from_raw(self.0)
    }
}
impl Drop for LocalPort {
    fn drop(&mut self) {
        self.1.pirqs.borrow_mut().retain(|_, port| *port != self.0);
    }
}

impl EventChannels for Platform {
    type Port = LocalPort;
    fn bind_interdomain(&self, _: Domid, _: RemotePort) -> Result<LocalPort, EvtchnError> {
        unimplemented!()
    }
    fn alloc_unbound(&self, _: Domid) -> Result<LocalPort, EvtchnError> {
        self.0.next.set(self.0.next.get() + 1);
        Ok(LocalPort(self.0.next.get(), self.0.clone()))
    }
    fn bind_pirq(&self, pirq: Pirq, _shared: bool) -> Result<LocalPort, EvtchnError> {
        let raw = pirq.into_raw();
        if self.0.manners.borrow().unbindable.contains(&raw) {
            return Err(EvtchnError::Denied);
        }
        if self.0.pirqs.borrow().contains_key(&raw) {
            return Err(EvtchnError::Busy);
        }
        let port = self.alloc_unbound(Domid::DOM0)?;
        self.0.pirqs.borrow_mut().insert(raw, port.0);
        Ok(port)
    }
    fn notify(&self, _: &LocalPort) {
        if self.0.manners.borrow().is_late {
            self.0.asked.set(true);
        } else {
            self.serve();
        }
    }
    fn take_pending(&self, port: &LocalPort) -> bool {
        self.0.pending.borrow_mut().remove(&port.0)
    }
    fn eoi(&self, port: &LocalPort) {
        self.0.eois.borrow_mut().push(port.0);
    }
    fn wait(&self, deadline: Option<Instant>) {
        let deadline = deadline.expect("a sleep without end");
        let pending = !self.0.pending.borrow().is_empty();
        self.sleep(pending, deadline);
    }
    fn wait_for_xenstored(&self, _: Option<Instant>) {
        unimplemented!()
    }
    fn wait_on(&self, port: &LocalPort, deadline: Instant) {
        let pending = self.0.pending.borrow().contains(&port.0);
        self.sleep(pending, deadline);
    }
}

impl Clock for Platform {
    fn now(&self) -> Instant {
        Instant::from_nanos(self.0.now.get())
    }
    fn wake_at(&self, at: Instant) {
        self.0.wake_at.set(Some(at));
    }
    fn take_wake_at(&self) -> Option<Instant> {
        self.0.wake_at.take()
    }
}

pub struct StoreWatch(String, Rc<World>, Cell<u64>);
impl Watch for StoreWatch {
    async fn next(&self) -> String {
        poll_fn(|_| {
            let changed = self.1.changed.get() + 1;
            if self.2.replace(changed) == changed { Poll::Pending } else { Poll::Ready(self.0.clone()) }
        })
        .await
    }
}

impl Xenstore for Platform {
    type Watch = StoreWatch;
    async fn read(&self, _: Transaction, path: &str) -> Result<Vec<u8>, XsError> {
        self.get(path).map(String::into_bytes).ok_or(XsError::NoEntry)
    }
    async fn write(&self, _: Transaction, path: &str, value: &str) -> Result<(), XsError> {
        assert!(path.starts_with("device/pci/0/"), "wrote {path}");
        self.set(path, value);
        Ok(())
    }
    async fn list(&self, _: Transaction, _: &str) -> Result<Vec<String>, XsError> {
        unimplemented!()
    }
    async fn remove(&self, _: Transaction, _: &str) -> Result<(), XsError> {
        unimplemented!()
    }
    async fn begin(&self) -> Result<Transaction, XsError> {
        unimplemented!()
    }
    async fn commit(&self, _: Transaction) -> Result<(), XsError> {
        unimplemented!()
    }
    async fn abort(&self, _: Transaction) -> Result<(), XsError> {
        unimplemented!()
    }
    fn poll(&self, _: Instant) -> bool {
        false
    }
    async fn watch(&self, path: &str) -> Result<StoreWatch, XsError> {
        Ok(StoreWatch(path.into(), self.0.clone(), Cell::new(0)))
    }
}

impl Dma for Platform {
    fn dma_ring(&self, _: usize) -> Result<DmaRing, DmaError> {
        unimplemented!()
    }
    fn dma_pool(&self, _: usize) -> Result<DmaPool, DmaError> {
        unimplemented!()
    }
}

pub struct NoRegisters(usize);
impl Mmio for NoRegisters {
    fn len(&self) -> usize {
        self.0
    }
    fn read8(&self, _: usize) -> u8 {
        u8::MAX
    }
    fn read16(&self, _: usize) -> u16 {
        u16::MAX
    }
    fn read32(&self, _: usize) -> u32 {
        u32::MAX
    }
    fn read64(&self, _: usize) -> u64 {
        u64::MAX
    }
    fn write8(&self, _: usize, _: u8) {}
    fn write16(&self, _: usize, _: u16) {}
    fn write32(&self, _: usize, _: u32) {}
    fn write64(&self, _: usize, _: u64) {}
}

impl MmioSpace for Platform {
    type Region = NoRegisters;
    fn map_mmio(&self, base: Maddr, len: usize) -> Result<NoRegisters, MmioError> {
        self.0.mapped.borrow_mut().push((base.into_raw(), len));
        Ok(NoRegisters(len))
    }
}

/// Time that has passed since `start`.
pub fn elapsed(platform: &Platform, start: Instant) -> Duration {
    platform.now().saturating_since(start)
}
