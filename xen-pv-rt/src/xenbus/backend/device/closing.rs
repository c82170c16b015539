//! States 5 and 6, what follows them, and how long the toolstack is given to see them.

use alloc::string::ToString;
use core::time::Duration;

use super::{
    CLOSE_TIMEOUT, DESTROY_HOLD, Device, End, HOLD, LONGEST_CLOSED_HOLD, LONGEST_HOLD, LOOK_PACE, RETRY, STATE_PACE,
    TOOLSTACK_READS, is_open, is_passing,
};
use crate::hyp::{Clock, Instant, Xenstore, XsError, sleep, sleep_until};
use crate::xenbus::XenbusState;
use crate::xenbus::backend::decide::{Ours, Phase, Step, next};
use crate::xenbus::backend::report::Action;
use crate::xenbus::backend::{Backend, Fault, Keys};

impl<B: Backend> Device<'_, B> {
    /// State 5, then 6, then whatever comes after. Nothing is mapped or bound any more.
    pub(super) async fn close(&mut self) -> End {
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
    pub(super) async fn closed(&mut self) -> End {
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
    pub(super) async fn watch_late(&mut self) -> Option<Instant> {
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
    pub(super) async fn hold_closed(&mut self) {
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
    pub(super) async fn remove(&self) -> bool {
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
    pub(super) fn hold(&self) -> Duration {
        self.hold_within(LONGEST_HOLD)
    }

    pub(super) fn hold_within(&self, longest: Duration) -> Duration {
        // Without a frontend's directory the domain is being destroyed, which keeps Dom0 busy for seconds.
        let least = if self.theirs == XenbusState::Unknown { DESTROY_HOLD } else { HOLD };
        least.saturating_add(self.latency.saturating_mul(TOOLSTACK_READS)).min(longest)
    }
}
