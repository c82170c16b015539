//! Which bytes go where: grant copies for requests. Each operation tells its own part whether it failed.

use core::cell::Cell;

use xen_pv_rt::hyp::{CopyDest, CopySource, Domid, GrantError, Hypervisor, PeerSpan};

use super::work::{Part, Segments};

/// Operations for parts of requests.
pub(super) type CopyBatch<'h, 'a, H> = xen_pv_rt::hyp::CopyBatch<'h, 'a, H, &'a Cell<Option<GrantError>>>;

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
            batch.push(copy_error, source, CopyDest::Local(now), len.into());
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
            batch.push(&part.copy_error, CopySource::Local(now), dest, len.into());
            at = at.advance(segments, len.into());
            rest = later;
        }
    }
    if left > 0 {
        part.copy_error.set(Some(GrantError::BadCopyArg));
    }
}
