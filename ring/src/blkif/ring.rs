//! A ring in the layout that its frontend uses.

use super::abi::{Abi, Request, Response, X86_32, X86_64};
use crate::back::{BackRing, Notify, RingFault, Ticket};
use crate::mem::SharedMem;

/// The backend's half of a block ring. See [`BackRing`] for the methods.
pub enum Ring<M: SharedMem> {
    /// A 64-bit frontend's.
    X86_64(BackRing<X86_64, M>),
    /// A 32-bit frontend's.
    X86_32(BackRing<X86_32, M>),
}

macro_rules! either {
    ($ring:expr, $inner:ident => $body:expr) => {
        match $ring {
            Ring::X86_64($inner) => $body,
            Ring::X86_32($inner) => $body,
        }
    };
}

impl<M: SharedMem> Ring<M> {
    /// [`BackRing::attach`].
    ///
    /// # Errors
    /// As there.
    pub fn attach(abi: Abi, mem: M) -> Result<Self, RingFault> {
        Ok(match abi {
            Abi::X86_64 => Self::X86_64(BackRing::attach(mem)?),
            Abi::X86_32 => Self::X86_32(BackRing::attach(mem)?),
        })
    }

    /// Number of slots.
    pub const fn nr_ents(&self) -> u32 {
        either!(self, ring => ring.nr_ents())
    }

    /// Requests that were taken and not yet answered.
    pub const fn outstanding(&self) -> u32 {
        either!(self, ring => ring.outstanding())
    }

    /// [`BackRing::unconsumed`].
    ///
    /// # Errors
    /// As there.
    pub fn unconsumed(&self) -> Result<u32, RingFault> {
        either!(self, ring => ring.unconsumed())
    }

    /// [`BackRing::take_request`].
    ///
    /// # Errors
    /// As there.
    pub fn take_request(&mut self) -> Result<Option<(Request, Ticket)>, RingFault> {
        either!(self, ring => ring.take_request())
    }

    /// [`BackRing::respond`]. Frontends find their request by its id, so any order will do.
    pub fn respond(&mut self, ticket: Ticket, response: &Response) {
        either!(self, ring => ring.respond(ticket, response));
    }

    /// [`BackRing::push_responses`].
    pub fn push_responses(&mut self) -> Notify {
        either!(self, ring => ring.push_responses())
    }

    /// [`BackRing::final_check_for_requests`].
    ///
    /// # Errors
    /// As there.
    pub fn final_check_for_requests(&self) -> Result<u32, RingFault> {
        either!(self, ring => ring.final_check_for_requests())
    }

    /// [`BackRing::arm`].
    ///
    /// # Errors
    /// As there.
    pub fn arm(&self, more: u32) -> Result<u32, RingFault> {
        either!(self, ring => ring.arm(more))
    }

    /// Gives the memory back, to be unmapped.
    pub fn into_mem(self) -> M {
        either!(self, ring => ring.into_mem())
    }
}
