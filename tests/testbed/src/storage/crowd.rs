//! Many guests on one small driver domain.

use std::fmt::Write as _;

use super::bed::{GUEST_LIMIT, NAME, Storage, disk_setting, guest_config, wait_for};
use crate::failure::{Doing, Result, ensure};
use crate::guest::{GuestConfig, XL_LIMIT};
use crate::shell::until;

const GUESTS: u8 = 8;

/// Eight guests, two vbds each, in the 32 MiB that the driver domain's configuration gives it.
pub(super) fn eight_guests_with_two_vbds_each(storage: &mut Storage) -> Result<()> {
    let before = crowd(storage)?;
    let mut guests = Vec::new();
    for number in 1..=GUESTS {
        guests.push(storage.guest(&name(number))?);
    }
    for (guest, number) in guests.iter().zip(1_u8..) {
        // All write at the same time; every guest's data is its own.
        let script = format!(
            "set -e; {}; {}; for d in xvda xvdb; do (yes {number}-$d | head -c 2097152 >/run/$d; \
             dd if=/run/$d of=/dev/$d bs=64k conv=fsync 2>/dev/null) & done; exit 0",
            wait_for("xvda"),
            wait_for("xvdb")
        );
        guest.check(&script, GUEST_LIMIT)?;
    }
    for guest in &guests {
        let script = format!(
            "{}; for d in xvda xvdb; do dd if=/dev/$d bs=64k count=32 iflag=direct 2>/dev/null | cmp - /run/$d || exit 1; done",
            until("! pidof dd >/dev/null")
        );
        guest.check(&script, GUEST_LIMIT).doing(guest.name.clone())?;
    }
    let memory = storage.dom0(&format!("xl list {NAME} | awk 'NR == 2 {{ print $3 }}'"))?;
    ensure(memory.trim() == "32", || format!("the driver domain has {} MiB", memory.trim()))?;
    for guest in guests {
        storage.destroy(guest)?;
    }
    storage.nothing_left_behind(&before)
}

/// Eight `xl destroy` at the same time.
pub(super) fn eight_guests_destroyed_at_once_leave_nothing(storage: &mut Storage) -> Result<()> {
    let before = crowd(storage)?;
    let mut script = String::new();
    for number in 1..=GUESTS {
        storage.forget(&name(number));
        let name = name(number);
        let _ = writeln!(script, "(xl destroy {name} 2>&1 | sed 's/^/{name}: /') &");
    }
    let said = storage.machine().dom0.check(&format!("{script}wait"), XL_LIMIT.saturating_mul(4))?;
    ensure(said.trim().is_empty(), || format!("xl said:\n{said}"))?;
    storage.nothing_left_behind(&before)
}

/// Starts the guests; what was held before they came is returned.
fn crowd(storage: &mut Storage) -> Result<crate::leaks::Resources> {
    storage.destroy_everyone()?;
    storage.ensure_blkdom()?;
    // The first vbd of all leaves xenstore directories.
    let first = storage.guest("g0")?;
    storage.with_vbd(&first, "rw", &slice(storage, 0), "true")?;
    storage.destroy(first)?;
    let before = storage.stock()?;
    let configs: Vec<_> = (1..=GUESTS).map(|number| config(storage, number)).collect();
    storage.guests_at_once(&configs)?;
    Ok(before)
}

fn config(storage: &Storage, number: u8) -> GuestConfig {
    let index = u64::from(number).saturating_mul(2);
    let disks = [("xvda", index), ("xvdb", index.saturating_add(1))]
        .map(|(vdev, index)| disk_setting(vdev, "rw", &slice(storage, index)));
    let settings = format!("'disk=[{}]'", disks.join(","));
    GuestConfig { settings, ..guest_config(&name(number)) }
}

fn name(number: u8) -> String {
    format!("c{number}")
}

/// The `index`th slice of 4 MiB beyond what other scenarios use.
fn slice(storage: &Storage, index: u64) -> String {
    format!("{}@{}M+4M", storage.disk(), index.saturating_mul(4).saturating_add(256))
}
