//! The domain's side of PCI passthrough: what Xen calls *pcifront*; the peer is Dom0's xen-pciback.
//!
//! [`PciBus::connect`] shakes hands with the backend; [`PciBus::functions`] are the functions that were
//! assigned, and a [`PciDevice`] is one of them in use: configuration space, BARs mapped as register
//! windows, [`Interrupts`] as event channels, reset. Device drivers see what comes out of here (register
//! windows and ports), never this crate.
//!
//! Every request is answered by Dom0 within a deadline or is an error; nothing here is on a data path.
//! Nothing relies on pciback's `permissive` mode: configuration writes are limited to the command register,
//! sizing BARs, and the reset that [`PciDevice::function_level_reset`] attempts.
//!
//! Protocol: `public/io/pciif.h`. Not here: AER recovery (declined).

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod bar;
mod bus;
mod device;
mod error;
mod interrupts;
mod map;
mod ops;
mod sbdf;
mod trust;

pub use bar::Bar;
pub use bus::PciBus;
pub use device::{Capability, PciDevice};
pub use error::{BusError, PciCause, PciError};
pub use interrupts::{InterruptKind, Interrupts};
pub use sbdf::{BadSbdf, Sbdf};
pub use trust::Trust;
