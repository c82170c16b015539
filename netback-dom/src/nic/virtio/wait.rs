//! Waits for the device, none of which is endless.

use core::time::Duration;

use virtio_drivers::transport::{DeviceStatus, Transport};
use xen_pv_rt::hyp::Clock;

use crate::nic::NicError;

/// What every register of a device that has gone reads as.
pub(super) const GONE: DeviceStatus = DeviceStatus::from_bits_retain(0xff);
/// How long the device may take for a reset or a command.
const DEADLINE: Duration = Duration::from_millis(100);

/// Waits until `done`, with a deadline.
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

/// Resets the device. Returning `Ok` means that it no longer touches memory.
pub(super) fn reset<T: Transport, C: Clock>(transport: &mut T, clock: &C) -> Result<(), NicError> {
    transport.set_status(DeviceStatus::empty());
    let deadline = clock.now().saturating_add(DEADLINE);
    loop {
        match transport.get_status() {
            status if status.is_empty() => return Ok(()),
            GONE => return Err(NicError::Gone),
            _ if clock.now() >= deadline => return Err(NicError::TimedOut("reset")),
            _ => core::hint::spin_loop(),
        }
    }
}
