//! Typed access to xenstore keys.

use alloc::string::String;
use core::str::FromStr;

use crate::hyp::{Transaction, Xenstore, XsError};

/// How often a conflicting transaction is run before giving up.
const COMMIT_ATTEMPTS: usize = 10;

/// Reads a key as text.
///
/// # Errors
/// [`XsError::Malformed`] if it is not UTF-8, or what xenstored answered.
pub async fn read_text(xs: &impl Xenstore, path: &str) -> Result<String, XsError> {
    let value = xs.read(Transaction::NONE, path).await?;
    String::from_utf8(value).map_err(|_| XsError::Malformed)
}

/// Reads a key as a decimal number.
///
/// # Errors
/// [`XsError::Malformed`] if it is not a number that fits `T`, or what xenstored answered.
pub async fn read_number<T: FromStr>(xs: &impl Xenstore, path: &str) -> Result<T, XsError> {
    read_text(xs, path).await?.parse().map_err(|_| XsError::Malformed)
}

/// Reads a key as a decimal number, with a value for the case that it is missing.
///
/// # Errors
/// As [`read_number`], except for [`XsError::NoEntry`].
pub async fn read_number_or<T: FromStr>(xs: &impl Xenstore, path: &str, missing: T) -> Result<T, XsError> {
    match read_number(xs, path).await {
        Err(XsError::NoEntry) => Ok(missing),
        other => other,
    }
}

/// Writes several keys in one transaction, which is tried again a bounded number of times.
///
/// # Errors
/// [`XsError::Again`] if it never went through, or what xenstored answered.
pub async fn write_all(xs: &impl Xenstore, keys: &[(String, String)]) -> Result<(), XsError> {
    for _ in 0..COMMIT_ATTEMPTS {
        let t = xs.begin().await?;
        for (path, value) in keys {
            if let Err(error) = xs.write(t, path, value).await {
                // The first error is the one to report.
                let _ = xs.abort(t).await;
                return Err(error);
            }
        }
        match xs.commit(t).await {
            Err(XsError::Again) => {}
            other => return other,
        }
    }
    Err(XsError::Again)
}
