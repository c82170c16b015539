//! A vbd that grows with its volume, while its guest writes to it.

use super::bed::{GUEST_LIMIT, Storage, wait_for};
use crate::failure::{Failure, Result, ensure};
use crate::shell::until;

/// Attaches `target` to a guest that writes to it without a pause. `grow` makes the volume larger, in Dom0; once the tables
/// have been read again, the guest must see that, and have the new end for itself.
///
/// The vbd is `shared`, because Dom0's is of the same disk.
pub(super) fn grows_under_its_guest(
    storage: &mut Storage,
    target: &str,
    grow: impl FnOnce(&Storage) -> Result<()>,
) -> Result<()> {
    let guest = storage.guest("g2")?;
    storage.attach(guest.domid, "xvdc", "rw", &format!("{target},shared"))?;
    let write = "dd if=/run/start of=/dev/xvdc bs=64k oflag=direct conv=notrunc 2>/dev/null";
    let start = format!(
        "set -e; {}; rm -f /run/stop /run/stopped /run/broken; cat /sys/block/xvdc/size\n\
         dd if=/dev/urandom of=/run/start bs=64k count=16 2>/dev/null\n\
         (while [ ! -e /run/stop ]; do {write} || touch /run/broken; done; touch /run/stopped) >/dev/null 2>&1 </dev/null &",
        wait_for("xvdc")
    );
    let before = number(&guest.check(&start, GUEST_LIMIT)?)?;
    grow(storage)?;
    storage.rescan()?;
    // The last 64 KiB, which were not there before.
    let grown = until(&format!("[ $(cat /sys/block/xvdc/size) -gt {before} ]"));
    let stopped = until("[ -e /run/stopped ]");
    let end = format!(
        "{grown}; sleep 0.5; touch /run/stop; {stopped}\n\
         set -e; [ ! -e /run/broken ]; size=$(cat /sys/block/xvdc/size); last=$((size / 128 - 1))\n\
         dd if=/dev/urandom of=/run/end bs=64k count=1 2>/dev/null\n\
         dd if=/run/end of=/dev/xvdc bs=64k seek=$last oflag=direct conv=notrunc 2>/dev/null\n\
         dd if=/dev/xvdc bs=64k skip=$last count=1 iflag=direct 2>/dev/null | cmp - /run/end\n\
         dd if=/dev/xvdc bs=64k count=16 iflag=direct 2>/dev/null | cmp - /run/start; echo $size"
    );
    let after = number(&guest.check(&end, GUEST_LIMIT)?)?;
    storage.detach_and_wait(&guest, &["xvdc"])?;
    ensure(after > before, || format!("{before} sectors before, {after} after {target} has grown"))
}

fn number(text: &str) -> Result<u64> {
    text.trim().parse().map_err(|_| Failure::new(format!("not a number: {text:?}")))
}
