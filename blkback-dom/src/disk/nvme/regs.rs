//! Registers of an NVMe controller: the ones that are used. NVM Express Base 1.4, section 3.1.

use core::time::Duration;

use xen_pv_rt::hyp::{Maddr, Mmio};

use crate::disk::Failure;
use crate::disk::words::{high32, join16, join32, low32};

/// Length of the register window that holds everything but doorbells.
const DOORBELLS: usize = 0x1000;
/// What a controller that is not there reads as.
pub(super) const GONE: u32 = u32::MAX;

const CAP: usize = 0x00;
const CC: usize = 0x14;
const CSTS: usize = 0x1c;
const AQA: usize = 0x24;
const ASQ: usize = 0x28;
const ACQ: usize = 0x30;

/// Controller configuration.
mod cc {
    pub(super) const EN: u32 = 1;
    /// Shutdown notification: normal.
    pub(super) const SHN_NORMAL: u32 = 1 << 14;
    pub(super) const SHN_MASK: u32 = 3 << 14;
    /// I/O submission queue entries of 2^6 bytes, completion queue entries of 2^4; 4 KiB pages, NVM commands.
    pub(super) const SIZES: u32 = 6 << 16 | 4 << 20;
}
/// Controller status.
pub(super) mod csts {
    pub(in super::super) const RDY: u32 = 1;
    pub(in super::super) const CFS: u32 = 1 << 1;
    pub(in super::super) const SHST_MASK: u32 = 3 << 2;
    pub(in super::super) const SHST_COMPLETE: u32 = 2 << 2;
}

/// What the controller is capable of, from `CAP`.
#[derive(Clone, Copy)]
pub(super) struct Capability {
    /// Most entries of an I/O queue, at least 2.
    pub(super) entries: u32,
    /// How long it may take to become ready or not ready.
    pub(super) ready_time: Duration,
    /// Bytes between doorbells.
    stride: usize,
}

impl Capability {
    fn decode(cap: u64) -> Result<Self, Failure> {
        /// The NVM command set, in the field of command sets.
        const CSS_NVM: u64 = 1 << 37;
        if cap & CSS_NVM == 0 {
            return Err(Failure::Unsupported("the NVM command set"));
        }
        if cap >> 48 & 0xf != 0 {
            return Err(Failure::Unsupported("memory pages of 4 KiB"));
        }
        let entries = (low32(cap) & 0xffff).saturating_add(1);
        if entries < 2 {
            return Err(Failure::Confused("maximum queue size"));
        }
        let half_seconds = (low32(cap) >> 24).max(1);
        let stride = 4_usize.checked_shl(high32(cap) & 0xf).unwrap_or(4);
        Ok(Self { entries, ready_time: Duration::from_millis(500).saturating_mul(half_seconds), stride })
    }
}

/// Which end of a queue pair a doorbell is for.
#[derive(Clone, Copy)]
pub(super) enum Doorbell {
    /// New tail of the submission queue.
    Submission,
    /// New head of the completion queue.
    Completion,
}

pub(super) struct Registers<R> {
    window: R,
    capability: Capability,
}

impl<R: Mmio> Registers<R> {
    pub(super) fn new(window: R) -> Result<Self, Failure> {
        let cap = join32(window.read32(CAP), window.read32(CAP.wrapping_add(4)));
        if cap == u64::MAX {
            return Err(Failure::Gone);
        }
        let capability = Capability::decode(cap)?;
        if window.len() <= DOORBELLS {
            return Err(Failure::Confused("register window"));
        }
        Ok(Self { window, capability })
    }

    pub(super) fn capability(&self) -> Capability {
        self.capability
    }

    /// Whether the doorbells of `queues` queue pairs, the admin queue included, are in the window.
    pub(super) fn has_doorbells(&self, queues: u16) -> bool {
        let end = usize::from(queues).saturating_mul(2).saturating_mul(self.capability.stride);
        end.saturating_add(DOORBELLS) <= self.window.len()
    }

    /// The status.
    ///
    /// # Errors
    /// [`Failure::Gone`].
    pub(super) fn status(&self) -> Result<u32, Failure> {
        match self.window.read32(CSTS) {
            GONE => Err(Failure::Gone),
            status => Ok(status),
        }
    }

    /// Tells the controller to stop and forget everything. It has when `RDY` is 0.
    pub(super) fn disable(&self) {
        let value = self.window.read32(CC);
        self.window.write32(CC, value & !(cc::EN | cc::SHN_MASK));
    }

    /// Tells the controller to start with the admin queues at `sq` and `cq`. It has when `RDY` is 1.
    pub(super) fn enable(&self, sq_entries: u16, cq_entries: u16, sq: Maddr, cq: Maddr) {
        self.window.write32(AQA, join16(sq_entries.saturating_sub(1), cq_entries.saturating_sub(1)));
        for (at, address) in [(ASQ, sq.into_raw()), (ACQ, cq.into_raw())] {
            self.window.write32(at, low32(address));
            self.window.write32(at.wrapping_add(4), high32(address));
        }
        self.window.write32(CC, cc::SIZES | cc::EN);
    }

    /// Announces a normal shutdown.
    pub(super) fn notify_shutdown(&self) {
        let value = self.window.read32(CC) & !cc::SHN_MASK;
        self.window.write32(CC, value | cc::SHN_NORMAL);
    }

    pub(super) fn ring(&self, queue: u16, doorbell: Doorbell, value: u16) {
        let index = usize::from(queue).saturating_mul(2);
        let index = match doorbell {
            Doorbell::Submission => index,
            Doorbell::Completion => index.saturating_add(1),
        };
        let at = index.saturating_mul(self.capability.stride).saturating_add(DOORBELLS);
        self.window.write32(at, value.into());
    }
}
