//! Registers of the 8254x family, as far as this driver uses them.
//!
//! Section numbers refer to Intel's "PCI/PCI-X Family of Gigabit Ethernet Controllers Software Developer's
//! Manual", revision 4.0.

use xen_pv_rt::hyp::Mmio;

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
    /// EEPROM read, 13.4.4.
    EERD = 0x0014;
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
    /// Receive descriptor ring: base, length, head, tail, 13.4.25 to 13.4.29.
    RDBAL = 0x2800;
    /// See RDBAL.
    RDBAH = 0x2804;
    /// See RDBAL.
    RDLEN = 0x2808;
    /// See RDBAL.
    RDH = 0x2810;
    /// See RDBAL.
    RDT = 0x2818;
    /// Receive delay timer, 13.4.30.
    RDTR = 0x2820;
    /// Receive descriptor control, 13.4.48.
    RXDCTL = 0x2828;
    /// Receive absolute delay, 13.4.31.
    RADV = 0x282c;
    /// Transmit descriptor ring: base, length, head, tail, 13.4.35 to 13.4.40.
    TDBAL = 0x3800;
    /// See TDBAL.
    TDBAH = 0x3804;
    /// See TDBAL.
    TDLEN = 0x3808;
    /// See TDBAL.
    TDH = 0x3810;
    /// See TDBAL.
    TDT = 0x3818;
    /// Transmit interrupt delay, 13.4.41.
    TIDV = 0x3820;
    /// Transmit descriptor control, 13.4.42.
    TXDCTL = 0x3828;
    /// Receive checksum control, 13.4.49.
    RXCSUM = 0x5000;
    /// Multicast table, 128 entries, 13.5.1.
    MTA = 0x5200;
    /// Receive address 0, 13.5.2 and 13.5.3.
    RAL0 = 0x5400;
    /// See RAL0.
    RAH0 = 0x5404;
    /// Wake up control, 13.6.1.
    WUC = 0x5800;
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
}

/// Bits of [`Reg::EERD`], in the layout of the 82540 and 82545.
pub(super) mod eerd {
    /// Start a read.
    pub(in super::super) const START: u32 = 1 << 0;
    /// The read is done.
    pub(in super::super) const DONE: u32 = 1 << 4;
    /// Word address.
    pub(in super::super) const ADDRESS_SHIFT: u32 = 8;
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
    /// The receive timer expired: there are frames.
    pub(in super::super) const RXT0: u32 = 1 << 7;
}

/// Bits of [`Reg::RCTL`].
pub(super) mod rctl {
    /// Enable.
    pub(in super::super) const EN: u32 = 1 << 1;
    /// Accept every unicast frame.
    pub(in super::super) const UPE: u32 = 1 << 3;
    /// Accept every multicast frame.
    pub(in super::super) const MPE: u32 = 1 << 4;
    /// Accept broadcast frames.
    pub(in super::super) const BAM: u32 = 1 << 15;
    /// Strip the FCS.
    pub(in super::super) const SECRC: u32 = 1 << 26;
    // Buffer size 2048 is 0 in BSIZE and BSEX.
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
/// [`Reg::TXDCTL`] and [`Reg::RXDCTL`]: thresholds count descriptors.
pub(super) const GRANULARITY: u32 = 1 << 24;
/// [`Reg::RXCSUM`]: check IP and TCP or UDP checksums.
pub(super) const RXCSUM_OFFLOAD: u32 = 1 << 8 | 1 << 9;
/// [`Reg::RAH0`]: the address is valid.
pub(super) const RAH_VALID: u32 = 1 << 31;
/// Entries of [`Reg::MTA`].
pub(super) const MTA_ENTRIES: usize = 128;
/// What every register of a card that has gone reads as.
pub(super) const GONE: u32 = u32::MAX;

/// The register window.
pub(super) struct Registers<R>(R);

impl<R: Mmio> Registers<R> {
    pub(super) const fn new(window: R) -> Self {
        Self(window)
    }
    pub(super) fn read(&self, reg: Reg) -> u32 {
        self.0.read32(reg.0)
    }
    pub(super) fn write(&self, reg: Reg, value: u32) {
        self.0.write32(reg.0, value);
    }
}
