//! Lists of child nodes, whole or in parts.
//!
//! Xen: `DIRECTORY` and `DIRECTORY_PART` in `docs/misc/xenstore.txt`.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use crate::hyp::XsError;

/// The longest list that is read, in bytes: 64 full replies.
const LIST_BYTES_MAX: usize = 64 * 4096;
/// How often a list may change while it is read.
const RESTARTS_MAX: u32 = 8;

/// Splits a list of names, each ended by a NUL.
///
/// # Errors
/// [`XsError::Malformed`] if the last NUL is missing, a name is empty, or one is not UTF-8.
pub(super) fn names(list: &[u8]) -> Result<Vec<String>, XsError> {
    let text = core::str::from_utf8(list).map_err(|_| XsError::Malformed)?;
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let text = text.strip_suffix('\0').ok_or(XsError::Malformed)?;
    let named = |name: &str| if name.is_empty() { Err(XsError::Malformed) } else { Ok(name.into()) };
    text.split('\0').map(named).collect()
}

/// What a part was.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// There is more, at [`Listing::offset`].
    More,
    /// The list is complete.
    Last,
}

/// A list that is being read in parts. It starts over when the node changes in between.
pub(super) struct Listing {
    generation: Option<Vec<u8>>,
    bytes: Vec<u8>,
    restarts: u32,
}

impl Listing {
    pub(super) fn new() -> Self {
        Self { generation: None, bytes: Vec::new(), restarts: 0 }
    }

    /// Where the next part starts, in bytes, as text.
    pub(super) fn offset(&self) -> String {
        format!("{}", self.bytes.len())
    }

    /// Adds the part that was asked for at [`offset`](Self::offset).
    ///
    /// # Errors
    /// [`XsError::Malformed`] if it is no part of a list, [`XsError::Again`] if the list keeps changing,
    /// [`XsError::TooBig`] if it has no end.
    pub(super) fn add(&mut self, reply: &[u8]) -> Result<Part, XsError> {
        let at = reply.iter().position(|byte| *byte == 0).ok_or(XsError::Malformed)?;
        let (generation, rest) = reply.split_at_checked(at).ok_or(XsError::Malformed)?;
        let children = rest.strip_prefix(b"\0").ok_or(XsError::Malformed)?;
        if self.generation.as_deref().is_some_and(|known| known != generation) {
            return self.start_over();
        }
        self.generation = Some(generation.into());
        // An empty name ends the list: two NULs, or one where a name should start.
        let last = children == b"\0" || children.ends_with(b"\0\0");
        let names = if last { children.strip_suffix(b"\0").unwrap_or(children) } else { children };
        if !last && !names.ends_with(b"\0") {
            return Err(XsError::Malformed);
        }
        if self.bytes.len().saturating_add(names.len()) > LIST_BYTES_MAX {
            return Err(XsError::TooBig);
        }
        self.bytes.extend_from_slice(names);
        Ok(if last { Part::Last } else { Part::More })
    }

    /// The names.
    pub(super) fn finish(self) -> Result<Vec<String>, XsError> {
        names(&self.bytes)
    }

    fn start_over(&mut self) -> Result<Part, XsError> {
        self.restarts = self.restarts.saturating_add(1);
        if self.restarts > RESTARTS_MAX {
            return Err(XsError::Again);
        }
        self.generation = None;
        self.bytes.clear();
        Ok(Part::More)
    }
}
