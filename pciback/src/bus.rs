//! The connection to xen-pciback: handshake, the list of functions, disconnecting.

use alloc::format;
use alloc::rc::{Rc, Weak};
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cell::RefCell;
use core::time::Duration;

use embassy_futures::join::{join, join4};
use embassy_futures::select::select;
use ring::pciif;
use xen_pv_rt::hyp::{Domid, Instant, Pirq, Platform, Transaction, Watch, XsError, sleep_until};
use xen_pv_rt::xenbus::{XenbusState, read_number, read_number_or, read_text};

use crate::interrupts::Source;
use crate::ops::OpPage;
use crate::{BusError, PciDevice, PciError, Sbdf};

/// Our directory: libxl gives a domain one PCI bus, with all its functions on it.
const FRONTEND: &str = "device/pci/0";
/// How long the backend may take to connect. It answers within milliseconds unless it is not there.
const CONNECT_DEADLINE: Duration = Duration::from_secs(20);
/// How long the backend may take to let go at shutdown.
const DISCONNECT_DEADLINE: Duration = Duration::from_secs(2);
/// More functions than libxl puts on one bus; what Dom0 announces beyond is ignored.
const MAX_FUNCTIONS: u32 = 64;

/// Interrupt lines in use, which functions may share; an entry is dead once the last of them is released.
type Lines<P> = RefCell<Vec<(Pirq, Weak<Source<P>>)>>;

pub(crate) struct Inner<H: Platform> {
    pub(crate) hyp: H,
    pub(crate) ops: OpPage<H>,
    pub(crate) lines: Lines<H::Port>,
    /// Functions with a [`PciDevice`].
    pub(crate) taken: RefCell<Vec<Sbdf>>,
    backend: String,
    functions: RefCell<Vec<Sbdf>>,
}

/// The bus that this domain's passed-through functions are on. Cloning gives another handle to it.
pub struct PciBus<H: Platform>(Rc<Inner<H>>);

impl<H: Platform> Clone for PciBus<H> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<H: Platform> PciBus<H> {
    /// Connects to xen-pciback and reads which functions were assigned.
    ///
    /// # Errors
    /// [`BusError::NoDevices`] if the domain has none, or what failed.
    pub async fn connect(hyp: H) -> Result<Self, BusError> {
        let key = |name: &str| format!("{FRONTEND}/{name}");
        let (backend_key, domid_key) = (key("backend"), key("backend-id"));
        // Requests that do not depend on each other are under way together: each round trip is Dom0's time.
        let (backend, domid) = join(read_text(&hyp, &backend_key), read_number(&hyp, &domid_key)).await;
        let backend = match backend {
            Err(XsError::NoEntry) => return Err(BusError::NoDevices),
            other => other.map_err(|e| BusError::Xenstore("device/pci/0/backend", e))?,
        };
        let domid = domid.map_err(|e| BusError::Xenstore("device/pci/0/backend-id", e))?;
        let ops = OpPage::new(hyp.clone(), Domid::from_raw(domid))?;
        // Published at once: the backend looks for it when it gets as far as Initialised.
        let state_key = format!("{backend}/state");
        let (told, watch) = join(publish(&hyp, &ops), hyp.watch(&state_key)).await;
        told.map_err(|e| BusError::Xenstore("device/pci/0", e))?;
        let deadline = hyp.now().saturating_add(CONNECT_DEADLINE);
        let state = match watch {
            Ok(watch) => wait_on(&hyp, &state_key, watch, deadline, |state| state >= XenbusState::Connected).await,
            Err(_) => XenbusState::Unknown,
        };
        if state != XenbusState::Connected {
            return Err(BusError::NotConnected(state));
        }
        let (functions, told) = join(functions(&hyp, &backend), set_state(&hyp, XenbusState::Connected)).await;
        told.map_err(|e| BusError::Xenstore("device/pci/0/state", e))?;
        let functions = functions?;
        if functions.is_empty() {
            return Err(BusError::NoDevices);
        }
        let (lines, taken, functions) = (RefCell::default(), RefCell::default(), RefCell::new(functions));
        Ok(Self(Rc::new(Inner { hyp, ops, lines, taken, backend, functions })))
    }

    /// The functions that are assigned: those of `pci=[...]` in its order, without those that were taken back, then
    /// those that were added.
    pub fn functions(&self) -> Vec<Sbdf> {
        self.0.functions.borrow().clone()
    }

    /// Takes a function into use.
    ///
    /// # Errors
    /// [`PciCause::Busy`](crate::PciCause::Busy) if it is in use, [`PciCause::Absent`](crate::PciCause::Absent)
    /// if it is not there, or what xen-pciback answered.
    pub fn device(&self, sbdf: Sbdf) -> Result<PciDevice<H>, PciError> {
        PciDevice::new(self.0.clone(), sbdf)
    }

    /// Answers requests of the backend. Called from a slow timer.
    pub fn poll(&self) {
        if self.0.ops.take_pending() {
            self.0.ops.decline_aer();
        }
    }

    /// Completes when the backend takes the bus away or wants functions added or removed: the state it was seen in.
    pub async fn removal(&self) -> XenbusState {
        let never = Instant::from_nanos(u64::MAX);
        wait_for(&self.0.hyp, &self.0.backend, never, |state| state != XenbusState::Connected).await
    }

    /// Waits until the backend wants functions back, and says which: with `xl pci-detach` some, with
    /// `xl pci-attach` none, otherwise all.
    ///
    /// The caller drops their [`PciDevice`]s and then calls [`confirm_removal`](Self::confirm_removal).
    pub async fn wanted_back(&self) -> Vec<Sbdf> {
        if self.removal().await != XenbusState::Reconfiguring {
            return self.0.functions.take();
        }
        let wanted = self.in_state(XenbusState::Closing).await;
        self.0.functions.borrow_mut().retain(|sbdf| !wanted.contains(sbdf));
        wanted
    }

    /// The functions that were added (`xl pci-attach`) since this was last asked, or since the start.
    pub async fn added(&self) -> Vec<Sbdf> {
        // What pciback has exported it puts into Initialised; what libxl has not cleared away yet is in Closing.
        let mut added = self.in_state(XenbusState::Initialised).await;
        let mut functions = self.0.functions.borrow_mut();
        added.retain(|sbdf| !functions.contains(sbdf));
        functions.extend(&added);
        added
    }

    /// The functions that are in a state of their own (`state-N`).
    async fn in_state(&self, wanted: XenbusState) -> Vec<Sbdf> {
        let Inner { hyp, backend, .. } = &*self.0;
        let mut found = Vec::new();
        let count = read_number_or(hyp, &format!("{backend}/num_devs"), 0_u32).await.unwrap_or(0);
        for index in 0..count.min(MAX_FUNCTIONS) {
            let (state, vdev) = (format!("{backend}/state-{index}"), format!("{backend}/vdev-{index}"));
            let (state, vdev) = join(hyp.read(Transaction::NONE, &state), read_text(hyp, &vdev)).await;
            let is_wanted = state.is_ok_and(|state| XenbusState::parse(&state) == wanted);
            if let Some(sbdf) = vdev.ok().and_then(|text| text.parse().ok()).filter(|_| is_wanted) {
                found.push(sbdf);
            }
        }
        found
    }

    /// Tells the backend that the functions it wants back are no longer in use, and lets it add those it wants to.
    /// Returns whether the bus goes on.
    pub async fn confirm_removal(&self) -> bool {
        let Inner { hyp, backend, .. } = &*self.0;
        let deadline = hyp.now().saturating_add(DISCONNECT_DEADLINE);
        // xen-pciback removes the functions when it sees ours, says Reconfigured, and connects after us.
        let steps = [
            (XenbusState::Reconfiguring, XenbusState::Reconfiguring, XenbusState::Reconfigured),
            (XenbusState::Reconfigured, XenbusState::Connected, XenbusState::Connected),
        ];
        let mut state = wait_for(hyp, backend, deadline, |_| true).await;
        for (now, ours, theirs) in steps {
            if state != now {
                break;
            }
            // If xenstore refuses, the backend's silence is what is noticed.
            let _ = set_state(hyp, ours).await;
            state = wait_for(hyp, backend, deadline, |state| state != now).await;
            if state == theirs && theirs == XenbusState::Connected {
                return true;
            }
        }
        // A directory that is gone is not made anew.
        if state != XenbusState::Unknown {
            let _ = set_state(hyp, XenbusState::Closed).await;
        }
        false
    }

    /// Closes the connection. Every [`PciDevice`] is to be dropped before.
    ///
    /// Not for a domain that is about to end: see how long stock libxl waits for a bus that is not in Connected
    /// (`libxl__device_pci_remove_xenstore`).
    pub async fn disconnect(self) {
        let hyp = &self.0.hyp;
        // Nobody is left to report errors to: the domain is going down.
        let _ = set_state(hyp, XenbusState::Closing).await;
        let deadline = hyp.now().saturating_add(DISCONNECT_DEADLINE);
        wait_for(hyp, &self.0.backend, deadline, |state| state != XenbusState::Connected).await;
        let _ = set_state(hyp, XenbusState::Closed).await;
    }
}

async fn set_state<H: Platform>(hyp: &H, state: XenbusState) -> Result<(), XsError> {
    hyp.write(Transaction::NONE, &format!("{FRONTEND}/state"), state.as_str()).await
}

/// Not a transaction, which would take three times as long: the state goes last, nobody reads the others before they have
/// seen it, and xenstored carries out the requests of a domain in their order.
async fn publish<H: Platform>(hyp: &H, ops: &OpPage<H>) -> Result<(), XsError> {
    let (gref, port) = (ops.gref().to_string(), ops.port().to_string());
    let write = async |key: &str, value: &str| hyp.write(Transaction::NONE, &format!("{FRONTEND}/{key}"), value).await;
    let (a, b, c, state) = join4(
        write("pci-op-ref", &gref),
        write("event-channel", &port),
        write("magic", pciif::MAGIC),
        set_state(hyp, XenbusState::Initialised),
    )
    .await;
    a.and(b).and(c).and(state)
}

/// The backend's state once `done` accepts it, or as it was at the deadline.
async fn wait_for<H: Platform>(
    hyp: &H,
    backend: &str,
    deadline: Instant,
    done: impl Fn(XenbusState) -> bool,
) -> XenbusState {
    let path = format!("{backend}/state");
    match hyp.watch(&path).await {
        Ok(watch) => wait_on(hyp, &path, watch, deadline, done).await,
        Err(_) => XenbusState::Unknown,
    }
}

/// The same, with a watch that is there already.
async fn wait_on<H: Platform>(
    hyp: &H,
    path: &str,
    watch: H::Watch,
    deadline: Instant,
    done: impl Fn(XenbusState) -> bool,
) -> XenbusState {
    let mut state = XenbusState::Unknown;
    while hyp.now() < deadline {
        select(watch.next(), sleep_until(hyp, deadline)).await;
        match hyp.read(Transaction::NONE, path).await {
            Ok(value) => state = XenbusState::parse(&value),
            Err(XsError::NoEntry) => state = XenbusState::Unknown,
            // Says nothing about the backend; the next event or the deadline decides.
            Err(_) => continue,
        }
        if done(state) {
            break;
        }
    }
    state
}

/// The addresses that pciback gave the functions. They may differ from the host's (`dev-N`).
async fn functions<H: Platform>(hyp: &H, backend: &str) -> Result<Vec<Sbdf>, BusError> {
    let (count_key, first_key) = (format!("{backend}/num_devs"), format!("{backend}/vdev-0"));
    // Most domains have one function.
    let (count, first) = join(read_number_or(hyp, &count_key, 0_u32), read_text(hyp, &first_key)).await;
    let count = count.map_err(|e| BusError::Xenstore("num_devs of the PCI backend", e))?;
    let (mut functions, mut first) = (Vec::new(), Some(first));
    for index in 0..count.min(MAX_FUNCTIONS) {
        let vdev = match first.take() {
            Some(first) => first,
            None => read_text(hyp, &format!("{backend}/vdev-{index}")).await,
        };
        match vdev {
            Ok(text) => match text.parse() {
                Ok(sbdf) => functions.push(sbdf),
                Err(_) => return Err(BusError::Xenstore("vdev of the PCI backend", XsError::Malformed)),
            },
            // Removed again, or pciback could not export it and said why in Dom0's log.
            Err(XsError::NoEntry) => {}
            Err(error) => return Err(BusError::Xenstore("vdev of the PCI backend", error)),
        }
    }
    Ok(functions)
}
