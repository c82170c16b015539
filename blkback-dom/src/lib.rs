//! A storage driver domain: it owns disk controllers and serves their disks to other domains.
//!
//! - [`disk`]: drivers for the controllers.
//! - [`controllers`]: those of this domain, on its PCI bus.
//! - [`domain`]: start, event loop, end.
//! - [`publish`]: counters and health for Dom0, in xenstore.
//! - [`scan`], [`rescan`]: what is on the disks, and looking again.
//! - [`errand`]: reads of the domain's own.
//! - [`vbd`]: virtual block devices and the data plane between them and the disks.
//! - [`volume`]: what `target=` may name.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod config;
pub mod controllers;
pub mod disk;
pub mod domain;
pub mod errand;
mod patience;
pub mod publish;
pub mod rescan;
pub mod scan;
pub mod vbd;
pub mod volume;
