//! Why the data plane drops a packet or gives up a vif, as counters and log lines name it.
//!
//! Every cause has a stable code. Faults of the handshake are [`Fault`]s from the start; a cause becomes one
//! where it is reported.

use core::fmt;

use xen_pv_rt::xenbus::backend::Fault;

macro_rules! causes {
    ($($name:ident, $code:literal, $text:literal;)*) => {
        /// A cause code.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Cause {
            $(#[doc = concat!("`", $code, "`: ", $text, ".")] $name,)*
        }

        impl Cause {
            /// All causes in order.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The code in log lines and statistics. Stable.
            pub const fn code(self) -> &'static str {
                match self {
                    $(Self::$name => $code,)*
                }
            }

            /// What it means, for the operator.
            pub const fn text(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

causes! {
    TxProd, "TX_PROD", "impossible producer index on the transmit ring";
    RxProd, "RX_PROD", "impossible producer index on the receive ring";
    CtrlProd, "CTRL_PROD", "impossible producer index on the control ring";
    CtrlParam, "CTRL_PARAM", "control request that cannot be carried out";
    TxShort, "TX_SHORT", "packet shorter than an Ethernet header";
    TxPage, "TX_PAGE", "slot crosses the end of its page";
    TxTotal, "TX_TOTAL", "slots larger than the announced packet";
    TxChain, "TX_CHAIN", "packet does not end within the published requests";
    TxSlots, "TX_SLOTS", "packet has too many slots";
    TxExtraMissing, "TX_EXTRA_MISSING", "extra segment missing";
    TxExtraType, "TX_EXTRA_TYPE", "extra segment of an unknown kind";
    TxExtraChain, "TX_EXTRA_CHAIN", "packet has too many extra segments";
    GsoSize, "GSO_SIZE", "segment size of zero";
    GsoType, "GSO_TYPE", "kind of segmentation that was not offered";
    GsoMin, "GSO_MIN", "segment size too small for the packet";
    Csum, "CSUM", "blank checksum in a packet that has none";
    Grant, "GRANT", "grant copy failed";
    NoBuffer, "NO_BUFFER", "no free buffer";
    Uplink, "UPLINK", "the card did not take the frame";
    Spoof, "SPOOF", "address is not the sender's";
    Vlan, "VLAN", "VLAN is not the sender's";
    Storm, "STORM", "more broadcasts, multicasts or unknown destinations than allowed";
    RxQueue, "RX_QUEUE", "receive queue full";
    RxFit, "RX_FIT", "frame too long for the frontend";
    Mtu, "MTU", "frame longer than the vif's MTU";
    McastFull, "MCAST_FULL", "multicast filter is full";
    RxStall, "RX_STALL", "rx stalled: the frontend takes nothing";
}

impl Cause {
    /// Number of causes.
    pub const COUNT: usize = Self::ALL.len();

    /// Whether a dropped packet is somebody's fault, rather than a lack of room.
    pub const fn is_fault(self) -> bool {
        !matches!(self, Self::NoBuffer | Self::Uplink | Self::RxQueue | Self::RxFit | Self::Mtu)
    }

    /// Position in [`ALL`](Self::ALL).
    pub fn index(self) -> usize {
        Self::ALL.iter().position(|cause| *cause == self).unwrap_or(0)
    }
}

impl From<Cause> for Fault {
    fn from(cause: Cause) -> Self {
        Self::new(cause.code(), cause.text())
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}
