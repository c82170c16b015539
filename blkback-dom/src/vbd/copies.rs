//! Batches of grant copies, across requests and vbds.
//!
//! All copies of one step of a turn go into one batch, which is one hypercall unless it overflows. Each
//! operation tells its own part whether it failed; the others of the batch are unaffected.

use core::cell::Cell;

use xen_pv_rt::hyp::{CopyDest, CopySource, Domid, GrantCopy, GrantError, Hypervisor, PeerSpan};

use super::work::{Part, Segments};

/// Operations of one hypercall.
const BATCH: usize = 64;

/// Copies since some moment. They wrap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    /// Hypercalls.
    pub calls: u64,
    /// Operations in those.
    pub operations: u64,
}

impl Copied {
    /// Adds those of a batch.
    pub(super) const fn add(&mut self, more: Self) {
        self.calls = self.calls.wrapping_add(more.calls);
        self.operations = self.operations.wrapping_add(more.operations);
    }
}

/// Operations that are carried out together.
pub(super) struct CopyBatch<'h, 'a, H> {
    hyp: &'h H,
    ops: heapless::Vec<GrantCopy<'a>, BATCH>,
    owners: heapless::Vec<&'a Cell<Option<GrantError>>, BATCH>,
    /// What it took so far.
    pub(super) copied: Copied,
}

impl<'h, 'a, H: Hypervisor> CopyBatch<'h, 'a, H> {
    /// An empty batch.
    pub(super) fn new(hyp: &'h H) -> Self {
        Self { hyp, ops: heapless::Vec::new(), owners: heapless::Vec::new(), copied: Copied::default() }
    }

    /// Adds a copy of `len` bytes whose failure is noted in `owner`.
    pub(super) fn push(
        &mut self,
        owner: &'a Cell<Option<GrantError>>,
        source: CopySource<'a>,
        dest: CopyDest<'a>,
        len: u16,
    ) {
        if self.ops.is_full() {
            self.run();
        }
        // There is room now, and both have the same length.
        let _ = self.ops.push(GrantCopy::new(source, dest, len));
        let _ = self.owners.push(owner);
    }

    /// Carries out what was added.
    pub(super) fn run(&mut self) {
        if self.ops.is_empty() {
            return;
        }
        self.hyp.copy(&mut self.ops);
        let operations = u64::try_from(self.ops.len()).unwrap_or(0);
        self.copied.add(Copied { calls: 1, operations });
        for (op, owner) in self.ops.iter().zip(&self.owners) {
            if let Err(error) = op.status {
                owner.set(Some(error));
            }
        }
        self.ops.clear();
        self.owners.clear();
    }
}

/// Adds the copies of a write: from the frontend's pages into the part's buffers.
pub(super) fn gather<'a, H: Hypervisor>(
    batch: &mut CopyBatch<'_, 'a, H>,
    domid: Domid,
    part: &'a mut Part,
    segments: &Segments,
) {
    let mut left = usize::try_from(part.data_bytes()).unwrap_or(0);
    let mut at = part.at;
    let Part { buffers, copy_error, .. } = part;
    let copy_error: &'a Cell<_> = copy_error;
    for buffer in buffers.iter_mut() {
        let bytes: &mut [u8] = buffer.bytes_mut();
        let used = left.min(bytes.len());
        let Some((mut room, _)) = bytes.split_at_mut_checked(used) else { break };
        left = left.saturating_sub(used);
        while !room.is_empty() {
            let run = segments.get(at.segment).map(|segment| {
                let len = segment.len_bytes().saturating_sub(at.byte);
                (segment, len.min(u16::try_from(room.len()).unwrap_or(u16::MAX)))
            });
            let split = run.and_then(|(segment, len)| Some((segment, len, room.split_at_mut_checked(len.into())?)));
            let Some((segment, len, (now, rest))) = split.filter(|(_, len, _)| *len > 0) else {
                copy_error.set(Some(GrantError::BadCopyArg));
                return;
            };
            let offset = segment.offset().saturating_add(at.byte);
            let source = CopySource::Peer(PeerSpan { domid, gref: segment.gref(), offset });
            batch.push(copy_error, source, CopyDest::Local(now), len);
            at = at.advance(segments, len.into());
            room = rest;
        }
    }
    if left > 0 {
        copy_error.set(Some(GrantError::BadCopyArg));
    }
}

/// Adds the copies of a read: from the part's buffers into the frontend's pages.
pub(super) fn scatter<'a, H: Hypervisor>(
    batch: &mut CopyBatch<'_, 'a, H>,
    domid: Domid,
    part: &'a Part,
    segments: &Segments,
) {
    let mut left = usize::try_from(part.data_bytes()).unwrap_or(0);
    let mut at = part.at;
    for buffer in &part.buffers {
        let bytes: &[u8] = buffer.bytes();
        let used = left.min(bytes.len());
        let Some((mut rest, _)) = bytes.split_at_checked(used) else { break };
        left = left.saturating_sub(used);
        while !rest.is_empty() {
            let run = segments.get(at.segment).map(|segment| {
                let len = segment.len_bytes().saturating_sub(at.byte);
                (segment, len.min(u16::try_from(rest.len()).unwrap_or(u16::MAX)))
            });
            let split = run.and_then(|(segment, len)| Some((segment, len, rest.split_at_checked(len.into())?)));
            let Some((segment, len, (now, later))) = split.filter(|(_, len, _)| *len > 0) else {
                part.copy_error.set(Some(GrantError::BadCopyArg));
                return;
            };
            let offset = segment.offset().saturating_add(at.byte);
            let dest = CopyDest::Peer(PeerSpan { domid, gref: segment.gref(), offset });
            batch.push(&part.copy_error, CopySource::Local(now), dest, len);
            at = at.advance(segments, len.into());
            rest = later;
        }
    }
    if left > 0 {
        part.copy_error.set(Some(GrantError::BadCopyArg));
    }
}
