//! The control ring: what is too much for xenstore, so far the hash that spreads packets over queues.
//!
//! Requests and responses are one to one.
//!
//! Xen: `struct xen_netif_ctrl_request`, `struct xen_netif_ctrl_response`, `XEN_NETIF_CTRL_*`.

use super::{halves, join};
use crate::GrantRef;
use crate::back::Protocol;

/// What a control request asks for. Unknown types are a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CtrlCommand {
    /// Which kinds of hashes there are.
    GetHashFlags,
    /// Which of them to use: bits of [`HashKind`].
    SetHashFlags(u32),
    /// Where the key is.
    SetHashKey {
        /// The page that starts with it.
        gref: GrantRef,
        /// Its length in bytes.
        len: u32,
    },
    /// How large the mapping may be.
    GetMappingSize,
    /// How many entries the mapping has; all of them 0 at first.
    SetMappingSize(u32),
    /// Where a part of the mapping is.
    SetMapping {
        /// The page that starts with it, one word for each entry.
        gref: GrantRef,
        /// Entries.
        len: u32,
        /// The first entry to change.
        offset: u32,
    },
    /// Which algorithm to use: 0 for none, 1 for Toeplitz.
    SetAlgorithm(u32),
    /// A type that does not exist.
    Unknown,
}

/// What goes into a hash, the values of `_XEN_NETIF_CTRL_HASH_TYPE_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HashKind {
    /// Addresses of IPv4.
    Ipv4,
    /// Addresses of IPv4 and ports of TCP.
    Ipv4Tcp,
    /// Addresses of IPv6.
    Ipv6,
    /// Addresses of IPv6 and ports of TCP.
    Ipv6Tcp,
}

impl HashKind {
    /// All kinds, as flags.
    pub const ALL: u32 = 0xf;

    /// Its bit among flags.
    pub const fn flag(self) -> u32 {
        match self {
            Self::Ipv4 => 1,
            Self::Ipv4Tcp => 1 << 1,
            Self::Ipv6 => 1 << 2,
            Self::Ipv6Tcp => 1 << 3,
        }
    }

    /// Its number.
    pub const fn into_raw(self) -> u8 {
        match self {
            Self::Ipv4 => 0,
            Self::Ipv4Tcp => 1,
            Self::Ipv6 => 2,
            Self::Ipv6Tcp => 3,
        }
    }
}

/// A control request as the frontend wrote it. Nothing in it was checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CtrlRequest {
    /// Echoed in the response.
    pub id: u16,
    /// The type's number, echoed in the response.
    pub kind: u16,
    /// What it asks for.
    pub command: CtrlCommand,
}

/// The outcome of a control request (`XEN_NETIF_CTRL_STATUS_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CtrlStatus {
    /// Done.
    Success,
    /// There is no such request, or not now.
    NotSupported,
    /// A parameter is out of range, or a page cannot be read.
    InvalidParameter,
    /// More data than there is room for.
    BufferOverflow,
}

impl CtrlStatus {
    /// The value on the wire.
    pub const fn into_raw(self) -> u32 {
        match self {
            Self::Success => 0,
            Self::NotSupported => 1,
            Self::InvalidParameter => 2,
            Self::BufferOverflow => 3,
        }
    }
}

/// The answer to a control request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CtrlResponse {
    /// The request's id.
    pub id: u16,
    /// The request's type.
    pub kind: u16,
    /// What became of it.
    pub status: CtrlStatus,
    /// What was asked for; 0 where nothing was.
    pub data: u32,
}

/// The control ring's protocol: slots of 16 bytes.
#[derive(Clone, Copy, Debug)]
pub struct Ctrl;

impl Protocol for Ctrl {
    type Slot = [u32; 4];
    type Request = CtrlRequest;
    type Response = CtrlResponse;
    const RESPONSE_WORDS: usize = 3;

    fn decode(slot: &[u32; 4]) -> CtrlRequest {
        let [head, a, b, c] = *slot;
        let (id, kind) = halves(head);
        let gref = GrantRef::from_raw(a);
        let command = match kind {
            1 => CtrlCommand::GetHashFlags,
            2 => CtrlCommand::SetHashFlags(a),
            3 => CtrlCommand::SetHashKey { gref, len: b },
            4 => CtrlCommand::GetMappingSize,
            5 => CtrlCommand::SetMappingSize(a),
            6 => CtrlCommand::SetMapping { gref, len: b, offset: c },
            7 => CtrlCommand::SetAlgorithm(a),
            _ => CtrlCommand::Unknown,
        };
        CtrlRequest { id, kind, command }
    }

    fn encode(response: &CtrlResponse) -> [u32; 4] {
        [join(response.id, response.kind), response.status.into_raw(), response.data, 0]
    }
}
