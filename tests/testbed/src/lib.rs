//! The test bed: boots real Xen in QEMU, speaks Ethernet to it, and runs the system tests.
//!
//! `docs/testing.md` is its manual. [`machine`] boots, [`dom0`] runs commands there, [`command_line`] is what a
//! person or the Makefile calls.

#![forbid(unsafe_code)]
#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::as_conversions,
        reason = "a test fails by panicking"
    )
)]

pub mod bed;
pub mod bench;
pub mod command_line;
pub mod cpio;
pub mod demo;
pub mod disk;
pub mod dom0;
pub mod evidence;
pub mod failure;
pub mod guest;
pub mod leaks;
pub mod machine;
pub mod measure;
pub mod nic;
pub mod qmp;
pub mod scenario;
pub mod shell;
pub mod storage;
pub mod suite;
pub mod taps;
pub mod terminal;
pub mod wire;
