//! Commands, as submission queue entries. NVM Express Base 1.4, sections 5 and 6.

use xen_pv_rt::hyp::Maddr;

use super::pointer::DataPointer;
use super::queue::Sqe;
use crate::disk::words::{high32, join16, low32};

/// Admin commands.
mod admin {
    pub(super) const CREATE_SQ: u32 = 0x01;
    pub(super) const GET_LOG_PAGE: u32 = 0x02;
    pub(super) const CREATE_CQ: u32 = 0x05;
    pub(super) const IDENTIFY: u32 = 0x06;
    pub(super) const ABORT: u32 = 0x08;
    pub(super) const SET_FEATURES: u32 = 0x09;
    pub(super) const ASYNC_EVENT: u32 = 0x0c;
}
/// Commands of I/O queues.
mod nvm {
    pub(super) const FLUSH: u32 = 0x00;
    pub(super) const WRITE: u32 = 0x01;
    pub(super) const READ: u32 = 0x02;
    pub(super) const WRITE_ZEROES: u32 = 0x08;
    pub(super) const DATASET_MANAGEMENT: u32 = 0x09;
}
/// `PSDT` in the first word: the data pointer is an SGL descriptor.
const PSDT_SGL: u32 = 1 << 14;
/// Force unit access, in word 12 of a write.
const FUA: u32 = 1 << 30;
/// Deallocate, in word 11 of dataset management.
const DEALLOCATE: u32 = 1 << 2;
/// Queue is physically contiguous.
const CONTIGUOUS: u32 = 1;
/// Completion queue interrupts.
const INTERRUPTS: u32 = 1 << 1;

/// What `IDENTIFY` is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Identify {
    /// A namespace.
    Namespace(u32),
    /// The controller.
    Controller,
    /// The ids of active namespaces.
    ActiveNamespaces,
}

/// A feature and the value it is set to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Feature {
    /// So many I/O queue pairs.
    Queues(u16),
    /// Events about changed namespaces.
    NamespaceEvents,
}

fn simple(opcode: u32, nsid: u32, data: Maddr) -> Sqe {
    let data = data.into_raw();
    [opcode, nsid, 0, 0, 0, 0, low32(data), high32(data), 0, 0, 0, 0, 0, 0, 0, 0]
}

/// Sets words from 10 on.
fn with<const N: usize>(mut sqe: Sqe, words: [u32; N]) -> Sqe {
    for (word, value) in sqe.iter_mut().skip(10).zip(words) {
        *word = value;
    }
    sqe
}

/// No data.
const NOWHERE: Maddr = Maddr::from_raw(0);

/// `IDENTIFY` into the page at `data`.
pub(super) fn identify(what: Identify, data: Maddr) -> Sqe {
    let (nsid, cns) = match what {
        Identify::Namespace(id) => (id, 0),
        Identify::Controller => (0, 1),
        Identify::ActiveNamespaces => (0, 2),
    };
    with(simple(admin::IDENTIFY, nsid, data), [cns])
}

/// `SET FEATURES`.
pub(super) fn set_feature(feature: Feature) -> Sqe {
    let words = match feature {
        Feature::Queues(count) => [0x07, join16(count.saturating_sub(1), count.saturating_sub(1))],
        Feature::NamespaceEvents => [0x0b, 1 << 8],
    };
    with(simple(admin::SET_FEATURES, 0, NOWHERE), words)
}

/// Creates completion queue `id`, interrupting by vector 0.
pub(super) fn create_cq(id: u16, entries: u16, at: Maddr) -> Sqe {
    with(simple(admin::CREATE_CQ, 0, at), [join16(id, entries.saturating_sub(1)), CONTIGUOUS | INTERRUPTS])
}

/// Creates submission queue `id`, which completes to the completion queue of the same id.
pub(super) fn create_sq(id: u16, entries: u16, at: Maddr) -> Sqe {
    with(simple(admin::CREATE_SQ, 0, at), [join16(id, entries.saturating_sub(1)), join16(0, id) | CONTIGUOUS])
}

/// Reads the first `bytes` of a log page into the page at `data`. Reading clears the event that was about it.
pub(super) fn get_log(page: u8, bytes: u16, data: Maddr) -> Sqe {
    with(simple(admin::GET_LOG_PAGE, u32::MAX, data), [join16(u16::from(page), (bytes / 4).saturating_sub(1))])
}

/// Asks to give up a command.
pub(super) fn abort(sqid: u16, cid: u16) -> Sqe {
    with(simple(admin::ABORT, 0, NOWHERE), [join16(sqid, cid)])
}

/// Asks to be told about the next event.
pub(super) fn async_event() -> Sqe {
    simple(admin::ASYNC_EVENT, 0, NOWHERE)
}

/// What a read or write does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transfer {
    Read,
    Write,
    WriteFua,
}

/// Reads or writes `blocks` blocks from `first` on; 1 to 65536 blocks.
pub(super) fn transfer(what: Transfer, nsid: u32, first: u64, blocks: u32, data: DataPointer) -> Sqe {
    let (opcode, flags) = match what {
        Transfer::Read => (nvm::READ, 0),
        Transfer::Write => (nvm::WRITE, 0),
        Transfer::WriteFua => (nvm::WRITE, FUA),
    };
    let psdt = if data.sgl { PSDT_SGL } else { 0 };
    let mut sqe = simple(opcode | psdt, nsid, Maddr::from_raw(data.first));
    for (word, value) in sqe.iter_mut().skip(8).zip([low32(data.second), high32(data.second)]) {
        *word = value;
    }
    with(sqe, [low32(first), high32(first), flags | blocks.saturating_sub(1) & 0xffff])
}

/// Writes zeros to `blocks` blocks from `first` on; 1 to 65536 blocks.
pub(super) fn write_zeroes(nsid: u32, first: u64, blocks: u32) -> Sqe {
    let count = blocks.saturating_sub(1) & 0xffff;
    with(simple(nvm::WRITE_ZEROES, nsid, NOWHERE), [low32(first), high32(first), count])
}

/// Deallocates the `ranges` (1 to 256) that are listed at `list`.
pub(super) fn deallocate(nsid: u32, ranges: u32, list: Maddr) -> Sqe {
    with(simple(nvm::DATASET_MANAGEMENT, nsid, list), [ranges.saturating_sub(1) & 0xff, DEALLOCATE])
}

/// Whether the command is a flush.
pub(super) fn is_flush(sqe: &Sqe) -> bool {
    sqe.first().is_some_and(|first| first & 0xff == nvm::FLUSH)
}

/// Puts what is in the volatile cache on stable media.
pub(super) fn flush(nsid: u32) -> Sqe {
    simple(nvm::FLUSH, nsid, NOWHERE)
}
