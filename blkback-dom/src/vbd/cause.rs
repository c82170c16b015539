//! Why a request was answered with an error, as counters and log lines name it.

use ring::blkif::{BlkReject, Status};
use xen_pv_rt::hyp::GrantError;
use xen_pv_rt::xenbus::backend::Fault;

use crate::disk::{DiskError, SubmitError};

macro_rules! causes {
    ($($name:ident, $code:literal, $text:literal;)*) => {
        /// A cause code.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Cause {
            $(#[doc = concat!("`", $code, "`: ", $text, ".")] $name,)*
        }

        impl Cause {
            /// All causes in order.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The code.
            pub const fn code(self) -> &'static str {
                match self {
                    $(Self::$name => $code,)*
                }
            }

            /// The code and what it means.
            pub const fn fault(self) -> Fault {
                match self {
                    $(Self::$name => Fault::new($code, $text),)*
                }
            }
        }
    };
}

causes! {
    Segs, "SEGS", "impossible number of segments";
    Sect, "SECT", "segment crosses the end of its page";
    Range, "RANGE", "beyond the end of the volume";
    Align, "ALIGN", "not aligned to the disk's sectors";
    ReadOnly, "RO", "write to a read-only volume";
    Op, "OP", "operation does not exist or was not offered";
    Grant, "GRANT", "grant copy failed";
    GrantSystem, "GRANT_SYS", "grant copy not carried out";
    DiskGone, "DISK_GONE", "disk is gone";
    Media, "MEDIA", "medium error";
    Timeout, "TIMEOUT", "disk did not answer in time";
    Reset, "RESET", "lost in a controller reset";
    Device, "DEVICE", "disk reported an error";
}

impl Cause {
    /// Number of causes.
    pub const COUNT: usize = Self::ALL.len();

    /// Position in [`ALL`](Self::ALL).
    pub fn index(self) -> usize {
        Self::ALL.iter().position(|cause| *cause == self).unwrap_or(0)
    }

    /// How a request is answered.
    pub(super) const fn status(self) -> Status {
        match self {
            Self::Op => Status::NotSupported,
            _ => Status::Error,
        }
    }
}

impl From<BlkReject> for Cause {
    fn from(reject: BlkReject) -> Self {
        match reject {
            BlkReject::Segs => Self::Segs,
            BlkReject::Sect => Self::Sect,
            BlkReject::Range => Self::Range,
            BlkReject::Align => Self::Align,
            BlkReject::ReadOnly => Self::ReadOnly,
            BlkReject::Op => Self::Op,
        }
    }
}

impl From<GrantError> for Cause {
    fn from(error: GrantError) -> Self {
        match error {
            // Xen's general error is the frontend's too: it is what writing through a read-only grant gets.
            GrantError::NoSpace | GrantError::Again | GrantError::BadAddress => Self::GrantSystem,
            _ => Self::Grant,
        }
    }
}

impl From<DiskError> for Cause {
    fn from(error: DiskError) -> Self {
        match error {
            DiskError::Gone => Self::DiskGone,
            DiskError::TimedOut => Self::Timeout,
            DiskError::Reset => Self::Reset,
            DiskError::Media => Self::Media,
            DiskError::OutOfRange => Self::Range,
            DiskError::ReadOnly => Self::ReadOnly,
            DiskError::Unsupported => Self::Op,
            DiskError::Device(_) => Self::Device,
        }
    }
}

impl From<SubmitError> for Cause {
    fn from(error: SubmitError) -> Self {
        match error {
            SubmitError::OutOfRange => Self::Range,
            SubmitError::Unaligned => Self::Align,
            SubmitError::ReadOnly => Self::ReadOnly,
            SubmitError::Unsupported => Self::Op,
            SubmitError::Gone => Self::DiskGone,
            SubmitError::Full | SubmitError::BadSpans | SubmitError::Layout => Self::Device,
        }
    }
}

/// Requests answered with an error, by cause. They wrap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorCounts([u64; Cause::COUNT]);

impl Default for ErrorCounts {
    fn default() -> Self {
        Self([0; Cause::COUNT])
    }
}

impl ErrorCounts {
    /// Requests answered with an error for `cause`.
    pub fn of(&self, cause: Cause) -> u64 {
        self.0.get(cause.index()).copied().unwrap_or(0)
    }

    /// Requests answered with an error.
    pub fn total(&self) -> u64 {
        self.0.iter().fold(0, |sum, count| sum.wrapping_add(*count))
    }

    pub(crate) fn add(&mut self, cause: Cause) {
        if let Some(count) = self.0.get_mut(cause.index()) {
            *count = count.wrapping_add(1);
        }
    }
}

/// Counters of a vbd since it connected. They wrap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VbdCounters {
    /// Reads answered with success.
    pub reads: u64,
    /// Writes answered with success.
    pub writes: u64,
    /// Flushes and barriers answered with success.
    pub flushes: u64,
    /// Discards answered with success.
    pub discards: u64,
    /// 512-byte sectors read.
    pub sectors_read: u64,
    /// 512-byte sectors written.
    pub sectors_written: u64,
    /// Requests answered with an error.
    pub errors: ErrorCounts,
    /// Notifications sent.
    pub notifications: u64,
    /// Notifications received, each queue's once for each time that the domain gets ready to sleep.
    pub events: u64,
    /// Pages of the frontend that are mapped now, beside its rings.
    pub pages_mapped: u64,
}
