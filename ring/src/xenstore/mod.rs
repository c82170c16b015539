//! The connection to xenstored: the page that both share, and the messages in it.
//!
//! Not here: what the messages are for, which the client knows.
//!
//! Xen: `public/io/xs_wire.h`, `docs/misc/xenstore.txt`.

mod message;
mod page;

pub use message::{ABS_PATH_MAX, HEADER_BYTES, Header, Kind, PAYLOAD_MAX, REL_PATH_MAX};
pub use page::{BadIndex, Page, RING_BYTES};
