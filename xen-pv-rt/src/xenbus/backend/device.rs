//! The life of one device on the control plane, from its directory's appearance to its removal.
//!
//! [`run`] is one task per device and reads from top to bottom: offer, publish 2, wait for the frontend,
//! connect, publish 4, wait for the end, take everything back, publish 5 and 6, and start over or remove the
//! directory. Between the steps it only looks at xenstore again: [`super::decide`] says what comes next from
//! what is there now, so that lost, repeated and reordered watch events change nothing.
//!
//! The toolstack has its own demands. libxl wants to *read* a 2 when a device is added and a 6 before its
//! directory goes, so each is held for [`HOLD`]; and it gives us ten seconds for each step.

use alloc::string::{String, ToString};
use core::future::pending;
use core::time::Duration;

use embassy_futures::join::{join, join3};
use embassy_futures::select::select3;

use super::decide::{Ours, Phase, Step, View, next};
use super::report::{Action, Reporter};
use super::{Backend, Devices, Fault, Keys};
use crate::hyp::{Clock, Instant, Transaction, Watch, Xenstore, XsError, sleep, sleep_until};
use crate::task::Signal;
use crate::xenbus::{BackendPath, FrontendPath, XenbusState, read_number, read_text, write_all};

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

    /// State 1 to 2: reads the toolstack's keys, watches the frontend, advertises.
    async fn set_up(&mut self) -> Result<(), Stop> {
        self.admit().await?;
        let offer = self.offer().await?;
        self.pace(STATE_PACE).await;
        let mut keys: alloc::vec::Vec<(String, String)> =
            offer.into_iter().map(|(key, value)| (self.path.key(key), value)).collect();
        keys.push((self.path.key("hotplug-status"), "connected".to_string()));
        keys.push((self.path.key("state"), XenbusState::InitWait.as_str().to_string()));
        let offered = {
            let _pass = self.devices.transactions.enter().await;
            write_all(self.hyp(), &keys).await
        };
        self.published = self.hyp().now();
        match offered {
            Ok(()) => Ok(()),
            Err(error) => Err(self.refuse(error.into()).await),
        }
    }

    /// Reads the toolstack's keys, which may appear one by one.
    async fn offer(&mut self) -> Result<Keys, Stop> {
        let deadline = self.hyp().now().saturating_add(KEYS_TIMEOUT);
        loop {
            // Watched before anything can be refused: a frontend may start over after that, too.
            let offer = match self.watch_frontend().await {
                Ok(()) => self.backend().offer(&self.path).await,
                Err(fault) => Err(fault),
            };
            match offer {
                Ok(offer) => return Ok(offer),
                Err(fault) if fault == Fault::READ && self.hyp().now() < deadline => self.changed(Some(deadline)).await,
                Err(fault) => return Err(self.refuse(fault).await),
            }
            match next(Phase::InitWait, self.look().await) {
                Step::Vanish => return Err(Stop::Vanished),
                Step::Close | Step::CloseGone => return Err(Stop::Close),
                Step::Wait | Step::Connect | Step::Reopen | Step::Remove => {}
            }
        }
    }

    async fn watch_frontend(&mut self) -> Result<(), Fault> {
        let frontend = self.read_frontend().await?;
        if self.frontend.as_ref().is_none_or(|(watched, _)| *watched != frontend) {
            self.frontend = None;
            let watch = self.hyp().watch(&frontend.key("state")).await.map_err(|error| match error {
                XsError::Quota => Fault::WATCHES,
                error => error.into(),
            })?;
            self.frontend = Some((frontend, watch));
        }
        Ok(())
    }

    /// The frontend's directory, checked to be the frontend's.
    async fn read_frontend(&self) -> Result<FrontendPath, Fault> {
        let hyp = self.hyp();
        let (frontend, frontend_id) = join(async { read_text(hyp, &self.path.key("frontend")).await }, async {
            read_number::<u16>(hyp, &self.path.key("frontend-id")).await
        })
        .await;
        let (Ok(frontend), Ok(frontend_id)) = (frontend, frontend_id) else { return Err(Fault::READ) };
        if frontend_id != self.path.frontend.into_raw() {
            return Err(Fault::FE_ID);
        }
        FrontendPath::new(&self.path, &frontend).map_err(|_| Fault::FE_ID)
    }

    /// Looks at a directory for the first time: is it one to serve?
    async fn admit(&mut self) -> Result<(), Stop> {
        match self.look().await.ours {
            Ours::Gone => Err(Stop::Vanished),
            Ours::Present { online: false, .. } => Err(Stop::Close),
            Ours::Present { state: XenbusState::Closing, .. } => Err(Stop::Close),
            // Only a previous instance can have published it. Its rings are not touched.
            Ours::Present { state: XenbusState::Connected, .. } => Err(self.refuse(Fault::REATTACH).await),
            Ours::Present { .. } if self.devices.is_full() => Err(self.refuse(Fault::TOO_MANY).await),
            Ours::Present { .. } => Ok(()),
        }
    }

    /// State 2: waits until the frontend is ready, and connects.
    async fn wait_for_frontend(&mut self) -> Result<B::Id, Stop> {
        loop {
            match next(Phase::InitWait, self.look().await) {
                Step::Vanish => return Err(Stop::Vanished),
                Step::Close | Step::CloseGone => return Err(Stop::Close),
                Step::Connect => {
                    let Some((frontend, _)) = &self.frontend else { return Err(Stop::Close) };
                    return match self.backend().connect(&self.path, frontend, &self.poke).await {
                        Ok(id) => Ok(id),
                        Err(fault) => Err(self.refuse(fault).await),
                    };
                }
                Step::Wait | Step::Reopen | Step::Remove => self.changed(None).await,
            }
        }
    }

    /// State 4: publishes it when the toolstack has had time to see the 2, then waits for the end.
    async fn serve(&mut self, id: B::Id) -> Stop {
        let mut shown = None;
        let connectable = self.published.saturating_add(self.hold());
        let stop = loop {
            if let Some((queue, fault)) = self.backend().fault(id) {
                break self.fail(queue, fault, Action::Kill).await;
            }
            let view = self.look().await;
            // What broke while we looked may be why it closes or goes; else nobody would hear of it.
            if let Some((queue, fault)) = self.backend().fault(id) {
                break self.fail(queue, fault, Action::Kill).await;
            }
            match next(Phase::Connected, view) {
                Step::Vanish => break Stop::Vanished,
                Step::CloseGone => break self.fail(0, Fault::GONE, Action::Kill).await,
                Step::Close => break Stop::Asked,
                Step::Wait | Step::Connect | Step::Reopen | Step::Remove => {}
            }
            let due = shown.is_some() || self.hyp().now() >= connectable;
            let keys = if due { self.backend().changed_keys(id) } else { Keys::new() };
            let state = self.answer(shown);
            if due && (shown != Some(state) || !keys.is_empty()) {
                if state == XenbusState::Reconfigured && shown != Some(state) {
                    self.reconfigure(id).await;
                }
                match self.publish(state, keys).await {
                    Ok(()) if shown.is_some() => {}
                    Ok(()) => log::info!("{} connected", self.path),
                    Err(XsError::NoEntry) => break Stop::Vanished,
                    Err(error) => break self.fail(0, error.into(), Action::Kill).await,
                }
                shown = Some(state);
            }
            self.backend().report(id, &mut self.reporter);
            if let Err(fault) = self.backend().refresh(&self.path, id).await {
                self.reporter.fault(self.hyp(), 0, &fault, Action::Refuse).await;
            }
            self.changed(shown.is_none().then_some(connectable)).await;
        };
        if let Stop::Asked = stop {
            self.wind_down(id).await;
        }
        self.backend().report(id, &mut self.reporter);
        self.backend().disconnect(id).await;
        stop
    }

    /// The state that answers the frontend's while it is connected: 8 to its 7, after that 4 to its 4.
    fn answer(&self, shown: Option<XenbusState>) -> XenbusState {
        match (shown, self.theirs) {
            (Some(_), XenbusState::Reconfiguring) => XenbusState::Reconfigured,
            (Some(shown), XenbusState::Reconfigured) => shown,
            _ => XenbusState::Connected,
        }
    }

    async fn reconfigure(&self, id: B::Id) {
        // Linux writes the state first and the keys right after it.
        sleep(self.hyp(), STATE_PACE).await;
        if let Some((frontend, _)) = &self.frontend {
            self.backend().reconfigure(id, frontend).await;
        }
    }

    /// State 5, with everything still connected: an open frontend may have requests to finish before it can
    /// close. blkfront reads the partition table while it connects, and hears of nothing else until it has.
    async fn wind_down(&mut self, id: B::Id) {
        // What counts is 6; a 5 that did not get through changes nothing.
        let _ = self.publish(XenbusState::Closing, Keys::new()).await;
        let deadline = self.hyp().now().saturating_add(CLOSE_TIMEOUT);
        self.close_by = Some(deadline);
        while self.hyp().now() < deadline && self.backend().fault(id).is_none() {
            let view = self.look().await;
            if view.ours == Ours::Gone || !is_open(view.theirs) {
                break;
            }
            self.backend().report(id, &mut self.reporter);
            self.changed(Some(deadline)).await;
        }
    }

    /// State 5, then 6, then whatever comes after. Nothing is mapped or bound any more.
    async fn close(&mut self) -> End {
        let deadline = match self.close_by.take() {
            Some(deadline) => deadline,
            None => {
                // What counts is 6; a 5 that did not get through changes nothing.
                let _ = self.publish(XenbusState::Closing, Keys::new()).await;
                self.hyp().now().saturating_add(CLOSE_TIMEOUT)
            }
        };
        loop {
            let view = self.look().await;
            if view.ours == Ours::Gone {
                return End::Done;
            }
            if !is_open(view.theirs) {
                break;
            }
            if self.hyp().now() >= deadline {
                // Only logged: the `error` node keeps the cause of the closing.
                self.reporter.line(self.hyp().now(), 0, &Fault::CLOSE_TIMEOUT, Action::Kill, 1);
                break;
            }
            self.changed(Some(deadline)).await;
        }
        while let Err(error) = self.publish(XenbusState::Closed, Keys::new()).await {
            if error == XsError::NoEntry {
                return End::Done;
            }
            sleep(self.hyp(), RETRY).await;
        }
        self.closed().await
    }

    /// State 6: waits for the frontend to start over or for the toolstack to give the device up.
    async fn closed(&mut self) -> End {
        loop {
            let watch_again = self.watch_late().await;
            match next(Phase::Closed, self.look().await) {
                Step::Vanish => return End::Done,
                Step::Remove => {
                    self.hold_closed().await;
                    if self.remove().await {
                        return End::Done;
                    }
                    sleep(self.hyp(), LOOK_PACE).await;
                }
                _ if self.devices.is_stopping() => return End::Done,
                Step::Reopen if !self.refused => {
                    sleep_until(self.hyp(), self.retry_at).await;
                    return End::Reopen;
                }
                Step::Reopen | Step::Wait | Step::Connect | Step::Close | Step::CloseGone => {
                    self.changed(watch_again).await;
                }
            }
        }
    }

    /// Watches the frontend if the device was refused before that was done: it could not be seen to start over.
    /// Returns when to try again, if xenstored is the one to blame.
    async fn watch_late(&mut self) -> Option<Instant> {
        if self.frontend.is_some() {
            return None;
        }
        let fault = self.watch_frontend().await.err()?;
        is_passing(&fault).then(|| self.hyp().now().saturating_add(RETRY))
    }

    /// Keeps the 6 until the toolstack has had the time to read it: to libxl a directory that is gone before is an
    /// error (`ERROR_INVAL`, printed as rc -6).
    ///
    /// Counted from now, not from the 6: for a device that has been closed for long, the toolstack reads the 6 only
    /// after it has written `online`. What keeps Dom0 from running the toolstack, eight domains destroyed at once for
    /// instance, keeps it from answering us too; so the time grows and shrinks with what our own reads take.
    async fn hold_closed(&mut self) {
        let started = self.hyp().now();
        loop {
            let enough = started.saturating_add(self.hold_within(LONGEST_CLOSED_HOLD));
            if self.hyp().now() >= enough || self.look().await.ours == Ours::Gone {
                return;
            }
            sleep(self.hyp(), STATE_PACE).await;
        }
    }

    /// Removes the directory, unless it is wanted again. Returns whether it is gone.
    async fn remove(&self) -> bool {
        let hyp = self.hyp();
        let _pass = self.devices.transactions.enter().await;
        let Ok(t) = hyp.begin().await else { return false };
        match hyp.read(t, &self.path.key("online")).await {
            Err(XsError::NoEntry) => {}
            Ok(online) if online == b"0" => {}
            _ => {
                let _ = hyp.abort(t).await;
                return false;
            }
        }
        let removed = hyp.remove(t, &self.path.to_string()).await;
        let committed = hyp.commit(t).await;
        matches!(removed, Ok(()) | Err(XsError::NoEntry)) && committed.is_ok()
    }

    /// How long a state is held for the toolstack to see.
    fn hold(&self) -> Duration {
        self.hold_within(LONGEST_HOLD)
    }

    fn hold_within(&self, longest: Duration) -> Duration {
        // Without a frontend's directory the domain is being destroyed, which keeps Dom0 busy for seconds.
        let least = if self.theirs == XenbusState::Unknown { DESTROY_HOLD } else { HOLD };
        least.saturating_add(self.latency.saturating_mul(TOOLSTACK_READS)).min(longest)
    }

    /// Reads both ends. What cannot be read right now counts as unchanged.
    async fn look(&mut self) -> View {
        let hyp = self.hyp();
        sleep_until(hyp, self.looked.saturating_add(LOOK_PACE)).await;
        let asked = hyp.now();
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
        self.looked = hyp.now();
        self.latency = self.looked.saturating_since(asked).max(self.latency.checked_div(2).unwrap_or_default());
        self.unclear = [state.as_ref().err(), online.as_ref().err(), theirs.as_ref().err()]
            .into_iter()
            .flatten()
            .any(|error| !matches!(error, XsError::NoEntry | XsError::Denied));
        match theirs {
            Ok(value) => self.theirs = XenbusState::parse(&value),
            Err(XsError::NoEntry | XsError::Denied) => self.theirs = XenbusState::Unknown,
            Err(_) => {}
        }
        self.refused &= is_fresh(self.theirs);
        let online = online.map_or(true, |value| value != b"0");
        let ours = match state {
            Err(XsError::NoEntry) => Ours::Gone,
            // When this domain shuts down, it is as if the toolstack had asked each device to close.
            _ if self.devices.is_stopping() => Ours::Present { state: XenbusState::Closing, online },
            Err(_) => Ours::Present { state: XenbusState::Unknown, online },
            Ok(value) => Ours::Present { state: XenbusState::parse(&value), online },
        };
        // Only the toolstack writes a 1: the directory was created anew while we were not looking.
        self.refused &= !matches!(ours, Ours::Present { state: XenbusState::Initialising, .. });
        View { ours, theirs: self.theirs }
    }

    /// Writes our state, and other keys with it, unless the directory is gone ([`XsError::NoEntry`]).
    async fn publish(&mut self, state: XenbusState, mut keys: Keys) -> Result<(), XsError> {
        self.pace(STATE_PACE).await;
        keys.push(("state", state.as_str().to_string()));
        let mut result = Err(XsError::Again);
        for _ in 0..PUBLISH_ATTEMPTS {
            result = self.try_publish(&keys).await;
            match result {
                Err(XsError::Again | XsError::Busy | XsError::Reset) => sleep(self.hyp(), LOOK_PACE).await,
                _ => break,
            }
        }
        self.published = self.hyp().now();
        result
    }

    async fn try_publish(&self, keys: &Keys) -> Result<(), XsError> {
        let hyp = self.hyp();
        let _pass = self.devices.transactions.enter().await;
        let t = hyp.begin().await?;
        // Writing would create the directory anew if the toolstack had just removed it.
        let mut written = hyp.read(t, &self.path.key("state")).await.map(drop);
        for (key, value) in keys {
            if written.is_ok() {
                written = hyp.write(t, &self.path.key(key), value).await;
            }
        }
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
            sleep_until(self.hyp(), self.published.saturating_add(time)).await;
        }
    }

    /// Waits for a change of either directory, a report from the data plane, or `until`.
    async fn changed(&self, until: Option<Instant>) {
        let retry = self.unclear.then(|| self.hyp().now().saturating_add(RETRY));
        let until = [until, retry].into_iter().flatten().min();
        let frontend = async {
            match &self.frontend {
                Some((_, watch)) => drop(watch.next().await),
                None => pending().await,
            }
        };
        let deadline = async {
            match until {
                Some(at) => sleep_until(self.hyp(), at).await,
                None => pending().await,
            }
        };
        select3(frontend, self.poke.wait(), deadline).await;
    }

    async fn refuse(&mut self, fault: Fault) -> Stop {
        self.refused = is_fresh(self.theirs) && !is_passing(&fault);
        if is_passing(&fault) {
            self.retry_at = self.hyp().now().saturating_add(RETRY);
        }
        self.fail(0, fault, Action::Refuse).await
    }

    async fn fail(&mut self, queue: u8, fault: Fault, action: Action) -> Stop {
        self.reporter.fault(self.hyp(), queue, &fault, action).await;
        Stop::Close
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
