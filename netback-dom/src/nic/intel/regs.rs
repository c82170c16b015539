//! Registers of the family, as far as this driver uses them. Those of descriptor rings are in
//! [`QueueRegs`](super::model::QueueRegs).
//!
//! Section numbers refer to Intel's "PCI/PCI-X Family of Gigabit Ethernet Controllers Software Developer's
//! Manual", revision 4.0; with a model in front, to that model's datasheet.

use xen_pv_rt::hyp::{DmaRing, Mmio};

use super::model::{Model, QueueRegs};

/// Length of the register window in bytes.
pub(super) const WINDOW: usize = 0x2_0000;

/// A register: its byte offset in the window.
#[derive(Clone, Copy)]
pub(super) struct Reg(pub(super) usize);

macro_rules! registers {
    ($($(#[$doc:meta])* $name:ident = $offset:expr;)*) => {
        impl Reg { $($(#[$doc])* pub(super) const $name: Self = Self($offset);)* }
    };
}

registers! {
    /// Device control, 13.4.1.
    CTRL = 0x0000;
    /// Device status, 13.4.2.
    STATUS = 0x0008;
    /// EEPROM control; 82574, 82576.
    EECD = 0x0010;
    /// EEPROM read, 13.4.4.
    EERD = 0x0014;
    /// Extended device control; 82574, 82576.
    CTRL_EXT = 0x0018;
    /// MDI control: access to the PHY, 13.4.8.
    MDIC = 0x0020;
    /// Flow control address, type and timer, 13.4.9 to 13.4.12.
    FCAL = 0x0028;
    /// See FCAL.
    FCAH = 0x002c;
    /// See FCAL.
    FCT = 0x0030;
    /// See FCAL.
    FCTTV = 0x0170;
    /// Interrupt cause; reading clears it, 13.4.17.
    ICR = 0x00c0;
    /// Interrupt throttling, 13.4.18.
    ITR = 0x00c4;
    /// Vectors of causes with MSI-X; 82574 10.2.4.9.
    IVAR_82574 = 0x00e4;
    /// Throttling of vector 0 with MSI-X; 82574.
    EITR_82574 = 0x00e8;
    /// Interrupt mask set, 13.4.20.
    IMS = 0x00d0;
    /// Interrupt mask clear, 13.4.21.
    IMC = 0x00d8;
    /// Receive control, 13.4.22.
    RCTL = 0x0100;
    /// Transmit control, 13.4.33.
    TCTL = 0x0400;
    /// Transmit inter-packet gap, 13.4.34.
    TIPG = 0x0410;
    /// General purpose interrupt enable; 82576 8.8.
    GPIE = 0x1514;
    /// Extended interrupt mask set: a bit per vector; 82576.
    EIMS = 0x1524;
    /// Extended interrupt mask clear; 82576.
    EIMC = 0x1528;
    /// Causes that are cleared as their message is sent; 82576.
    EIAC = 0x152c;
    /// Causes that are masked as their message is sent; 82576.
    EIAM = 0x1530;
    /// Throttling, a register per vector; 82576 8.8.
    EITR = 0x1680;
    /// Vectors of queues, a register for queues `n` and `n + 8`; 82576 8.8.
    IVAR = 0x1700;
    /// Vector of everything else; 82576.
    IVAR_MISC = 0x1740;
    /// Packet buffer allocation: KiB for receiving; 8254x 13.4.28.
    PBA = 0x1000;
    /// Receive delay timer, 13.4.30.
    RDTR = 0x2820;
    /// Receive absolute delay, 13.4.31.
    RADV = 0x282c;
    /// Transmit interrupt delay, 13.4.41.
    TIDV = 0x3820;
    /// Transmit arbitration; 82574.
    TARC0 = 0x3840;
    /// Frames with a bad FCS; reading clears it.
    CRCERRS = 0x4000;
    /// Frames missed for want of space; reading clears it.
    MPC = 0x4010;
    /// Receive checksum control, 13.4.49.
    RXCSUM = 0x5000;
    /// Longest frame if long ones are received; 82576.
    RLPML = 0x5004;
    /// Receive filter control; 82574, 82576.
    RFCTL = 0x5008;
    /// Multicast table, 128 entries, 13.5.1.
    MTA = 0x5200;
    /// Receive address 0, 13.5.2 and 13.5.3.
    RAL0 = 0x5400;
    /// See RAL0.
    RAH0 = 0x5404;
    /// Wake up control, 13.6.1.
    WUC = 0x5800;
    /// Multiple receive queues; 82574, 82576.
    MRQC = 0x5818;
    /// Redirection table: the queue of each of 128 hash values, four to a register; 82576.
    RETA = 0x5c00;
    /// Key of the hash, ten registers; 82576.
    RSSRK = 0x5c80;
}

impl Reg {
    /// The register `words` 32-bit words further on.
    pub(super) const fn plus(self, words: usize) -> Self {
        Self(self.0.wrapping_add(words.wrapping_mul(4)))
    }
}

/// Bits of [`Reg::CTRL`].
pub(super) mod ctrl {
    /// Full duplex.
    pub(in super::super) const FD: u32 = 1 << 0;
    /// Start no more requests on the bus; 82574, 82576.
    pub(in super::super) const MASTER_DISABLE: u32 = 1 << 2;
    /// Detect the speed from the PHY.
    pub(in super::super) const ASDE: u32 = 1 << 5;
    /// Set link up: let the MAC talk to the PHY.
    pub(in super::super) const SLU: u32 = 1 << 6;
    /// Invert loss of signal.
    pub(in super::super) const ILOS: u32 = 1 << 7;
    /// Force speed.
    pub(in super::super) const FRCSPD: u32 = 1 << 11;
    /// Force duplex.
    pub(in super::super) const FRCDPX: u32 = 1 << 12;
    /// Reset, clears itself.
    pub(in super::super) const RST: u32 = 1 << 26;
    /// Receive flow control.
    pub(in super::super) const RFCE: u32 = 1 << 27;
    /// Transmit flow control.
    pub(in super::super) const TFCE: u32 = 1 << 28;
    /// VLAN mode: strip and insert tags.
    pub(in super::super) const VME: u32 = 1 << 30;
}

/// Bits of [`Reg::STATUS`].
pub(super) mod status {
    /// Link up.
    pub(in super::super) const LU: u32 = 1 << 1;
    /// Speed: 10, 100, 1000, 1000 Mbit/s.
    pub(in super::super) const SPEED_SHIFT: u32 = 6;
    /// Requests on the bus are under way, or may be started; 82574, 82576.
    pub(in super::super) const MASTER_ENABLED: u32 = 1 << 19;
}

/// Bits of [`Reg::EERD`].
pub(super) mod eerd {
    /// Start a read.
    pub(in super::super) const START: u32 = 1 << 0;
    /// The read is done.
    pub(in super::super) const DONE: u32 = 1 << 4;
    /// The same in the 82574 and 82576.
    pub(in super::super) const DONE_EXPRESS: u32 = 1 << 1;
    /// Word address.
    pub(in super::super) const ADDRESS_SHIFT: u32 = 8;
    /// The same in the 82574 and 82576.
    pub(in super::super) const ADDRESS_SHIFT_EXPRESS: u32 = 2;
    /// Data.
    pub(in super::super) const DATA_SHIFT: u32 = 16;
}

/// Bits of [`Reg::MDIC`], and the one PHY register in use.
pub(super) mod mdic {
    /// PHY number 1 in the address field.
    pub(in super::super) const PHY: u32 = 1 << 21;
    /// Write operation.
    pub(in super::super) const WRITE: u32 = 1 << 26;
    /// Read operation.
    pub(in super::super) const READ: u32 = 2 << 26;
    /// The operation is done.
    pub(in super::super) const READY: u32 = 1 << 28;
    /// The operation failed.
    pub(in super::super) const ERROR: u32 = 1 << 30;
    /// PHY control register, in the register field.
    pub(in super::super) const BMCR: u32 = 0;
    /// BMCR: restart auto-negotiation.
    pub(in super::super) const RESTART: u32 = 1 << 9;
    /// BMCR: powered down.
    pub(in super::super) const POWER_DOWN: u32 = 1 << 11;
    /// BMCR: auto-negotiation.
    pub(in super::super) const AUTONEG: u32 = 1 << 12;
}

/// Interrupt causes: bits of [`Reg::ICR`], [`Reg::IMS`] and [`Reg::IMC`].
pub(super) mod cause {
    /// A transmit descriptor was written back.
    pub(in super::super) const TXDW: u32 = 1 << 0;
    /// The link changed.
    pub(in super::super) const LSC: u32 = 1 << 2;
    /// The receiver ran out of descriptors.
    pub(in super::super) const RXO: u32 = 1 << 6;
    /// The receive timer expired: there are frames. In the 82576, a receive descriptor was written back.
    pub(in super::super) const RXT0: u32 = 1 << 7;
    /// With MSI-X, a receive descriptor was written back; 82574.
    pub(in super::super) const RXQ0: u32 = 1 << 20;
    /// With MSI-X, a transmit descriptor was written back; 82574.
    pub(in super::super) const TXQ0: u32 = 1 << 22;
    /// With MSI-X, any cause that is not a queue's; 82574.
    pub(in super::super) const OTHER: u32 = 1 << 24;
}

/// Bits of [`Reg::GPIE`].
pub(super) mod gpie {
    /// Reading the causes clears them, whatever the mask.
    pub(in super::super) const NSICR: u32 = 1 << 0;
    /// Several vectors.
    pub(in super::super) const MULTIPLE_MSIX: u32 = 1 << 4;
    /// Masks of [`super::Reg::EIAM`] apply when a message is sent.
    pub(in super::super) const EIAME: u32 = 1 << 30;
    /// Pending bits are kept.
    pub(in super::super) const PBA: u32 = 1 << 31;
}

/// Bits of [`Reg::RCTL`].
pub(super) mod rctl {
    /// Enable.
    pub(in super::super) const EN: u32 = 1 << 1;
    /// Accept every unicast frame.
    pub(in super::super) const UPE: u32 = 1 << 3;
    /// Accept every multicast frame.
    pub(in super::super) const MPE: u32 = 1 << 4;
    /// Receive long frames.
    pub(in super::super) const LPE: u32 = 1 << 5;
    /// Accept broadcast frames.
    pub(in super::super) const BAM: u32 = 1 << 15;
    /// Strip the FCS.
    pub(in super::super) const SECRC: u32 = 1 << 26;
    /// Buffers of 4096 bytes: BSIZE 3 and BSEX. Without, they are of 2048.
    pub(in super::super) const BUFFERS_4096: u32 = 3 << 16 | 1 << 25;
}

/// Bits of [`Reg::TCTL`].
pub(super) mod tctl {
    /// Enable.
    pub(in super::super) const EN: u32 = 1 << 1;
    /// Pad short frames.
    pub(in super::super) const PSP: u32 = 1 << 3;
    /// Collision threshold: 15.
    pub(in super::super) const CT: u32 = 0x0f << 4;
    /// Collision distance for full duplex: 64 byte times.
    pub(in super::super) const COLD: u32 = 0x40 << 12;
    /// Retransmit on late collision.
    pub(in super::super) const RTLC: u32 = 1 << 24;
}

/// [`Reg::TIPG`] for copper: IPGT 8, IPGR1 8, IPGR2 6. Table 13-77.
pub(super) const TIPG_COPPER: u32 = 8 | 8 << 10 | 6 << 20;
/// Control of a queue: thresholds count descriptors; 8254x and 82574.
pub(super) const GRANULARITY: u32 = 1 << 24;
/// Control of the transmit queue: to be set always; 82574.
pub(super) const TXDCTL_ALWAYS: u32 = 1 << 22;
/// [`Reg::TARC0`]: to be set in the 82574, an erratum.
pub(super) const TARC0_ERRATUM: u32 = 1 << 26;
/// Control of a queue: it is on; 82576.
pub(super) const QUEUE_ENABLE: u32 = 1 << 25;
/// SRRCTL: one buffer per advanced descriptor; frames are dropped if there is none, rather than hold up the
/// other queues. The size of buffers in KiB is in the lowest bits.
pub(super) const SRRCTL_ADVANCED_DROP: u32 = 1 << 25 | 1 << 31;
/// [`Reg::RXCSUM`]: check IP and TCP or UDP checksums.
pub(super) const RXCSUM_OFFLOAD: u32 = 1 << 8 | 1 << 9;
/// [`Reg::RXCSUM`]: the hash takes the place of the checksum of the whole packet.
pub(super) const RXCSUM_PCSD: u32 = 1 << 13;
/// [`Reg::RFCTL`]: extended receive descriptors; 82574.
pub(super) const RFCTL_EXTENDED: u32 = 1 << 15;
/// [`Reg::MRQC`]: queues by a hash over addresses, and ports of TCP; 82576 8.10.
pub(super) const MRQC_RSS: u32 = 0x2 | 0x3f << 16;
/// [`Reg::EECD`]: the EEPROM was read after reset.
pub(super) const EECD_AUTO_RD: u32 = 1 << 9;
/// [`Reg::CTRL_EXT`]: a driver has taken the card over from its firmware.
pub(super) const CTRL_EXT_DRV_LOAD: u32 = 1 << 28;
/// [`Reg::PBA`] of the 8254x: 40 of 64 KiB for receiving, so that two long frames fit into the rest.
pub(super) const PBA_8254X: u32 = 40;
/// [`Reg::RAH0`]: the address is valid.
pub(super) const RAH_VALID: u32 = 1 << 31;
/// Entries of [`Reg::MTA`].
pub(super) const MTA_ENTRIES: usize = 128;
/// What every register of a card that has gone reads as.
pub(super) const GONE: u32 = u32::MAX;

/// Bytes of a descriptor, in every format.
const DESCRIPTOR: usize = 16;

/// The register window of a card.
pub(super) struct Registers<R> {
    window: R,
    /// Which card it is.
    pub(super) model: Model,
}

impl<R: Mmio> Registers<R> {
    pub(super) const fn new(window: R, model: Model) -> Self {
        Self { window, model }
    }
    pub(super) fn read(&self, reg: Reg) -> u32 {
        self.window.read32(reg.0)
    }
    pub(super) fn write(&self, reg: Reg, value: u32) {
        self.window.write32(reg.0, value);
    }

    /// Programs a descriptor ring of `entries` descriptors, empty.
    pub(super) fn set_ring(&self, queue: QueueRegs, ring: &DmaRing, entries: usize) {
        let [a, b, c, d, e, f, g, h] = ring.maddr().into_raw().to_le_bytes();
        let (low, high) = queue.base();
        self.write(low, u32::from_le_bytes([a, b, c, d]));
        self.write(high, u32::from_le_bytes([e, f, g, h]));
        self.write(queue.len(), u32::try_from(entries.wrapping_mul(DESCRIPTOR)).unwrap_or(0));
        self.write(queue.head(), 0);
        self.write(queue.tail(), 0);
    }
}
