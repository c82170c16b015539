//! Slots as the two x86 ABIs lay them out.
//!
//! A 64-bit frontend aligns the request's id to 8 bytes and so has four bytes of padding before it, which a
//! 32-bit one has not. Everything after the first word is the same, so a 32-bit slot is re-packed into the
//! 64-bit layout as it is copied, and only that is decoded.
//!
//! Xen: `public/io/blkif.h`, `struct blkif_request`, `blkif_request_discard`, `blkif_request_indirect`,
//! `blkif_response`.

use crate::back::Protocol;

/// A frontend's layout of the ring, as its `protocol` key names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Abi {
    /// `x86_64-abi`: our own layout.
    X86_64,
    /// `x86_32-abi`.
    X86_32,
}

impl Abi {
    /// Reads the `protocol` key. A frontend that has none is a 32-bit one: that is how the key came to be.
    ///
    /// `None` for the layout of another machine.
    pub fn from_key(protocol: Option<&str>) -> Option<Self> {
        match protocol {
            None | Some("x86_32-abi") => Some(Self::X86_32),
            Some("x86_64-abi") => Some(Self::X86_64),
            Some(_) => None,
        }
    }
}

/// What a request asks for (`BLKIF_OP_*`). What a frontend writes may be anything, so parsing never fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// 0.
    Read,
    /// 1.
    Write,
    /// 2: a write that no other request is reordered with, on stable media when it is answered.
    WriteBarrier,
    /// 3: everything answered so far to stable media.
    FlushDiskcache,
    /// 5: the contents of a range are not needed any more.
    Discard,
    /// 6: a read or write whose segments are in a page of their own.
    Indirect,
    /// Any other value.
    Unknown(u8),
}

impl Operation {
    pub(super) const fn from_raw(raw: u8) -> Self {
        match raw {
            0 => Self::Read,
            1 => Self::Write,
            2 => Self::WriteBarrier,
            3 => Self::FlushDiskcache,
            5 => Self::Discard,
            6 => Self::Indirect,
            other => Self::Unknown(other),
        }
    }

    /// The value on the wire.
    pub const fn into_raw(self) -> u8 {
        match self {
            Self::Read => 0,
            Self::Write => 1,
            Self::WriteBarrier => 2,
            Self::FlushDiskcache => 3,
            Self::Discard => 5,
            Self::Indirect => 6,
            Self::Unknown(other) => other,
        }
    }
}

/// Words of a slot in the 64-bit layout.
const WORDS: usize = 28;

/// A request as the frontend wrote it. Nothing in it was checked.
///
/// Words: 0 operation, segments or flags, handle; 2 and 3 id; 4 and 5 first sector; from 6 on segments, or the
/// rest of a discard or indirect request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request([u32; WORDS]);

impl Request {
    /// Wraps the words of a slot in the 64-bit layout.
    pub const fn from_words(words: [u32; WORDS]) -> Self {
        Self(words)
    }

    /// What it asks for.
    pub const fn operation(&self) -> Operation {
        let [first, ..] = self.0;
        let [operation, ..] = first.to_le_bytes();
        Operation::from_raw(operation)
    }

    /// What the answer says was asked for: of an indirect request the read or write inside, which is what
    /// frontends compare it with.
    pub const fn answered_operation(&self) -> Operation {
        match self.operation() {
            Operation::Indirect => Operation::from_raw(self.head().0),
            other => other,
        }
    }

    /// The frontend's name for it: echoed, and never used for anything else.
    pub fn id(&self) -> u64 {
        self.u64_at(2)
    }

    /// The bytes after the operation: `nr_segments`, or flags, or the inner operation; and the 16 bits after.
    pub(super) const fn head(&self) -> (u8, u16) {
        let [first, ..] = self.0;
        let [_, second, low, high] = first.to_le_bytes();
        (second, u16::from_le_bytes([low, high]))
    }

    pub(super) fn word(&self, index: usize) -> u32 {
        self.0.get(index).copied().unwrap_or(0)
    }

    pub(super) fn u64_at(&self, index: usize) -> u64 {
        let (low, high) = (self.word(index), self.word(index.saturating_add(1)));
        u64::from(high).checked_shl(32).unwrap_or(0) | u64::from(low)
    }
}

/// The outcome of a request (`BLKIF_RSP_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Done.
    Okay,
    /// Wrong, or failed.
    Error,
    /// Not an operation that this device has.
    NotSupported,
}

impl Status {
    const fn into_raw(self) -> i16 {
        match self {
            Self::Okay => 0,
            Self::Error => -1,
            Self::NotSupported => -2,
        }
    }
}

/// The answer to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Response {
    /// The request's id.
    pub id: u64,
    /// The request's operation ([`Request::answered_operation`]).
    pub operation: Operation,
    /// What became of it.
    pub status: Status,
}

impl Response {
    /// The words of a response. The padding is zero: nothing of ours goes out with it (XSA-216).
    const fn words(&self) -> [u32; 4] {
        let [a, b, c, d, e, f, g, h] = self.id.to_le_bytes();
        let [low, high] = self.status.into_raw().to_le_bytes();
        [
            u32::from_le_bytes([a, b, c, d]),
            u32::from_le_bytes([e, f, g, h]),
            u32::from_le_bytes([self.operation.into_raw(), 0, low, high]),
            0,
        ]
    }
}

/// The ring of a 64-bit frontend: slots of 112 bytes, responses of 16.
#[derive(Clone, Copy, Debug)]
pub struct X86_64;

impl Protocol for X86_64 {
    type Slot = [u32; WORDS];
    type Request = Request;
    type Response = Response;
    const RESPONSE_WORDS: usize = 4;

    fn decode(slot: &Self::Slot) -> Request {
        Request(*slot)
    }

    fn encode(response: &Response) -> Self::Slot {
        let mut slot = [0; WORDS];
        fill(&mut slot, response);
        slot
    }
}

/// The ring of a 32-bit frontend: slots of 108 bytes, responses of 12.
#[derive(Clone, Copy, Debug)]
pub struct X86_32;

impl Protocol for X86_32 {
    type Slot = [u32; WORDS - 1];
    type Request = Request;
    type Response = Response;
    const RESPONSE_WORDS: usize = 3;

    fn decode(slot: &Self::Slot) -> Request {
        let [head, rest @ ..] = slot;
        let mut words = [0; WORDS];
        let [to_head, _padding, to_rest @ ..] = &mut words;
        *to_head = *head;
        *to_rest = *rest;
        Request(words)
    }

    fn encode(response: &Response) -> Self::Slot {
        let mut slot = [0; WORDS - 1];
        fill(&mut slot, response);
        slot
    }
}

fn fill(slot: &mut [u32], response: &Response) {
    for (to, from) in slot.iter_mut().zip(response.words()) {
        *to = from;
    }
}
