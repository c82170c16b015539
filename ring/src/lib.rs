//! The wire of Xen's split drivers: what other domains and Xen's own daemons put into shared memory.
//!
//! - [`back`]: the backend's half of a shared ring.
//! - [`mem`]: shared memory as words by value.
//! - [`netif`]: network requests and responses, copied once and then validated into other types.
//! - [`pciif`]: requests to xen-pciback. Here we are the *frontend*.
//! - [`pciif`]: requests to xen-pciback.
//!
//! No hypercalls, no xenstore, no allocation, no logging.

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

pub mod back;
mod ids;
pub mod mem;
pub mod netif;
pub mod pciif;

pub use back::{BackRing, Debt, Notify, Protocol, RingFault, Ticket};
pub use ids::GrantRef;
pub use mem::{Pages, SharedMem};
