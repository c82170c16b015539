//! One function in use: configuration space, registers, reset.
//!
//! `pci_types` gives the meaning of ids and command bits. Its `ConfigRegionAccess` is not implemented here:
//! its methods are `unsafe`, cannot report errors, and its capability walk trusts the device to end it.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::time::Duration;

use pci_types::CommandRegister;
use pci_types::device_type::DeviceType;
use ring::pciif::OpRequest;
use xen_pv_rt::hyp::{Platform, sleep};

use crate::bus::Inner;
use crate::map::{Bars, bar_offset};
use crate::{InterruptKind, Interrupts, PciCause, PciError, Sbdf};

/// Offsets in configuration space. PCI Local Bus 3.0, 6.1 and 6.7.
mod reg {
    /// Vendor id, device id above it.
    pub(super) const IDS: u16 = 0x00;
    /// Status register above it.
    pub(super) const COMMAND: u16 = 0x04;
    pub(super) const CLASS: u16 = 0x08;
    pub(super) const CAPABILITIES: u16 = 0x34;
    pub(super) const FIRST_CAPABILITY: u16 = 0x40;
}

/// Capability of PCI Express functions.
const CAP_EXPRESS: u8 = 0x10;
/// More capabilities than fit into 192 bytes: a longer list is a loop.
const MAX_CAPABILITIES: usize = 48;
/// What a function is given to finish a reset. PCI Express 3.0, 6.6.2.
const RESET_TIME: Duration = Duration::from_millis(100);

/// An entry of the capability list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capability {
    /// What it is.
    pub id: u8,
    /// Where it starts in configuration space, 0x40 to 0xfc.
    pub offset: u16,
    /// Its fourth byte, which tells capabilities of one vendor apart.
    pub kind: u8,
}

/// A passed-through function in use. Dropping it stops its bus mastering and lets it be taken again.
pub struct PciDevice<H: Platform> {
    bus: Rc<Inner<H>>,
    sbdf: Sbdf,
    vendor: u16,
    device: u16,
    /// What [`Interrupts`] exist, so that they are neither enabled nor disabled twice.
    interrupts: Rc<Cell<Option<InterruptKind>>>,
    /// The BARs, as far as they were sized.
    pub(crate) bars: Cell<Bars>,
    /// The capabilities, once they were read.
    list: RefCell<Option<Vec<Capability>>>,
    /// What was last written to the command register, once it was read.
    command: Cell<Option<CommandRegister>>,
    /// The status register, as it was when the command register was read.
    status: Cell<u16>,
}

impl<H: Platform> PciDevice<H> {
    pub(crate) fn new(bus: Rc<Inner<H>>, sbdf: Sbdf) -> Result<Self, PciError> {
        if bus.taken.borrow().contains(&sbdf) {
            return Err(PciError { sbdf, cause: PciCause::Busy });
        }
        bus.taken.borrow_mut().push(sbdf);
        let mut this = Self {
            bus,
            sbdf,
            vendor: 0,
            device: 0,
            interrupts: Rc::default(),
            bars: Cell::default(),
            list: RefCell::new(None),
            command: Cell::new(None),
            status: Cell::new(0),
        };
        let [a, b, c, d] = this.read32(reg::IDS)?.to_le_bytes();
        (this.vendor, this.device) = (u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d]));
        if this.vendor == 0xffff { Err(this.error(PciCause::Absent)) } else { Ok(this) }
    }

    /// Its address.
    pub fn sbdf(&self) -> Sbdf {
        self.sbdf
    }
    /// Vendor id.
    pub fn vendor_id(&self) -> u16 {
        self.vendor
    }
    /// Device id.
    pub fn device_id(&self) -> u16 {
        self.device
    }
    /// What kind of device it says it is.
    ///
    /// # Errors
    /// As [`read8`](Self::read8).
    pub fn device_type(&self) -> Result<DeviceType, PciError> {
        let [_, _, sub, base] = self.read32(reg::CLASS)?.to_le_bytes();
        Ok(DeviceType::from((base, sub)))
    }
    /// The platform it was found through, for its driver's clock and DMA memory.
    pub fn platform(&self) -> &H {
        &self.bus.hyp
    }

    /// An error of this function.
    pub fn error(&self, cause: PciCause) -> PciError {
        PciError { sbdf: self.sbdf, cause }
    }

    pub(crate) fn call(&self, request: OpRequest) -> Result<u32, PciError> {
        self.bus.ops.call(&request).map(|reply| reply.value).map_err(|cause| self.error(cause))
    }
    pub(crate) fn bus(&self) -> &Rc<Inner<H>> {
        &self.bus
    }
    pub(crate) fn interrupts(&self) -> &Rc<Cell<Option<InterruptKind>>> {
        &self.interrupts
    }

    /// Reads a byte of configuration space.
    ///
    /// # Errors
    /// [`PciCause::NoAnswer`] or [`PciCause::Refused`].
    pub fn read8(&self, offset: u16) -> Result<u8, PciError> {
        let [byte, ..] = self.read(offset, 1)?.to_le_bytes();
        Ok(byte)
    }
    /// Reads 16 bits of configuration space.
    ///
    /// # Errors
    /// As [`read8`](Self::read8).
    pub fn read16(&self, offset: u16) -> Result<u16, PciError> {
        let [low, high, ..] = self.read(offset, 2)?.to_le_bytes();
        Ok(u16::from_le_bytes([low, high]))
    }
    /// Reads 32 bits of configuration space.
    ///
    /// # Errors
    /// As [`read8`](Self::read8).
    pub fn read32(&self, offset: u16) -> Result<u32, PciError> {
        self.read(offset, 4)
    }
    /// Writes 16 bits of configuration space. pciback drops writes to most fields without a word.
    ///
    /// # Errors
    /// As [`read8`](Self::read8).
    pub fn write16(&self, offset: u16, value: u16) -> Result<(), PciError> {
        self.write(offset, 2, value.into())
    }
    /// Writes 32 bits of configuration space. pciback drops writes to most fields without a word.
    ///
    /// # Errors
    /// As [`read8`](Self::read8).
    pub fn write32(&self, offset: u16, value: u32) -> Result<(), PciError> {
        self.write(offset, 4, value)
    }

    fn read(&self, offset: u16, size: u8) -> Result<u32, PciError> {
        self.call(OpRequest::config_read(self.function(), offset, size))
    }
    fn write(&self, offset: u16, size: u8, value: u32) -> Result<(), PciError> {
        self.call(OpRequest::config_write(self.function(), offset, size, value)).map(drop)
    }
    pub(crate) fn function(&self) -> ring::pciif::Function {
        self.sbdf.into()
    }

    /// The capability list.
    ///
    /// It is the device's: a loop, or a pointer outside of the area for capabilities, ends it.
    ///
    /// # Errors
    /// As [`read8`](Self::read8).
    pub fn capabilities(&self) -> Result<Vec<Capability>, PciError> {
        /// Status register: there is a list.
        const HAS_LIST: u16 = 1 << 4;
        if let Some(list) = &*self.list.borrow() {
            return Ok(list.clone());
        }
        let mut list = Vec::new();
        let mut offset = 0;
        self.command()?;
        if self.status.get() & HAS_LIST != 0 {
            offset = u16::from(self.read8(reg::CAPABILITIES)?) & !3;
        }
        while offset >= reg::FIRST_CAPABILITY && list.len() < MAX_CAPABILITIES {
            let [id, next, _, kind] = self.read32(offset)?.to_le_bytes();
            list.push(Capability { id, offset, kind });
            offset = u16::from(next) & !3;
        }
        *self.list.borrow_mut() = Some(list.clone());
        Ok(list)
    }

    /// Where the capability with that id starts.
    ///
    /// # Errors
    /// As [`read8`](Self::read8).
    pub fn capability(&self, id: u8) -> Result<Option<u16>, PciError> {
        Ok(self.capabilities()?.iter().find(|cap| cap.id == id).map(|cap| cap.offset))
    }

    /// Makes the function answer to its memory BARs. Its DMA stays off: a previous owner may have left it
    /// running, and its driver has not reset it yet.
    ///
    /// # Errors
    /// As [`read8`](Self::read8).
    pub fn enable_memory(&self) -> Result<(), PciError> {
        self.change_command(CommandRegister::BUS_MASTER_ENABLE, CommandRegister::MEMORY_ENABLE)
    }

    /// Lets the function do DMA. To be called when the driver has reset it.
    ///
    /// # Errors
    /// [`PciCause::Command`] if pciback did not let it or [`enable_memory`](Self::enable_memory) happen, or as
    /// [`read8`](Self::read8).
    pub fn enable_bus_master(&self) -> Result<(), PciError> {
        self.change_command(CommandRegister::empty(), CommandRegister::BUS_MASTER_ENABLE)?;
        let now = CommandRegister::from_bits_retain(self.read16(reg::COMMAND)?);
        for (bit, what) in
            [(CommandRegister::MEMORY_ENABLE, "memory decoding"), (CommandRegister::BUS_MASTER_ENABLE, "bus mastering")]
        {
            if !now.contains(bit) {
                return Err(self.error(PciCause::Command(what)));
            }
        }
        Ok(())
    }

    /// Stops the function's DMA.
    ///
    /// # Errors
    /// As [`read8`](Self::read8).
    pub fn disable_bus_master(&self) -> Result<(), PciError> {
        self.change_command(CommandRegister::BUS_MASTER_ENABLE, CommandRegister::empty())
    }

    /// What was last written to the command register, or what is in it.
    fn command(&self) -> Result<CommandRegister, PciError> {
        if let Some(command) = self.command.get() {
            return Ok(command);
        }
        let [low, high, status_low, status_high] = self.read32(reg::COMMAND)?.to_le_bytes();
        let command = CommandRegister::from_bits_retain(u16::from_le_bytes([low, high]));
        self.command.set(Some(command));
        self.status.set(u16::from_le_bytes([status_low, status_high]));
        Ok(command)
    }

    fn change_command(&self, clear: CommandRegister, set: CommandRegister) -> Result<(), PciError> {
        let command = self.command()?.difference(clear).union(set);
        self.command.set(Some(command));
        self.write16(reg::COMMAND, command.bits())
    }

    /// Sets up interrupts: MSI-X with up to `wanted` vectors, else MSI, else the interrupt line.
    ///
    /// Memory decoding has to be enabled.
    ///
    /// # Errors
    /// [`PciCause::NoInterrupt`] if none of them works, [`PciCause::Busy`] if they exist already.
    pub fn enable_interrupts(&self, wanted: u16) -> Result<Interrupts<H>, PciError> {
        Interrupts::enable(self, wanted)
    }

    /// Resets the function by PCI Express function level reset.
    ///
    /// In addition to the driver's own reset, for a function that does not react to that: libxl has tried this
    /// before it gave the device to us, and pciback only lets it happen in `permissive` mode.
    ///
    /// # Errors
    /// [`PciCause::NoReset`] if the function cannot, or pciback did not let it.
    pub async fn function_level_reset(&self) -> Result<(), PciError> {
        const CAPABLE: u32 = 1 << 28;
        const START: u16 = 1 << 15;
        let cap = self.capability(CAP_EXPRESS)?.ok_or(self.error(PciCause::NoReset))?;
        if self.read32(cap.saturating_add(4))? & CAPABLE == 0 {
            return Err(self.error(PciCause::NoReset));
        }
        let control = cap.saturating_add(8);
        let value = self.read16(control)?;
        let mut slots = [0; 6];
        for (index, slot) in (0..).zip(&mut slots) {
            *slot = self.read32(bar_offset(index))?;
        }
        self.write16(control, value | START)?;
        sleep(&self.bus.hyp, RESET_TIME).await;
        if self.read16(reg::IDS)? != self.vendor {
            return Err(self.error(PciCause::Absent));
        }
        // The reset has cleared these; pciback lets a BAR's own value be restored, and its idea of the command
        // register is refreshed by going through off.
        for (index, slot) in (0..).zip(slots) {
            self.write32(bar_offset(index), slot)?;
        }
        self.write16(reg::COMMAND, 0)?;
        self.command.set(Some(CommandRegister::empty()));
        self.enable_memory()
    }
}

impl<H: Platform> Drop for PciDevice<H> {
    fn drop(&mut self) {
        // If pciback no longer answers there is nothing to be done, and Dom0 resets the device anyway.
        if self.command.get().is_some_and(|command| command.contains(CommandRegister::BUS_MASTER_ENABLE)) {
            let _ = self.disable_bus_master();
        }
        self.bus.taken.borrow_mut().retain(|sbdf| *sbdf != self.sbdf);
    }
}
