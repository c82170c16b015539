//! Why a request is answered with an error.

use super::Status;

/// What is wrong with a request. It costs the request; the device stays in service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlkReject {
    /// A number of segments that the operation does not take.
    Segs,
    /// A segment that starts after it ends, or ends after its page.
    Sect,
    /// Not within the disk.
    Range,
    /// Not a whole number of the disk's own sectors.
    Align,
    /// A change of a read-only disk.
    ReadOnly,
    /// An operation that does not exist or was not offered.
    Op,
}

impl BlkReject {
    /// The cause code of log lines.
    pub const fn code(self) -> &'static str {
        match self {
            Self::Segs => "SEGS",
            Self::Sect => "SECT",
            Self::Range => "RANGE",
            Self::Align => "ALIGN",
            Self::ReadOnly => "RO",
            Self::Op => "OP",
        }
    }

    /// How the request is answered.
    pub const fn status(self) -> Status {
        match self {
            Self::Op => Status::NotSupported,
            _ => Status::Error,
        }
    }
}

impl core::fmt::Display for BlkReject {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Segs => "impossible number of segments",
            Self::Sect => "segment crosses the end of its page",
            Self::Range => "beyond the end of the disk",
            Self::Align => "not aligned to the disk's sectors",
            Self::ReadOnly => "disk is read-only",
            Self::Op => "operation not supported",
        })
    }
}
