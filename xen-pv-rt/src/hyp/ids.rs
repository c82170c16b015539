//! Identifiers of the hypervisor interface, one type each.
//!
//! None of them is a bare integer across a function boundary: mixing a local and a remote port, or a
//! machine and a pseudo-physical frame, is the classic bug.

use core::fmt;

pub use ring::GrantRef;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($raw:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name($raw);
        impl $name {
            /// Wraps the number the ABI uses.
            pub const fn from_raw(raw: $raw) -> Self {
                Self(raw)
            }
            /// The number the ABI uses.
            pub const fn into_raw(self) -> $raw {
                self.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

id! {
    /// A domain id (`domid_t`). Ids from `0x7ff0` on are reserved for the hypervisor's own use.
    Domid(u16)
}
id! {
    /// An event channel port of this domain.
    Port(u32)
}
id! {
    /// An event channel port of another domain, as it tells us through xenstore.
    RemotePort(u32)
}
id! {
    /// A physical interrupt as Xen numbers it for this domain.
    Pirq(u32)
}
id! {
    /// A pseudo-physical frame number: dense from 0, meaningful in this domain only.
    Pfn(u64)
}
id! {
    /// A machine frame number: what page tables, grant operations and devices use.
    Mfn(u64)
}
id! {
    /// A machine address in bytes: what a device puts on the bus.
    Maddr(u64)
}

impl Domid {
    /// The control domain.
    pub const DOM0: Self = Self(0);
    /// The first reserved id (`DOMID_FIRST_RESERVED`).
    pub const FIRST_RESERVED: Self = Self(0x7ff0);
}

impl Maddr {
    /// The address `bytes` further on, wrapping at 2^64 (no machine address gets near).
    #[must_use]
    pub const fn wrapping_add(self, bytes: u64) -> Self {
        Self(self.0.wrapping_add(bytes))
    }
}
