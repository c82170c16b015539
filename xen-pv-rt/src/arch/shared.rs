//! The shared info page: event bits, time, the last faulting address.

use spin::Once;

use super::abi::{PAGE_SHIFT, SharedInfo, StartInfo};
use super::hypercall::Errno;
use super::paging;

/// A page of the image whose address the shared info page takes over.
#[repr(C, align(4096))]
struct Placeholder([u8; 4096]);
static PLACEHOLDER: Placeholder = Placeholder([1; 4096]);

static MAPPED: Once<&'static SharedInfo> = Once::new();

/// Maps the page. Called once, before anything else here.
pub(super) fn init(start: &StartInfo) -> Result<(), Errno> {
    let va = (&raw const PLACEHOLDER).expose_provenance();
    paging::set(va as u64, paging::entry(start.shared_info >> PAGE_SHIFT, paging::DATA))?;
    // SAFETY: the page is mapped for good, and every field is an atomic or never looked at.
    MAPPED.call_once(|| unsafe { &*core::ptr::with_exposed_provenance::<SharedInfo>(va) });
    Ok(())
}

/// The page.
pub(super) fn info() -> &'static SharedInfo {
    match MAPPED.get() {
        Some(info) => info,
        None => super::crash::fail("shared info used before it was mapped"),
    }
}
