//! The life of one device on the control plane, from its directory's appearance to its removal.
//!
//! [`run`] is one task per device and reads from top to bottom: offer, publish 2, wait for the frontend,
//! connect, publish 4, wait for the end, take everything back, publish 5 and 6, and start over or remove the
//! directory. Between the steps it only looks at xenstore again: [`super::decide`] says what comes next from
//! what is there now, so that lost, repeated and reordered watch events change nothing.
//!
//! The toolstack has its own demands. libxl wants to *read* a 2 when a device is added and a 6 before its
//! directory goes, so each is held for [`HOLD`]; and it gives us ten seconds for each step.

mod closing;
mod service;
mod setup;
mod store;

use core::time::Duration;

use super::report::Reporter;
use super::{Backend, Devices, Fault};
use crate::hyp::{Instant, Xenstore};
use crate::task::Signal;
use crate::xenbus::{BackendPath, FrontendPath, XenbusState};

/// How long a state that the toolstack has to see stays published, at least.
pub const HOLD: Duration = Duration::from_millis(400);
/// The same for a domain that is being destroyed.
const DESTROY_HOLD: Duration = Duration::from_secs(2);
/// How long at most. libxl gives us ten seconds.
const LONGEST_HOLD: Duration = Duration::from_secs(4);
/// The same for a 6: libxl counts its ten seconds from the moment at which it read the 6.
const LONGEST_CLOSED_HOLD: Duration = Duration::from_secs(7);
/// How many of our own reads take as long as the toolstack may take for its one, with processes to schedule.
const TOOLSTACK_READS: u32 = 16;
/// How long a frontend may take to close before it is closed forcibly. libxl waits 10 s for us.
pub const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the toolstack may take to write all keys of a directory.
const KEYS_TIMEOUT: Duration = Duration::from_secs(2);
/// Least time between two states, so that a frontend cannot make us write at its own pace.
const STATE_PACE: Duration = Duration::from_millis(100);
/// Least time between two looks at xenstore.
const LOOK_PACE: Duration = Duration::from_millis(10);
/// How long to wait before trying again what xenstored refused.
const RETRY: Duration = Duration::from_secs(1);
/// How often a state is tried to be written before giving up for now.
const PUBLISH_ATTEMPTS: usize = 10;

/// Why a device leaves service, or never enters it.
enum Stop {
    /// Somebody wants it closed; there is nothing wrong with it.
    Asked,
    /// Close it; the cause was reported already.
    Close,
    /// The directory is gone.
    Vanished,
}

/// How a session ended.
enum End {
    /// The frontend starts over.
    Reopen,
    /// Nothing is left to do for this directory.
    Done,
}

type WatchOf<B> = <<B as Backend>::Hyp as Xenstore>::Watch;

/// One device.
struct Device<'d, B: Backend> {
    devices: &'d Devices<B>,
    path: BackendPath,
    /// Raised when the directory has changed or the data plane has something to report.
    poke: Signal,
    reporter: Reporter,
    published: Instant,
    looked: Instant,
    /// It was refused, and the frontend has not moved since: trying again would change nothing.
    refused: bool,
    /// When what xenstored refused may be tried again.
    retry_at: Instant,
    /// When the frontend is closed forcibly, once state 5 was published.
    close_by: Option<Instant>,
    /// How long reading takes, lately: if it is long for us, Dom0 is busy and takes longer still.
    latency: Duration,
    /// The last state of the frontend that could be read.
    theirs: XenbusState,
    /// Something could not be read at the last look, and nobody will say when it can be.
    unclear: bool,
    frontend: Option<(FrontendPath, WatchOf<B>)>,
}

/// Serves the device at `path` until its directory is gone.
pub(super) async fn run<B: Backend>(devices: &Devices<B>, path: BackendPath, poke: Signal) {
    let mut device = Device {
        reporter: Reporter::new(path),
        devices,
        path,
        poke,
        published: Instant::default(),
        looked: Instant::default(),
        refused: false,
        retry_at: Instant::default(),
        close_by: None,
        latency: Duration::ZERO,
        theirs: XenbusState::Unknown,
        unclear: false,
        frontend: None,
    };
    while let End::Reopen = device.session().await {}
    device.reporter.forget(device.hyp()).await;
}

impl<'d, B: Backend> Device<'d, B> {
    fn backend(&self) -> &'d B {
        self.devices.backend()
    }

    fn hyp(&self) -> &'d B::Hyp {
        self.devices.backend().hyp()
    }

    async fn session(&mut self) -> End {
        let stop = match self.set_up().await {
            Ok(()) => match self.wait_for_frontend().await {
                Ok(id) => self.serve(id).await,
                Err(stop) => stop,
            },
            Err(stop) => stop,
        };
        match stop {
            Stop::Vanished => End::Done,
            Stop::Asked | Stop::Close => self.close().await,
        }
    }
}

/// Whether a fault is one of xenstore's own troubles, which pass: what failed is tried again.
fn is_passing(fault: &Fault) -> bool {
    [Fault::XS_BUSY, Fault::XENSTORE, Fault::QUOTA, Fault::WATCHES].contains(fault)
}

/// Whether a frontend has not begun to connect.
const fn is_fresh(theirs: XenbusState) -> bool {
    matches!(theirs, XenbusState::Unknown | XenbusState::Initialising | XenbusState::InitWait)
}

/// Whether a frontend still believes in its connection.
const fn is_open(theirs: XenbusState) -> bool {
    use XenbusState::{Connected, Initialised, Reconfigured, Reconfiguring};
    matches!(theirs, Initialised | Connected | Reconfiguring | Reconfigured)
}
