//! How a card is asked for interrupts, and how they are taken back.
//!
//! - By causes: one interrupt, of whatever kind, for everything. The cause stays set until it is read, which
//!   happens just before the domain goes to sleep and nowhere else; until then the card interrupts no more, so
//!   a busy one need not be masked. An interrupt line is deasserted by it too. A card that has not interrupted since
//!   is not asked: reading a register is slow, and a frontend alone wakes the domain often.
//! - By vectors (82576 with MSI-X): one per receive queue, and one for the rest. Each is masked as its message
//!   is sent, and unmasked with one write before the domain goes to sleep: no register is read.

use pciback::InterruptKind;
use xen_pv_rt::hyp::Mmio;

use super::model::Model;
use super::regs::{GONE, Reg, Registers, cause, gpie};
use crate::nic::NicError;

/// Least time between interrupts: at most 20000 per second. In units of 256 ns, and of 1 us from bit 2 on.
const THROTTLE: u32 = 195;
const THROTTLE_82576: u32 = 50 << 2;
/// Marks a vector as valid, in IVAR of the 82574 and of the 82576.
const VALID_82574: u32 = 1 << 3;
const VALID_82576: u32 = 1 << 7;
/// The vector for all but receive queues; those follow it.
const REST: u32 = 0;
/// Causes that always interrupt. Sent frames do only when the ring fills up: nobody waits for them otherwise.
const CAUSES: u32 = cause::RXT0 | cause::RXO | cause::LSC;
/// The same for the 82574 with MSI-X, where only these have vectors; the others in [`CAUSES`] show in OTHER.
const CAUSES_MSIX: u32 = CAUSES | cause::RXQ0 | cause::OTHER;

/// The way of a card.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Causes { always: u32, crowded: u32 },
    Vectors { mask: u32 },
}

/// The interrupts of a card.
pub(super) struct Interrupts {
    model: Model,
    kind: InterruptKind,
    way: Way,
    /// Causes that are enabled in the card or, by vectors, whether sent frames have one.
    enabled: u32,
    /// By causes: it may have interrupted since they were last read.
    fired: bool,
}

impl Interrupts {
    /// A card that has been given `vectors` vectors.
    pub(super) fn new(model: Model, kind: InterruptKind, vectors: u16) -> Self {
        let way = match (model, kind) {
            (Model::I82576, InterruptKind::MsiX) if vectors >= model.vectors() => {
                Way::Vectors { mask: !(u32::MAX << model.vectors()) }
            }
            (Model::I82574, InterruptKind::MsiX) => Way::Causes { always: CAUSES_MSIX, crowded: cause::TXQ0 },
            _ => Way::Causes { always: CAUSES, crowded: cause::TXDW },
        };
        Self { model, kind, way, enabled: 0, fired: true }
    }

    /// Programs a card that has been reset.
    pub(super) fn configure<R: Mmio>(&mut self, regs: &Registers<R>) {
        (self.enabled, self.fired) = (0, true);
        match (self.model, self.way) {
            (Model::I82576, Way::Vectors { mask }) => {
                regs.write(Reg::GPIE, gpie::NSICR | gpie::MULTIPLE_MSIX | gpie::EIAME | gpie::PBA);
                for queue in 0..self.model.rx_queues() {
                    let vector = u32::try_from(queue).unwrap_or(0).wrapping_add(1);
                    regs.write(Reg::IVAR.plus(queue), vector | VALID_82576);
                }
                regs.write(Reg::IVAR_MISC, (REST | VALID_82576) << 8);
                for vector in 0..usize::from(self.model.vectors()) {
                    regs.write(Reg::EITR.plus(vector), THROTTLE_82576);
                }
                regs.write(Reg::EIAC, mask);
                regs.write(Reg::EIAM, mask);
                regs.write(Reg::IMS, cause::LSC);
            }
            (Model::I82576, Way::Causes { .. }) => {
                regs.write(Reg::GPIE, gpie::NSICR);
                regs.write(Reg::EITR, THROTTLE_82576);
            }
            (Model::I82574, _) if self.kind == InterruptKind::MsiX => {
                let vector = REST | VALID_82574;
                regs.write(Reg::IVAR_82574, vector | vector << 8 | vector << 16);
                regs.write(Reg::EITR_82574, THROTTLE);
            }
            (Model::I82574 | Model::I8254x, _) => regs.write(Reg::ITR, THROTTLE),
        }
    }

    /// Asks for an interrupt, for sent frames too if the ring is `crowded`. What happens from here on interrupts,
    /// so the rings are to be looked at after. Returns whether the link may have changed.
    pub(super) fn enable<R: Mmio>(&mut self, regs: &Registers<R>, crowded: bool) -> Result<bool, NicError> {
        match self.way {
            Way::Causes { always, crowded: sent } => {
                let wanted = if crowded { always | sent } else { always };
                if wanted != self.enabled {
                    regs.write(Reg::IMC, !wanted);
                    regs.write(Reg::IMS, wanted);
                    // What is enabled now may be set from long ago.
                    (self.enabled, self.fired) = (wanted, true);
                }
                if core::mem::take(&mut self.fired) { self.take_causes(regs) } else { Ok(false) }
            }
            Way::Vectors { mask } => {
                let sent = if crowded { (REST | VALID_82576) << 8 } else { 0 };
                if sent != self.enabled {
                    // Transmit queue 0 shares the register with receive queue 0, which has vector 1.
                    regs.write(Reg::IVAR, sent | VALID_82576 | 1);
                    self.enabled = sent;
                }
                regs.write(Reg::EIMS, mask);
                Ok(false)
            }
        }
    }

    /// Notes which vectors have interrupted, or may have. Returns whether the link may have changed.
    pub(super) fn note<R: Mmio>(&mut self, regs: &Registers<R>, vectors: u32) -> Result<bool, NicError> {
        match self.way {
            Way::Causes { .. } => {
                self.fired |= vectors != 0;
                Ok(false)
            }
            Way::Vectors { .. } if vectors & 1 << REST != 0 => self.take_causes(regs),
            Way::Vectors { .. } => Ok(false),
        }
    }

    /// Reads and so clears the causes. Returns whether the link may have changed.
    fn take_causes<R: Mmio>(&self, regs: &Registers<R>) -> Result<bool, NicError> {
        let causes = regs.read(Reg::ICR);
        if causes == GONE { Err(NicError::Gone) } else { Ok(causes & cause::LSC != 0) }
    }
}
