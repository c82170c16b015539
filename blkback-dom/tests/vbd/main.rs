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
#[path = "../device/mod.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod device;
mod durability;
mod end_to_end;
mod floods;
mod grants;
mod handshake;
mod history;
mod hostile;
mod idle;
mod layouts;
mod neighbours;
mod persistent;
mod ram;
mod replay;
mod rescan;
mod resize;
mod resources;
mod rig;
