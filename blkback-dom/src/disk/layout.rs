//! From spans of memory to what one device command can describe.
//!
//! Two forms. *Segments* may start and end anywhere (SGLs, descriptors, AHCI's regions), but a command takes
//! only so many. *Pages* are what NVMe's PRP entries describe: only the first may start at an offset and only
//! the last may end early; what is in between has to be whole pages. blkif segments are ranges of sectors within
//! pages, so a request can have gaps. Where it does, one command ends and the next starts ([`cut`]). A gap
//! within a logical block takes segments or cannot be done at all.

use xen_pv_rt::hyp::Maddr;

use super::{Span, SubmitError};

const PAGE: u32 = 4096;
/// Most device commands of one command.
pub const MAX_PIECES: usize = 32;

/// A position in a list of spans.
#[derive(Clone, Copy)]
pub(crate) struct Cursor<'a> {
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
    pub(crate) fn new(spans: &'a [Span]) -> Self {
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

/// What a device lets one command do.
#[derive(Clone, Copy)]
pub struct Limits {
    /// Most bytes; a multiple of a page and of a block.
    pub bytes: u32,
    /// Bytes of a logical block.
    pub block: u32,
    /// Whether it takes pages.
    pub pages: bool,
    /// Most segments; 0 if it takes none.
    pub segments: usize,
}

/// How memory is described.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    /// As pages: an offset in the first, an early end of the last.
    Pages,
    /// As segments.
    Segments,
}

/// A part of the data that one command moves.
#[derive(Clone, Copy)]
pub struct Piece<'a> {
    start: Cursor<'a>,
    /// Length in bytes.
    pub bytes: u32,
    /// How it is described.
    pub form: Form,
    /// How many pages or segments.
    pub parts: usize,
}

impl Piece<'_> {
    /// Its pages or segments: where, and how many bytes.
    pub fn fragments(&self) -> impl Iterator<Item = (Maddr, u32)> {
        fragments(self.start, self.bytes, self.form)
    }
}

/// Cuts data into pieces. Ends early if the rest cannot be described: [`cut`] compares the bytes.
#[derive(Clone, Copy)]
pub(crate) struct Cutter<'a> {
    at: Cursor<'a>,
    limits: Limits,
}

/// How far one form reaches from a cursor.
#[derive(Clone, Copy)]
struct Run<'a> {
    bytes: u32,
    /// Pages or segments.
    parts: usize,
    /// What is behind it.
    end: Cursor<'a>,
}

impl<'a> Run<'a> {
    const fn empty(at: Cursor<'a>) -> Self {
        Self { bytes: 0, parts: 0, end: at }
    }

    const fn with(self, len: u32, end: Cursor<'a>) -> Self {
        Self { bytes: self.bytes.saturating_add(len), parts: self.parts.saturating_add(1), end }
    }
}

impl<'a> Cutter<'a> {
    /// What can be described as pages from the cursor on.
    fn page_run(&self) -> Run<'a> {
        let mut run = Run::empty(self.at);
        let mut page_ended = true;
        loop {
            let mut at = run.end;
            let Some((maddr, len)) = at.next(self.limits.bytes.saturating_sub(run.bytes), Cut::Page) else { break };
            if run.bytes > 0 && (!page_ended || page_offset(maddr) != 0) {
                break;
            }
            run = run.with(len, at);
            page_ended = page_offset(maddr.wrapping_add(len.into())) == 0;
        }
        self.whole_blocks(run, Form::Pages)
    }

    /// What can be described as segments from the cursor on.
    fn segment_run(&self) -> Run<'a> {
        let mut run = Run::empty(self.at);
        for _ in 0..self.limits.segments {
            let mut at = run.end;
            let Some((_, len)) = at.next(self.limits.bytes.saturating_sub(run.bytes), Cut::Span) else { break };
            run = run.with(len, at);
        }
        self.whole_blocks(run, Form::Segments)
    }

    /// As much of a run as is whole blocks.
    fn whole_blocks(&self, run: Run<'a>, form: Form) -> Run<'a> {
        let over = run.bytes.checked_rem(self.limits.block).unwrap_or(run.bytes);
        if over == 0 {
            return run;
        }
        let (bytes, mut end) = (run.bytes.saturating_sub(over), self.at);
        end.skip(bytes);
        Run { bytes, parts: fragments(self.at, bytes, form).count(), end }
    }
}

impl<'a> Iterator for Cutter<'a> {
    type Item = Piece<'a>;

    fn next(&mut self) -> Option<Piece<'a>> {
        let nothing = Run::empty(self.at);
        let pages = if self.limits.pages { self.page_run() } else { nothing };
        // A controller that takes both is tuned for pages: segments only if that saves a command.
        let segments = if pages.bytes < self.limits.bytes { self.segment_run() } else { nothing };
        let (form, run) = if segments.bytes > pages.bytes { (Form::Segments, segments) } else { (Form::Pages, pages) };
        if run.bytes == 0 {
            return None;
        }
        let start = core::mem::replace(&mut self.at, run.end);
        Some(Piece { start, bytes: run.bytes, form, parts: run.parts })
    }
}

fn fragments(start: Cursor<'_>, bytes: u32, form: Form) -> impl Iterator<Item = (Maddr, u32)> {
    let (mut at, mut left) = (start, bytes);
    let cut = if form == Form::Segments { Cut::Span } else { Cut::Page };
    core::iter::from_fn(move || {
        let (maddr, len) = at.next(left, cut)?;
        left = left.saturating_sub(len);
        Some((maddr, len))
    })
}

/// What a command is cut into.
pub type Pieces<'a> = heapless::Vec<Piece<'a>, MAX_PIECES>;

/// Cuts spans into the pieces that a device takes, and adds them to `pieces`: more than a KiB, and so not handed from
/// function to function.
///
/// # Errors
/// [`SubmitError::Layout`] if the device takes none that are made of these.
pub fn cut<'a>(spans: &'a [Span], limits: Limits, pieces: &mut Pieces<'a>) -> Result<(), SubmitError> {
    let mut covered = 0_u64;
    for piece in (Cutter { at: Cursor::new(spans), limits }) {
        covered = covered.saturating_add(piece.bytes.into());
        pieces.push(piece).map_err(|_| SubmitError::Layout)?;
    }
    let wanted = spans.iter().fold(0_u64, |sum, span| sum.saturating_add(span.len.into()));
    if covered == wanted { Ok(()) } else { Err(SubmitError::Layout) }
}
