//! Data that a disk reads and writes where the frontend has it, in pages that stay mapped.

use xen_pv_rt::hyp::{GrantRef, Hypervisor, Maddr, PAGE_SIZE};

use super::device::Vbd;
use super::work::{PART_PAGES, Part};
use crate::disk::{SECTOR_BYTES, Span};

/// Pages of a frontend, and what of each.
pub(super) type InPlace = heapless::Vec<(GrantRef, Span), PART_PAGES>;

impl<H: Hypervisor> Vbd<H> {
    /// The next of a request's data where the frontend has it, at most `sectors` and `most` pages, and how many
    /// sectors that is. `None` if it is to be copied: not all of it is mapped, or it is in pieces of pages, for which
    /// not every controller has a description.
    pub(super) fn in_place(&self, index: u16, sectors: u64, most: usize) -> Option<(InPlace, u64)> {
        if !self.mappings.is_used() {
            return None;
        }
        let mut left = u32::try_from(sectors).unwrap_or(u32::MAX).saturating_mul(SECTOR_BYTES);
        let work = self.work(index)?;
        let mut spans = InPlace::new();
        let mut at = work.at;
        while left > 0 && spans.len() < most {
            let segment = work.segments.get(at.segment)?;
            let offset = segment.offset().saturating_add(at.byte);
            let len = u32::from(segment.len_bytes().saturating_sub(at.byte)).min(left);
            let page = self.mappings.maddr(segment.gref())?.into_raw();
            let maddr = Maddr::from_raw(page.checked_add(offset.into())?);
            spans.push((segment.gref(), Span { maddr, len })).ok()?;
            left = left.saturating_sub(len);
            at = at.advance(&work.segments, len);
        }
        let bytes = spans.iter().fold(0_u64, |sum, (_, span)| sum.saturating_add(span.len.into()));
        let sectors = bytes.checked_div(SECTOR_BYTES.into())?;
        is_whole_pages(&spans).then_some((spans, sectors))
    }

    /// Fills a part with pages of the frontend, which stay mapped until it is back.
    pub(super) fn pin_spans(&mut self, part: &mut Part, spans: &InPlace) {
        for (gref, span) in spans {
            self.mappings.pin(*gref);
            // As many as there is room for in a part.
            let _ = part.pins.push(*gref);
            let _ = part.spans.push(*span);
        }
    }
}

/// Whether it is one span within a page, or whole pages of which the last may be short.
fn is_whole_pages(spans: &InPlace) -> bool {
    let page = u64::try_from(PAGE_SIZE).unwrap_or(u64::MAX);
    let starts = |span: &Span| span.maddr.into_raw().checked_rem(page) == Some(0);
    let fills = |span: &Span| u64::from(span.len) == page;
    match spans.as_slice() {
        [] => false,
        [_] => true,
        [all @ .., last] => starts(&last.1) && all.iter().all(|(_, span)| starts(span) && fills(span)),
    }
}
