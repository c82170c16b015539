//! Reset, address, PHY and control registers.

use core::time::Duration;

use xen_pv_rt::hyp::{Clock, Mmio};

use super::model::{Model, QueueRegs};
use super::regs::{
    CTRL_EXT_DRV_LOAD, EECD_AUTO_RD, GONE, GRANULARITY, MRQC_RSS, MTA_ENTRIES, PBA_8254X, QUEUE_ENABLE, RAH_VALID,
    RFCTL_EXTENDED, RXCSUM_OFFLOAD, RXCSUM_PCSD, Reg, Registers, TARC0_ERRATUM, TIPG_COPPER, TXDCTL_ALWAYS, ctrl, eerd,
    mdic, rctl, status, tctl,
};
use crate::nic::{Link, MacAddress, NicError, STANDARD_FRAME};

/// How long the card may take for anything it is waited for.
const DEADLINE: Duration = Duration::from_millis(100);
/// What the card needs to reload its EEPROM after a reset, 14.4.
const RELOAD_TIME: Duration = Duration::from_millis(5);
/// How long a link that was up takes to show after a reset.
const LINK_TIME: Duration = Duration::from_millis(10);
/// Registers of the hash key, and what is in each: with these two bytes over and over, both directions of a flow
/// have the same hash.
const RSS_KEY_WORDS: usize = 10;
const RSS_KEY: u32 = 0x5a6d_5a6d;
/// The count in a queue's register of dropped frames.
const RQDPC_COUNT: u64 = 0xfff;
/// Bytes of the frame check sequence.
const FCS: usize = 4;
/// Registers of the redirection table.
const RETA_WORDS: usize = 32;

/// Waits until `done`, which reads a register each time, with a deadline.
fn wait<C: Clock>(clock: &C, what: &'static str, done: impl FnMut() -> bool) -> Result<(), NicError> {
    wait_until(clock, DEADLINE, what, done)
}

fn wait_until<C: Clock>(
    clock: &C,
    time: Duration,
    what: &'static str,
    mut done: impl FnMut() -> bool,
) -> Result<(), NicError> {
    let deadline = clock.now().saturating_add(time);
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
    silence(regs);
    let control = regs.read(Reg::CTRL);
    if control == GONE {
        return Err(NicError::Gone);
    }
    if regs.model.is_express() {
        regs.write(Reg::CTRL, control | ctrl::MASTER_DISABLE);
        // If requests stay under way the reset ends them, 82574 datasheet 3.1.3.10: nothing more can be done.
        let _ = wait(clock, "bus", || regs.read(Reg::STATUS) & status::MASTER_ENABLED == 0);
    } else {
        // Takes effect with the reset.
        regs.write(Reg::PBA, PBA_8254X);
    }
    regs.write(Reg::CTRL, control | ctrl::RST);
    let reloaded = clock.now().saturating_add(RELOAD_TIME);
    wait(clock, "reset", || clock.now() >= reloaded && regs.read(Reg::CTRL) & ctrl::RST == 0)?;
    if regs.model.is_express() {
        // A card without an EEPROM never says so; whether there is an address shows later.
        let _ = wait(clock, "EEPROM", || regs.read(Reg::EECD) & EECD_AUTO_RD != 0);
    }
    // QEMU's model keeps its registers over a reset, and interrupts are back on after one in some models.
    silence(regs);
    if regs.read(Reg::ICR) == GONE { Err(NicError::Gone) } else { Ok(()) }
}

fn silence<R: Mmio>(regs: &Registers<R>) {
    regs.write(Reg::IMC, u32::MAX);
    if regs.model == Model::I82576 {
        regs.write(Reg::EIMC, u32::MAX);
    }
    regs.write(Reg::RCTL, 0);
    regs.write(Reg::TCTL, tctl::PSP);
}

/// Programs everything but the rings and interrupts, and brings the link up.
pub(super) fn configure<R: Mmio, C: Clock>(regs: &Registers<R>, clock: &C) -> Result<(), NicError> {
    let keep = regs.read(Reg::CTRL)
        & !(ctrl::ILOS | ctrl::FRCSPD | ctrl::FRCDPX | ctrl::RFCE | ctrl::TFCE | ctrl::VME | ctrl::RST);
    let link = if regs.model.is_express() { 0 } else { ctrl::ASDE };
    regs.write(Reg::CTRL, keep & !ctrl::MASTER_DISABLE | ctrl::SLU | ctrl::FD | link);
    for reg in [Reg::FCAL, Reg::FCAH, Reg::FCT, Reg::FCTTV, Reg::WUC] {
        regs.write(reg, 0);
    }
    // Multicast filtering is off (RCTL.MPE); the table is cleared since it has no defined initial contents.
    for index in 0..MTA_ENTRIES {
        regs.write(Reg::MTA.plus(index), 0);
    }
    match regs.model {
        Model::I8254x | Model::I82574 => {
            for reg in [Reg::RDTR, Reg::RADV, Reg::TIDV] {
                regs.write(reg, 0);
            }
            let always = if regs.model == Model::I82574 { TXDCTL_ALWAYS } else { 0 };
            regs.write(regs.model.rx_queue(0).control(), GRANULARITY);
            regs.write(regs.model.tx_queue().control(), GRANULARITY | always);
            regs.write(Reg::TIPG, TIPG_COPPER);
        }
        Model::I82576 => spread(regs),
    }
    if regs.model == Model::I82574 {
        regs.write(Reg::RFCTL, RFCTL_EXTENDED);
        regs.write(Reg::TARC0, regs.read(Reg::TARC0) | TARC0_ERRATUM);
    }
    if regs.model.is_express() {
        regs.write(Reg::CTRL_EXT, regs.read(Reg::CTRL_EXT) | CTRL_EXT_DRV_LOAD);
    }
    let hash = if regs.model == Model::I82576 { RXCSUM_PCSD } else { 0 };
    regs.write(Reg::RXCSUM, RXCSUM_OFFLOAD | hash);
    wake_phy(regs, clock)
}

/// Spreads flows over the receive queues.
fn spread<R: Mmio>(regs: &Registers<R>) {
    for index in 0..RSS_KEY_WORDS {
        regs.write(Reg::RSSRK.plus(index), RSS_KEY);
    }
    let queues = regs.model.rx_queues();
    for index in 0..RETA_WORDS {
        let first = index.wrapping_mul(4);
        let entry = |at: usize| u8::try_from(first.wrapping_add(at).checked_rem(queues).unwrap_or(0)).unwrap_or(0);
        regs.write(Reg::RETA.plus(index), u32::from_le_bytes([entry(0), entry(1), entry(2), entry(3)]));
    }
    regs.write(Reg::MRQC, MRQC_RSS);
}

/// Switches a programmed queue on, in models where it has a switch.
pub(super) fn switch_on<R: Mmio, C: Clock>(regs: &Registers<R>, queue: QueueRegs, clock: &C) -> Result<(), NicError> {
    if regs.model == Model::I82576 {
        regs.write(queue.control(), QUEUE_ENABLE);
        wait(clock, "queue", || regs.read(queue.control()) & QUEUE_ENABLE != 0)?;
    }
    Ok(())
}

/// Lets frames flow, received ones of up to `max_frame` bytes into buffers of `buffer` bytes. The rings are
/// programmed.
pub(super) fn enable<R: Mmio>(regs: &Registers<R>, max_frame: usize, buffer: u16) {
    let duplex = if regs.model == Model::I82576 { 0 } else { tctl::COLD };
    regs.write(Reg::TCTL, tctl::EN | tctl::PSP | tctl::CT | duplex | tctl::RTLC);
    if regs.model == Model::I82576 {
        regs.write(Reg::RLPML, u32::try_from(max_frame.saturating_add(FCS)).unwrap_or(0));
    }
    let long = if max_frame > STANDARD_FRAME { rctl::LPE } else { 0 };
    let large = if buffer > 2048 && regs.model != Model::I82576 { rctl::BUFFERS_4096 } else { 0 };
    // Promiscuous: other stations' frames are what a bridge is for. QEMU's model holds received frames back for
    // a second after each write of this register, so it is written once.
    regs.write(Reg::RCTL, rctl::EN | rctl::UPE | rctl::MPE | rctl::BAM | rctl::SECRC | long | large);
}

/// Frames that the receiver has had no room for since the last call.
pub(super) fn take_missed<R: Mmio>(regs: &Registers<R>) -> u64 {
    let missed = take_count(regs, Reg::MPC);
    if regs.model != Model::I82576 {
        return missed;
    }
    let dropped = |queue| take_count(regs, regs.model.rx_queue(queue).dropped()) & RQDPC_COUNT;
    (0..regs.model.rx_queues()).fold(missed, |sum, queue| sum.wrapping_add(dropped(queue)))
}

/// Frames that have arrived damaged since the last call.
pub(super) fn take_damaged<R: Mmio>(regs: &Registers<R>) -> u64 {
    take_count(regs, Reg::CRCERRS)
}

/// What a counter says, which reading clears.
fn take_count<R: Mmio>(regs: &Registers<R>, counter: Reg) -> u64 {
    match regs.read(counter) {
        GONE => 0,
        count => u64::from(count),
    }
}

/// Powers the PHY up if a previous owner has powered it down, and has it negotiate a link if it shows none; a
/// working link is left alone.
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
    let down = control & mdic::POWER_DOWN != 0 || !shows_link(regs, clock);
    if control & mdic::ERROR == 0 && down {
        transfer(mdic::WRITE | mdic::AUTONEG | mdic::RESTART)?;
    }
    Ok(())
}

/// Whether there is a link a moment after a reset. The 82576 does not bring one up by itself, at least not QEMU's.
fn shows_link<R: Mmio, C: Clock>(regs: &Registers<R>, clock: &C) -> bool {
    let up = || regs.read(Reg::STATUS) & status::LU != 0;
    regs.model != Model::I82576 || wait_until(clock, LINK_TIME, "link", up).is_ok()
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
    let layout = regs.model.eeprom_read();
    regs.write(Reg::EERD, word << layout.address_shift | eerd::START);
    let mut value = 0;
    wait(clock, "EEPROM", || {
        value = regs.read(Reg::EERD);
        value & layout.done != 0
    })?;
    if value == GONE {
        return Err(NicError::Gone);
    }
    let [low, high, ..] = (value >> eerd::DATA_SHIFT).to_le_bytes();
    Ok([low, high])
}
