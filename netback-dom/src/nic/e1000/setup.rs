//! Reset, address, PHY and control registers.

use core::time::Duration;

use xen_pv_rt::hyp::{Clock, Mmio};

use super::regs::{
    GONE, GRANULARITY, MTA_ENTRIES, RAH_VALID, RXCSUM_OFFLOAD, Reg, Registers, TIPG_COPPER, ctrl, eerd, mdic, rctl,
    status, tctl,
};
use crate::nic::{Link, MacAddress, NicError};

/// How long the card may take for anything it is waited for.
const DEADLINE: Duration = Duration::from_millis(100);
/// What the card needs to reload its EEPROM after a reset, 14.4.
const RELOAD_TIME: Duration = Duration::from_millis(5);
/// Interrupt throttling in units of 256 ns: at most 20000 per second.
const THROTTLE: u32 = 195;

/// Waits until `done`, which reads a register each time, with a deadline.
pub(super) fn wait<C: Clock>(clock: &C, what: &'static str, mut done: impl FnMut() -> bool) -> Result<(), NicError> {
    let deadline = clock.now().saturating_add(DEADLINE);
    while !done() {
        if clock.now() >= deadline {
            return Err(NicError::TimedOut(what));
        }
        core::hint::spin_loop();
    }
    Ok(())
}

/// Stops DMA and interrupts and resets the card. Returning `Ok` means that it no longer touches memory.
pub(super) fn reset<R: Mmio, C: Clock>(regs: &Registers<R>, clock: &C) -> Result<(), NicError> {
    regs.write(Reg::IMC, u32::MAX);
    regs.write(Reg::RCTL, 0);
    regs.write(Reg::TCTL, tctl::PSP);
    let control = regs.read(Reg::CTRL);
    if control == GONE {
        return Err(NicError::Gone);
    }
    regs.write(Reg::CTRL, control | ctrl::RST);
    let reloaded = clock.now().saturating_add(RELOAD_TIME);
    wait(clock, "reset", || clock.now() >= reloaded && regs.read(Reg::CTRL) & ctrl::RST == 0)?;
    // QEMU's model keeps its registers over a reset, and interrupts are back on after one in some models.
    regs.write(Reg::IMC, u32::MAX);
    regs.write(Reg::RCTL, 0);
    regs.write(Reg::TCTL, tctl::PSP);
    if regs.read(Reg::ICR) == GONE { Err(NicError::Gone) } else { Ok(()) }
}

/// Programs everything but the rings, and brings the link up.
pub(super) fn configure<R: Mmio, C: Clock>(regs: &Registers<R>, clock: &C) -> Result<(), NicError> {
    let keep = regs.read(Reg::CTRL)
        & !(ctrl::ILOS | ctrl::FRCSPD | ctrl::FRCDPX | ctrl::RFCE | ctrl::TFCE | ctrl::VME | ctrl::RST);
    regs.write(Reg::CTRL, keep | ctrl::SLU | ctrl::ASDE | ctrl::FD);
    for reg in [Reg::FCAL, Reg::FCAH, Reg::FCT, Reg::FCTTV, Reg::WUC] {
        regs.write(reg, 0);
    }
    // Multicast filtering is off (RCTL.MPE); the table is cleared since it has no defined initial contents.
    for index in 0..MTA_ENTRIES {
        regs.write(Reg::MTA.plus(index), 0);
    }
    for reg in [Reg::RDTR, Reg::RADV, Reg::TIDV] {
        regs.write(reg, 0);
    }
    regs.write(Reg::ITR, THROTTLE);
    regs.write(Reg::RXDCTL, GRANULARITY);
    regs.write(Reg::TXDCTL, GRANULARITY);
    regs.write(Reg::RXCSUM, RXCSUM_OFFLOAD);
    regs.write(Reg::TIPG, TIPG_COPPER);
    wake_phy(regs, clock)
}

/// Lets frames flow. The rings are programmed.
pub(super) fn enable<R: Mmio>(regs: &Registers<R>) {
    regs.write(Reg::TCTL, tctl::EN | tctl::PSP | tctl::CT | tctl::COLD | tctl::RTLC);
    // Promiscuous: other stations' frames are what a bridge is for. QEMU's model holds received frames back for
    // a second after each write of this register, so it is written once.
    regs.write(Reg::RCTL, rctl::EN | rctl::UPE | rctl::MPE | rctl::BAM | rctl::SECRC);
}

/// Powers the PHY up if a previous owner has powered it down; a working link is left alone.
fn wake_phy<R: Mmio, C: Clock>(regs: &Registers<R>, clock: &C) -> Result<(), NicError> {
    let transfer = |operation: u32| -> Result<u32, NicError> {
        regs.write(Reg::MDIC, operation | mdic::PHY | mdic::BMCR);
        let mut value = 0;
        wait(clock, "PHY", || {
            value = regs.read(Reg::MDIC);
            value & (mdic::READY | mdic::ERROR) != 0
        })?;
        Ok(value)
    };
    let control = transfer(mdic::READ)?;
    if control == GONE {
        return Err(NicError::Gone);
    }
    if control & mdic::ERROR == 0 && control & mdic::POWER_DOWN != 0 {
        transfer(mdic::WRITE | mdic::AUTONEG | mdic::RESTART)?;
    }
    Ok(())
}

/// The state of the link.
pub(super) fn link<R: Mmio>(regs: &Registers<R>) -> Result<Link, NicError> {
    let value = regs.read(Reg::STATUS);
    if value == GONE {
        return Err(NicError::Gone);
    }
    if value & status::LU == 0 {
        return Ok(Link::Down);
    }
    Ok(Link::Up(match value >> status::SPEED_SHIFT & 0b11 {
        0 => 10,
        1 => 100,
        _ => 1000,
    }))
}

/// The address that the card loaded from its EEPROM, or else what the EEPROM says.
pub(super) fn mac<R: Mmio, C: Clock>(regs: &Registers<R>, clock: &C) -> Result<MacAddress, NicError> {
    let (low, high) = (regs.read(Reg::RAL0), regs.read(Reg::RAH0));
    let [a, b, c, d] = low.to_le_bytes();
    let [e, f, ..] = high.to_le_bytes();
    let loaded = MacAddress([a, b, c, d, e, f]);
    if high & RAH_VALID != 0 && loaded.is_station() {
        return Ok(loaded);
    }
    let [a, b] = eeprom_word(regs, clock, 0)?;
    let [c, d] = eeprom_word(regs, clock, 1)?;
    let [e, f] = eeprom_word(regs, clock, 2)?;
    let stored = MacAddress([a, b, c, d, e, f]);
    if stored.is_station() {
        Ok(stored)
    } else {
        Err(NicError::Unsupported("a station address: its EEPROM holds none"))
    }
}

fn eeprom_word<R: Mmio, C: Clock>(regs: &Registers<R>, clock: &C, word: u32) -> Result<[u8; 2], NicError> {
    regs.write(Reg::EERD, word << eerd::ADDRESS_SHIFT | eerd::START);
    let mut value = 0;
    wait(clock, "EEPROM", || {
        value = regs.read(Reg::EERD);
        value & eerd::DONE != 0
    })?;
    if value == GONE {
        return Err(NicError::Gone);
    }
    let [low, high, ..] = (value >> eerd::DATA_SHIFT).to_le_bytes();
    Ok([low, high])
}
