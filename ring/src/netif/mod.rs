//! Network interfaces: what netfront and netback say to each other.
//!
//! TX and RX are named from the frontend's point of view, so a backend takes packets from [`tx`] and gives
//! packets to [`rx`].
//!
//! Xen: `public/io/netif.h`.

pub mod assemble;
pub mod ctrl;
pub mod extra;
mod fixed;
pub mod rx;
pub mod tx;

pub use assemble::{Assembled, Fragment, Negotiated, Packet, SlotKind, TxKill, TxReject, assemble};
pub use ctrl::{Ctrl, CtrlCommand, CtrlRequest, CtrlResponse, CtrlStatus, HashKind};
pub use extra::{Extra, GsoKind};
pub use fixed::FixedVec;
pub use rx::{Rx, RxFlags, RxRequest, RxResponse};
pub use tx::{Tx, TxFlags, TxRequest, TxResponse, TxSlot};

/// Bytes in the page behind a grant.
pub const PAGE_BYTES: u32 = 4096;

/// Bytes of an Ethernet header, the least a packet may have.
pub const ETHERNET_HEADER: u32 = 14;

/// Most slots a packet may have that every backend takes (`XEN_NETIF_NR_SLOTS_MIN`).
pub const MAX_SLOTS: usize = 18;

/// The outcome of a request (`NETIF_RSP_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// The packet could not be delivered, through no fault of the frontend.
    Dropped,
    /// The request was wrong.
    Error,
    /// Done.
    Okay,
    /// The slot held extra information, which has no outcome of its own.
    Null,
}

impl Status {
    /// The value on the wire.
    pub const fn into_raw(self) -> i16 {
        match self {
            Self::Dropped => -2,
            Self::Error => -1,
            Self::Okay => 0,
            Self::Null => 1,
        }
    }
}

/// Low and high half of a word.
const fn halves(word: u32) -> (u16, u16) {
    let [a, b, c, d] = word.to_le_bytes();
    (u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d]))
}

/// A word of a low and a high half.
const fn join(low: u16, high: u16) -> u32 {
    let ([a, b], [c, d]) = (low.to_le_bytes(), high.to_le_bytes());
    u32::from_le_bytes([a, b, c, d])
}
