//! The one error type of the test bed: a sentence for the person who reads the test's output.

use std::fmt;

/// Why a step of the harness or a scenario failed, outermost cause first.
#[derive(Debug, Clone)]
pub struct Failure(String);

/// What every fallible step returns.
pub type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    /// Makes a failure out of one sentence.
    pub fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self(error.to_string())
    }
}

/// Says what was being done when something failed.
pub trait Doing<T> {
    /// Puts `what` before the cause.
    ///
    /// # Errors
    /// The cause, with `what` before it.
    fn doing(self, what: impl fmt::Display) -> Result<T>;
}

impl<T, E: fmt::Display> Doing<T> for std::result::Result<T, E> {
    fn doing(self, what: impl fmt::Display) -> Result<T> {
        self.map_err(|cause| Failure(format!("{what}: {cause}")))
    }
}

/// Fails with `message` unless `holds`.
///
/// # Errors
/// `message`, if the condition does not hold.
pub fn ensure(holds: bool, message: impl FnOnce() -> String) -> Result<()> {
    if holds { Ok(()) } else { Err(Failure(message())) }
}
