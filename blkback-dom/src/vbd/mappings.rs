//! Pages of a frontend that stay mapped between requests: persistent grants.
//!
//! A frontend that knows of them uses the same grants again and again. Each is mapped when it is first seen, up to
//! a cap, and a disk then reads and writes the frontend's page itself: nothing is copied here. What is not mapped is
//! copied as ever, so no request depends on a mapping. A page that was not used for a while is unmapped, and all are
//! when the frontend disconnects, after the disks have let go of them.
//!
//! A mapping belongs to the frame that was granted when it was made. A frontend that puts another page behind the
//! same reference, or ends the grant, goes on being served with the old frame, which Xen keeps for it: it harms
//! its own data only.
//!
//! Xen: `public/io/blkif.h`, "feature-persistent".

use alloc::vec::Vec;
use core::time::Duration;

use xen_pv_rt::hyp::{Access, Domid, GrantError, GrantRef, Hypervisor, Instant, Maddr};

/// References that are mapped by one hypercall.
pub(super) const BATCH: usize = 64;
/// A page is unmapped when it was not used for that long.
const IDLE: Duration = Duration::from_secs(60);
/// How often idle pages are looked for.
const LOOK: Duration = Duration::from_secs(1);

/// References to be mapped.
pub(super) type Wanted = heapless::Vec<GrantRef, BATCH>;

struct Mapping<P> {
    gref: GrantRef,
    page: P,
    maddr: Maddr,
    /// Commands for disks that it is part of.
    users: u32,
    used: Instant,
}

/// The pages of one vbd.
pub(super) struct Mappings<H: Hypervisor> {
    /// Ordered by reference.
    entries: Vec<Mapping<H::Page>>,
    /// Most pages; 0 once a grant could not be mapped, so that it is not tried again and again.
    cap: usize,
    next_look: Instant,
}

impl<H: Hypervisor> Mappings<H> {
    /// Room for `cap` pages; 0 for a frontend that does not know of persistent grants.
    pub(super) fn new(cap: usize) -> Self {
        Self { entries: Vec::with_capacity(cap), cap, next_look: Instant::default() }
    }

    /// Whether anything is mapped, or may be.
    pub(super) fn is_used(&self) -> bool {
        self.cap > 0 || !self.entries.is_empty()
    }

    fn find(&self, gref: GrantRef) -> Result<usize, usize> {
        self.entries.binary_search_by_key(&gref, |entry| entry.gref)
    }

    /// Whether the grant is not mapped and there is room for it, `others` being about to be mapped too.
    pub(super) fn wants(&self, gref: GrantRef, others: &[GrantRef]) -> bool {
        let count = self.entries.len().saturating_add(others.len());
        count < self.cap && self.find(gref).is_err() && !others.contains(&gref)
    }

    /// How many are mapped.
    pub(super) fn count(&self) -> u64 {
        u64::try_from(self.entries.len()).unwrap_or(u64::MAX)
    }

    /// Maps pages, for reading and writing: any of them may be read into later.
    ///
    /// # Errors
    /// One of them cannot be mapped. No other page will be, until the frontend connects again.
    pub(super) fn map(
        &mut self,
        hyp: &H,
        frontend: Domid,
        wanted: &[GrantRef],
        now: Instant,
    ) -> Result<(), GrantError> {
        let mut outcome = Ok(());
        if wanted.is_empty() {
            return outcome;
        }
        for (gref, page) in wanted.iter().zip(hyp.map(frontend, wanted, Access::ReadWrite)) {
            match (page, self.find(*gref)) {
                (Ok(page), Err(place)) => {
                    let maddr = hyp.maddr(&page);
                    self.entries.insert(place, Mapping { gref: *gref, page, maddr, users: 0, used: now });
                }
                (Ok(_), Ok(_)) => {}
                // Copying it says what is wrong with it.
                (Err(error), _) => {
                    self.cap = 0;
                    outcome = Err(error);
                }
            }
        }
        outcome
    }

    /// Where a device finds the page of a grant, if it is mapped.
    pub(super) fn maddr(&self, gref: GrantRef) -> Option<Maddr> {
        self.entries.get(self.find(gref).ok()?).map(|entry| entry.maddr)
    }

    /// The page of a grant, if it is mapped.
    pub(super) fn page(&self, gref: GrantRef) -> Option<&H::Page> {
        self.entries.get(self.find(gref).ok()?).map(|entry| &entry.page)
    }

    /// Keeps a page until [`unpin`](Self::unpin).
    pub(super) fn pin(&mut self, gref: GrantRef) {
        if let Some(entry) = self.find(gref).ok().and_then(|place| self.entries.get_mut(place)) {
            entry.users = entry.users.saturating_add(1);
        }
    }

    /// A command that it was part of is over.
    pub(super) fn unpin(&mut self, gref: GrantRef, now: Instant) {
        if let Some(entry) = self.find(gref).ok().and_then(|place| self.entries.get_mut(place)) {
            entry.users = entry.users.saturating_sub(1);
            entry.used = now;
        }
    }

    /// Unmaps what was not used for a while.
    pub(super) fn release_idle(&mut self, hyp: &H, now: Instant) {
        if self.entries.is_empty() || now < self.next_look {
            return;
        }
        self.next_look = now.saturating_add(LOOK);
        let is_idle = |entry: &Mapping<H::Page>| entry.users == 0 && now.saturating_since(entry.used) >= IDLE;
        if !self.entries.iter().any(is_idle) {
            return;
        }
        let idle = self.entries.extract_if(.., |entry| is_idle(entry)).take(BATCH).map(|entry| entry.page).collect();
        hyp.unmap(idle);
    }

    /// All pages, to be unmapped.
    pub(super) fn into_pages(self) -> impl Iterator<Item = H::Page> {
        self.entries.into_iter().map(|entry| entry.page)
    }
}
