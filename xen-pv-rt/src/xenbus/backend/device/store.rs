//! What a device's task reads from and writes to xenstore, and what it waits for.

use alloc::string::ToString;
use core::future::pending;
use core::time::Duration;

use embassy_futures::join::join3;
use embassy_futures::select::select3;

use super::{Device, LOOK_PACE, PUBLISH_ATTEMPTS, RETRY, STATE_PACE, Stop, is_fresh, is_passing};
use crate::hyp::{Clock, Instant, Transaction, Watch, Xenstore, XsError, sleep, sleep_until};
use crate::xenbus::XenbusState;
use crate::xenbus::backend::decide::{Ours, View};
use crate::xenbus::backend::report::Action;
use crate::xenbus::backend::{Backend, Fault, Keys};

impl<B: Backend> Device<'_, B> {
    /// Reads both ends. What cannot be read right now counts as unchanged.
    pub(super) async fn look(&mut self) -> View {
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
    pub(super) async fn publish(&mut self, state: XenbusState, mut keys: Keys) -> Result<(), XsError> {
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

    pub(super) async fn try_publish(&self, keys: &Keys) -> Result<(), XsError> {
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
    pub(super) async fn pace(&self, time: Duration) {
        if self.published != Instant::default() {
            sleep_until(self.hyp(), self.published.saturating_add(time)).await;
        }
    }

    /// Waits for a change of either directory, a report from the data plane, or `until`.
    pub(super) async fn changed(&self, until: Option<Instant>) {
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

    pub(super) async fn refuse(&mut self, fault: Fault) -> Stop {
        self.refused = is_fresh(self.theirs) && !is_passing(&fault);
        if is_passing(&fault) {
            self.retry_at = self.hyp().now().saturating_add(RETRY);
        }
        self.fail(0, fault, Action::Refuse).await
    }

    pub(super) async fn fail(&mut self, queue: u8, fault: Fault, action: Action) -> Stop {
        self.reporter.fault(self.hyp(), queue, &fault, action).await;
        Stop::Close
    }
}
