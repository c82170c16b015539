//! LVM2: groups that the genuine tools make in Dom0, on disks of two controllers. Linux' device-mapper judges where the
//! data of a volume is.
//!
//! The group is `bulk`. One of its physical volumes is a whole disk, the other one a partition of a virtio disk.

use super::bed::{Storage, wait_for};
use super::grow::grows_under_its_guest;
use super::image::SPARE_PHYSICAL;
use super::targets::refused;
use crate::failure::{Result, ensure};

/// A volume that is not activated, and which nobody clears.
const CREATE: &str = "lvm lvcreate -q -an -Wn -Zn";
/// A linear volume of three segments, on two disks, and one whose stripes are in turn on these.
const SPANS: &str = "$create -l 6 -n spans bulk /dev/xvdy; $create -l 3 -n between bulk /dev/xvdy\n\
                     lvm lvextend -q -l +4 bulk/spans /dev/xvdz; lvm lvextend -q -l +3 bulk/spans /dev/xvdy\n\
                     $create -l 8 -i 2 -I 16k -n striped bulk";

pub(super) fn linux_finds_what_a_guest_wrote_to_logical_volumes(storage: &mut Storage) -> Result<()> {
    make_group(storage, SPANS)?;
    let listed = storage.rescan()?;
    for (name, mib) in [("spans", 13_u64), ("striped", 8)] {
        let line = format!("volume bulk/{name} size={}", mib << 20);
        ensure(listed.contains(&line), || format!("{line} is not among\n{listed}"))?;
    }
    let guest = storage.guest("g2")?;
    // Requests that begin and end anywhere in a stripe.
    let script = "for name in xvdb xvdc; do dd if=/dev/urandom of=/run/data bs=512 count=$(cat /sys/block/$name/size) 2>/dev/null\n\
                  dd if=/run/data of=/dev/$name bs=36k oflag=direct 2>/dev/null; sha256sum </run/data; rm /run/data; done";
    let written = storage.with_vbds(&guest, "rw", &[("xvdb", "bulk/spans"), ("xvdc", "bulk/striped")], script)?;
    let read = with_physical(
        storage,
        "",
        "lvm vgchange -q -ay bulk >/dev/null; for name in spans striped; do sha256sum </dev/bulk/$name; done\n\
         dmsetup table bulk-spans | wc -l; lvm vgchange -q -an bulk >/dev/null",
    )?;
    let written = format!("{written}3\n");
    ensure(read == written, || {
        format!("the guest wrote {written:?}, device-mapper and its number of segments: {read:?}")
    })
}

/// By a segment on another disk than the one it is on.
pub(super) fn a_logical_volume_grows_under_its_guest(storage: &mut Storage) -> Result<()> {
    make_group(storage, "$create -l 4 -n grows bulk /dev/xvdy")?;
    storage.rescan()?;
    grows_under_its_guest(storage, "bulk/grows", |storage| {
        with_physical(storage, ",shared", "lvm lvextend -q -l +4 bulk/grows /dev/xvdz >/dev/null; sync").map(|_| ())
    })
}

pub(super) fn a_logical_volume_of_another_kind_is_refused(storage: &mut Storage) -> Result<()> {
    let mirror = "modprobe dm-mirror; $create --type mirror --mirrorlog core -m 1 -l 4 -n twice bulk";
    make_group(storage, &format!("$create -l 4 -n plain bulk; {mirror}"))?;
    let listed = storage.rescan()?;
    let why = listed.lines().find_map(|line| line.strip_prefix("volume bulk/twice error=")).unwrap_or_default();
    ensure(why.to_lowercase().contains("mirror"), || format!("no line says why it is refused:\n{listed}"))?;
    let guest = storage.guest("g2")?;
    refused(storage, guest.domid, "bulk/twice", "VOLUME")?;
    storage.with_vbd(&guest, "rw", "bulk/plain", "true").map(|_| ())
}

/// Makes the group anew, in Dom0; `create` makes volumes in it.
fn make_group(storage: &Storage, create: &str) -> Result<()> {
    storage.ensure_blkdom()?;
    // Tables at the ends of the disks are those of other scenarios.
    let script = format!(
        "create='{CREATE}'; modprobe dm-mod; for name in xvdy xvdz; do last=$(($(cat /sys/block/$name/size) / 2048 - 1))\n\
         for at in 0 $last; do dd if=/dev/zero of=/dev/$name bs=1M count=1 seek=$at conv=fsync 2>/dev/null; done; done\n\
         (lvm pvcreate -q -y /dev/xvdy /dev/xvdz; lvm vgcreate -q -s 1M bulk /dev/xvdy /dev/xvdz\n{create}) >/dev/null; sync",
    );
    with_physical(storage, "", &script).map(|_| ())
}

/// Runs a script in Dom0 that has the group's disks.
fn with_physical(storage: &Storage, shared: &str, script: &str) -> Result<String> {
    storage.attach(0, "xvdy", "rw", &format!("{}{shared}", storage.tables()))?;
    storage.attach(0, "xvdz", "rw", &format!("{}{SPARE_PHYSICAL}{shared}", storage.spare()))?;
    let said = storage.dom0(&format!("set -e; {}; {}; {script}", wait_for("xvdy"), wait_for("xvdz")))?;
    storage.detach(0, "xvdy")?;
    storage.detach(0, "xvdz")?;
    Ok(said)
}
