//! A device in service, until it is to be closed.

use super::{CLOSE_TIMEOUT, Device, STATE_PACE, Stop, is_open};
use crate::hyp::{Clock, XsError, sleep};
use crate::xenbus::XenbusState;
use crate::xenbus::backend::decide::{Ours, Phase, Step, next};
use crate::xenbus::backend::report::Action;
use crate::xenbus::backend::{Backend, Fault, Keys};

impl<B: Backend> Device<'_, B> {
    /// State 4: publishes it when the toolstack has had time to see the 2, then waits for the end.
    pub(super) async fn serve(&mut self, id: B::Id) -> Stop {
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
    pub(super) fn answer(&self, shown: Option<XenbusState>) -> XenbusState {
        match (shown, self.theirs) {
            (Some(_), XenbusState::Reconfiguring) => XenbusState::Reconfigured,
            (Some(shown), XenbusState::Reconfigured) => shown,
            _ => XenbusState::Connected,
        }
    }

    pub(super) async fn reconfigure(&self, id: B::Id) {
        // Linux writes the state first and the keys right after it.
        sleep(self.hyp(), STATE_PACE).await;
        if let Some((frontend, _)) = &self.frontend {
            self.backend().reconfigure(id, frontend).await;
        }
    }

    /// State 5, with everything still connected: an open frontend may have requests to finish before it can
    /// close. blkfront reads the partition table while it connects, and hears of nothing else until it has.
    pub(super) async fn wind_down(&mut self, id: B::Id) {
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
}
