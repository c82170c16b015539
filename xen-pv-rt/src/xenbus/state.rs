//! The state of one end of a split device.

use core::fmt;

/// `enum xenbus_state`. What a peer writes may be anything, so parsing never fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum XenbusState {
    /// The node is missing or holds something that is no state.
    Unknown,
    /// 1: being set up.
    Initialising,
    /// 2: finished early initialisation, waiting for the peer or for hotplug.
    InitWait,
    /// 3: waiting for the peer to connect.
    Initialised,
    /// 4: in service.
    Connected,
    /// 5: being closed.
    Closing,
    /// 6: closed.
    Closed,
    /// 7: asks the peer to re-read the configuration.
    Reconfiguring,
    /// 8: the configuration was re-read.
    Reconfigured,
}

impl XenbusState {
    /// Reads what a `state` node holds.
    pub fn parse(value: &[u8]) -> Self {
        match value {
            b"1" => Self::Initialising,
            b"2" => Self::InitWait,
            b"3" => Self::Initialised,
            b"4" => Self::Connected,
            b"5" => Self::Closing,
            b"6" => Self::Closed,
            b"7" => Self::Reconfiguring,
            b"8" => Self::Reconfigured,
            _ => Self::Unknown,
        }
    }

    /// What to write into a `state` node.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "0",
            Self::Initialising => "1",
            Self::InitWait => "2",
            Self::Initialised => "3",
            Self::Connected => "4",
            Self::Closing => "5",
            Self::Closed => "6",
            Self::Reconfiguring => "7",
            Self::Reconfigured => "8",
        }
    }
}

impl fmt::Display for XenbusState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::XenbusState;

    #[test]
    fn every_state_reads_back() {
        for raw in b'1'..=b'8' {
            let state = XenbusState::parse(&[raw]);
            assert_ne!(state, XenbusState::Unknown);
            assert_eq!(state.as_str().as_bytes(), [raw]);
        }
    }

    #[test]
    fn anything_else_is_unknown() {
        for value in [&b""[..], b"0", b"9", b"44", b"-1", b"connected", b" 4", b"4\0", b"\xff"] {
            assert_eq!(XenbusState::parse(value), XenbusState::Unknown);
        }
    }
}
