//! Grant tables: what frontends grant to the driver domain, and what that does with it.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::ops::Range;
use std::rc::Rc;
use std::sync::atomic::AtomicU32;

use xen_pv_rt::hyp::{
    Access, CopyDest, CopySource, Domid, GrantCopy, GrantError, GrantRef, Grants as GrantOps, Lent, Maddr, PAGE_SIZE,
    PeerSpan, SharedPage,
};

use crate::faults::{CopyOp, consult};
use crate::machine::{FakeHyp, FakeXen, Machine};
use crate::page::Page;
use crate::toolstack::DeviceId;

/// References that a domain hands out start here, so that small numbers are never valid by accident.
const FIRST_GREF: u32 = 8;

struct Grant {
    page: Page,
    to: Domid,
    access: Access,
    /// The device it belongs to, for the rules about closing.
    device: Option<DeviceId>,
    mapped: u32,
    /// Byte ranges that grant copies have read and written.
    read: Vec<Range<usize>>,
    written: Vec<Range<usize>>,
    /// Its device is closed or its domain destroyed: nothing may hold it.
    over: bool,
}

#[derive(Default)]
pub(crate) struct Grants {
    tables: BTreeMap<Domid, BTreeMap<GrantRef, Grant>>,
    next: u32,
    /// Pages of the driver domain's that are shared with a peer.
    shared: BTreeMap<GrantRef, (Domid, Page)>,
}

impl Grants {
    pub(crate) fn add_domain(&mut self, domid: Domid) {
        self.tables.entry(domid).or_default();
    }

    fn fresh(&mut self) -> GrantRef {
        self.next += 1;
        GrantRef::from_raw(FIRST_GREF + self.next)
    }

    pub(crate) fn mapped(&self) -> usize {
        self.tables.values().flat_map(BTreeMap::values).map(|grant| grant.mapped as usize).sum()
    }

    pub(crate) fn mapped_of_closed(&self) -> Vec<(Domid, GrantRef)> {
        let all =
            self.tables.iter().flat_map(|(domid, table)| table.iter().map(move |(gref, grant)| (domid, gref, grant)));
        all.filter(|(_, _, grant)| grant.over && grant.mapped > 0).map(|(domid, gref, _)| (*domid, *gref)).collect()
    }

    /// Grants of a device that are mapped now.
    pub(crate) fn mapped_of(&self, device: &DeviceId) -> usize {
        let table = self.tables.get(&device.frontend);
        table
            .into_iter()
            .flat_map(BTreeMap::values)
            .filter(|grant| grant.device.as_ref() == Some(device) && grant.mapped > 0)
            .count()
    }

    /// The grants of a device, or of a whole domain, are to be held by nobody from now on.
    pub(crate) fn end(&mut self, frontend: Domid, device: Option<&DeviceId>) {
        for grant in self.tables.entry(frontend).or_default().values_mut() {
            if device.is_none() || grant.device.as_ref() == device {
                grant.over = true;
            }
        }
    }

    fn find(&mut self, us: Domid, domid: Domid, gref: GrantRef, access: Access) -> Result<&mut Grant, GrantError> {
        let table = self.tables.get_mut(&domid).ok_or(GrantError::BadDomain)?;
        let grant = table.get_mut(&gref).ok_or(GrantError::BadGntref)?;
        if grant.to != us || (access == Access::ReadWrite && grant.access == Access::ReadOnly) {
            return Err(GrantError::General);
        }
        Ok(grant)
    }

    /// Checks a span, notes the access and returns the page.
    fn span(&mut self, us: Domid, span: &PeerSpan, len: usize, access: Access) -> Result<Page, GrantError> {
        let start = usize::from(span.offset);
        assert!(start + len <= PAGE_SIZE, "rule 1: grant copy leaves the page: offset {start}, length {len}");
        let grant = self.find(us, span.domid, span.gref, access)?;
        let log = if access == Access::ReadOnly { &mut grant.read } else { &mut grant.written };
        log.push(start..start + len);
        Ok(grant.page.clone())
    }
}

impl FakeXen {
    /// Grants a page of `domid` to the driver domain.
    pub fn grant(&self, domid: Domid, page: &Page, access: Access) -> GrantRef {
        self.grant_to(domid, self.backend(), page, access, None)
    }

    /// Grants a page of `domid` to the driver domain on behalf of a device.
    pub fn grant_for(&self, device: DeviceId, page: &Page, access: Access) -> GrantRef {
        self.grant_to(device.frontend, self.backend(), page, access, Some(device))
    }

    /// Grants a page of `domid` to any domain.
    pub fn grant_to(&self, domid: Domid, to: Domid, page: &Page, access: Access, device: Option<DeviceId>) -> GrantRef {
        let mut grants = self.0.grants.borrow_mut();
        let gref = grants.fresh();
        let grant = Grant {
            page: page.clone(),
            to,
            access,
            device,
            mapped: 0,
            read: Vec::new(),
            written: Vec::new(),
            over: false,
        };
        grants.tables.entry(domid).or_default().insert(gref, grant);
        gref
    }

    /// Puts another page behind a grant, as a frontend can at any time: who has mapped it keeps the old page.
    pub fn replace(&self, domid: Domid, gref: GrantRef, page: &Page) {
        let mut grants = self.0.grants.borrow_mut();
        let grant = grants.tables.get_mut(&domid).and_then(|table| table.get_mut(&gref));
        grant.expect("a grant of that domain").page = page.clone();
    }

    /// Ends a grant. Returns whether it was mapped, in which case it stays: the frontend cannot have its page
    /// back.
    pub fn revoke(&self, domid: Domid, gref: GrantRef) -> bool {
        let mut grants = self.0.grants.borrow_mut();
        let Some(table) = grants.tables.get_mut(&domid) else { return false };
        if table.get(&gref).is_some_and(|grant| grant.mapped > 0) {
            return true;
        }
        table.remove(&gref);
        false
    }

    /// Byte ranges of a granted page that grant copies have read so far.
    pub fn copied_from(&self, domid: Domid, gref: GrantRef) -> Vec<Range<usize>> {
        self.0
            .grants
            .borrow()
            .tables
            .get(&domid)
            .and_then(|table| table.get(&gref))
            .map_or_else(Vec::new, |grant| grant.read.clone())
    }

    /// Byte ranges of a granted page that grant copies have written so far.
    pub fn copied_to(&self, domid: Domid, gref: GrantRef) -> Vec<Range<usize>> {
        self.0
            .grants
            .borrow()
            .tables
            .get(&domid)
            .and_then(|table| table.get(&gref))
            .map_or_else(Vec::new, |grant| grant.written.clone())
    }

    /// Maps a page that the driver domain shares with `domid`, as that domain would.
    pub fn map_shared(&self, domid: Domid, gref: GrantRef) -> Option<Page> {
        let grants = self.0.grants.borrow();
        grants.shared.get(&gref).filter(|(to, _)| *to == domid).map(|(_, page)| page.clone())
    }
}

/// A page of a peer's, mapped.
pub struct MappedPage {
    machine: Rc<Machine>,
    domid: Domid,
    gref: GrantRef,
    page: Page,
    /// Devices reach it while it is mapped.
    lent: Lent,
}

impl Deref for MappedPage {
    type Target = [AtomicU32];
    fn deref(&self) -> &[AtomicU32] {
        self.page.words()
    }
}

impl Drop for MappedPage {
    fn drop(&mut self) {
        let mut grants = self.machine.grants.borrow_mut();
        let grant = grants.tables.get_mut(&self.domid).and_then(|table| table.get_mut(&self.gref));
        match grant {
            Some(grant) if grant.mapped > 0 => grant.mapped -= 1,
            _ => {
                self.machine.break_rule(format!("rule 3: unmapped grant {} of domain {} twice", self.gref, self.domid))
            }
        }
    }
}

/// A page of the driver domain's, shared with a peer.
pub struct OwnPage {
    machine: Rc<Machine>,
    gref: GrantRef,
    page: Page,
}

impl Deref for OwnPage {
    type Target = [AtomicU32];
    fn deref(&self) -> &[AtomicU32] {
        self.page.words()
    }
}

impl SharedPage for OwnPage {
    fn gref(&self) -> GrantRef {
        self.gref
    }
}

impl Drop for OwnPage {
    fn drop(&mut self) {
        self.machine.grants.borrow_mut().shared.remove(&self.gref);
    }
}

impl GrantOps for FakeHyp {
    type Page = MappedPage;
    type Shared = OwnPage;

    fn map(&self, domid: Domid, grefs: &[GrantRef], access: Access) -> Vec<Result<MappedPage, GrantError>> {
        let map = |gref: &GrantRef| {
            if let Some(error) = consult(&self.0.faults, |faults| &mut faults.map, &(domid, *gref)) {
                return Err(error);
            }
            let mut grants = self.0.grants.borrow_mut();
            let grant = grants.find(self.0.backend, domid, *gref, access)?;
            grant.mapped += 1;
            let (page, lent) = (grant.page.clone(), self.0.memory.lend(grant.page.memory()));
            Ok(MappedPage { machine: self.0.clone(), domid, gref: *gref, page, lent })
        };
        grefs.iter().map(map).collect()
    }

    fn maddr(&self, page: &MappedPage) -> Maddr {
        page.lent.maddr()
    }

    fn unmap(&self, pages: Vec<MappedPage>) {
        drop(pages);
    }

    fn copy<O>(&self, ops: &mut [GrantCopy<'_, O>]) {
        for op in ops {
            op.status = self.copy_one(op.len, &op.source, &mut op.dest);
        }
    }

    fn share(&self, domid: Domid, _access: Access) -> Result<OwnPage, GrantError> {
        let mut grants = self.0.grants.borrow_mut();
        let (gref, page) = (grants.fresh(), Page::new());
        grants.shared.insert(gref, (domid, page.clone()));
        Ok(OwnPage { machine: self.0.clone(), gref, page })
    }
}

impl FakeHyp {
    fn copy_one(&self, len: u16, source: &CopySource<'_>, dest: &mut CopyDest<'_>) -> Result<(), GrantError> {
        let us = self.0.backend;
        let len_bytes = usize::from(len);
        assert!((1..=PAGE_SIZE).contains(&len_bytes), "rule 1: grant copy of {len_bytes} bytes");
        let operation = CopyOp {
            source: if let CopySource::Peer(span) = source { Some((span.domid, span.gref)) } else { None },
            dest: if let CopyDest::Peer(span) = dest { Some((span.domid, span.gref)) } else { None },
            len,
        };
        assert!(operation.source.is_some() || operation.dest.is_some(), "rule 1: grant copy within our own memory");
        let fault = consult(&self.0.faults, |faults| &mut faults.copy, &operation);
        let mut grants = self.0.grants.borrow_mut();
        let mut bytes = vec![0; len_bytes];
        match source {
            CopySource::Local(slice) => bytes.copy_from_slice(&local(slice, len_bytes)[..len_bytes]),
            CopySource::Peer(span) => {
                let page = grants.span(us, span, len_bytes, Access::ReadOnly)?;
                page.read(span.offset.into(), &mut bytes);
            }
        }
        if let Some(error) = fault {
            return Err(error);
        }
        match dest {
            CopyDest::Local(slice) => {
                local(slice, len_bytes);
                slice[..len_bytes].copy_from_slice(&bytes);
            }
            CopyDest::Peer(span) => {
                let page = grants.span(us, span, len_bytes, Access::ReadWrite)?;
                page.write(span.offset.into(), &bytes);
            }
        }
        Ok(())
    }
}

/// Checks that local memory can be named by one frame and an offset.
fn local(slice: &[u8], len: usize) -> &[u8] {
    assert!(slice.len() >= len, "rule 1: grant copy of {len} bytes with {} bytes of local memory", slice.len());
    let offset = slice.as_ptr().addr() % PAGE_SIZE;
    assert!(
        offset + len <= PAGE_SIZE,
        "rule 1: local memory of a grant copy crosses a page: offset {offset}, length {len}"
    );
    slice
}
