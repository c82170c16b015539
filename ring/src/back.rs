//! The backend's half of a shared ring.
//!
//! A ring page starts with four indices, then 48 bytes of padding, then the slots. The frontend produces
//! requests, the backend answers them in the same slots. Indices count for ever and wrap at 2^32; the number
//! of slots is a power of two.
//!
//! Everything the frontend writes is an allegation. Its producer index is bounded against what was taken, and
//! a slot is copied out once, word by word, before anybody looks at it.
//!
//! Xen: `public/io/ring.h`.

use core::marker::PhantomData;
use core::sync::atomic::Ordering;

use crate::mem::SharedMem;

/// Word index of each field of the ring header.
const REQ_PROD: usize = 0;
const REQ_EVENT: usize = 1;
const RSP_PROD: usize = 2;
const RSP_EVENT: usize = 3;
/// Words before the first slot.
const HEADER_WORDS: usize = 16;

/// What travels in the slots of a ring.
pub trait Protocol {
    /// The private copy of a slot.
    type Slot: AsRef<[u32]> + AsMut<[u32]> + Copy + Default;
    /// A request as the frontend wrote it, unchecked.
    type Request;
    /// What the backend answers.
    type Response;
    /// Reads a request out of a private copy. Cannot fail: checking comes later.
    fn decode(slot: &Self::Slot) -> Self::Request;
    /// Writes a response. Words that are not returned keep what the frontend wrote there.
    fn encode(response: &Self::Response) -> Self::Slot;
    /// Words of a slot that a response occupies; the rest is left alone.
    const RESPONSE_WORDS: usize;
}

/// The frontend broke the rules of the ring itself: nothing in it can be believed any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RingFault {
    /// `req_prod` is further ahead than there are slots, or has moved backwards.
    ReqProd {
        /// What the frontend published.
        req_prod: u32,
        /// How many requests were taken.
        req_cons: u32,
    },
    /// The ring has no room for a single slot.
    TooSmall,
}

impl core::fmt::Display for RingFault {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::ReqProd { req_prod, req_cons } => write!(f, "impossible req_prod {req_prod} at req_cons {req_cons}"),
            Self::TooSmall => f.write_str("ring too small"),
        }
    }
}

/// Whether the frontend has to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "the frontend sleeps until it is notified"]
pub enum Notify {
    /// Send an event.
    Needed,
    /// The frontend did not ask for one yet.
    NotNeeded,
}

/// The debt of one response. Spent by [`BackRing::respond`].
#[derive(Debug)]
#[must_use = "an unanswered request leaks a ring slot and the frontend's buffer"]
pub struct Ticket(());

/// The backend's half of a ring of `P` in the memory `M`.
pub struct BackRing<P: Protocol, M: SharedMem> {
    mem: M,
    nr_ents: u32,
    /// Requests taken so far.
    req_cons: u32,
    /// Responses written so far, published or not.
    rsp_prod_pvt: u32,
    /// Responses published so far.
    rsp_prod: u32,
    _protocol: PhantomData<P>,
}

impl<P: Protocol, M: SharedMem> BackRing<P, M> {
    /// Attaches to a ring where its page says that it is: what was published as answered is, all else is still
    /// to be taken. `BACK_RING_ATTACH`.
    ///
    /// A fresh ring says 0. One that a previous instance has served says how far that one got.
    ///
    /// # Errors
    /// [`RingFault::TooSmall`] if not one slot fits, or [`RingFault::ReqProd`] as [`Self::unconsumed`].
    pub fn attach(mem: M) -> Result<Self, RingFault> {
        let rsp_prod = mem.load(RSP_PROD, Ordering::Acquire);
        Self::attach_at(mem, rsp_prod)
    }

    fn attach_at(mem: M, index: u32) -> Result<Self, RingFault> {
        let slot_words = P::Slot::default().as_ref().len();
        let fit = mem.words().saturating_sub(HEADER_WORDS).checked_div(slot_words).unwrap_or(0);
        // The largest power of two that fits, as `__RD32` has it.
        let nr_ents = u32::try_from(fit).ok().and_then(u32::checked_ilog2).and_then(|bits| 1_u32.checked_shl(bits));
        let nr_ents = nr_ents.ok_or(RingFault::TooSmall)?;
        let ring = Self { mem, nr_ents, req_cons: index, rsp_prod_pvt: index, rsp_prod: index, _protocol: PhantomData };
        ring.unconsumed()?;
        Ok(ring)
    }

    /// Number of slots.
    pub const fn nr_ents(&self) -> u32 {
        self.nr_ents
    }

    /// Requests that were taken and not yet answered.
    pub const fn outstanding(&self) -> u32 {
        self.req_cons.wrapping_sub(self.rsp_prod_pvt)
    }

    /// Requests that the frontend has published and that were not taken yet.
    ///
    /// # Errors
    /// [`RingFault::ReqProd`] if that is more than there can be: `req_prod` jumped ahead or moved backwards.
    /// (`RING_REQUEST_PROD_OVERFLOW` of ring.h would accept some that moved backwards.)
    pub fn unconsumed(&self) -> Result<u32, RingFault> {
        // xen_rmb: the slots are read after the index that covers them.
        let req_prod = self.mem.load(REQ_PROD, Ordering::Acquire);
        let ready = req_prod.wrapping_sub(self.req_cons);
        if ready > self.nr_ents.saturating_sub(self.outstanding()) {
            return Err(RingFault::ReqProd { req_prod, req_cons: self.req_cons });
        }
        Ok(ready)
    }

    fn slot_word(&self, index: u32) -> usize {
        let slot_words = P::Slot::default().as_ref().len();
        let slot = usize::try_from(index & self.nr_ents.wrapping_sub(1)).unwrap_or(0);
        HEADER_WORDS.saturating_add(slot.saturating_mul(slot_words))
    }

    /// Takes the next request: a private copy, each word loaded once.
    ///
    /// # Errors
    /// As [`Self::unconsumed`].
    pub fn take_request(&mut self) -> Result<Option<(P::Request, Ticket)>, RingFault> {
        if self.unconsumed()? == 0 {
            return Ok(None);
        }
        Ok(Some(self.take()))
    }

    /// Takes up to `N` requests whose number [`Self::unconsumed`] has vouched for. Cheaper than one by one.
    ///
    /// Calls `visit` for each, at most `limit` times.
    ///
    /// # Errors
    /// As [`Self::unconsumed`].
    pub fn take_requests(&mut self, limit: u32, mut visit: impl FnMut(P::Request, Ticket)) -> Result<u32, RingFault> {
        let count = self.unconsumed()?.min(limit);
        for _ in 0..count {
            let (request, ticket) = self.take();
            visit(request, ticket);
        }
        Ok(count)
    }

    fn take(&mut self) -> (P::Request, Ticket) {
        let first = self.slot_word(self.req_cons);
        let mut slot = P::Slot::default();
        for (word, copy) in (first..).zip(slot.as_mut()) {
            *copy = self.mem.load(word, Ordering::Relaxed);
        }
        self.req_cons = self.req_cons.wrapping_add(1);
        (P::decode(&slot), Ticket(()))
    }

    /// Writes a response into the next slot. The frontend sees it after [`Self::push_responses`].
    ///
    /// Responses are to be written in the order in which the requests were taken: only then does
    /// `[rsp_prod, req_prod)` hold exactly the requests that a successor has to answer.
    pub fn respond(&mut self, ticket: Ticket, response: &P::Response) {
        let Ticket(()) = ticket;
        if self.outstanding() == 0 {
            // A ticket of another ring: the slot holds a request that was not read yet.
            return;
        }
        let first = self.slot_word(self.rsp_prod_pvt);
        let slot = P::encode(response);
        for (word, value) in (first..).zip(slot.as_ref().iter().take(P::RESPONSE_WORDS)) {
            self.mem.store(word, *value, Ordering::Relaxed);
        }
        self.rsp_prod_pvt = self.rsp_prod_pvt.wrapping_add(1);
    }

    /// Whether responses wait to be published.
    pub const fn has_unpushed(&self) -> bool {
        self.rsp_prod_pvt != self.rsp_prod
    }

    /// Publishes all responses written so far. `RING_PUSH_RESPONSES_AND_CHECK_NOTIFY`.
    pub fn push_responses(&mut self) -> Notify {
        let (old, new) = (self.rsp_prod, self.rsp_prod_pvt);
        if old == new {
            return Notify::NotNeeded;
        }
        // xen_wmb: the frontend sees the responses before the index that covers them.
        self.mem.store(RSP_PROD, new, Ordering::Release);
        self.rsp_prod = new;
        // xen_mb: the frontend sees the new index before we look at what it asked for, or both could miss the other.
        self.mem.full_fence();
        let rsp_event = self.mem.load(RSP_EVENT, Ordering::Relaxed);
        if new.wrapping_sub(rsp_event) < new.wrapping_sub(old) { Notify::Needed } else { Notify::NotNeeded }
    }

    /// Asks for an event with the next request, and says how many are there already.
    /// `RING_FINAL_CHECK_FOR_REQUESTS`.
    ///
    /// # Errors
    /// As [`Self::unconsumed`].
    pub fn final_check_for_requests(&self) -> Result<u32, RingFault> {
        self.arm(1)
    }

    /// Asks for an event when `more` further requests are there, and says how many are there already.
    ///
    /// # Errors
    /// As [`Self::unconsumed`].
    pub fn arm(&self, more: u32) -> Result<u32, RingFault> {
        self.mem.store(REQ_EVENT, self.req_cons.wrapping_add(more), Ordering::Relaxed);
        // xen_mb: the frontend sees what we ask for before we look for the last time.
        self.mem.full_fence();
        self.unconsumed()
    }

    /// The memory.
    pub const fn mem(&self) -> &M {
        &self.mem
    }

    /// Gives the memory back, to be unmapped.
    pub fn into_mem(self) -> M {
        self.mem
    }
}

/// Several tickets held together.
#[derive(Debug, Default)]
#[must_use = "unanswered requests leak ring slots and the frontend's buffers"]
pub struct Debt(u32);

impl Debt {
    /// Adds a ticket.
    pub fn add(&mut self, ticket: Ticket) {
        let Ticket(()) = ticket;
        self.0 = self.0.saturating_add(1);
    }

    /// Takes a ticket out, if any is left.
    pub fn pay(&mut self) -> Option<Ticket> {
        self.0 = self.0.checked_sub(1)?;
        Some(Ticket(()))
    }

    /// Tickets that are left.
    pub const fn owed(&self) -> u32 {
        self.0
    }
}

#[cfg(test)]
mod tests;
