//! The frontend's end of a block ring of one or more pages.
//!
//! Xen: `public/io/ring.h`, `public/io/blkif.h`.

use crate::page::Page;

const REQ_PROD: usize = 0;
const REQ_EVENT: usize = 1;
const RSP_PROD: usize = 2;
const RSP_EVENT: usize = 3;
const HEADER_WORDS: usize = 16;
const PAGE_WORDS: usize = 1024;

pub(super) struct BlkRing {
    pub(super) pages: Vec<Page>,
    x86_32: bool,
    req_prod_pvt: u32,
    rsp_cons: u32,
    nr_ents: u32,
}

impl BlkRing {
    pub(super) fn new(x86_32: bool, order: u32) -> Self {
        let pages: Vec<_> = (0..1 << order).map(|_| Page::new()).collect();
        pages[0].set_word(REQ_EVENT, 1);
        pages[0].set_word(RSP_EVENT, 1);
        let slot_words = if x86_32 { 27 } else { 28 };
        let fit = u32::try_from((pages.len() * PAGE_WORDS - HEADER_WORDS) / slot_words).unwrap();
        Self { pages, x86_32, req_prod_pvt: 0, rsp_cons: 0, nr_ents: 1 << fit.ilog2() }
    }

    fn slot(&self, index: u32) -> usize {
        let words = if self.x86_32 { 27 } else { 28 };
        HEADER_WORDS + (index & (self.nr_ents - 1)) as usize * words
    }

    fn set(&self, word: usize, value: u32) {
        self.pages[word / PAGE_WORDS].set_word(word % PAGE_WORDS, value);
    }

    fn get(&self, word: usize) -> u32 {
        self.pages[word / PAGE_WORDS].word(word % PAGE_WORDS)
    }

    pub(super) fn free(&self) -> u32 {
        self.nr_ents - self.req_prod_pvt.wrapping_sub(self.rsp_cons)
    }

    /// Writes a request given in the 64-bit layout.
    pub(super) fn put(&mut self, words: [u32; 28]) {
        assert!(self.free() > 0, "the test puts more requests than the ring has slots");
        let at = self.slot(self.req_prod_pvt);
        let packed = words.iter().enumerate().filter(|(index, _)| !(self.x86_32 && *index == 1));
        for (at, (_, word)) in (at..).zip(packed) {
            self.set(at, *word);
        }
        self.req_prod_pvt = self.req_prod_pvt.wrapping_add(1);
    }

    /// Publishes requests. Returns whether the backend wants to be woken.
    pub(super) fn push(&mut self) -> bool {
        let (old, new) = (self.get(REQ_PROD), self.req_prod_pvt);
        self.set(REQ_PROD, new);
        new.wrapping_sub(self.get(REQ_EVENT)) < new.wrapping_sub(old)
    }

    /// The next response: id, operation, status. Checks the padding.
    pub(super) fn take(&mut self) -> Option<(u64, u8, i16)> {
        let published = self.get(RSP_PROD).wrapping_sub(self.rsp_cons);
        let owed = self.req_prod_pvt.wrapping_sub(self.rsp_cons);
        assert!(published <= owed, "the backend has published {published} responses to {owed} requests");
        if published == 0 {
            return None;
        }
        let at = self.slot(self.rsp_cons);
        self.rsp_cons = self.rsp_cons.wrapping_add(1);
        let [low, high, third] = [0, 1, 2].map(|word| self.get(at + word));
        assert_eq!(third & 0xff00, 0, "padding of a response is not zero (XSA-216)");
        assert!(self.x86_32 || self.get(at + 3) == 0, "padding of a response is not zero (XSA-216)");
        let status = (third >> 16) as u16;
        Some((u64::from(high) << 32 | u64::from(low), third as u8, status.cast_signed()))
    }

    pub(super) fn want_response_event(&self) {
        self.set(RSP_EVENT, self.rsp_cons.wrapping_add(1));
    }

    pub(super) fn set_req_prod(&self, value: u32) {
        self.set(REQ_PROD, value);
    }

    pub(super) fn req_prod(&self) -> u32 {
        self.get(REQ_PROD)
    }
}
