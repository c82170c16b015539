//! The network backend on the fake Xen.

#![allow(
    missing_docs,
    unreachable_pub,
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::new_without_default,
    clippy::panic,
    clippy::unwrap_used,
    reason = "test code: a panic is a failed test"
)]

mod control;
mod features;
mod handshake;
mod hostile_endings;
mod hostile_headers;
mod hostile_offload;
mod hostile_races;
mod hostile_rx;
mod hostile_store;
mod hostile_tx;
mod hostile_xenbus;
mod idle;
mod joined;
mod log_lines;
mod management;
mod multi_queue;
mod offload;
mod packets;
mod policy;
mod random;
mod rate;
mod rig;
mod sharing;
mod statistics;
mod traffic;
mod wire;
