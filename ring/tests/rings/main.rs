//! The shared ring as its two ends see it: hostile memory, random peers, every interleaving.

#![allow(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "test code: a panic is a failed test"
)]

mod chains;
mod double_fetch;
mod layouts;
mod model;
mod slots;
mod wakeups;
