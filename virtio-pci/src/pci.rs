//! The virtio transport over PCI, as an implementation of virtio-drivers' [`Transport`].
//!
//! Ours rather than virtio-drivers' `PciTransport`, because that has no MSI-X, takes three register accesses
//! for a notification where one will do, waits without a deadline for a reset when it is dropped, panics on
//! capabilities that a device makes up, and maps registers through an `unsafe` static trait where we have
//! [`Mmio`] windows that tests can stand in for.
//!
//! Virtio 1.2, section 4.1. Modern devices only.

use alloc::rc::Rc;
use alloc::vec::Vec;

use pciback::{PciCause, PciDevice, PciError};
use virtio_drivers::transport::{DeviceStatus, DeviceType, InterruptStatus, Transport};
use virtio_drivers::{Error, PhysAddr};
use xen_pv_rt::hyp::{Mmio, Platform};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Vendor-specific capability, which virtio's are.
const CAP_VENDOR: u8 = 0x09;
/// Fields of `struct virtio_pci_cap`.
mod cap {
    pub(super) const BAR: u16 = 4;
    pub(super) const OFFSET: u16 = 8;
    pub(super) const LENGTH: u16 = 12;
    pub(super) const MULTIPLIER: u16 = 16;
}
/// Fields of `struct virtio_pci_common_cfg`.
mod common {
    pub(super) const DEVICE_FEATURE_SELECT: usize = 0;
    pub(super) const DEVICE_FEATURE: usize = 4;
    pub(super) const DRIVER_FEATURE_SELECT: usize = 8;
    pub(super) const DRIVER_FEATURE: usize = 12;
    pub(super) const MSIX_CONFIG: usize = 16;
    pub(super) const DEVICE_STATUS: usize = 20;
    pub(super) const CONFIG_GENERATION: usize = 21;
    pub(super) const QUEUE_SELECT: usize = 22;
    pub(super) const QUEUE_SIZE: usize = 24;
    pub(super) const QUEUE_MSIX_VECTOR: usize = 26;
    pub(super) const QUEUE_ENABLE: usize = 28;
    pub(super) const QUEUE_NOTIFY_OFF: usize = 30;
    pub(super) const QUEUE_DESC: usize = 32;
    pub(super) const QUEUE_DRIVER: usize = 40;
    pub(super) const QUEUE_DEVICE: usize = 48;
    pub(super) const LEN: usize = 56;
}
/// The one vector that queues and configuration changes share.
const VECTOR: u16 = 0;
/// `VIRTIO_MSI_NO_VECTOR`.
const NO_VECTOR: u16 = 0xffff;
/// First device id of modern devices; the rest is the virtio device type.
const MODERN: u16 = 0x1040;
/// First device id of devices that are legacy devices too; the type is the subsystem id.
const TRANSITIONAL: u16 = 0x1000;
/// Subsystem id in configuration space.
const SUBSYSTEM_ID: u16 = 0x2e;

/// A part of a BAR.
pub struct Window<R> {
    bar: Rc<R>,
    offset: usize,
    len: usize,
}

impl<R: Mmio> Window<R> {
    /// `len` bytes of `bar` from `offset`. `None` if they are not all in it.
    pub fn new(bar: Rc<R>, offset: usize, len: usize) -> Option<Self> {
        (offset.checked_add(len)? <= bar.len()).then_some(Self { bar, offset, len })
    }

    /// Where the field is in the BAR; beyond any BAR, hence all ones, if it is not in the window.
    fn at(&self, field: usize, size: usize) -> usize {
        match field.checked_add(size) {
            Some(end) if end <= self.len => self.offset.wrapping_add(field),
            _ => usize::MAX,
        }
    }
    fn read8(&self, field: usize) -> u8 {
        self.bar.read8(self.at(field, 1))
    }
    fn read16(&self, field: usize) -> u16 {
        self.bar.read16(self.at(field, 2))
    }
    fn read32(&self, field: usize) -> u32 {
        self.bar.read32(self.at(field, 4))
    }
    fn write8(&self, field: usize, value: u8) {
        self.bar.write8(self.at(field, 1), value);
    }
    fn write16(&self, field: usize, value: u16) {
        self.bar.write16(self.at(field, 2), value);
    }
    fn write32(&self, field: usize, value: u32) {
        self.bar.write32(self.at(field, 4), value);
    }
    /// In two halves, which every device understands.
    fn write64(&self, field: usize, value: u64) {
        let [a, b, c, d, e, f, g, h] = value.to_le_bytes();
        self.write32(field, u32::from_le_bytes([a, b, c, d]));
        self.write32(field.saturating_add(4), u32::from_le_bytes([e, f, g, h]));
    }
}

/// The structures that a device's capabilities point to.
pub struct Windows<R> {
    /// `VIRTIO_PCI_CAP_COMMON_CFG`, 56 bytes at least.
    pub common: Window<R>,
    /// `VIRTIO_PCI_CAP_NOTIFY_CFG`.
    pub notify: Window<R>,
    /// `notify_off_multiplier`.
    pub multiplier: u32,
    /// `VIRTIO_PCI_CAP_ISR_CFG`.
    pub isr: Window<R>,
    /// `VIRTIO_PCI_CAP_DEVICE_CFG`.
    pub device: Window<R>,
}

/// A virtio device on the PCI bus.
pub struct VirtioPci<R> {
    windows: Windows<R>,
    kind: DeviceType,
    /// Queues that were set up, and where each is notified, in the notification window. Few of the many there may be: the
    /// number of a device's control queue is what the device says.
    notify_at: Vec<(u16, usize)>,
    msix: bool,
}

impl<R: Mmio> VirtioPci<R> {
    /// Finds and maps the structures of a modern device.
    ///
    /// # Errors
    /// [`PciCause::Unsupported`] if one of the structures is missing, [`PciCause::Bar`] if one is not where it
    /// can be.
    pub fn new<H: Platform<Region = R>>(device: &PciDevice<H>) -> Result<Self, PciError> {
        let unsupported =
            device.error(PciCause::Unsupported { vendor: device.vendor_id(), device: device.device_id() });
        let number = match device.device_id() {
            TRANSITIONAL..MODERN => device.read16(SUBSYSTEM_ID)?,
            id => id.checked_sub(MODERN).ok_or(unsupported)?,
        };
        let kind = DeviceType::try_from(u32::from(number)).map_err(|_| unsupported)?;
        let mut bars: Vec<(u8, Rc<R>)> = Vec::new();
        // By `cfg_type`, 1 to 4. The first of each counts.
        let mut found: [Option<(Window<R>, u16)>; 5] = [const { None }; 5];
        for entry in device.capabilities()?.iter().filter(|entry| entry.id == CAP_VENDOR && entry.kind > 0) {
            if let Some(place @ None) = found.get_mut(usize::from(entry.kind)) {
                *place = Some((structure(device, entry.offset, &mut bars)?, entry.offset));
            }
        }
        let [_, Some((common, _)), Some((notify, notify_cap)), Some((isr, _)), Some((config, _))] = found else {
            return Err(unsupported);
        };
        let multiplier = device.read32(notify_cap.saturating_add(cap::MULTIPLIER))?;
        Self::from_windows(Windows { common, notify, multiplier, isr, device: config }, kind).ok_or(unsupported)
    }

    /// A device of type `kind` whose structures are known. `None` if the common structure is too short.
    pub fn from_windows(windows: Windows<R>, kind: DeviceType) -> Option<Self> {
        (windows.common.len >= common::LEN).then(|| Self { windows, kind, notify_at: Vec::new(), msix: false })
    }

    /// Has the device interrupt by MSI-X, with vector 0 for everything, from the next
    /// [`queue_set`](Transport::queue_set) on. Otherwise it uses its interrupt line.
    pub fn use_msix(&mut self, msix: bool) {
        self.msix = msix;
    }

    /// Sets a vector register and looks whether the device had the resources for it.
    fn set_vector(&self, field: usize) {
        if !self.msix {
            return;
        }
        let common = &self.windows.common;
        common.write16(field, VECTOR);
        if common.read16(field) == NO_VECTOR {
            log::warn!("virtio: no vector for a queue; it will be polled slowly");
        }
    }
}

/// Maps what the capability at `at` points to.
fn structure<H: Platform>(
    device: &PciDevice<H>,
    at: u16,
    bars: &mut Vec<(u8, Rc<H::Region>)>,
) -> Result<Window<H::Region>, PciError> {
    let index = device.read8(at.saturating_add(cap::BAR))?;
    let offset = device.read32(at.saturating_add(cap::OFFSET))?;
    let len = device.read32(at.saturating_add(cap::LENGTH))?;
    let known = bars.iter().find(|(other, _)| *other == index).map(|(_, bar)| bar.clone());
    let bar = match known {
        Some(bar) => bar,
        None => {
            let bar = Rc::new(device.map_bar(index, 0)?);
            bars.push((index, bar.clone()));
            bar
        }
    };
    let window = usize::try_from(offset).ok().zip(usize::try_from(len).ok());
    window
        .and_then(|(offset, len)| Window::new(bar, offset, len))
        .ok_or(device.error(PciCause::Bar(index, "is shorter than the structures in it")))
}

impl<R: Mmio> Transport for VirtioPci<R> {
    fn device_type(&self) -> DeviceType {
        self.kind
    }

    fn read_device_features(&mut self) -> u64 {
        let common = &self.windows.common;
        common.write32(common::DEVICE_FEATURE_SELECT, 0);
        let low = common.read32(common::DEVICE_FEATURE);
        common.write32(common::DEVICE_FEATURE_SELECT, 1);
        u64::from(common.read32(common::DEVICE_FEATURE)) << 32 | u64::from(low)
    }

    fn write_driver_features(&mut self, driver_features: u64) {
        let [a, b, c, d, e, f, g, h] = driver_features.to_le_bytes();
        let common = &self.windows.common;
        common.write32(common::DRIVER_FEATURE_SELECT, 0);
        common.write32(common::DRIVER_FEATURE, u32::from_le_bytes([a, b, c, d]));
        common.write32(common::DRIVER_FEATURE_SELECT, 1);
        common.write32(common::DRIVER_FEATURE, u32::from_le_bytes([e, f, g, h]));
    }

    fn max_queue_size(&mut self, queue: u16) -> u32 {
        self.windows.common.write16(common::QUEUE_SELECT, queue);
        self.windows.common.read16(common::QUEUE_SIZE).into()
    }

    fn notify(&mut self, queue: u16) {
        if let Some((_, at)) = self.notify_at.iter().find(|(known, _)| *known == queue) {
            self.windows.notify.write16(*at, queue);
        }
    }

    fn get_status(&self) -> DeviceStatus {
        DeviceStatus::from_bits_retain(self.windows.common.read8(common::DEVICE_STATUS).into())
    }

    fn set_status(&mut self, status: DeviceStatus) {
        if status.is_empty() {
            // A reset ends all queues, and the device may number them differently from then on.
            self.notify_at.clear();
        }
        let [bits, ..] = status.bits().to_le_bytes();
        self.windows.common.write8(common::DEVICE_STATUS, bits);
    }

    fn set_guest_page_size(&mut self, _guest_page_size: u32) {
        // A matter of legacy devices.
    }

    fn requires_legacy_layout(&self) -> bool {
        false
    }

    fn queue_set(
        &mut self,
        queue: u16,
        size: u32,
        descriptors: PhysAddr,
        driver_area: PhysAddr,
        device_area: PhysAddr,
    ) {
        self.set_vector(common::MSIX_CONFIG);
        let common = &self.windows.common;
        common.write16(common::QUEUE_SELECT, queue);
        let notify_off = common.read16(common::QUEUE_NOTIFY_OFF);
        let multiplier = usize::try_from(self.windows.multiplier).unwrap_or(usize::MAX);
        let at = usize::from(notify_off).saturating_mul(multiplier);
        match self.notify_at.iter_mut().find(|(known, _)| *known == queue) {
            Some((_, place)) => *place = at,
            None => self.notify_at.push((queue, at)),
        }
        common.write16(common::QUEUE_SIZE, u16::try_from(size).unwrap_or(0));
        common.write64(common::QUEUE_DESC, descriptors);
        common.write64(common::QUEUE_DRIVER, driver_area);
        common.write64(common::QUEUE_DEVICE, device_area);
        self.set_vector(common::QUEUE_MSIX_VECTOR);
        self.windows.common.write16(common::QUEUE_ENABLE, 1);
    }

    fn queue_unset(&mut self, _queue: u16) {
        // Only a reset of the whole device unsets queues.
    }

    fn queue_used(&mut self, queue: u16) -> bool {
        self.windows.common.write16(common::QUEUE_SELECT, queue);
        self.windows.common.read16(common::QUEUE_ENABLE) == 1
    }

    fn ack_interrupt(&mut self) -> InterruptStatus {
        // With MSI-X there is nothing to acknowledge, and an access less.
        if self.msix {
            return InterruptStatus::empty();
        }
        InterruptStatus::from_bits_retain(self.windows.isr.read8(0).into())
    }

    fn read_config_generation(&self) -> u32 {
        self.windows.common.read8(common::CONFIG_GENERATION).into()
    }

    fn read_config_space<T: FromBytes + IntoBytes>(&self, offset: usize) -> Result<T, Error> {
        let size = size_of::<T>();
        let window = &self.windows.device;
        if offset.checked_add(size).is_none_or(|end| end > window.len) {
            return Err(Error::ConfigSpaceTooSmall);
        }
        let mut value = T::new_zeroed();
        let bytes = value.as_mut_bytes();
        // A field is read with its own width, anything else byte by byte. Virtio 1.2, 4.1.3.1.
        match size {
            2 => bytes.copy_from_slice(&window.read16(offset).to_le_bytes()),
            4 => bytes.copy_from_slice(&window.read32(offset).to_le_bytes()),
            _ => {
                for (at, byte) in (offset..).zip(bytes) {
                    *byte = window.read8(at);
                }
            }
        }
        Ok(value)
    }

    fn write_config_space<T: IntoBytes + Immutable>(&mut self, offset: usize, value: T) -> Result<(), Error> {
        let bytes = value.as_bytes();
        if offset.checked_add(bytes.len()).is_none_or(|end| end > self.windows.device.len) {
            return Err(Error::ConfigSpaceTooSmall);
        }
        for (at, byte) in (offset..).zip(bytes) {
            self.windows.device.write8(at, *byte);
        }
        Ok(())
    }
}
