//! Virtual interfaces: the handshake with toolstack and frontend, and the rings of a connected one.
//!
//! TX and RX are named from the frontend's point of view, as everywhere in Xen: on the transmit ring we
//! *receive* what the guest sends.
//!
//! - [`handshake`]: one control-plane task per device, which nothing on the data path ever waits for.
//! - [`counters`] and [`Cause`]: what is counted and reported.
//!
//! Xen: `public/io/netif.h`.

mod cause;
pub mod counters;
mod decide;
pub mod handshake;
mod keys;
mod report;

pub use cause::Cause;
pub use keys::Features;
