//! Which bytes go where: grant copies for packets from and to frontends.

use xen_pv_rt::hyp::{CopyDest, CopySource, Domid, GrantError, Hypervisor, PeerSpan};

use super::copies::{CopyBatch, Owner};
use super::job::{RxJob, RxSource, TxJob};
use crate::frame::Segment;

/// Copies bytes `from..copied` of a packet out of its sender's pages into its frame.
///
/// `from` is within the frame's first segment.
pub(super) fn gather<'a, H: Hypervisor>(batch: &mut CopyBatch<'_, 'a, H>, at: usize, job: &'a mut TxJob, from: usize) {
    let domid = job.domid;
    let mut left = job.copied.saturating_sub(from);
    let Some(frame) = &mut job.frame else { return };
    let mut windows = frame.segments_mut().map(Segment::bytes_mut);
    let mut window = windows.next().and_then(|head| head.get_mut(from..)).unwrap_or(&mut []);
    for (mut span, len) in spans(domid, job.packet.fragments.as_slice(), from) {
        let mut len = len.min(left);
        while len > 0 {
            if window.is_empty() {
                let Some(next) = windows.next() else {
                    batch.fail(&Owner::Tx(at), GrantError::BadCopyArg);
                    return;
                };
                window = next;
            }
            let part = len.min(window.len());
            let (now, later) = core::mem::take(&mut window).split_at_mut(part);
            batch.push(Owner::Tx(at), CopySource::Peer(span), CopyDest::Local(now), part);
            window = later;
            advance(&mut span, part);
            len = len.saturating_sub(part);
            left = left.saturating_sub(part);
        }
    }
}

/// Copies a packet into its receiver's pages. `tx` holds the jobs that direct ones refer to.
pub(super) fn scatter<'a, H: Hypervisor>(batch: &mut CopyBatch<'_, 'a, H>, at: usize, job: &'a RxJob, tx: &'a [TxJob]) {
    let mut out = Out { batch, owner: Owner::Rx(at), job, part: 0, filled: 0 };
    match &job.source {
        RxSource::Stored(frame) => {
            for segment in frame.get().into_iter().flat_map(crate::frame::Frame::segments) {
                out.local(segment.bytes());
            }
        }
        RxSource::Direct(from) => {
            let Some((sender, frame)) = tx.get(*from).and_then(|sender| Some((sender, sender.frame.as_ref()?))) else {
                out.batch.fail(&out.owner, GrantError::BadCopyArg);
                return;
            };
            for segment in frame.segments() {
                out.local(segment.bytes());
            }
            for (span, len) in spans(sender.domid, sender.packet.fragments.as_slice(), sender.copied) {
                out.peer(span, len);
            }
        }
    }
}

/// The pages of a packet from byte `from` on: where each run starts, and its length.
pub(super) fn spans(
    domid: Domid,
    fragments: &[ring::netif::Fragment],
    from: usize,
) -> impl Iterator<Item = (PeerSpan, usize)> {
    let mut skip = from;
    fragments.iter().filter_map(move |fragment| {
        let len = usize::from(fragment.size);
        let skipped = skip.min(len);
        skip = skip.saturating_sub(skipped);
        let mut span = PeerSpan { domid, gref: fragment.gref, offset: fragment.offset };
        advance(&mut span, skipped);
        let rest = len.saturating_sub(skipped);
        (rest > 0).then_some((span, rest))
    })
}

fn advance(span: &mut PeerSpan, bytes: usize) {
    // A span never reaches beyond its page, so neither part can overflow.
    span.offset = span.offset.saturating_add(u16::try_from(bytes).unwrap_or(u16::MAX));
}

/// A receiver's pages, filled one after the other.
struct Out<'b, 'h, 'a, H: Hypervisor> {
    batch: &'b mut CopyBatch<'h, 'a, H>,
    owner: Owner,
    job: &'a RxJob,
    /// The part that is being filled.
    part: usize,
    /// Bytes in it so far.
    filled: u16,
}

impl<'a, H: Hypervisor> Out<'_, '_, 'a, H> {
    fn local(&mut self, mut bytes: &'a [u8]) {
        while !bytes.is_empty() {
            let Some((dest, room)) = self.place() else { return };
            let (now, later) = bytes.split_at(bytes.len().min(room));
            self.push(CopySource::Local(now), dest, now.len());
            bytes = later;
        }
    }

    fn peer(&mut self, mut span: PeerSpan, mut len: usize) {
        while len > 0 {
            let Some((dest, room)) = self.place() else { return };
            let part = len.min(room);
            self.push(CopySource::Peer(span), dest, part);
            advance(&mut span, part);
            len = len.saturating_sub(part);
        }
    }

    fn push(&mut self, source: CopySource<'a>, dest: PeerSpan, len: usize) {
        self.batch.push(self.owner, source, CopyDest::Peer(dest), len);
        self.filled = self.filled.saturating_add(u16::try_from(len).unwrap_or(u16::MAX));
    }

    /// Where the next byte goes, and how many fit there.
    fn place(&mut self) -> Option<(PeerSpan, usize)> {
        if self.job.parts.get(self.part).is_some_and(|part| self.filled >= *part) {
            (self.part, self.filled) = (self.part.saturating_add(1), 0);
        }
        // The places behind the first buffer's in the ring are taken by the extra segments.
        let extras = if self.part > 0 { self.job.extras.len() } else { 0 };
        let slot = self.job.slots.get(self.part.saturating_add(extras));
        let (Some(slot), Some(part)) = (slot, self.job.parts.get(self.part)) else {
            self.batch.fail(&self.owner, GrantError::BadCopyArg);
            return None;
        };
        let offset = u16::try_from(self.job.headroom).ok()?.checked_add(self.filled)?;
        let dest = PeerSpan { domid: self.job.domid, gref: slot.gref, offset };
        Some((dest, part.saturating_sub(self.filled).into()))
    }
}
