//! From the directory's appearance to a frontend that is connected.

use alloc::string::{String, ToString};

use embassy_futures::join::join;

use super::{Device, KEYS_TIMEOUT, STATE_PACE, Stop};
use crate::hyp::{Clock, Xenstore, XsError};
use crate::xenbus::backend::decide::{Ours, Phase, Step, next};
use crate::xenbus::backend::{Backend, Fault, Keys};
use crate::xenbus::{FrontendPath, XenbusState, read_number, read_text, write_all};

impl<B: Backend> Device<'_, B> {
    /// State 1 to 2: reads the toolstack's keys, watches the frontend, advertises.
    pub(super) async fn set_up(&mut self) -> Result<(), Stop> {
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
    pub(super) async fn offer(&mut self) -> Result<Keys, Stop> {
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

    pub(super) async fn watch_frontend(&mut self) -> Result<(), Fault> {
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
    pub(super) async fn read_frontend(&self) -> Result<FrontendPath, Fault> {
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
    pub(super) async fn admit(&mut self) -> Result<(), Stop> {
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
    pub(super) async fn wait_for_frontend(&mut self) -> Result<B::Id, Stop> {
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
}
