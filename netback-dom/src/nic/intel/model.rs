//! What differs between the cards of the family.

use super::regs::{Reg, eerd};

/// A card, or several that a driver need not tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Model {
    /// 82540EM and 82545EM: conventional PCI, an interrupt line. QEMU: `e1000`.
    I8254x,
    /// 82574L: PCI Express, MSI-X; extended receive descriptors. QEMU: `e1000e`.
    I82574,
    /// 82576: PCI Express, several queues with a vector each; advanced descriptors. QEMU: `igb`.
    I82576,
}

/// Layout of receive descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RxFormat {
    /// Status in the middle of the second word. 8254x.
    Legacy,
    /// Status at its start: extended (82574) and advanced (82576) look the same to us.
    Extended,
}

/// Layout of transmit descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TxFormat {
    /// Contexts hold offsets, and the length of what is to be cut. 8254x and 82574.
    Offsets,
    /// Contexts hold lengths of headers, data descriptors that of the payload. 82576.
    Advanced,
}

/// Layout of the register that reads the EEPROM.
#[derive(Clone, Copy)]
pub(super) struct EepromRead {
    /// Says that the word is there.
    pub(super) done: u32,
    /// Where its address goes.
    pub(super) address_shift: u32,
}

impl Model {
    /// Receive queues, each with a vector of its own if there are as many.
    pub(super) const fn rx_queues(self) -> usize {
        match self {
            Self::I82576 => 4,
            Self::I8254x | Self::I82574 => 1,
        }
    }

    /// Interrupt vectors that it has a use for: one for everything, or one per receive queue and one for the rest.
    pub const fn vectors(self) -> u16 {
        match self {
            Self::I82576 => 5,
            Self::I8254x | Self::I82574 => 1,
        }
    }

    /// Descriptors of a receive queue. One flow is in one queue, and a burst of it, a TCP window, has to fit: the
    /// 82576 drops what does not (seen with 128).
    pub(super) const fn rx_ring(self) -> usize {
        256
    }

    pub(super) const fn rx_format(self) -> RxFormat {
        match self {
            Self::I8254x => RxFormat::Legacy,
            Self::I82574 | Self::I82576 => RxFormat::Extended,
        }
    }

    pub(super) const fn tx_format(self) -> TxFormat {
        match self {
            Self::I8254x | Self::I82574 => TxFormat::Offsets,
            Self::I82576 => TxFormat::Advanced,
        }
    }

    /// Whether it is a PCI Express function, which finishes its requests before a reset.
    pub(super) const fn is_express(self) -> bool {
        !matches!(self, Self::I8254x)
    }

    /// Whether a frame after one that was cut up needs two descriptors, an erratum.
    pub(super) const fn splits_after_segmentation(self) -> bool {
        matches!(self, Self::I8254x)
    }

    /// Whether it is to cut up TCP over IPv6. QEMU's 8254x leaves a wrong payload length in the segments, and Linux does
    /// not ask it to either, so there software does it.
    pub(super) const fn cuts_ipv6(self) -> bool {
        !matches!(self, Self::I8254x)
    }

    pub(super) const fn eeprom_read(self) -> EepromRead {
        match self {
            Self::I8254x => EepromRead { done: eerd::DONE, address_shift: eerd::ADDRESS_SHIFT },
            Self::I82574 | Self::I82576 => {
                EepromRead { done: eerd::DONE_EXPRESS, address_shift: eerd::ADDRESS_SHIFT_EXPRESS }
            }
        }
    }

    /// The registers of a receive queue.
    pub(super) const fn rx_queue(self, queue: usize) -> QueueRegs {
        match self {
            Self::I82576 => QueueRegs(Reg(0xc000).plus(queue.wrapping_mul(16))),
            Self::I8254x | Self::I82574 => QueueRegs(Reg(0x2800)),
        }
    }

    /// The registers of the transmit queue.
    pub(super) const fn tx_queue(self) -> QueueRegs {
        match self {
            Self::I82576 => QueueRegs(Reg(0xe000)),
            Self::I8254x | Self::I82574 => QueueRegs(Reg(0x3800)),
        }
    }
}

/// The registers of one descriptor ring. They have the same order in every model, and for both directions.
#[derive(Clone, Copy)]
pub(super) struct QueueRegs(Reg);

impl QueueRegs {
    /// Base address: xDBAL, xDBAH.
    pub(super) const fn base(self) -> (Reg, Reg) {
        (self.0, self.0.plus(1))
    }
    /// Length in bytes: xDLEN.
    pub(super) const fn len(self) -> Reg {
        self.0.plus(2)
    }
    /// Split and replication receive control, SRRCTL; 82576 only.
    pub(super) const fn split(self) -> Reg {
        self.0.plus(3)
    }
    /// The next descriptor for the card: xDH.
    pub(super) const fn head(self) -> Reg {
        self.0.plus(4)
    }
    /// The end of what is the card's: xDT.
    pub(super) const fn tail(self) -> Reg {
        self.0.plus(6)
    }
    /// Thresholds and, in the 82576, the switch of the queue: xXDCTL.
    pub(super) const fn control(self) -> Reg {
        self.0.plus(10)
    }
    /// Frames dropped for want of a descriptor, RQDPC; receive queues of the 82576 only.
    pub(super) const fn dropped(self) -> Reg {
        self.0.plus(12)
    }
}
