//! What the operator gets to see of a vif's faults: one log line format, and the xenbus `error` node.

use alloc::format;
use alloc::string::String;
use core::fmt;
use core::time::Duration;

use xen_pv_rt::hyp::{Hypervisor, Instant, Transaction};
use xen_pv_rt::xenbus::BackendPath;

use super::cause::Cause;
use super::counters::VifCounters;

/// At most one line per cause in this time.
const LOG_INTERVAL: Duration = Duration::from_secs(1);

/// What was done about a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// The device was taken out of service.
    Kill,
    /// The device did not enter service.
    Refuse,
    /// Packets were dropped or answered with an error.
    Drop,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kill => "kill",
            Self::Refuse => "refuse",
            Self::Drop => "drop",
        })
    }
}

/// Reports for one device.
pub(super) struct Reporter {
    path: BackendPath,
    /// When each cause was last logged, and what was left out since.
    last: [Option<(Instant, u64)>; Cause::COUNT],
    /// Drops already logged.
    drops: VifCounters,
    wrote_error: bool,
}

impl Reporter {
    pub(super) fn new(path: BackendPath) -> Self {
        Self { path, last: [None; Cause::COUNT], drops: VifCounters::default(), wrote_error: false }
    }

    /// The counters start from zero again: a new session.
    pub(super) fn start(&mut self) {
        self.drops = VifCounters::default();
    }

    /// Reports a fault of the device: log line, `error` node and, for a refusal, `hotplug-status`.
    pub(super) async fn fault(&mut self, hyp: &impl Hypervisor, queue: Option<u8>, cause: Cause, action: Action) {
        self.line(hyp.now(), queue, cause, action, 1);
        let text = format!("{} {}", cause.code(), cause.text());
        let mut keys = alloc::vec![(self.error_key(), text.as_str())];
        if action == Action::Refuse {
            keys.push((self.path.key("hotplug-error"), text.as_str()));
            keys.push((self.path.key("hotplug-status"), "error"));
        }
        for (key, value) in keys {
            // Writing below a directory that is gone would bring it back.
            let present = !key.starts_with("backend") || hyp.read(Transaction::NONE, &self.path.key("state")).await.is_ok();
            if present {
                // The log has it, whatever becomes of the nodes.
                let _ = hyp.write(Transaction::NONE, &key, value).await;
            }
        }
        self.wrote_error = true;
    }

    /// Reports packets dropped since the last call, one line per cause.
    pub(super) fn drops(&mut self, counters: &VifCounters, now: Instant) {
        let last = core::mem::replace(&mut self.drops, *counters);
        for cause in Cause::ALL.iter().filter(|cause| cause.is_fault()) {
            let of = |counters: &VifCounters| counters.tx_drops.of(*cause).wrapping_add(counters.rx_drops.of(*cause));
            let new = of(counters).wrapping_sub(of(&last));
            if new > 0 {
                self.line(now, None, *cause, Action::Drop, new);
            }
        }
    }

    /// Removes what was written outside the backend directory.
    pub(super) async fn forget(&self, hyp: &impl Hypervisor) {
        if self.wrote_error {
            let _ = hyp.remove(Transaction::NONE, &format!("error/{}", self.path)).await;
        }
    }

    fn error_key(&self) -> String {
        format!("error/{}/error", self.path)
    }

    /// Logs `count` events, unless the cause was logged within the last second.
    fn line(&mut self, now: Instant, queue: Option<u8>, cause: Cause, action: Action, count: u64) {
        let Some(last) = self.last.get_mut(cause.index()) else { return };
        let suppressed = match last {
            Some((at, left_out)) if now.saturating_since(*at) < LOG_INTERVAL => {
                *left_out = left_out.saturating_add(count);
                return;
            }
            Some((_, left_out)) => *left_out,
            None => 0,
        };
        *last = Some((now, 0));
        log::warn!(
            "be=vif dom={} dev={} q={} cause={cause} text=\"{}\" action={action} n={}",
            self.path.frontend,
            self.path.devid,
            queue.unwrap_or(0),
            cause.text(),
            suppressed.saturating_add(count).saturating_sub(1),
        );
    }
}
