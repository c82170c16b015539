//! The drivers of cards against models of the cards, well behaved and not.

#![forbid(unsafe_code)]
#![allow(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    missing_docs,
    unreachable_pub,
    reason = "test code: a panic is a failed test"
)]

mod intel;
mod intel_queues;
mod model;
mod virtio;
mod virtio_long;
mod virtio_queues;
