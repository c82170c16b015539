//! Runtime for Xen PV driver domains.
//!
//! - [`hyp`]: what a backend may ask of the hypervisor, as safe traits. Built on the host too, so that
//!   backends can be tested against an in-process hypervisor.
//! - [`task`]: the control plane's tasks, polled between turns of the data plane.
//! - [`xenbus`]: device states and paths of the split-driver protocol.
//! - [`xenstore`]: the client of xenstored, over the page and port that it is given.
//! - [`control`]: the toolstack's requests to shut down.
//! - [`control_plane`]: tasks, timers and those requests, as an event loop drives them.
//! - [`timekeeper`]: the time for an event loop, without looking at the clock in each turn.
//! - [`limit`]: log lines about faults, in one format and not too many.
//! - `arch`: the implementation on Xen: boot, hypercalls, paging, traps. Only in domain images, which are
//!   built with `--cfg xen_guest`.
//!
//! This is the only crate of the project that contains `unsafe` code.

#![no_std]

extern crate alloc;
#[cfg(test)]
extern crate std;

#[cfg(xen_guest)]
pub mod arch;
pub mod control;
pub mod control_plane;
pub mod hyp;
pub mod limit;
pub mod statistics;
pub mod task;
pub mod timekeeper;
pub mod xenbus;
pub mod xenstore;
