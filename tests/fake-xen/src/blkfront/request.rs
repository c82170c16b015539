//! Requests, honest and otherwise.

use xen_pv_rt::hyp::GrantRef;

use crate::page::Page;

/// A segment: page, first and last sector.
pub type BlkSegment = (GrantRef, u8, u8);

/// A request in the 64-bit layout, to be changed at will.
#[derive(Clone, Copy, Debug)]
pub struct BlkRequest([u32; 28]);

impl BlkRequest {
    /// A read (0), write (1) or barrier (2), or whatever `operation` is, with direct segments.
    pub fn direct(operation: u8, id: u64, sector: u64, segments: &[BlkSegment]) -> Self {
        let mut request = Self::new(operation, u16::try_from(segments.len()).unwrap(), id, sector);
        for (at, (gref, first, last)) in segments.iter().enumerate() {
            request.0[6 + at * 2] = gref.into_raw();
            request.0[7 + at * 2] = u32::from(*first) | u32::from(*last) << 8;
        }
        request
    }

    /// A flush.
    pub fn flush(id: u64) -> Self {
        Self::new(3, 0, id, 0)
    }

    /// A discard.
    pub fn discard(id: u64, sector: u64, sectors: u64) -> Self {
        Self::discard_with(0, id, sector, sectors)
    }

    /// A discard after which nothing can be read again (`BLKIF_DISCARD_SECURE`).
    pub fn secure_discard(id: u64, sector: u64, sectors: u64) -> Self {
        Self::discard_with(1, id, sector, sectors)
    }

    fn discard_with(flags: u16, id: u64, sector: u64, sectors: u64) -> Self {
        let mut request = Self::new(5, flags, id, sector);
        (request.0[6], request.0[7]) = (sectors as u32, (sectors >> 32) as u32);
        request
    }

    /// A read (0) or write (1) whose `count` segments are listed in the page behind `list`.
    pub fn indirect(operation: u8, id: u64, sector: u64, count: u16, list: GrantRef) -> Self {
        let mut request = Self::new(6, 0, id, sector);
        request.0[0] = 6 | u32::from(operation) << 8 | u32::from(count) << 16;
        request.0[7] = list.into_raw();
        request
    }

    /// Writes a list of segments for [`indirect`](Self::indirect).
    pub fn write_list(page: &Page, segments: &[BlkSegment]) {
        for (at, (gref, first, last)) in segments.iter().enumerate() {
            page.set_word(at * 2, gref.into_raw());
            page.set_word(at * 2 + 1, u32::from(*first) | u32::from(*last) << 8);
        }
    }

    fn new(operation: u8, segments: u16, id: u64, sector: u64) -> Self {
        let mut words = [0; 28];
        words[0] = u32::from(operation) | u32::from(segments as u8) << 8;
        (words[2], words[3]) = (id as u32, (id >> 32) as u32);
        (words[4], words[5]) = (sector as u32, (sector >> 32) as u32);
        Self(words)
    }

    /// A slot with these words in it, whatever they mean.
    pub fn from_words(words: [u32; 28]) -> Self {
        Self(words)
    }

    /// The same with another number of segments, which need not be there.
    #[must_use]
    pub fn with_segments(mut self, count: u8) -> Self {
        self.0[0] = self.0[0] & !0xff00 | u32::from(count) << 8;
        self
    }

    /// The same for another device (`handle`).
    #[must_use]
    pub fn with_handle(mut self, handle: u16) -> Self {
        self.0[0] = self.0[0] & 0xffff | u32::from(handle) << 16;
        self
    }

    /// The operation that its answer must name: of an indirect request the one inside, as Linux wants it.
    pub fn operation(&self) -> u8 {
        if self.0[0] as u8 == 6 { (self.0[0] >> 8) as u8 } else { self.0[0] as u8 }
    }

    /// The request's id.
    pub fn id(&self) -> u64 {
        u64::from(self.0[3]) << 32 | u64::from(self.0[2])
    }

    /// The words in the 64-bit layout.
    pub fn words(&self) -> [u32; 28] {
        self.0
    }
}
