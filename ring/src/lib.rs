//! The wire of Xen's split drivers: what other domains and Xen's own daemons put into shared memory.
//!
//! - [`back`]: the backend's half of a shared ring.
//! - [`mem`]: shared memory as words by value.
//! - [`blkif`]: block requests and responses.
//! - [`console`]: bytes for xenconsoled.
//! - [`netif`]: network requests and responses, copied once and then validated into other types.
//! - [`pciif`]: requests to xen-pciback. Here we are the *frontend*.
//! - [`xenstore`]: the page shared with xenstored and the messages in it.
//!
//! No hypercalls, no allocation, no logging.

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

pub mod back;
pub mod blkif;
mod bytes;
pub mod console;
mod ids;
pub mod mem;
pub mod netif;
pub mod pciif;
pub mod xenstore;

pub use back::{BackRing, Debt, Notify, Protocol, RingFault, Ticket};
pub use ids::GrantRef;
pub use mem::{Pages, SharedMem};
