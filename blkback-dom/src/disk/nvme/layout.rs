//! From spans of memory to what one command can describe.
//!
//! With PRP entries, only the first page may start at an offset and only the last may end early: what is in
//! between has to be whole pages. blkif segments are ranges of sectors within pages, so a request can have
//! gaps. Where it does, one command ends and the next starts ([`Cutter`]), or the controller takes an SGL,
//! which may describe anything. A gap within a logical block takes an SGL or cannot be done at all.
//!
//! NVM Express Base 1.4, sections 4.3 and 4.4.

use xen_pv_rt::hyp::Maddr;

use crate::disk::Span;
use crate::disk::lists::LIST_WORDS;

const PAGE: u32 = 4096;
/// Most bytes of a command with a list of PRP entries, whatever the offset of its first page.
pub(super) const MAX_BYTES: u32 = 128 * PAGE;
/// Most segments of an SGL in a list.
const MAX_SEGMENTS: usize = LIST_WORDS / 2;

/// A position in a list of spans.
#[derive(Clone, Copy)]
pub(super) struct Cursor<'a> {
    spans: &'a [Span],
    /// Bytes of the first span that are behind the cursor; less than its length.
    offset: u32,
}

/// How far fragments may reach.
#[derive(Clone, Copy)]
enum Cut {
    /// To the end of their page.
    Page,
    /// To the end of their span.
    Span,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(spans: &'a [Span]) -> Self {
        Self { spans, offset: 0 }
    }

    /// The next contiguous piece of memory, of at most `most` bytes.
    fn next(&mut self, most: u32, cut: Cut) -> Option<(Maddr, u32)> {
        let (span, rest) = self.spans.split_first()?;
        let maddr = span.maddr.wrapping_add(self.offset.into());
        let left = span.len.saturating_sub(self.offset);
        let len = match cut {
            Cut::Page => left.min(PAGE.wrapping_sub(page_offset(maddr))),
            Cut::Span => left,
        };
        let len = len.min(most);
        if len == 0 {
            return None;
        }
        if len == left {
            (self.spans, self.offset) = (rest, 0);
        } else {
            self.offset = self.offset.saturating_add(len);
        }
        Some((maddr, len))
    }

    fn skip(&mut self, mut bytes: u32) {
        while let Some((_, len)) = self.next(bytes, Cut::Span) {
            bytes = bytes.saturating_sub(len);
        }
    }
}

const fn page_offset(maddr: Maddr) -> u32 {
    let [low, high, ..] = maddr.into_raw().to_le_bytes();
    u32::from_le_bytes([low, high, 0, 0]) % PAGE
}

/// What a controller and its namespace let one command do.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    /// Most bytes; a multiple of a page and of a block, at most [`MAX_BYTES`].
    pub(super) bytes: u32,
    /// Bytes of a logical block.
    pub(super) block: u32,
    /// Whether SGLs are offered.
    pub(super) sgl: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Form {
    Prp,
    Sgl,
}

/// A part of the data that one command moves.
#[derive(Clone, Copy)]
pub(super) struct Piece<'a> {
    start: Cursor<'a>,
    pub(super) bytes: u32,
    form: Form,
    /// Pages or segments.
    parts: usize,
}

/// Cuts data into pieces. Ends early if the rest cannot be described: compare the bytes.
#[derive(Clone, Copy)]
pub(super) struct Cutter<'a> {
    at: Cursor<'a>,
    limits: Limits,
}

impl<'a> Cutter<'a> {
    pub(super) fn new(spans: &'a [Span], limits: Limits) -> Self {
        Self { at: Cursor::new(spans), limits }
    }

    /// How many bytes from the cursor on PRP entries can describe.
    fn prp_run(&self) -> u32 {
        let (mut at, mut bytes) = (self.at, 0_u32);
        let mut page_ended = true;
        while let Some((maddr, len)) = at.next(self.limits.bytes.saturating_sub(bytes), Cut::Page) {
            if bytes > 0 && (!page_ended || page_offset(maddr) != 0) {
                break;
            }
            bytes = bytes.saturating_add(len);
            page_ended = page_offset(maddr.wrapping_add(len.into())) == 0;
        }
        self.whole_blocks(bytes)
    }

    /// How many bytes from the cursor on an SGL can describe.
    fn sgl_run(&self) -> u32 {
        let (mut at, mut bytes) = (self.at, 0_u32);
        for _ in 0..MAX_SEGMENTS {
            let Some((_, len)) = at.next(self.limits.bytes.saturating_sub(bytes), Cut::Span) else { break };
            bytes = bytes.saturating_add(len);
        }
        self.whole_blocks(bytes)
    }

    fn whole_blocks(&self, bytes: u32) -> u32 {
        bytes.saturating_sub(bytes.checked_rem(self.limits.block).unwrap_or(bytes))
    }
}

impl<'a> Iterator for Cutter<'a> {
    type Item = Piece<'a>;

    fn next(&mut self) -> Option<Piece<'a>> {
        let prp = self.prp_run();
        // PRP is what every controller is tuned for; an SGL only if it saves a command.
        let sgl = if self.limits.sgl { self.sgl_run() } else { 0 };
        let (form, bytes) = if sgl > prp { (Form::Sgl, sgl) } else { (Form::Prp, prp) };
        if bytes == 0 {
            return None;
        }
        let start = self.at;
        self.at.skip(bytes);
        let parts = fragments(start, bytes, form).count();
        Some(Piece { start, bytes, form, parts })
    }
}

fn fragments(start: Cursor<'_>, bytes: u32, form: Form) -> impl Iterator<Item = (Maddr, u32)> {
    let (mut at, mut left) = (start, bytes);
    let cut = if form == Form::Sgl { Cut::Span } else { Cut::Page };
    core::iter::from_fn(move || {
        let (maddr, len) = at.next(left, cut)?;
        left = left.saturating_sub(len);
        Some((maddr, len))
    })
}

/// What goes into the data pointer of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DataPointer {
    pub(super) first: u64,
    pub(super) second: u64,
    /// Whether it is an SGL descriptor.
    pub(super) sgl: bool,
}

/// An SGL descriptor's second half: length and type in the topmost byte.
const fn descriptor(len: u32, kind: u8) -> u64 {
    let [a, b, c, d] = len.to_le_bytes();
    u64::from_le_bytes([a, b, c, d, 0, 0, 0, kind])
}
/// SGL data block descriptor.
const DATA_BLOCK: u8 = 0x00;
/// SGL last segment descriptor.
const LAST_SEGMENT: u8 = 0x30;
/// Bytes of an SGL descriptor.
const DESCRIPTOR: u32 = 16;

impl Piece<'_> {
    /// Whether it takes a list.
    pub(super) fn needs_list(&self) -> bool {
        match self.form {
            Form::Prp => self.parts > 2,
            Form::Sgl => self.parts > 1,
        }
    }

    /// The data pointer; `list` is where the list will be, if it needs one.
    pub(super) fn pointer(&self, list: Maddr) -> DataPointer {
        let mut parts = fragments(self.start, self.bytes, self.form);
        let (first, len) = parts.next().unwrap_or((Maddr::from_raw(0), 0));
        let second = parts.next().map_or(0, |(maddr, _)| maddr.into_raw());
        let list = list.into_raw();
        match (self.form, self.needs_list()) {
            (Form::Prp, false) => DataPointer { first: first.into_raw(), second, sgl: false },
            (Form::Prp, true) => DataPointer { first: first.into_raw(), second: list, sgl: false },
            (Form::Sgl, false) => {
                DataPointer { first: first.into_raw(), second: descriptor(len, DATA_BLOCK), sgl: true }
            }
            (Form::Sgl, true) => {
                let len = u32::try_from(self.parts).unwrap_or(0).saturating_mul(DESCRIPTOR);
                DataPointer { first: list, second: descriptor(len, LAST_SEGMENT), sgl: true }
            }
        }
    }

    /// The words of its list.
    pub(super) fn list(&self) -> impl Iterator<Item = u64> {
        let sgl = self.form == Form::Sgl;
        let parts = fragments(self.start, self.bytes, self.form);
        // The first page is in the command itself.
        parts.skip(usize::from(!sgl)).flat_map(move |(maddr, len)| {
            core::iter::once(maddr.into_raw()).chain(sgl.then(|| descriptor(len, DATA_BLOCK)))
        })
    }
}
