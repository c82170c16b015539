//! Grant table operations, version 1.
//!
//! Xen: `public/grant_table.h`.

use alloc::vec::Vec;
use core::fmt;
use core::ops::Deref;
use core::sync::atomic::{AtomicU16, AtomicU32, Ordering};

use spin::mutex::SpinMutex;

use crate::hyp::{
    Access, COPY_BATCH, CopyDest, CopySource, Domid, GrantCopy, GrantError, GrantRef, Grants, Maddr, PAGE_SIZE,
    SharedPage,
};

use super::abi::{DOMID_SELF, gnttab, nr};
use super::hypercall;
use super::memory::{self, Memory};
use super::{Xen, paging};

fn outcome(status: i16) -> Result<(), GrantError> {
    Err(match status {
        0 => return Ok(()),
        -2 => GrantError::BadDomain,
        -3 => GrantError::BadGntref,
        -4 => GrantError::BadHandle,
        -5 | -6 => GrantError::BadAddress,
        -7 => GrantError::NoDeviceSpace,
        -8 => GrantError::PermissionDenied,
        -9 => GrantError::BadPage,
        -10 => GrantError::BadCopyArg,
        -11 => GrantError::AddressTooBig,
        -12 => GrantError::Again,
        -13 => GrantError::NoSpace,
        _ => GrantError::General,
    })
}

/// A page of another domain, mapped into a window; unmapped on drop.
pub struct MappedPage {
    va: u64,
    handle: u32,
    maddr: Maddr,
}

impl Deref for MappedPage {
    type Target = [AtomicU32];

    fn deref(&self) -> &[AtomicU32] {
        // SAFETY: 1. `va` is a window of one page, mapped readable by `GNTTABOP_map_grant_ref`, and writable
        // unless the caller asked for a read-only mapping, which it then must not store to. 2. The mapping lasts
        // until `Drop`. 3. The peer writes the page at any time: it is only ever seen as atomic words.
        unsafe { core::slice::from_raw_parts(core::ptr::with_exposed_provenance(self.va as usize), PAGE_SIZE / 4) }
    }
}

impl fmt::Debug for MappedPage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MappedPage({:#x}, handle {})", self.va, self.handle)
    }
}

impl Drop for MappedPage {
    fn drop(&mut self) {
        unmap(&[(self.va, self.handle)]);
    }
}

/// Unmaps windows and gives back those that are really empty.
fn unmap(mappings: &[(u64, u32)]) {
    for chunk in mappings.chunks(BATCH) {
        let mut ops: heapless::Vec<gnttab::Unmap, BATCH> = chunk
            .iter()
            .map(|&(host_addr, handle)| gnttab::Unmap { host_addr, dev_bus_addr: 0, handle, status: -1 })
            .collect();
        // SAFETY: the owners of these mappings are gone, so nobody refers to the windows.
        let called = unsafe { hypercall::op_array(nr::GRANT_TABLE_OP, gnttab::UNMAP_GRANT_REF, &mut ops) };
        for op in &ops {
            // A window that is still mapped must not be used again.
            if called.is_ok() && op.status == 0 {
                memory::with(|m| m.free_window(op.host_addr));
            } else {
                log::error!("grant handle {} did not unmap: status {}", op.handle, op.status);
            }
        }
    }
}

/// Operations per hypercall.
const BATCH: usize = COPY_BATCH;

impl Grants for Xen {
    type Page = MappedPage;
    type Shared = GrantedPage;

    fn map(&self, domid: Domid, grefs: &[GrantRef], access: Access) -> Vec<Result<MappedPage, GrantError>> {
        let mut pages = Vec::with_capacity(grefs.len());
        for chunk in grefs.chunks(BATCH) {
            map_chunk(domid, chunk, access, &mut pages);
        }
        pages
    }

    fn maddr(&self, page: &MappedPage) -> Maddr {
        page.maddr
    }

    fn unmap(&self, pages: Vec<MappedPage>) {
        let mappings: Vec<_> = pages.iter().map(|page| (page.va, page.handle)).collect();
        pages.into_iter().for_each(core::mem::forget);
        unmap(&mappings);
    }

    fn copy<O>(&self, ops: &mut [GrantCopy<'_, O>]) {
        for chunk in ops.chunks_mut(BATCH) {
            copy_chunk(chunk);
        }
    }

    fn share(&self, domid: Domid, access: Access) -> Result<GrantedPage, GrantError> {
        GrantedPage::new(domid, access)
    }
}

fn map_chunk(domid: Domid, grefs: &[GrantRef], access: Access, pages: &mut Vec<Result<MappedPage, GrantError>>) {
    let flags = gnttab::MAP_HOST | if access == Access::ReadOnly { gnttab::MAP_READONLY } else { 0 };
    let mut ops: heapless::Vec<gnttab::Map, BATCH> = heapless::Vec::new();
    for gref in grefs {
        // Without address space the operation fails in Xen, with a status like any other failure.
        let host_addr = memory::with(Memory::take_window).and_then(Result::ok).unwrap_or(0);
        let op = gnttab::Map {
            host_addr,
            flags,
            gref: gref.into_raw(),
            dom: domid.into_raw(),
            status: -1,
            handle: 0,
            dev_bus_addr: 0,
        };
        let _ = ops.push(op);
    }
    // SAFETY: each window is unused address space with page tables in place; nothing else is touched.
    let called = unsafe { hypercall::op_array(nr::GRANT_TABLE_OP, gnttab::MAP_GRANT_REF, &mut ops) };
    for op in ops {
        let status = if called.is_err() { Err(GrantError::General) } else { outcome(op.status) };
        pages.push(match status {
            // With an IOMMU, Xen has entered the frame there too: a PV domain's devices see machine addresses.
            Ok(()) => Ok(MappedPage { va: op.host_addr, handle: op.handle, maddr: Maddr::from_raw(op.dev_bus_addr) }),
            Err(error) => {
                if op.host_addr != 0 {
                    memory::with(|m| m.free_window(op.host_addr));
                }
                Err(error)
            }
        });
    }
}

/// The machine frame and offset of a slice of ours, if it lies within one page of the linear map.
fn local(memory: &Memory, start: *const u8, available: usize, len: u16) -> Option<(u64, u16)> {
    let va = start.addr() as u64;
    let offset = va % PAGE_SIZE as u64;
    let mfn = memory.mfn_at(va);
    let fits = usize::from(len) <= available && offset + u64::from(len) <= PAGE_SIZE as u64;
    (fits && mfn != 0).then_some((mfn, offset as u16))
}

fn copy_op<O>(memory: &Memory, op: &mut GrantCopy<'_, O>) -> Option<gnttab::Copy> {
    let mut flags = 0;
    let mut end = |peer: Option<(Domid, GrantRef, u16)>, own: Option<(u64, u16)>, flag: u16| match (peer, own) {
        (Some((domid, gref, offset)), _) => {
            flags |= flag;
            Some(gnttab::CopyPtr { u: u64::from(gref.into_raw()), domid: domid.into_raw(), offset })
        }
        (None, Some((mfn, offset))) => Some(gnttab::CopyPtr { u: mfn, domid: DOMID_SELF, offset }),
        (None, None) => None,
    };
    let source = match &op.source {
        CopySource::Peer(span) => end(Some((span.domid, span.gref, span.offset)), None, gnttab::COPY_SOURCE_GREF),
        CopySource::Local(bytes) => end(None, local(memory, bytes.as_ptr(), bytes.len(), op.len), 0),
    }?;
    let dest = match &mut op.dest {
        CopyDest::Peer(span) => end(Some((span.domid, span.gref, span.offset)), None, gnttab::COPY_DEST_GREF),
        CopyDest::Local(bytes) => end(None, local(memory, bytes.as_mut_ptr(), bytes.len(), op.len), 0),
    }?;
    Some(gnttab::Copy { source, dest, len: op.len, flags, status: -1 })
}

fn copy_chunk<O>(ops: &mut [GrantCopy<'_, O>]) {
    let mut batch: heapless::Vec<gnttab::Copy, BATCH> = heapless::Vec::new();
    memory::with(|memory| {
        for op in ops.iter_mut() {
            op.status = Err(GrantError::BadCopyArg);
            if let Some(raw) = copy_op(memory, op) {
                // Provisional: says which operations are in the batch.
                op.status = Ok(());
                let _ = batch.push(raw);
            }
        }
    });
    // SAFETY: local destinations are exclusively borrowed by `ops` and at least `len` long, local sources are
    // borrowed; Xen checks the peers' side.
    let called = unsafe { hypercall::op_array(nr::GRANT_TABLE_OP, gnttab::COPY, &mut batch) };
    for (op, raw) in ops.iter_mut().filter(|op| op.status.is_ok()).zip(&batch) {
        op.status = if called.is_err() { Err(GrantError::General) } else { outcome(raw.status) };
    }
}

/// Our own grant table: one frame of version 1 entries is enough, because only rings of ours are granted.
struct Table {
    entries: &'static [[AtomicU32; 2]],
    free: Vec<u32>,
}

/// The first entries are reserved for the toolstack.
const RESERVED: u32 = 8;
const ENTRIES: u32 = 512;

static TABLE: SpinMutex<Option<Table>> = SpinMutex::new(None);

/// Maps the grant table. Called once, when memory is up.
pub(super) fn init() -> Result<(), &'static str> {
    let mut frame = 0_u64;
    let mut arg = gnttab::SetupTable { dom: DOMID_SELF, nr_frames: 1, status: -1, frame_list: &raw mut frame };
    // SAFETY: `frame_list` has room for the one frame that is asked for.
    let called =
        unsafe { hypercall::op_array(nr::GRANT_TABLE_OP, gnttab::SETUP_TABLE, core::slice::from_mut(&mut arg)) };
    if called.is_err() || arg.status != 0 {
        return Err("Xen refused to set up the grant table");
    }
    let va = memory::with(Memory::take_window).and_then(Result::ok).ok_or("no window for the grant table")?;
    paging::set(va, paging::entry(frame, paging::DATA)).map_err(|_| "cannot map the grant table")?;
    // SAFETY: the window is mapped for good; entries are two words each, changed by Xen at any time, hence atomic.
    let entries =
        unsafe { core::slice::from_raw_parts(core::ptr::with_exposed_provenance(va as usize), ENTRIES as usize) };
    *TABLE.lock() = Some(Table { entries, free: (RESERVED..ENTRIES).rev().collect() });
    Ok(())
}

/// A page of ours that a peer may map; the grant ends on drop.
#[derive(Debug)]
pub struct GrantedPage {
    va: u64,
    gref: u32,
}

impl GrantedPage {
    fn new(domid: Domid, access: Access) -> Result<Self, GrantError> {
        let mut table = TABLE.lock();
        let table = table.as_mut().ok_or(GrantError::NoSpace)?;
        let gref = table.free.pop().ok_or(GrantError::NoSpace)?;
        let Some((va, mfn)) = memory::with(|m| m.take_page().map(|va| (va, m.mfn_at(va)))).flatten() else {
            table.free.push(gref);
            return Err(GrantError::NoSpace);
        };
        let [head, frame] = &table.entries[gref as usize];
        frame.store(u32::try_from(mfn).map_err(|_| GrantError::AddressTooBig)?, Ordering::Relaxed);
        let flags = gnttab::PERMIT_ACCESS | if access == Access::ReadOnly { gnttab::READONLY } else { 0 };
        // The flags make the entry valid, so they come last.
        head.store(u32::from(domid.into_raw()) << 16 | u32::from(flags), Ordering::Release);
        Ok(Self { va, gref })
    }
}

impl Deref for GrantedPage {
    type Target = [AtomicU32];

    fn deref(&self) -> &[AtomicU32] {
        // SAFETY: a page of ours in the linear map, kept until `Drop`; the peer writes it too, hence atomic words.
        unsafe { core::slice::from_raw_parts(core::ptr::with_exposed_provenance(self.va as usize), PAGE_SIZE / 4) }
    }
}

impl SharedPage for GrantedPage {
    fn gref(&self) -> GrantRef {
        GrantRef::from_raw(self.gref)
    }
}

impl Drop for GrantedPage {
    fn drop(&mut self) {
        let mut table = TABLE.lock();
        let Some(table) = table.as_mut() else { return };
        let [head, _] = &table.entries[self.gref as usize];
        // Xen updates the flags, the low half of the word, concurrently: take access away only if it is unused.
        // SAFETY: the low half of an aligned atomic word is an aligned atomic half word.
        let flags = unsafe { AtomicU16::from_ptr(head.as_ptr().cast::<u16>()) };
        let seen = flags.load(Ordering::Relaxed);
        if seen & gnttab::IN_USE != 0 || flags.compare_exchange(seen, 0, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            // The peer still has it mapped: the page can never be reused.
            log::warn!("grant {} is still mapped by its peer; the page is lost", self.gref);
            return;
        }
        table.free.push(self.gref);
        memory::with(|m| m.free_page(self.va));
    }
}
