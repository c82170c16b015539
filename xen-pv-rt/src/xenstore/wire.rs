//! Messages: whole requests, what may be in them, error names.
//!
//! Xen: `public/io/xs_wire.h`, `docs/misc/xenstore.txt`.

use alloc::vec::Vec;

use ring::xenstore::{ABS_PATH_MAX, REL_PATH_MAX};
pub(super) use ring::xenstore::{HEADER_BYTES, Header, Kind, PAYLOAD_MAX};

use crate::hyp::XsError;

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
    message.extend_from_slice(&Header { kind, req_id, tx_id, len }.encode());
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
