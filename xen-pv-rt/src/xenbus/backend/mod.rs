//! The backend's half of a split device's life on the control plane, whatever the kind of device.
//!
//! A backend says what is particular to its devices ([`Backend`]); [`Devices`] does the rest: it watches for
//! directories that come and go, runs one task for each device, and follows toolstack and frontend through
//! every state.
//!
//! - `decide`: what comes next, as a pure function of what xenstore says.
//! - `device`: the life of one device, from top to bottom.
//! - `gate`: how many transactions may be under way.
//! - `hotplug`: devices that come and go.
//! - `report`: log lines and the `error` node.
//!
//! Xen: `public/io/xenbus.h`; libxl: `libxl__wait_device_connection`,
//! `libxl__initiate_device_generic_remove`, `device_hotplug`.

mod decide;
mod device;
mod gate;
mod hotplug;
mod report;

use alloc::borrow::Cow;
use alloc::string::String;
use alloc::vec::Vec;
use core::future::Future;

pub use device::{CLOSE_TIMEOUT, HOLD};
pub use hotplug::Devices;
pub use report::{Action, Reporter};

use super::{BackendPath, DeviceKind, FrontendPath};
use crate::hyp::{Hypervisor, XsError};
use crate::task::Signal;

/// Why a device is not in service, or a request was not carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The cause code of log lines. Stable.
    pub code: &'static str,
    /// What it means, in a few words for the operator.
    pub text: Cow<'static, str>,
}

impl Fault {
    /// A fault with a fixed text.
    pub const fn new(code: &'static str, text: &'static str) -> Self {
        Self { code, text: Cow::Borrowed(text) }
    }

    /// A fault whose text says more.
    pub fn with(code: &'static str, text: String) -> Self {
        Self { code, text: Cow::Owned(text) }
    }

    /// A key is missing, unreadable or malformed.
    pub const READ: Self = Self::new("READ", "a key is missing, unreadable or malformed");
    /// The directories do not agree on who the frontend is.
    pub const FE_ID: Self = Self::new("FE_ID", "frontend-id or frontend does not match the backend directory");
    /// The frontend's directory went away.
    pub const GONE: Self = Self::new("GONE", "directory removed while in service");
    /// An earlier instance of this domain served it.
    pub const REATTACH: Self = Self::new("REATTACH", "served by a previous instance: detach and attach it again");
    /// The frontend does not close.
    pub const CLOSE_TIMEOUT: Self = Self::new("CLOSE_TIMEOUT", "frontend did not close in time");
    /// xenstored gives us no more nodes or transactions.
    pub const QUOTA: Self =
        Self::new("QUOTA", "no more xenstore nodes or transactions (raise xenstored's --entry-nb or --transaction)");
    /// xenstored gives us no more watches.
    pub const WATCHES: Self = Self::new("QUOTA", "no more xenstore watches (raise xenstored's --watch-nb)");
    /// No more devices are served.
    pub const TOO_MANY: Self = Self::new("QUOTA", "this domain serves no more devices");
    /// xenstore has too much to do.
    pub const XS_BUSY: Self = Self::new("XS_BUSY", "xenstore transactions keep conflicting");
    /// xenstore has something against it.
    pub const XENSTORE: Self = Self::new("XENSTORE", "xenstore refused");
    /// An event channel that cannot be bound.
    pub const EVTCHN: Self = Self::new("EVTCHN", "event channel cannot be bound");
    /// A ring that cannot be mapped.
    pub const RING_REF: Self = Self::new("RING_REF", "ring cannot be mapped");
    /// A number of queues that was not offered.
    pub const QUEUES: Self = Self::new("QUEUES", "number of queues was not offered, or queues are shared");
}

impl From<XsError> for Fault {
    fn from(error: XsError) -> Self {
        match error {
            XsError::Again | XsError::Busy => Self::XS_BUSY,
            XsError::Quota => Self::QUOTA,
            XsError::NoEntry => Self::GONE,
            _ => Self::XENSTORE,
        }
    }
}

/// Keys to write into a backend directory: names and values.
pub type Keys = Vec<(&'static str, String)>;

/// What is particular to a kind of device.
///
/// Every method may be called again for a device after [`disconnect`](Self::disconnect): frontends reboot.
pub trait Backend: 'static {
    /// The hypervisor.
    type Hyp: Hypervisor;
    /// What the data plane calls a connected device.
    type Id: Copy;
    /// The kind.
    const KIND: DeviceKind;

    /// The hypervisor.
    fn hyp(&self) -> &Self::Hyp;

    /// Reads what the toolstack wrote, and says what to offer to the frontend.
    ///
    /// # Errors
    /// [`Fault::READ`] is tried again for a while, because the toolstack may still be writing. Anything else
    /// refuses the device.
    fn offer(&self, path: &BackendPath) -> impl Future<Output = Result<Keys, Fault>>;

    /// The frontend is ready: reads its keys, maps and binds, and hands over to the data plane, which raises
    /// `poke` when it has something to report.
    ///
    /// # Errors
    /// Why not. Whatever was acquired has been released again.
    fn connect(
        &self,
        path: &BackendPath,
        frontend: &FrontendPath,
        poke: &Signal,
    ) -> impl Future<Output = Result<Self::Id, Fault>>;

    /// Keys that changed since the last call, to be written together with the state so that the frontend
    /// looks at them. Called before state 4 is published and whenever the device's task runs.
    fn changed_keys(&self, id: Self::Id) -> Keys;

    /// The directory may have changed while the device is connected: looks at what the toolstack may change then.
    ///
    /// # Errors
    /// What is wrong with it, for the log and the `error` node; the device stays in service.
    fn refresh(&self, _path: &BackendPath, _id: Self::Id) -> impl Future<Output = Result<(), Fault>> {
        async { Ok(()) }
    }

    /// Why the data plane wants the device to be closed, if it does, and in which queue that showed.
    fn fault(&self, id: Self::Id) -> Option<(u8, Fault)>;

    /// Reports what went wrong with single requests since the last call.
    fn report(&self, id: Self::Id, reporter: &mut Reporter);

    /// The frontend is in state 7: it has changed, or is about to change, keys that may change while it is connected.
    /// Afterwards state 8 is published.
    fn reconfigure(&self, _id: Self::Id, _frontend: &FrontendPath) -> impl Future<Output = ()> {
        async {}
    }

    /// Takes the device out of service. When it returns, no page of the frontend's is mapped or will be
    /// written by a device, and no event channel of it is bound.
    fn disconnect(&self, id: Self::Id) -> impl Future<Output = ()>;

    /// The device's directory is gone, or its task has ended: forgets about it.
    fn forget(&self, path: &BackendPath);
}
