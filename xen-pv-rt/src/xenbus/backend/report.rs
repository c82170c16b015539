//! What the operator gets to see of a device's faults: one log line format, and the xenbus `error` node.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::time::Duration;

use super::Fault;
use crate::hyp::{Hypervisor, Instant, Transaction};
use crate::xenbus::BackendPath;

/// At most one line per cause in this time.
const LOG_INTERVAL: Duration = Duration::from_secs(1);

/// What was done about a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The device was taken out of service.
    Kill,
    /// The device did not enter service.
    Refuse,
    /// Requests were dropped.
    Drop,
    /// Requests were answered with an error.
    Err,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kill => "kill",
            Self::Refuse => "refuse",
            Self::Drop => "drop",
            Self::Err => "err",
        })
    }
}

/// Reports for one device.
pub struct Reporter {
    path: BackendPath,
    /// When each cause was last logged, and what was left out since.
    last: Vec<(&'static str, Instant, u64)>,
    wrote_error: bool,
}

impl Reporter {
    /// Reports for the device at `path`.
    pub fn new(path: BackendPath) -> Self {
        Self { path, last: Vec::new(), wrote_error: false }
    }

    /// Reports a fault of the device: log line, `error` node and, for a refusal, `hotplug-status`.
    pub async fn fault(&mut self, hyp: &impl Hypervisor, queue: u8, fault: &Fault, action: Action) {
        self.line(hyp.now(), queue, fault, action, 1);
        let text = format!("{} {}", fault.code, fault.text);
        let mut keys = alloc::vec![(self.error_key(), text.as_str())];
        if action == Action::Refuse {
            keys.push((self.path.key("hotplug-error"), text.as_str()));
            keys.push((self.path.key("hotplug-status"), "error"));
        }
        for (key, value) in keys {
            // Writing below a directory that is gone would bring it back.
            let present =
                !key.starts_with("backend") || hyp.read(Transaction::NONE, &self.path.key("state")).await.is_ok();
            if present {
                // The log has it, whatever becomes of the nodes.
                let _ = hyp.write(Transaction::NONE, &key, value).await;
            }
        }
        self.wrote_error = true;
    }

    /// Logs `count` events of one cause, unless the cause was logged within the last second.
    pub fn line(&mut self, now: Instant, queue: u8, fault: &Fault, action: Action, count: u64) {
        let mut suppressed = 0;
        match self.last.iter_mut().find(|(code, ..)| *code == fault.code) {
            Some((_, at, left_out)) if now.saturating_since(*at) < LOG_INTERVAL => {
                *left_out = left_out.saturating_add(count);
                return;
            }
            Some((_, at, left_out)) => {
                *at = now;
                suppressed = core::mem::take(left_out);
            }
            // Causes are few, so this list is short.
            None => self.last.push((fault.code, now, 0)),
        }
        log::warn!(
            "be={} dom={} dev={} q={queue} cause={} text={:?} action={action} n={}",
            self.path.kind,
            self.path.frontend,
            self.path.devid,
            fault.code,
            fault.text,
            suppressed.saturating_add(count).saturating_sub(1),
        );
    }

    /// Removes what was written outside the backend directory.
    pub async fn forget(&self, hyp: &impl Hypervisor) {
        if !self.wrote_error {
            return;
        }
        let _ = hyp.remove(Transaction::NONE, &format!("error/{}", self.path)).await;
        // Also the frontend's directory, if this was its last device: domain ids are used once, nodes are few.
        let above = format!("error/backend/{}/{}", self.path.kind, self.path.frontend);
        if hyp.list(Transaction::NONE, &above).await.is_ok_and(|others| others.is_empty()) {
            let _ = hyp.remove(Transaction::NONE, &above).await;
        }
    }

    fn error_key(&self) -> String {
        format!("error/{}/error", self.path)
    }
}
