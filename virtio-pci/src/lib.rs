//! What drivers of virtio devices share: the transport over PCI and the split virtqueue.
//!
//! - [`VirtioPci`] implements virtio-drivers' [`Transport`](virtio_drivers::transport::Transport) for a passed-through
//!   function.
//! - [`Queue`] is a split virtqueue over machine addresses.
//!
//! The drivers themselves are in the backends. Virtio 1.2.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod pci;
mod queue;

pub use pci::{VirtioPci, Window, Windows};
pub use queue::{Buffer, MAX_SIZE, Queue, QueueError, Used, Writer};
