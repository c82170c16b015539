//! The block backend on the fake Xen, with disks in memory.

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

mod data;
mod durability;
mod floods;
mod grants;
mod handshake;
mod history;
mod hostile;
mod layouts;
mod ram;
mod replay;
mod resources;
mod rig;
