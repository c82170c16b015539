//! Grants: memory that one domain lets another copy or map.
//!
//! Copying is the data path: one hypercall for many operations on many peers, each with a status of its
//! own. Mapping is for pages that stay, such as rings.
//!
//! Xen: `public/grant_table.h`, version 1 layout.

use alloc::vec::Vec;
use core::fmt;
use core::ops::Deref;
use core::sync::atomic::AtomicU32;

use super::{Domid, GrantRef, Maddr};

/// Bytes in a page, and the most one grant reference covers.
pub const PAGE_SIZE: usize = 4096;

/// Why a grant operation failed. Xen: `GNTST_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GrantError {
    /// `GNTST_bad_domain`: no such domain.
    BadDomain,
    /// `GNTST_bad_gntref`: not a grant, or not one for us.
    BadGntref,
    /// `GNTST_bad_handle`: no such mapping.
    BadHandle,
    /// `GNTST_bad_virt_addr`, `GNTST_bad_dev_addr`: our own address was wrong.
    BadAddress,
    /// `GNTST_no_device_space`: the IOMMU has no room.
    NoDeviceSpace,
    /// `GNTST_permission_denied`: read-only grant, or revoked.
    PermissionDenied,
    /// `GNTST_bad_page`: the frame behind the grant is not usable.
    BadPage,
    /// `GNTST_bad_copy_arg`: a copy that crosses a page boundary.
    BadCopyArg,
    /// `GNTST_address_too_big`: the frame is beyond what the operation can express.
    AddressTooBig,
    /// `GNTST_eagain`: the frame is paged out, try again later.
    Again,
    /// `GNTST_no_space`, or no room of ours: grant table, maptrack or address space is full.
    NoSpace,
    /// `GNTST_general_error`, or the hypercall itself failed.
    General,
}

impl fmt::Display for GrantError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BadDomain => "no such domain",
            Self::BadGntref => "bad grant reference",
            Self::BadHandle => "bad grant handle",
            Self::BadAddress => "bad address in grant operation",
            Self::NoDeviceSpace => "no space left in the IOMMU",
            Self::PermissionDenied => "grant does not permit the access",
            Self::BadPage => "granted frame is not usable",
            Self::BadCopyArg => "grant copy crosses a page boundary",
            Self::AddressTooBig => "granted frame number too big",
            Self::Again => "granted frame is paged out",
            Self::NoSpace => "no space left for grants",
            Self::General => "grant operation failed",
        })
    }
}

/// What a mapping or a grant of ours allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reading and writing.
    ReadWrite,
    /// Reading only.
    ReadOnly,
}

/// A place in a page that a peer has granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerSpan {
    /// The granting domain.
    pub domid: Domid,
    /// Its grant.
    pub gref: GrantRef,
    /// Byte offset in the page; `offset + len` is at most [`PAGE_SIZE`], which the caller has checked.
    pub offset: u16,
}

/// Where a copy reads.
#[derive(Debug)]
pub enum CopySource<'a> {
    /// A peer's granted page.
    Peer(PeerSpan),
    /// Our memory: a slice within one page, as [`DmaBuf`](super::DmaBuf) lends it, of at least `len` bytes.
    Local(&'a [u8]),
}

/// Where a copy writes.
#[derive(Debug)]
pub enum CopyDest<'a> {
    /// A peer's granted page.
    Peer(PeerSpan),
    /// Our memory: a slice within one page, as [`DmaBuf`](super::DmaBuf) lends it, of at least `len` bytes.
    Local(&'a mut [u8]),
}

/// One operation of a copy batch. Xen: `struct gnttab_copy`.
#[derive(Debug)]
pub struct GrantCopy<'a, O = ()> {
    /// For the caller: what the copy is for.
    pub owner: O,
    /// Where the bytes come from.
    pub source: CopySource<'a>,
    /// Where they go to.
    pub dest: CopyDest<'a>,
    /// How many bytes, 1 to [`PAGE_SIZE`].
    pub len: u16,
    /// The outcome, set by [`Grants::copy`].
    pub status: Result<(), GrantError>,
}

impl<'a> GrantCopy<'a> {
    /// An operation not carried out yet.
    pub const fn new(source: CopySource<'a>, dest: CopyDest<'a>, len: u16) -> Self {
        Self::for_owner((), source, dest, len)
    }
}

impl<'a, O> GrantCopy<'a, O> {
    /// An operation for `owner`, not carried out yet.
    pub const fn for_owner(owner: O, source: CopySource<'a>, dest: CopyDest<'a>, len: u16) -> Self {
        Self { owner, source, dest, len, status: Err(GrantError::General) }
    }
}

/// A page of ours that a peer may use; the grant ends on drop.
pub trait SharedPage: Deref<Target = [AtomicU32]> {
    /// The reference to publish.
    fn gref(&self) -> GrantRef;
}

/// A page as it is shared with a peer: 1024 words that the other side writes at any time, so they are only
/// ever loaded and stored by value.
pub trait RingPage: Deref<Target = [AtomicU32]> + 'static {}
impl<T: Deref<Target = [AtomicU32]> + 'static> RingPage for T {}

/// Grant operations.
pub trait Grants {
    /// A mapped page of a peer; unmapped on drop.
    type Page: RingPage;
    /// A page of ours, granted to a peer.
    type Shared: SharedPage + 'static;

    /// Maps pages of `domid`, one hypercall for all, with an outcome for each.
    fn map(&self, domid: Domid, grefs: &[GrantRef], access: Access) -> Vec<Result<Self::Page, GrantError>>;

    /// Maps one page of `domid` for reading and writing.
    fn map_one(&self, domid: Domid, gref: GrantRef) -> Result<Self::Page, GrantError> {
        self.map(domid, &[gref], Access::ReadWrite).pop().unwrap_or(Err(GrantError::General))
    }

    /// Where a device of ours finds a mapped page, for as long as it is mapped.
    fn maddr(&self, page: &Self::Page) -> Maddr;

    /// Unmaps pages, one hypercall for all. Dropping them one by one does the same, slower.
    fn unmap(&self, pages: Vec<Self::Page>);

    /// Carries out a batch of copies and sets the status of each.
    ///
    /// The bytes have arrived when this returns. Never fails as a whole: if the hypercall did, every
    /// operation says so.
    fn copy<O>(&self, ops: &mut [GrantCopy<'_, O>]);

    /// Allocates a zeroed page and grants it to `domid`.
    fn share(&self, domid: Domid, access: Access) -> Result<Self::Shared, GrantError>;
}
