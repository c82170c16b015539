//! Status of completed commands. NVM Express Base 1.4, section 4.6.1.

use crate::disk::DiskError;

/// A status field: code in bits 7 to 0, type in 10 to 8, "more" in 13, "do not retry" in 14.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Status(u16);

/// Do not retry.
const DNR: u16 = 1 << 14;
/// Code and type.
const KIND: u16 = 0x7ff;

/// Codes with their types.
mod kind {
    pub(super) const INVALID_OPCODE: u16 = 0x001;
    pub(super) const ABORT_REQUESTED: u16 = 0x007;
    pub(super) const ABORTED_SQ_DELETION: u16 = 0x008;
    pub(super) const INVALID_NAMESPACE: u16 = 0x00b;
    pub(super) const WRITE_PROTECTED: u16 = 0x020;
    pub(super) const LBA_OUT_OF_RANGE: u16 = 0x080;
    pub(super) const READ_ONLY_RANGE: u16 = 0x182;
    /// Media and data integrity errors are all of this type.
    pub(super) const MEDIA: u16 = 0x200;
    pub(super) const TYPE: u16 = 0x700;
}

impl Status {
    pub(super) const fn new(field: u16) -> Self {
        Self(field)
    }
    pub(super) const fn is_success(self) -> bool {
        self.0 & KIND == 0
    }
    /// Code and type, as a number for people.
    pub(super) const fn kind(self) -> u16 {
        self.0 & KIND
    }
    /// Whether the command may succeed if it is repeated.
    pub(super) const fn may_retry(self) -> bool {
        // A command that we made the controller give up is not repeated.
        !self.is_success()
            && self.0 & DNR == 0
            && !matches!(self.kind(), kind::ABORT_REQUESTED | kind::INVALID_NAMESPACE)
    }
    /// What it means to whoever wanted the command.
    pub(super) const fn error(self) -> DiskError {
        match self.kind() {
            kind::INVALID_OPCODE => DiskError::Unsupported,
            kind::ABORT_REQUESTED | kind::ABORTED_SQ_DELETION => DiskError::TimedOut,
            kind::INVALID_NAMESPACE => DiskError::Gone,
            kind::LBA_OUT_OF_RANGE => DiskError::OutOfRange,
            kind::WRITE_PROTECTED | kind::READ_ONLY_RANGE => DiskError::ReadOnly,
            kind if kind & kind::TYPE == kind::MEDIA => DiskError::Media,
            kind => DiskError::Device(kind),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_map_to_honest_errors() {
        for (field, error) in [
            (0x001, DiskError::Unsupported),
            (0x007, DiskError::TimedOut),
            (0x00b, DiskError::Gone),
            (0x020, DiskError::ReadOnly),
            (0x080, DiskError::OutOfRange),
            (0x082, DiskError::Device(0x082)),
            (0x182, DiskError::ReadOnly),
            (0x280, DiskError::Media),
            (0x281, DiskError::Media),
            (0x4281, DiskError::Media),
            (0x7ff, DiskError::Device(0x7ff)),
        ] {
            assert!(!Status::new(field).is_success(), "{field:#x}");
            assert_eq!(Status::new(field).error(), error, "{field:#x}");
        }
        assert!(Status::new(0).is_success());
    }

    #[test]
    fn only_what_may_help_is_retried() {
        for (field, retry) in
            [(0, false), (0x281, true), (0x4281, false), (0x082, true), (0x007, false), (0x00b, false)]
        {
            assert_eq!(Status::new(field).may_retry(), retry, "{field:#x}");
        }
    }
}
