//! The life of one vif on the control plane, from its directory's appearance to its removal.
//!
//! [`run`] is one task per device and reads from top to bottom: advertise, publish 2, wait for the frontend,
//! map its rings, hand them to the data plane, publish 4, wait for the end, take everything back, publish 5
//! and 6, and start over or remove the directory. Between the steps it only looks at xenstore again:
//! [`super::decide`] says what comes next from what is there now, so that lost, repeated and reordered watch
//! events change nothing.
//!
//! The toolstack has its own demands. libxl wants to *read* a 2 when a device is added and a 6 before its
//! directory goes, so each is held for [`HOLD`]; and it gives us ten seconds for each step.
//!
//! Xen: `public/io/netif.h`, `public/io/xenbus.h`; libxl: `libxl__wait_device_connection`,
//! `libxl__initiate_device_generic_remove`, `device_hotplug`.

use alloc::rc::Rc;
use alloc::string::ToString;
use alloc::vec::Vec;
use core::future::pending;
use core::time::Duration;

use embassy_futures::join::join3;
use embassy_futures::select::select3;
use xen_pv_rt::hyp::{Access, Hypervisor, Instant, Transaction, Watch, XsError, sleep, sleep_until};
use xen_pv_rt::task::Signal;
use xen_pv_rt::xenbus::{BackendPath, FrontendPath, XenbusState};

use super::cause::Cause;
use super::decide::{Ours, Phase, Step, View, next};
use super::keys::{BackendKeys, Channels, FrontendKeys, QueueKeys, advertise};
use super::report::{Action, Reporter};
use crate::dataplane::{QueueParts, VifParts};
use crate::netback::Shared;
use crate::switch::PortId;

/// How long a state that the toolstack has to see stays published.
pub const HOLD: Duration = Duration::from_millis(400);
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

/// One vif.
pub(crate) struct Device<H: Hypervisor> {
    shared: Rc<Shared<H>>,
    path: BackendPath,
    /// Raised when the directory has changed or the data plane has something to report.
    poke: Signal,
    reporter: Reporter,
    published: Instant,
    looked: Instant,
    /// The last state of the frontend that could be read.
    theirs: XenbusState,
    frontend: Option<(FrontendPath, H::Watch)>,
}

/// Serves the device at `path` until its directory is gone.
pub(crate) async fn run<H: Hypervisor>(shared: Rc<Shared<H>>, path: BackendPath, poke: Signal) {
    let mut device = Device {
        reporter: Reporter::new(path),
        shared,
        path,
        poke,
        published: Instant::default(),
        looked: Instant::default(),
        theirs: XenbusState::Unknown,
        frontend: None,
    };
    while let End::Reopen = device.session().await {}
    device.reporter.forget(&device.shared.hyp).await;
}

impl<H: Hypervisor> Device<H> {
    async fn session(&mut self) -> End {
        let stop = match self.set_up().await {
            Ok(()) => match self.wait_for_frontend().await {
                Ok(port) => self.serve(port).await,
                Err(stop) => stop,
            },
            Err(stop) => stop,
        };
        match stop {
            Stop::Vanished => End::Done,
            Stop::Close => self.close().await,
        }
    }

    /// State 1 to 2: reads the toolstack's keys, watches the frontend, advertises.
    async fn set_up(&mut self) -> Result<(), Stop> {
        self.admit().await?;
        let keys = self.backend_keys().await?;
        if self.shared.bridge(keys.bridge.as_deref()).is_none() {
            return Err(self.refuse(Cause::Bridge).await);
        }
        if self.frontend.as_ref().is_none_or(|(frontend, _)| *frontend != keys.frontend) {
            self.frontend = None;
            match self.shared.hyp.watch(&keys.frontend.key("state")).await {
                Ok(watch) => self.frontend = Some((keys.frontend, watch)),
                Err(error) => return Err(self.refuse(cause_of(error)).await),
            }
        }
        self.pace(STATE_PACE).await;
        let advertised = {
            let _pass = self.shared.transactions.enter().await;
            advertise(&self.shared.hyp, &self.path).await
        };
        self.published = self.shared.hyp.now();
        match advertised {
            Ok(()) => Ok(()),
            Err(error) => Err(self.refuse(cause_of(error)).await),
        }
    }

    /// Reads the toolstack's keys, which may appear one by one.
    async fn backend_keys(&mut self) -> Result<BackendKeys, Stop> {
        let deadline = self.shared.hyp.now().saturating_add(KEYS_TIMEOUT);
        loop {
            match BackendKeys::read(&self.shared.hyp, &self.path).await {
                Ok(keys) => return Ok(keys),
                Err(Cause::Read) if self.shared.hyp.now() < deadline => self.changed(Some(deadline)).await,
                Err(cause) => return Err(self.refuse(cause).await),
            }
            match next(Phase::InitWait, self.look().await) {
                Step::Vanish => return Err(Stop::Vanished),
                Step::Close(_) => return Err(Stop::Close),
                Step::Wait | Step::Connect | Step::Reopen | Step::Remove => {}
            }
        }
    }

    /// Looks at a directory for the first time: is it one to serve?
    async fn admit(&mut self) -> Result<(), Stop> {
        match self.look().await.ours {
            Ours::Gone => Err(Stop::Vanished),
            Ours::Present { online: false, .. } => Err(Stop::Close),
            Ours::Present { state: XenbusState::Closing, .. } => Err(Stop::Close),
            // Only a previous instance can have published it. Its rings are not touched.
            Ours::Present { state: XenbusState::Connected, .. } => Err(self.refuse(Cause::Reattach).await),
            Ours::Present { .. } if self.shared.is_full() => Err(self.refuse(Cause::Quota).await),
            Ours::Present { .. } => Ok(()),
        }
    }

    /// State 2: waits until the frontend is ready, maps its rings and hands them to the data plane.
    async fn wait_for_frontend(&mut self) -> Result<PortId, Stop> {
        loop {
            match next(Phase::InitWait, self.look().await) {
                Step::Vanish => return Err(Stop::Vanished),
                Step::Close(_) => return Err(Stop::Close),
                Step::Connect => match self.connect().await {
                    Ok(port) => return Ok(port),
                    Err(cause) => return Err(self.refuse(cause).await),
                },
                Step::Wait | Step::Reopen | Step::Remove => self.changed(None).await,
            }
        }
    }

    /// Reads the frontend's keys, maps, binds, hands over. Whatever it acquired is released on failure.
    async fn connect(&mut self) -> Result<PortId, Cause> {
        // The toolstack's keys are read again: they may have changed since the last session.
        let backend = BackendKeys::read(&self.shared.hyp, &self.path).await?;
        let bridge = self.shared.bridge(backend.bridge.as_deref()).ok_or(Cause::Bridge)?;
        let keys = FrontendKeys::read(&self.shared.hyp, &backend.frontend).await?;
        let queues = self.queues(&keys.queues)?;
        let parts = VifParts {
            frontend: self.path.frontend,
            devid: self.path.devid,
            mac: backend.mac,
            bridge,
            features: keys.features,
            queues,
            signal: self.poke.clone(),
        };
        self.shared.plane.borrow_mut().attach(parts)
    }

    fn queues(&self, keys: &[QueueKeys]) -> Result<Vec<QueueParts<H>>, Cause> {
        let hyp = &self.shared.hyp;
        let grefs: Vec<_> = keys.iter().flat_map(|queue| [queue.tx_ring, queue.rx_ring]).collect();
        let pages: Result<Vec<_>, _> = hyp.map(self.path.frontend, &grefs, Access::ReadWrite).into_iter().collect();
        let mut pages = pages.map_err(|_| Cause::RingRef)?.into_iter();
        let mut queues = Vec::new();
        for queue in keys {
            let (Some(tx), Some(rx)) = (pages.next(), pages.next()) else { return Err(Cause::RingRef) };
            let bind = |port| hyp.bind_interdomain(self.path.frontend, port).map_err(|_| Cause::Evtchn);
            let (tx_port, rx_port) = match queue.channels {
                Channels::Single(both) => (bind(both)?, None),
                Channels::Split { tx, rx } => (bind(tx)?, Some(bind(rx)?)),
            };
            queues.push(QueueParts { tx, rx, tx_port, rx_port });
        }
        Ok(queues)
    }

    /// State 4: publishes it when the toolstack has had time to see the 2, then waits for the end.
    async fn serve(&mut self, port: PortId) -> Stop {
        self.reporter.start();
        let mut published = false;
        let connectable = self.published.saturating_add(HOLD);
        let stop = loop {
            let fault = self.shared.plane.borrow().fault(port);
            if let Some((queue, cause)) = fault {
                break self.fail(Some(queue), cause, Action::Kill).await;
            }
            match next(Phase::Connected, self.look().await) {
                Step::Vanish => break Stop::Vanished,
                Step::Close(Some(cause)) => break self.fail(None, cause, Action::Kill).await,
                Step::Close(None) => break Stop::Close,
                Step::Wait | Step::Connect | Step::Reopen | Step::Remove => {}
            }
            if !published && self.shared.hyp.now() >= connectable {
                match self.publish(XenbusState::Connected).await {
                    Ok(()) => published = true,
                    Err(XsError::NoEntry) => break Stop::Vanished,
                    Err(error) => break self.fail(None, cause_of(error), Action::Kill).await,
                }
                log::info!("{} connected", self.path);
            }
            self.report_drops(port);
            self.changed((!published).then_some(connectable)).await;
        };
        let pages = self.shared.plane.borrow_mut().detach(port);
        self.shared.hyp.unmap(pages);
        stop
    }

    /// State 5, then 6, then whatever comes after. Nothing is mapped or bound any more.
    async fn close(&mut self) -> End {
        let _ = self.publish(XenbusState::Closing).await;
        let deadline = self.shared.hyp.now().saturating_add(CLOSE_TIMEOUT);
        loop {
            let view = self.look().await;
            if view.ours == Ours::Gone {
                return End::Done;
            }
            if !is_open(view.theirs) {
                break;
            }
            if self.shared.hyp.now() >= deadline {
                self.reporter.fault(&self.shared.hyp, None, Cause::CloseTimeout, Action::Kill).await;
                break;
            }
            self.changed(Some(deadline)).await;
        }
        while let Err(error) = self.publish(XenbusState::Closed).await {
            if error == XsError::NoEntry {
                return End::Done;
            }
            sleep(&self.shared.hyp, RETRY).await;
        }
        self.closed().await
    }

    /// State 6: waits for the frontend to start over or for the toolstack to give the device up.
    async fn closed(&mut self) -> End {
        loop {
            let step = next(Phase::Closed, self.look().await);
            match step {
                Step::Vanish => return End::Done,
                Step::Remove => {
                    self.pace(HOLD).await;
                    if self.remove().await {
                        return End::Done;
                    }
                }
                _ if self.shared.stopping.get() => return End::Done,
                Step::Reopen => return End::Reopen,
                Step::Wait | Step::Connect | Step::Close(_) => self.changed(None).await,
            }
        }
    }

    /// Removes the directory, unless it is wanted again. Returns whether it is gone.
    async fn remove(&self) -> bool {
        let hyp = &self.shared.hyp;
        let _pass = self.shared.transactions.enter().await;
        let Ok(t) = hyp.begin().await else { return false };
        match hyp.read(t, &self.path.key("online")).await {
            Ok(online) if online != b"0" => {
                let _ = hyp.abort(t).await;
                false
            }
            Err(XsError::NoEntry) | Ok(_) => {
                let removed = hyp.remove(t, &self.path.to_string()).await;
                let committed = hyp.commit(t).await;
                matches!(removed, Ok(()) | Err(XsError::NoEntry)) && committed.is_ok()
            }
            Err(_) => {
                let _ = hyp.abort(t).await;
                false
            }
        }
    }

    /// Reads both ends. What cannot be read right now counts as unchanged.
    async fn look(&mut self) -> View {
        let hyp = &self.shared.hyp;
        sleep_until(hyp, self.looked.saturating_add(LOOK_PACE)).await;
        let (state, online, theirs) = join3(
            async { hyp.read(Transaction::NONE, &self.path.key("state")).await },
            async { hyp.read(Transaction::NONE, &self.path.key("online")).await },
            async {
                match &self.frontend {
                    Some((frontend, _)) => hyp.read(Transaction::NONE, &frontend.key("state")).await,
                    None => Err(XsError::NoEntry),
                }
            },
        )
        .await;
        self.looked = self.shared.hyp.now();
        match theirs {
            Ok(value) => self.theirs = XenbusState::parse(&value),
            Err(XsError::NoEntry | XsError::Denied) => self.theirs = XenbusState::Unknown,
            Err(_) => {}
        }
        let online = online.map_or(true, |value| value != b"0");
        let ours = match state {
            Err(XsError::NoEntry) => Ours::Gone,
            // When this domain shuts down, it is as if the toolstack had asked each device to close.
            _ if self.shared.stopping.get() => Ours::Present { state: XenbusState::Closing, online },
            Err(_) => Ours::Present { state: XenbusState::Unknown, online },
            Ok(value) => Ours::Present { state: XenbusState::parse(&value), online },
        };
        View { ours, theirs: self.theirs }
    }

    /// Writes our state, unless the directory is gone ([`XsError::NoEntry`]).
    async fn publish(&mut self, state: XenbusState) -> Result<(), XsError> {
        self.pace(STATE_PACE).await;
        let mut result = Err(XsError::Again);
        for _ in 0..PUBLISH_ATTEMPTS {
            result = self.try_publish(state).await;
            match result {
                Err(XsError::Again | XsError::Busy | XsError::Reset) => sleep(&self.shared.hyp, LOOK_PACE).await,
                _ => break,
            }
        }
        self.published = self.shared.hyp.now();
        result
    }

    async fn try_publish(&self, state: XenbusState) -> Result<(), XsError> {
        let hyp = &self.shared.hyp;
        let key = self.path.key("state");
        let _pass = self.shared.transactions.enter().await;
        let t = hyp.begin().await?;
        // Writing would create the directory anew if the toolstack had just removed it.
        let written = match hyp.read(t, &key).await {
            Ok(_) => hyp.write(t, &key, state.as_str()).await,
            Err(error) => Err(error),
        };
        match written {
            Ok(()) => hyp.commit(t).await,
            Err(error) => {
                let _ = hyp.abort(t).await;
                Err(error)
            }
        }
    }

    /// Waits until at least `time` has passed since the last published state.
    async fn pace(&self, time: Duration) {
        if self.published != Instant::default() {
            sleep_until(&self.shared.hyp, self.published.saturating_add(time)).await;
        }
    }

    /// Waits for a change of either directory, a report from the data plane, or `until`.
    async fn changed(&self, until: Option<Instant>) {
        let frontend = async {
            match &self.frontend {
                Some((_, watch)) => drop(watch.next().await),
                None => pending().await,
            }
        };
        let deadline = async {
            match until {
                Some(at) => sleep_until(&self.shared.hyp, at).await,
                None => pending().await,
            }
        };
        select3(frontend, self.poke.wait(), deadline).await;
    }

    async fn refuse(&mut self, cause: Cause) -> Stop {
        self.fail(None, cause, Action::Refuse).await
    }

    async fn fail(&mut self, queue: Option<u8>, cause: Cause, action: Action) -> Stop {
        self.reporter.fault(&self.shared.hyp, queue, cause, action).await;
        Stop::Close
    }

    fn report_drops(&mut self, port: PortId) {
        let report = self.shared.plane.borrow_mut().take_report(port);
        if let Some(counters) = report {
            self.reporter.drops(&counters, self.shared.hyp.now());
        }
    }
}

/// Whether a frontend still believes in its connection.
const fn is_open(theirs: XenbusState) -> bool {
    use XenbusState::{Connected, Initialised, Reconfigured, Reconfiguring};
    matches!(theirs, Initialised | Connected | Reconfiguring | Reconfigured)
}

const fn cause_of(error: XsError) -> Cause {
    match error {
        XsError::Again | XsError::Busy => Cause::XsBusy,
        XsError::Quota => Cause::Quota,
        XsError::NoEntry => Cause::Gone,
        _ => Cause::Xenstore,
    }
}
