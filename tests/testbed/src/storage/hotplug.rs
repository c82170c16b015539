//! Vbds that come and go.

use super::bed::{GUEST_LIMIT, Storage, wait_for};
use super::image::RAW;
use crate::failure::{Doing, Result};

pub(super) fn attached_and_detached_ten_times_nothing_leaks(storage: &mut Storage) -> Result<()> {
    attach_and_detach(storage, 10)
}

pub(super) fn attached_and_detached_fifty_times_nothing_leaks(storage: &mut Storage) -> Result<()> {
    attach_and_detach(storage, 50)
}

fn attach_and_detach(storage: &mut Storage, rounds: u32) -> Result<()> {
    let guest = storage.guest("g2")?;
    let target = format!("{}{RAW}", storage.disk());
    let before = storage.stock()?;
    for round in 1..=rounds {
        storage
            .with_vbd(&guest, "rw", &target, "dd if=/dev/xvdb of=/dev/null bs=64k count=16 iflag=direct 2>/dev/null")
            .doing(format!("round {round}"))?;
    }
    storage.nothing_left_behind(&before)
}

/// The guest takes its driver off the device. Linux's blkfront cannot take a device up again, so that is the end of the
/// vbd: it must go without a complaint, and the next one under its number must work.
pub(super) fn a_frontend_driver_lets_go_of_its_device(storage: &mut Storage) -> Result<()> {
    let guest = storage.guest("g2")?;
    let target = format!("{}{RAW}", storage.disk());
    let before = storage.stock()?;
    let device = "/sys/bus/xen/drivers/vbd";
    let unbind = format!("{}; echo vbd-51728 >{device}/unbind; [ ! -b /dev/xvdb ]", wait_for("xvdb"));
    storage.attach(guest.domid, "xvdb", "rw", &target)?;
    guest.check(&unbind, GUEST_LIMIT)?;
    storage.detach(guest.domid, "xvdb")?;
    storage.with_vbd(&guest, "rw", &target, "dd if=/dev/xvdb of=/dev/null bs=64k count=16 iflag=direct 2>/dev/null")?;
    storage.nothing_left_behind(&before)
}
