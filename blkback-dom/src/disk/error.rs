//! What goes wrong with disks.

use core::fmt;

/// Why a command was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SubmitError {
    /// No room at the moment, or another change to the same sectors is in flight.
    Full,
    /// It starts, ends, or goes beyond the end of the disk.
    OutOfRange,
    /// It starts or ends within a logical sector.
    Unaligned,
    /// The spans break the rules of [`Span`](super::Span), or are more than [`Geometry`](super::Geometry) says.
    BadSpans,
    /// This controller cannot reach memory laid out like that. The same data in whole adjacent-in-order pages
    /// (each span a full page, except that the last may be shorter) is always possible.
    Layout,
    /// It changes a disk that is read-only.
    ReadOnly,
    /// The disk does not offer the operation.
    Unsupported,
    /// No such disk, or no longer, or the controller is out of service.
    Gone,
}

impl fmt::Display for SubmitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "queue is full",
            Self::OutOfRange => "beyond the end of the disk",
            Self::Unaligned => "not in whole logical sectors",
            Self::BadSpans => "impossible list of memory spans",
            Self::Layout => "memory layout that the controller cannot reach in one go",
            Self::ReadOnly => "disk is read-only",
            Self::Unsupported => "operation not offered by the disk",
            Self::Gone => "disk is gone",
        })
    }
}

/// Why a command failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskError {
    /// The disk or its controller is gone or out of service.
    Gone,
    /// The device did not finish in time and was made to give up.
    TimedOut,
    /// The controller was reset and did not come back.
    Reset,
    /// The medium could not be read or written.
    Media,
    /// Beyond the end of the disk as it is now.
    OutOfRange,
    /// The disk is write protected.
    ReadOnly,
    /// The device does not know the operation.
    Unsupported,
    /// Any other status of the device, as its interface numbers them.
    Device(u16),
}

impl fmt::Display for DiskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gone => f.write_str("disk is gone"),
            Self::TimedOut => f.write_str("timed out"),
            Self::Reset => f.write_str("lost in a controller reset"),
            Self::Media => f.write_str("medium error"),
            Self::OutOfRange => f.write_str("beyond the end of the disk"),
            Self::ReadOnly => f.write_str("disk is write protected"),
            Self::Unsupported => f.write_str("operation not known to the device"),
            Self::Device(status) => write!(f, "device status {status:#x}"),
        }
    }
}

/// Why a controller failed. A failed controller is out of service until its domain starts again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Registers read as all ones: the controller is gone.
    Gone,
    /// A wait for the controller passed its deadline: what was waited for.
    TimedOut(&'static str),
    /// The controller says or wrote something impossible: what it was.
    Confused(&'static str),
    /// The controller lacks something that the driver needs.
    Unsupported(&'static str),
    /// The controller refused a command that it has to know: which, and its status.
    Refused(&'static str, u16),
    /// The controller had to be reset again and again.
    Unstable,
    /// DMA memory could not be had.
    NoMemory,
}

impl Failure {
    /// What commands end with that were in flight when the controller failed.
    pub(crate) const fn of_commands(self) -> DiskError {
        match self {
            Self::Gone => DiskError::Gone,
            _ => DiskError::Reset,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gone => f.write_str("controller is gone: registers read as all ones"),
            Self::TimedOut(what) => write!(f, "timed out waiting for {what}"),
            Self::Confused(what) => write!(f, "controller reports an impossible {what}"),
            Self::Unsupported(what) => write!(f, "controller lacks {what}"),
            Self::Refused(what, status) => write!(f, "controller refused {what} with status {status:#x}"),
            Self::Unstable => f.write_str("controller needs one reset after the other"),
            Self::NoMemory => f.write_str("out of DMA memory (give the domain more with memory=)"),
        }
    }
}
