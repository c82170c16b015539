//! The frontend's end of a shared ring, with a setter for everything.
//!
//! Xen: `public/io/ring.h`.

use crate::page::Page;

const REQ_PROD: usize = 0;
const REQ_EVENT: usize = 1;
const RSP_PROD: usize = 2;
const RSP_EVENT: usize = 3;
const HEADER_WORDS: usize = 16;

/// A ring of slots of `WORDS` words.
pub(super) struct FrontRing<const WORDS: usize> {
    pub(super) page: Page,
    pub(super) req_prod_pvt: u32,
    pub(super) rsp_cons: u32,
    nr_ents: u32,
}

impl<const WORDS: usize> FrontRing<WORDS> {
    /// A fresh ring whose indices start at `start`.
    pub(super) fn new(start: u32) -> Self {
        let page = Page::new();
        page.set_word(REQ_PROD, start);
        page.set_word(RSP_PROD, start);
        page.set_word(REQ_EVENT, start.wrapping_add(1));
        page.set_word(RSP_EVENT, start.wrapping_add(1));
        let fit = u32::try_from((1024 - HEADER_WORDS) / WORDS).unwrap();
        Self { page, req_prod_pvt: start, rsp_cons: start, nr_ents: 1 << fit.ilog2() }
    }

    fn slot(&self, index: u32) -> usize {
        HEADER_WORDS + (index & (self.nr_ents - 1)) as usize * WORDS
    }

    /// Requests that still fit.
    pub(super) fn free(&self) -> u32 {
        self.nr_ents - self.req_prod_pvt.wrapping_sub(self.rsp_cons)
    }

    /// Writes a request, published with [`push`](Self::push).
    pub(super) fn put(&mut self, words: [u32; WORDS]) {
        let at = self.slot(self.req_prod_pvt);
        for (at, word) in (at..).zip(words) {
            self.page.set_word(at, word);
        }
        self.req_prod_pvt = self.req_prod_pvt.wrapping_add(1);
    }

    /// Publishes what was put. Whether the backend is to be notified.
    pub(super) fn push(&mut self) -> bool {
        let old = self.page.word(REQ_PROD);
        let new = self.req_prod_pvt;
        self.page.set_word(REQ_PROD, new);
        new.wrapping_sub(self.page.word(REQ_EVENT)) < new.wrapping_sub(old)
    }

    /// The next response, as far as the backend has published any.
    pub(super) fn take(&mut self) -> Option<[u32; WORDS]> {
        let published = self.page.word(RSP_PROD).wrapping_sub(self.rsp_cons);
        let owed = self.req_prod_pvt.wrapping_sub(self.rsp_cons);
        assert!(published <= owed, "the backend has published {published} responses to {owed} requests");
        if published == 0 {
            return None;
        }
        let at = self.slot(self.rsp_cons);
        self.rsp_cons = self.rsp_cons.wrapping_add(1);
        Some(std::array::from_fn(|word| self.page.word(at + word)))
    }

    /// Takes every response that there may be, unseen.
    pub(super) fn forget(&mut self) {
        self.rsp_cons = self.page.word(RSP_PROD);
        self.want_response_event();
    }

    /// Asks for a notification with the next response.
    pub(super) fn want_response_event(&self) {
        self.page.set_word(RSP_EVENT, self.rsp_cons.wrapping_add(1));
    }

    pub(super) fn set_req_prod(&self, value: u32) {
        self.page.set_word(REQ_PROD, value);
    }
    pub(super) fn set_rsp_event(&self, value: u32) {
        self.page.set_word(RSP_EVENT, value);
    }
    pub(super) fn req_event(&self) -> u32 {
        self.page.word(REQ_EVENT)
    }
    pub(super) fn rsp_prod(&self) -> u32 {
        self.page.word(RSP_PROD)
    }
    /// Overwrites what only the backend may write.
    pub(super) fn scribble(&self, value: u32) {
        for word in [REQ_EVENT, RSP_PROD, RSP_EVENT] {
            self.page.set_word(word, value);
        }
    }
}
