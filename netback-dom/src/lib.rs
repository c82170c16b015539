//! A network driver domain: it owns NICs and serves them to other domains as network interfaces.
//!
//! - [`netback`]: the network backend as the main loop sees it.
//! - [`vif`]: virtual interfaces: the handshake with toolstack and frontend.
//! - [`dataplane`]: packets between frontends, and between frontends and cards.
//! - [`switch`]: which port a frame leaves by.
//! - [`nic`]: drivers for the cards.
//! - [`management`]: an address of our own, for ping and metrics.
//! - [`publish`]: counters and link state for Dom0, in xenstore.
//! - [`frame`], [`wire`], [`checksum`]: frames in our memory, their headers, their checksums.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod cards;
pub mod checksum;
pub mod config;
pub mod dataplane;
pub mod domain;
mod flow;
pub mod frame;
mod gro;
pub mod management;
pub mod netback;
pub mod nic;
pub mod publish;
mod segmentation;
pub mod switch;
pub mod vif;
pub mod wire;
