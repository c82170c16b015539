//! Registers of an AHCI controller: the ones that are used. Serial ATA AHCI 1.3.1, section 3.

use alloc::rc::Rc;

use xen_pv_rt::hyp::{Maddr, Mmio};

use crate::disk::words::{high32, low32};

/// What a controller that is not there reads as.
pub(super) const GONE: u32 = u32::MAX;
/// Where the ports start, and how far apart they are.
const PORTS: usize = 0x100;
const PORT_STRIDE: usize = 0x80;

/// Registers of the controller.
#[derive(Clone, Copy)]
pub(super) enum Hba {
    /// Capabilities.
    Cap = 0x00,
    /// Global control.
    Ghc = 0x04,
    /// Ports that interrupt.
    Is = 0x08,
    /// Ports that exist.
    Pi = 0x0c,
    /// Capabilities, extended.
    Cap2 = 0x24,
    /// Handing over from the firmware.
    Bohc = 0x28,
}

/// Registers of a port.
#[derive(Clone, Copy)]
pub(super) enum Port {
    /// Command list, and its upper half.
    Clb = 0x00,
    /// Received FISes, and its upper half.
    Fb = 0x08,
    /// What has interrupted.
    Is = 0x10,
    /// What may interrupt.
    Ie = 0x14,
    /// Command and status.
    Cmd = 0x18,
    /// Task file.
    Tfd = 0x20,
    /// Signature.
    Sig = 0x24,
    /// Status of the link.
    Ssts = 0x28,
    /// Control of the link.
    Sctl = 0x2c,
    /// Errors of the link.
    Serr = 0x30,
    /// Queued commands that are active.
    Sact = 0x34,
    /// Commands that were issued.
    Ci = 0x38,
}

pub(super) mod cap {
    pub(in super::super) const S64A: u32 = 1 << 31;
    pub(in super::super) const SNCQ: u32 = 1 << 30;
}
pub(super) mod ghc {
    pub(in super::super) const HR: u32 = 1;
    pub(in super::super) const IE: u32 = 1 << 1;
    pub(in super::super) const AE: u32 = 1 << 31;
}
pub(super) mod bohc {
    /// In `CAP2`.
    pub(in super::super) const SUPPORTED: u32 = 1;
    pub(in super::super) const FIRMWARE: u32 = 1;
    pub(in super::super) const OURS: u32 = 1 << 1;
}
pub(super) mod cmd {
    pub(in super::super) const ST: u32 = 1;
    pub(in super::super) const SUD: u32 = 1 << 1;
    pub(in super::super) const POD: u32 = 1 << 2;
    pub(in super::super) const FRE: u32 = 1 << 4;
    pub(in super::super) const CR: u32 = 1 << 15;
    pub(in super::super) const ATAPI: u32 = 1 << 24;
    /// Link active.
    pub(in super::super) const ACTIVE: u32 = 1 << 28;
    pub(in super::super) const ICC_MASK: u32 = 0xf << 28;
}
pub(super) mod tfd {
    pub(in super::super) const ERR: u32 = 1;
    /// Busy, or wants to transfer data.
    pub(in super::super) const BUSY: u32 = 1 << 7 | 1 << 3;
}
pub(super) mod is {
    /// A command is over: D2H register, PIO set-up, DMA set-up, set device bits FIS.
    pub(in super::super) const DONE: u32 = 0xf;
    /// The link has changed: connect change, PHY ready change.
    pub(in super::super) const LINK: u32 = 1 << 6 | 1 << 22;
    /// Overflow, interface, bus, and task file errors.
    pub(in super::super) const ERRORS: u32 = 1 << 24 | 1 << 27 | 1 << 28 | 1 << 29 | 1 << 30;
}
pub(super) mod ssts {
    pub(in super::super) const DET_MASK: u32 = 0xf;
    /// A device, and communication with it.
    pub(in super::super) const DET_READY: u32 = 3;
}
/// Signature of a packet device.
pub(super) const SIG_ATAPI: u32 = 0xeb14_0101;

/// The registers, shared by the ports of a controller.
pub(super) struct Registers<R>(Rc<R>);

impl<R> Clone for Registers<R> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

#[expect(clippy::as_conversions, reason = "discriminants are register offsets")]
impl<R: Mmio> Registers<R> {
    pub(super) fn new(window: R) -> Self {
        Self(Rc::new(window))
    }
    pub(super) fn read(&self, reg: Hba) -> u32 {
        self.0.read32(reg as usize)
    }
    pub(super) fn write(&self, reg: Hba, value: u32) {
        self.0.write32(reg as usize, value);
    }
    fn at(port: u8, reg: Port) -> usize {
        usize::from(port).saturating_mul(PORT_STRIDE).saturating_add(PORTS).saturating_add(reg as usize)
    }
    pub(super) fn port_read(&self, port: u8, reg: Port) -> u32 {
        self.0.read32(Self::at(port, reg))
    }
    pub(super) fn port_write(&self, port: u8, reg: Port, value: u32) {
        self.0.write32(Self::at(port, reg), value);
    }
    pub(super) fn port_address(&self, port: u8, reg: Port, maddr: Maddr) {
        let at = Self::at(port, reg);
        self.0.write32(at, low32(maddr.into_raw()));
        self.0.write32(at.saturating_add(4), high32(maddr.into_raw()));
    }
}
