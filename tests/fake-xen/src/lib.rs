//! A hypervisor, a xenstored, a toolstack and frontends, in one process, for host tests.
//!
//! It is an oracle, not a stub: stricter than Xen wherever a backend could lean on Xen's own checks. A rule
//! that is broken panics, with the rule in the message:
//!
//! 1. A grant copy whose span leaves its page, is empty, or whose local memory crosses a page.
//! 2. `Closed` published for a device whose grants are still mapped, or while its event channel is bound.
//! 3. A mapping or event channel used after it ended; mappings of closed or destroyed frontends left over at
//!    the end of the test.
//! 4. A write to xenstore outside of the driver domain's own subtrees.
//! 5. Watches fire once when set. They coalesce, may fire without reason ([`FakeXen::spurious_events`]) and
//!    in any order ([`FakeXen::shuffle_events`]).
//! 6. Events coalesce: many notifications, one pending bit.
//! 7. Faults on demand: [`Faults`].
//! 8. A sleep that ends at once, again and again, for an event that nobody takes: on Xen that is a busy loop, which
//!    keeps the CPU from whoever the domain waits for.
//!
//! - [`FakeXen`] is the test's handle to the machine, [`FakeHyp`] the driver domain's.
//! - [`Toolstack`] does what libxl does to a device, with libxl's timing.
//! - [`Netfront`] is a network frontend that can lie in every field, [`Blkfront`] a block frontend.
//!
//! Time is virtual and everything runs on one thread, stepped by the test.

#![forbid(unsafe_code)]
#![allow(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "test code: a panic is a failed test"
)]

mod blkfront;
mod client;
mod events;
mod faults;
mod grants;
mod machine;
mod netfront;
mod page;
mod store;
mod toolstack;

pub use blkfront::{BlkAnswer, BlkRequest, BlkSegment, Blkfront, BlkfrontOptions};
pub use client::StoreWatch;
pub use events::FakePort;
pub use faults::{CopyOp, Faults, StoreOp};
pub use grants::{MappedPage, OwnPage};
pub use machine::{BACKEND, FakeHyp, FakeXen, Usage};
pub use netfront::{CtrlAnswer, Netfront, NetfrontOptions, RxPacket, TxAnswer};
pub use page::Page;
pub use store::{Perm, Perms};
pub use toolstack::{DeviceId, Outcome, READ_LATENCY, Toolstack, ToolstackError, VbdConfig, VifConfig};
