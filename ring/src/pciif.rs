//! Requests to xen-pciback: one shared page, one request at a time. Not a ring.
//!
//! This is the frontend's half, which a driver domain plays towards Dom0. A request is written, then marked
//! active; the backend writes the answer over it and clears the mark. The backend may in turn ask for PCI
//! error recovery in a slot of its own; only declining is implemented.
//!
//! Protocol: `public/io/pciif.h`.

use core::fmt;
use core::ops::Deref;
use core::sync::atomic::{AtomicU32, Ordering};

/// What the frontend publishes as `magic`: the version of the layout (`XEN_PCI_MAGIC`).
pub const MAGIC: &str = "7";
/// Most MSI-X vectors of one request (`SH_INFO_MAX_VEC`).
pub const MAX_VECTORS: u16 = 128;

/// Word offsets in `struct xen_pci_sharedinfo`.
mod word {
    pub(super) const FLAGS: usize = 0;
    // struct xen_pci_op
    pub(super) const CMD: usize = 1;
    pub(super) const ERR: usize = 2;
    pub(super) const DOMAIN: usize = 3;
    pub(super) const BUS: usize = 4;
    pub(super) const DEVFN: usize = 5;
    pub(super) const OFFSET: usize = 6;
    pub(super) const SIZE: usize = 7;
    pub(super) const VALUE: usize = 8;
    pub(super) const INFO: usize = 9;
    /// `struct xen_msix_entry { u16 vector; u16 entry; }`, 128 of them.
    pub(super) const MSIX_ENTRIES: usize = 10;
    /// `err` of `struct xen_pcie_aer_op`.
    pub(super) const AER_ERR: usize = 139;
}

/// `XEN_PCIF_active`: a request of ours is under way.
const PCIF_ACTIVE: u32 = 1 << 0;
/// `XEN_PCIB_active`: a request of the backend's is under way.
const PCIB_ACTIVE: u32 = 1 << 2;
/// `PCI_ERS_RESULT_NONE`: no driver takes part in error recovery.
const AER_RESULT_NONE: u32 = 1;
/// What a vector is before the backend has filled it in.
const NO_VECTOR: u32 = 0xffff;

/// The function a request is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Function {
    /// PCI segment.
    pub domain: u32,
    /// Bus.
    pub bus: u32,
    /// Device in bits 7 to 3, function in bits 2 to 0.
    pub devfn: u32,
}

/// What is asked of the backend. Xen: `XEN_PCI_OP_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Command {
    ConfigRead,
    ConfigWrite,
    EnableMsi,
    DisableMsi,
    EnableMsix,
    DisableMsix,
}

impl Command {
    const fn into_raw(self) -> u32 {
        match self {
            Self::ConfigRead => 0,
            Self::ConfigWrite => 1,
            Self::EnableMsi => 2,
            Self::DisableMsi => 3,
            Self::EnableMsix => 4,
            Self::DisableMsix => 5,
        }
    }
}

/// A request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpRequest {
    command: Command,
    function: Function,
    offset: u16,
    size: u8,
    value: u32,
}

impl OpRequest {
    const fn new(command: Command, function: Function) -> Self {
        Self { command, function, offset: 0, size: 0, value: 0 }
    }
    /// Reads `size` bytes (1, 2 or 4) of configuration space at `offset`, which is a multiple of `size`.
    pub const fn config_read(function: Function, offset: u16, size: u8) -> Self {
        Self { offset, size, ..Self::new(Command::ConfigRead, function) }
    }
    /// Writes the lowest `size` bytes (1, 2 or 4) of `value` to configuration space at `offset`.
    pub const fn config_write(function: Function, offset: u16, size: u8, value: u32) -> Self {
        Self { offset, size, value, ..Self::new(Command::ConfigWrite, function) }
    }
    /// Enables one MSI; the answer's value is its pirq.
    pub const fn enable_msi(function: Function) -> Self {
        Self::new(Command::EnableMsi, function)
    }
    /// Disables MSI.
    pub const fn disable_msi(function: Function) -> Self {
        Self::new(Command::DisableMsi, function)
    }
    /// Enables MSI-X table entries 0 to `count - 1`, at most [`MAX_VECTORS`]; the answer has their pirqs.
    pub fn enable_msix(function: Function, count: u16) -> Self {
        Self { value: count.into(), ..Self::new(Command::EnableMsix, function) }
    }
    /// Disables MSI-X.
    pub const fn disable_msix(function: Function) -> Self {
        Self::new(Command::DisableMsix, function)
    }
}

/// Why the backend refused a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpError {
    /// `XEN_PCI_ERR_dev_not_found`: not a function of this domain.
    NotFound,
    /// `XEN_PCI_ERR_invalid_offset`.
    InvalidOffset,
    /// `XEN_PCI_ERR_access_denied`: not permitted for a domain.
    AccessDenied,
    /// `XEN_PCI_ERR_not_implemented`.
    NotImplemented,
    /// `XEN_PCI_ERR_op_failed`.
    Failed,
    /// Anything else: a negative errno of Dom0's kernel, usually.
    Other(i32),
}

impl OpError {
    const fn from_raw(raw: i32) -> Self {
        match raw {
            -1 => Self::NotFound,
            -2 => Self::InvalidOffset,
            -3 => Self::AccessDenied,
            -4 => Self::NotImplemented,
            -5 => Self::Failed,
            other => Self::Other(other),
        }
    }
}

impl fmt::Display for OpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound => f.write_str("no such function"),
            Self::InvalidOffset => f.write_str("invalid offset in configuration space"),
            Self::AccessDenied => f.write_str("access denied"),
            Self::NotImplemented => f.write_str("not implemented"),
            Self::Failed => f.write_str("operation failed"),
            Self::Other(raw) => write!(f, "error {raw}"),
        }
    }
}

/// The backend's answer, copied out of the page.
#[derive(Clone, Debug)]
pub struct OpReply {
    /// What was read from configuration space, or as the request says.
    pub value: u32,
    vectors: [u16; 128],
}

impl OpReply {
    /// The pirqs of the MSI-X table entries, as the backend gave them: 0 and 0xffff are none.
    pub fn vectors(&self) -> impl Iterator<Item = u16> {
        self.vectors.into_iter()
    }
}

/// The shared page.
pub struct SharedInfo<M>(M);

impl<M: Deref<Target = [AtomicU32]>> SharedInfo<M> {
    /// Wraps a page of zeros that the backend may read and write.
    pub const fn new(page: M) -> Self {
        Self(page)
    }

    fn store(&self, word: usize, value: u32) {
        if let Some(word) = self.0.get(word) {
            word.store(value, Ordering::Relaxed);
        }
    }
    fn load(&self, word: usize) -> u32 {
        self.0.get(word).map_or(0, |word| word.load(Ordering::Relaxed))
    }
    /// Acquire: what the backend wrote before it changed a flag is read after it.
    fn flags(&self) -> u32 {
        self.0.get(word::FLAGS).map_or(0, |word| word.load(Ordering::Acquire))
    }

    /// Hands a request to the backend, to be notified afterwards. `false`, with nothing done, if it has not
    /// answered the last one yet.
    #[must_use = "the backend may still be busy"]
    pub fn submit(&self, request: &OpRequest) -> bool {
        if self.flags() & PCIF_ACTIVE != 0 {
            return false;
        }
        self.store(word::CMD, request.command.into_raw());
        self.store(word::ERR, 0);
        self.store(word::DOMAIN, request.function.domain);
        self.store(word::BUS, request.function.bus);
        self.store(word::DEVFN, request.function.devfn);
        self.store(word::OFFSET, request.offset.into());
        self.store(word::SIZE, request.size.into());
        self.store(word::VALUE, request.value);
        self.store(word::INFO, 0);
        for (entry, word) in (0..u32::from(MAX_VECTORS)).zip(word::MSIX_ENTRIES..) {
            self.store(word, entry << 16 | NO_VECTOR);
        }
        // Release, `xen_wmb()`: the request is there before its mark. The backend changes other flags meanwhile.
        if let Some(flags) = self.0.get(word::FLAGS) {
            flags.fetch_or(PCIF_ACTIVE, Ordering::AcqRel);
        }
        true
    }

    /// The answer to the last request, or `None` if it is not there yet.
    pub fn take_reply(&self) -> Option<Result<OpReply, OpError>> {
        if self.flags() & PCIF_ACTIVE != 0 {
            return None;
        }
        let error = self.load(word::ERR).cast_signed();
        if error != 0 {
            return Some(Err(OpError::from_raw(error)));
        }
        let mut vectors = [0; 128];
        for (vector, word) in vectors.iter_mut().zip(word::MSIX_ENTRIES..) {
            let [low, high, ..] = self.load(word).to_le_bytes();
            *vector = u16::from_le_bytes([low, high]);
        }
        Some(Ok(OpReply { value: self.load(word::VALUE), vectors }))
    }

    /// Declines a request for error recovery. Whether there was one; the backend is then to be notified.
    #[must_use = "the backend waits for a notification"]
    pub fn decline_aer(&self) -> bool {
        if self.flags() & PCIB_ACTIVE == 0 {
            return false;
        }
        self.store(word::AER_ERR, AER_RESULT_NONE);
        if let Some(flags) = self.0.get(word::FLAGS) {
            flags.fetch_and(!PCIB_ACTIVE, Ordering::AcqRel);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::indexing_slicing, reason = "tests")]

    use super::*;
    use std::vec::Vec;

    const FUNCTION: Function = Function { domain: 1, bus: 2, devfn: 0x1f };

    fn page() -> SharedInfo<Vec<AtomicU32>> {
        SharedInfo::new((0..1024).map(|_| AtomicU32::new(0)).collect())
    }
    fn word(info: &SharedInfo<Vec<AtomicU32>>, index: usize) -> u32 {
        info.0[index].load(Ordering::Relaxed)
    }
    fn answer(info: &SharedInfo<Vec<AtomicU32>>, error: i32, value: u32) {
        info.0[2].store(error.cast_unsigned(), Ordering::Relaxed);
        info.0[8].store(value, Ordering::Relaxed);
        info.0[0].fetch_and(!1, Ordering::Release);
    }

    #[test]
    fn a_request_is_laid_out_as_the_header_says() {
        let info = page();
        assert!(info.submit(&OpRequest::config_write(FUNCTION, 0x10, 4, 0xffff_ffff)));
        let expected = [1, 1, 0, 1, 2, 0x1f, 0x10, 4, 0xffff_ffff, 0, 0xffff, 0x1_ffff];
        assert_eq!((0..expected.len()).map(|at| word(&info, at)).collect::<Vec<_>>(), expected);
        assert_eq!((word(&info, 137), word(&info, 138)), (127 << 16 | 0xffff, 0));
    }

    #[test]
    fn the_answer_comes_once_the_backend_clears_the_mark() {
        let info = page();
        assert!(info.submit(&OpRequest::config_read(FUNCTION, 0, 2)));
        assert!(info.take_reply().is_none());
        answer(&info, 0, 0x8086);
        assert_eq!(info.take_reply().and_then(Result::ok).map(|reply| reply.value), Some(0x8086));
    }

    #[test]
    fn a_second_request_is_not_written_over_one_that_is_under_way() {
        let info = page();
        assert!(info.submit(&OpRequest::config_read(FUNCTION, 0, 2)));
        assert!(!info.submit(&OpRequest::enable_msi(FUNCTION)));
        assert_eq!(word(&info, 1), 0);
    }

    #[test]
    fn every_error_is_an_answer() {
        for (raw, error) in
            [(-1, OpError::NotFound), (-5, OpError::Failed), (-114, OpError::Other(-114)), (7, OpError::Other(7))]
        {
            let info = page();
            assert!(info.submit(&OpRequest::enable_msix(FUNCTION, 3)));
            answer(&info, raw, 0);
            assert_eq!(info.take_reply().and_then(Result::err), Some(error));
        }
    }

    #[test]
    fn error_recovery_is_declined_without_touching_our_own_request() {
        let info = page();
        assert!(!info.decline_aer());
        assert!(info.submit(&OpRequest::config_read(FUNCTION, 0, 2)));
        info.0[0].fetch_or(PCIB_ACTIVE, Ordering::Relaxed);
        assert!(info.decline_aer());
        assert_eq!((word(&info, 0), word(&info, 139)), (PCIF_ACTIVE, 1));
    }
}
