//! The receive ring: buffers from the frontend, packets to it.
//!
//! Xen: `struct netif_rx_request`, `struct netif_rx_response`.

use super::extra::Extra;
use super::{halves, join};
use crate::GrantRef;
use crate::back::Protocol;

/// Flags of a receive response (`NETRXF_*`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RxFlags(u16);

impl RxFlags {
    /// The contents are known to be intact.
    pub const DATA_VALIDATED: Self = Self(1);
    /// The transport checksum was left blank: it never left the machine.
    pub const CSUM_BLANK: Self = Self(1 << 1);
    /// The packet goes on in the next response.
    pub const MORE_DATA: Self = Self(1 << 2);
    /// Extra information follows in the next response.
    pub const EXTRA_INFO: Self = Self(1 << 3);

    /// No flag.
    pub const fn empty() -> Self {
        Self(0)
    }
    /// These flags and `other`.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
    /// The bits of the ABI.
    pub const fn into_raw(self) -> u16 {
        self.0
    }
}

/// A buffer for one page of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RxRequest {
    /// Echoed in the response.
    pub id: u16,
    /// The granted page, writable.
    pub gref: GrantRef,
}

/// What became of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RxResponse {
    /// It holds a piece of a packet.
    Data {
        /// The buffer's id.
        id: u16,
        /// First byte of the piece in the page.
        offset: u16,
        /// Flags.
        flags: RxFlags,
        /// Bytes of the piece, at most 4096.
        size: u16,
    },
    /// It could not be filled.
    Error {
        /// The buffer's id.
        id: u16,
    },
    /// The slot carries extra information for the packet; the buffer was not used.
    Extra {
        /// The information.
        extra: Extra,
        /// The next slot carries more of it.
        more: bool,
    },
}

/// The receive ring's protocol: slots of 8 bytes.
#[derive(Clone, Copy, Debug)]
pub struct Rx;

impl Protocol for Rx {
    type Slot = [u32; 2];
    type Request = RxRequest;
    type Response = RxResponse;
    const RESPONSE_WORDS: usize = 2;

    fn decode(slot: &[u32; 2]) -> RxRequest {
        let [first, gref] = *slot;
        RxRequest { id: halves(first).0, gref: GrantRef::from_raw(gref) }
    }

    fn encode(response: &RxResponse) -> [u32; 2] {
        match *response {
            // A page holds at most 4096 bytes, so the size never looks like a negative status.
            RxResponse::Data { id, offset, flags, size } => [join(id, offset), join(flags.into_raw(), size & 0x7fff)],
            RxResponse::Error { id } => [join(id, 0), join(0, super::Status::Error.into_raw().cast_unsigned())],
            RxResponse::Extra { extra, more } => extra.to_words(more),
        }
    }
}
