//! Messages: header, types, limits, error names.
//!
//! Xen: `public/io/xs_wire.h`, `docs/misc/xenstore.txt`.

use alloc::vec::Vec;

use crate::hyp::XsError;

/// `XENSTORE_PAYLOAD_MAX`: the most bytes that may follow a header, in both directions. A client that sends
/// more loses its connection.
pub(super) const PAYLOAD_MAX: usize = 4096;
/// `XENSTORE_ABS_PATH_MAX`.
const ABS_PATH_MAX: usize = 3072;
/// `XENSTORE_REL_PATH_MAX`.
const REL_PATH_MAX: usize = 2048;
/// `sizeof(struct xsd_sockmsg)`.
pub(super) const HEADER_BYTES: usize = 16;

/// `enum xsd_sockmsg_type`. Unknown types are values like any other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kind(pub(super) u32);

impl Kind {
    pub(super) const DIRECTORY: Self = Self(1);
    pub(super) const READ: Self = Self(2);
    pub(super) const WATCH: Self = Self(4);
    pub(super) const UNWATCH: Self = Self(5);
    pub(super) const TRANSACTION_START: Self = Self(6);
    pub(super) const TRANSACTION_END: Self = Self(7);
    pub(super) const WRITE: Self = Self(11);
    pub(super) const RM: Self = Self(13);
    pub(super) const WATCH_EVENT: Self = Self(15);
    pub(super) const ERROR: Self = Self(16);
    pub(super) const RESET_WATCHES: Self = Self(21);
    pub(super) const DIRECTORY_PART: Self = Self(22);
    /// `XS_TYPE_COUNT` of Xen 4.21: the first number that no server sends.
    const COUNT: u32 = 27;
}

/// `struct xsd_sockmsg`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// What the message is.
    pub(super) kind: Kind,
    /// The request that a reply belongs to.
    pub(super) req_id: u32,
    /// The transaction, or 0.
    pub(super) tx_id: u32,
    /// Bytes that follow.
    pub(super) len: u32,
}

impl Header {
    pub(super) fn decode(bytes: [u8; HEADER_BYTES]) -> Self {
        let word = |at: usize| {
            let mut word = [0; 4];
            word.iter_mut().zip(bytes.iter().skip(at)).for_each(|(to, from)| *to = *from);
            u32::from_le_bytes(word)
        };
        Self { kind: Kind(word(0)), req_id: word(4), tx_id: word(8), len: word(12) }
    }

    /// The length of the body in bytes, or `None` for a header that no server sends: then the byte stream
    /// is not where we think it is.
    pub(super) fn body_bytes(&self) -> Option<usize> {
        let len = usize::try_from(self.len).ok()?;
        (len <= PAYLOAD_MAX && self.kind.0 < Kind::COUNT).then_some(len)
    }
}

/// A whole request, ready for the ring.
///
/// # Errors
/// [`XsError::TooBig`] if the body is more than [`PAYLOAD_MAX`] bytes.
pub(super) fn encode(kind: Kind, req_id: u32, tx_id: u32, body: &[&[u8]]) -> Result<Vec<u8>, XsError> {
    let bytes = body.iter().fold(0usize, |sum, part| sum.saturating_add(part.len()));
    let len = u32::try_from(bytes).map_err(|_| XsError::TooBig)?;
    if bytes > PAYLOAD_MAX {
        return Err(XsError::TooBig);
    }
    let mut message = Vec::with_capacity(HEADER_BYTES.saturating_add(bytes));
    for word in [kind.0, req_id, tx_id, len] {
        message.extend_from_slice(&word.to_le_bytes());
    }
    body.iter().for_each(|part| message.extend_from_slice(part));
    Ok(message)
}

/// Checks a path before it is sent. What remains is for xenstored to judge.
///
/// # Errors
/// [`XsError::Invalid`] if it is empty or contains a NUL, which would end it early; [`XsError::TooBig`] if
/// it is longer than xenstored takes.
pub(super) fn check_path(path: &str) -> Result<(), XsError> {
    if path.is_empty() || path.contains('\0') {
        return Err(XsError::Invalid);
    }
    let limit = if path.starts_with('/') { ABS_PATH_MAX } else { REL_PATH_MAX };
    if path.len() < limit { Ok(()) } else { Err(XsError::TooBig) }
}

/// The error that an `ERROR` reply names.
pub(super) fn error_named(body: &[u8]) -> XsError {
    match body.split(|byte| *byte == 0).next().unwrap_or_default() {
        b"ENOENT" => XsError::NoEntry,
        b"EACCES" | b"EPERM" | b"EROFS" => XsError::Denied,
        b"EINVAL" | b"EISDIR" => XsError::Invalid,
        b"EAGAIN" => XsError::Again,
        b"EEXIST" => XsError::Exists,
        b"ENOSPC" | b"EQUOTA" | b"EDQUOT" => XsError::Quota,
        b"E2BIG" => XsError::TooBig,
        b"EBUSY" => XsError::Busy,
        _ => XsError::Other,
    }
}
