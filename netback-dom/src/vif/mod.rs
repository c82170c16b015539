//! Virtual interfaces: the handshake with toolstack and frontend, and what is counted.
//!
//! TX and RX are named from the frontend's point of view, as everywhere in Xen: on the transmit ring we
//! *receive* what the guest sends.
//!
//! Xen: `public/io/netif.h`.

mod backend;
mod cause;
pub mod counters;
mod follow;
mod keys;
mod ports;

pub(crate) use backend::Vifs;
pub use cause::Cause;
pub use keys::Features;
