//! Identifiers that appear inside ring slots.

use core::fmt;

/// A grant reference (`grant_ref_t`): a domain's number for a page that it lets another domain use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GrantRef(u32);

impl GrantRef {
    /// Wraps the number the ABI uses.
    pub const fn from_raw(raw: u32) -> Self {
        Self(raw)
    }
    /// The number the ABI uses.
    pub const fn into_raw(self) -> u32 {
        self.0
    }
}

impl fmt::Display for GrantRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}
