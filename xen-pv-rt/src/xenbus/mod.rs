//! The xenbus conventions every split driver shares: states, paths, typed keys, and a backend device's life
//! ([`backend`]).
//!
//! Xen: `public/io/xenbus.h`, `docs/misc/xenstore-paths.pandoc`.

pub mod backend;
mod keys;
mod path;
mod state;

pub use keys::{read_number, read_number_or, read_text, write_all};
pub use path::{BackendPath, DeviceKind, FrontendPath, PathError};
pub use state::XenbusState;
