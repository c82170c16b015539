//! A storage driver domain: it owns disk controllers and serves their disks to other domains.
//!
//! - [`disk`]: drivers for the controllers.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod disk;
