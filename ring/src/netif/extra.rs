//! Extra information about a packet, in slots of its own.
//!
//! Xen: `struct netif_extra_info`, `XEN_NETIF_EXTRA_*`.

/// Which protocol's segments a large packet is to be cut into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GsoKind {
    /// TCP over IPv4 (`XEN_NETIF_GSO_TYPE_TCPV4`).
    TcpV4,
    /// TCP over IPv6 (`XEN_NETIF_GSO_TYPE_TCPV6`).
    TcpV6,
}

impl GsoKind {
    const fn into_raw(self) -> u8 {
        match self {
            Self::TcpV4 => 1,
            Self::TcpV6 => 2,
        }
    }
}

/// Extra information as the frontend wrote it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawExtra {
    kind: u8,
    flags: u8,
    body: [u8; 6],
}

/// What extra information says. Unknown types are a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extra {
    /// The packet is to be segmented.
    Gso {
        /// Payload bytes per segment. May be 0 on the wire, which makes no sense.
        size: u16,
        /// The protocol, or the unknown type.
        kind: Result<GsoKind, u8>,
    },
    /// Adds an address to the multicast filter.
    McastAdd([u8; 6]),
    /// Removes an address from the multicast filter.
    McastDel([u8; 6]),
    /// The packet's hash.
    Hash {
        /// What was hashed.
        kind: u8,
        /// How.
        algorithm: u8,
        /// The hash.
        value: [u8; 4],
    },
    /// Headroom that the packet has.
    Xdp {
        /// In bytes.
        headroom: u16,
    },
    /// A type that does not exist.
    Unknown(u8),
}

const MORE: u8 = 1;

impl RawExtra {
    /// Wraps the words of a slot.
    pub const fn from_words(words: [u32; 2]) -> Self {
        let [first, second] = words;
        let [kind, flags, a, b] = first.to_le_bytes();
        let [c, d, e, f] = second.to_le_bytes();
        Self { kind, flags, body: [a, b, c, d, e, f] }
    }

    /// Another slot of extra information follows (`XEN_NETIF_EXTRA_FLAG_MORE`).
    pub const fn more(&self) -> bool {
        self.flags & MORE != 0
    }

    /// What it says.
    pub const fn parse(&self) -> Extra {
        let [a, b, c, d, e, f] = self.body;
        match self.kind {
            1 => {
                let kind = match c {
                    1 => Ok(GsoKind::TcpV4),
                    2 => Ok(GsoKind::TcpV6),
                    other => Err(other),
                };
                Extra::Gso { size: u16::from_le_bytes([a, b]), kind }
            }
            2 => Extra::McastAdd(self.body),
            3 => Extra::McastDel(self.body),
            4 => Extra::Hash { kind: a, algorithm: b, value: [c, d, e, f] },
            5 => Extra::Xdp { headroom: u16::from_le_bytes([a, b]) },
            other => Extra::Unknown(other),
        }
    }
}

impl Extra {
    /// The words of a slot that holds this; `more`: it is not the last of its chain.
    pub(crate) const fn to_words(self, more: bool) -> [u32; 2] {
        let (kind, [a, b, c, d, e, f]) = match self {
            Self::Gso { size, kind } => {
                let [low, high] = size.to_le_bytes();
                let kind = match kind {
                    Ok(kind) => kind.into_raw(),
                    Err(raw) => raw,
                };
                (1, [low, high, kind, 0, 0, 0])
            }
            Self::McastAdd(address) => (2, address),
            Self::McastDel(address) => (3, address),
            Self::Hash { kind, algorithm, value: [w, x, y, z] } => (4, [kind, algorithm, w, x, y, z]),
            Self::Xdp { headroom } => {
                let [low, high] = headroom.to_le_bytes();
                (5, [low, high, 0, 0, 0, 0])
            }
            Self::Unknown(kind) => (kind, [0; 6]),
        };
        let flags = if more { MORE } else { 0 };
        [u32::from_le_bytes([kind, flags, a, b]), u32::from_le_bytes([c, d, e, f])]
    }
}
