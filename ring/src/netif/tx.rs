//! The transmit ring: packets from the frontend.
//!
//! Xen: `struct netif_tx_request`, `struct netif_tx_response`.

use super::extra::RawExtra;
use super::{Status, halves, join};
use crate::GrantRef;
use crate::back::Protocol;

/// Flags of a transmit request (`NETTXF_*`). Bits 0 and 1 mean the opposite of those in [`RxFlags`](super::RxFlags).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TxFlags(u16);

impl TxFlags {
    const CSUM_BLANK: u16 = 1;
    const DATA_VALIDATED: u16 = 1 << 1;
    const MORE_DATA: u16 = 1 << 2;
    const EXTRA_INFO: u16 = 1 << 3;

    /// Wraps the bits of the ABI. Unknown bits are kept and ignored.
    pub const fn from_raw(raw: u16) -> Self {
        Self(raw)
    }
    /// The transport checksum is still to be filled in.
    pub const fn csum_blank(self) -> bool {
        self.0 & Self::CSUM_BLANK != 0
    }
    /// The contents are known to be intact.
    pub const fn data_validated(self) -> bool {
        self.0 & Self::DATA_VALIDATED != 0
    }
    /// The packet goes on in the next slot.
    pub const fn more_data(self) -> bool {
        self.0 & Self::MORE_DATA != 0
    }
    /// Extra information follows in the next slot.
    pub const fn extra_info(self) -> bool {
        self.0 & Self::EXTRA_INFO != 0
    }
}

/// A transmit request as the frontend wrote it. Nothing in it was checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TxRequest {
    /// The granted page.
    pub gref: GrantRef,
    /// First byte in the page.
    pub offset: u16,
    /// Flags.
    pub flags: TxFlags,
    /// Echoed in the response.
    pub id: u16,
    /// Bytes of the whole packet in its first slot, of the fragment in later ones.
    pub size: u16,
}

/// A private copy of a slot, which is a request or extra information: the slot before it tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TxSlot([u32; 3]);

impl TxSlot {
    /// Wraps the words of a slot.
    pub const fn from_words(words: [u32; 3]) -> Self {
        Self(words)
    }

    /// The words of the slot.
    pub const fn into_words(self) -> [u32; 3] {
        self.0
    }

    /// The slot as a request.
    pub const fn request(&self) -> TxRequest {
        let [gref, second, third] = self.0;
        let (offset, flags) = halves(second);
        let (id, size) = halves(third);
        TxRequest { gref: GrantRef::from_raw(gref), offset, flags: TxFlags::from_raw(flags), id, size }
    }

    /// The slot as extra information.
    pub const fn extra(&self) -> RawExtra {
        let [first, second, _] = self.0;
        RawExtra::from_words([first, second])
    }
}

/// The answer to a transmit request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TxResponse {
    /// The request's id.
    pub id: u16,
    /// What became of it.
    pub status: Status,
}

/// The transmit ring's protocol: slots of 12 bytes.
#[derive(Clone, Copy, Debug)]
pub struct Tx;

impl Protocol for Tx {
    type Slot = [u32; 3];
    type Request = TxSlot;
    type Response = TxResponse;
    const RESPONSE_WORDS: usize = 1;

    fn decode(slot: &[u32; 3]) -> TxSlot {
        TxSlot(*slot)
    }

    fn encode(response: &TxResponse) -> [u32; 3] {
        [join(response.id, response.status.into_raw().cast_unsigned()), 0, 0]
    }
}
