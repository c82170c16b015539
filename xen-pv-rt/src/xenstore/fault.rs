//! What can be wrong with xenstored's side of the connection, and the log lines about it.

use core::fmt;

use crate::hyp::{Instant, XsError};
use crate::limit::LogLimit;

use super::wire::Header;
use ring::xenstore::BadIndex;

/// xenstored broke the protocol, or the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// An index is where it cannot be.
    Index,
    /// A header that no server sends.
    Framing,
    /// xenstored set the error field.
    Server(u32),
}

impl From<BadIndex> for Fault {
    fn from(BadIndex: BadIndex) -> Self {
        Self::Index
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Index => f.write_str("impossible ring index"),
            Self::Framing => f.write_str("impossible message header"),
            Self::Server(error) => write!(f, "xenstored reports error {error}"),
        }
    }
}

/// How the connection goes on after a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Remedy {
    /// xenstored resets it.
    Reconnect,
    /// The next message is looked for.
    Hunt,
    /// Not at all, for now.
    None,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Topic {
    Fault,
    Recovered,
    StrayReply,
    WatchLost,
}

/// The log. A xenstored that goes mad does not flood the console.
#[derive(Default)]
pub(super) struct Log {
    limit: LogLimit<Topic, 4>,
    now: Instant,
}

impl Log {
    /// Sets the clock.
    pub(super) fn set_now(&mut self, now: Instant) {
        self.now = now;
    }

    pub(super) fn fault(&mut self, fault: Fault, remedy: Remedy) {
        let Some(n) = self.limit.check(Topic::Fault, self.now) else { return };
        match remedy {
            Remedy::Reconnect => log::warn!("xenstore: {fault}; reconnecting n={n}"),
            Remedy::Hunt => log::warn!("xenstore: {fault}; looking for the next message n={n}"),
            Remedy::None => log::error!("xenstore: {fault}; connected devices go on, changes will not be seen n={n}"),
        }
    }

    pub(super) fn recovered(&mut self) {
        if let Some(n) = self.limit.check(Topic::Recovered, self.now) {
            log::info!("xenstore: found the message boundary again n={n}");
        }
    }

    pub(super) fn stray_reply(&mut self, header: &Header) {
        if let Some(n) = self.limit.check(Topic::StrayReply, self.now) {
            let Header { kind, req_id, .. } = header;
            log::warn!("xenstore: reply of type {} to no such request of ours, id {req_id} n={n}", kind.0);
        }
    }

    pub(super) fn watch_lost(&mut self, error: XsError) {
        if let Some(n) = self.limit.check(Topic::WatchLost, self.now) {
            log::warn!("xenstore: a watch could not be registered again: {error} n={n}");
        }
    }
}
