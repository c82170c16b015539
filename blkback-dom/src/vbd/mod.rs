//! Virtual block devices: the handshake with toolstack and frontend, and the rings of a connected one.
//!
//! - [`Blkback`]: the backend as the main loop sees it.
//! - `backend`, `keys`: what is particular to vbds on the control plane, which nothing on the data path waits
//!   for.
//! - `plane`, `turn`: the data plane, and what it does in a turn.
//! - `device`, `events`, `answer`: a vbd on it.
//! - `work`, `copies`: a request. It is copied off the ring once, validated, and becomes commands for disks; its data goes
//!   through buffers of this domain by grant copy.
//! - `joined`: neighbours on a disk that become one command.
//! - `mappings`, `in_place`: for frontends that use their grants again: pages that stay mapped, which a disk reads and
//!   writes itself.
//!
//! Requests are answered in the order in which disks finish them; flushes and barriers see to the order that
//! frontends are promised (`docs/durability.md`).
//!
//! Xen: `public/io/blkif.h`.

mod answer;
mod backend;
mod build;
mod cause;
mod copies;
mod device;
mod events;
mod in_place;
mod joined;
mod keys;
mod mappings;
mod plane;
mod queue;
mod refresh;
mod turn;
mod work;

use core::time::Duration;

pub use backend::{Blkback, Options};
pub use cause::{Cause, ErrorCounts, VbdCounters};
pub use plane::{Controllers, Turn};

/// What one vbd may make this domain hold, decided when it connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Requests under way; those beyond wait in the ring.
    pub requests: u16,
    /// Commands for disks under way.
    pub parts: usize,
    /// Buffers of a page each; at least twice as many as `requests`, because each may hold on to one for its
    /// list of segments.
    pub pages: usize,
    /// Pages of a frontend that stay mapped, if it knows of persistent grants; 0: all data is copied. The default is
    /// what a frontend of 32 requests of 32 segments uses, each with a page for its list.
    pub persistent: usize,
}

impl Default for Budget {
    fn default() -> Self {
        Self { requests: 64, parts: 64, pages: 160, persistent: 1056 }
    }
}

/// Least time between two reports of errors with requests.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);
