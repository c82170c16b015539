//! The wire of Xen's split drivers.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

mod ids;
pub use ids::GrantRef;
