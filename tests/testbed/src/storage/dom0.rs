//! Dom0 without a disk driver has disks all the same: vbds of the driver domain, also to boot guests from.

use super::bed::{GUEST_LIMIT, Storage, disk_setting, guest_config, wait_for};
use super::image::{RAW, ROOT};
use crate::dom0::Dom0;
use crate::failure::{Doing, Result, ensure};
use crate::guest::GuestConfig;
use crate::shell::until;

/// Modules that would mean that Dom0 drives disks itself.
const STORAGE_MODULES: &str = "ahci|libata|libahci|nvme|nvme_core|virtio_blk|virtio_pci|sd_mod|scsi_mod|mptsas";

/// Fails if Dom0 has a module loaded that drives a disk.
pub(crate) fn has_no_disk_driver(dom0: &Dom0) -> Result<()> {
    let modules = dom0.check(&format!("lsmod | grep -E '^({STORAGE_MODULES}) ' || true"), GUEST_LIMIT)?;
    ensure(modules.is_empty(), || format!("Dom0 has storage modules loaded: {modules}"))
}

pub(super) fn dom0_is_a_frontend_and_has_no_disk_driver(storage: &mut Storage) -> Result<()> {
    storage.ensure_blkdom()?;
    has_no_disk_driver(&storage.machine().dom0)?;
    storage.attach(0, "xvdz", "rw", &format!("{}{RAW}", storage.disk()))?;
    let script = format!(
        "{}\ndd if=/dev/urandom of=/tmp/r bs=1M count=8 2>/dev/null && dd if=/tmp/r of=/dev/xvdz bs=1M conv=fsync 2>/dev/null\n\
         echo 3 >/proc/sys/vm/drop_caches; dd if=/dev/xvdz bs=1M count=8 2>/dev/null | cmp - /tmp/r",
        wait_for("xvdz")
    );
    storage.dom0(&script)?;
    storage.detach(0, "xvdz")
}

/// What Dom0 reads of vbds and controllers in xenstore.
pub(super) fn counters_move_while_a_vbd_is_there(storage: &mut Storage) -> Result<()> {
    let guest = storage.guest("g2")?;
    let blkdom = storage.ensure_blkdom()?;
    let node = format!("/local/domain/{blkdom}/data/statistics/vbd-{}-51728", guest.domid);
    storage.attach(guest.domid, "xvdb", "rw", &format!("{}{RAW}", storage.disk()))?;
    let write = "dd if=/dev/zero of=/dev/xvdb bs=64k count=16 oflag=direct 2>/dev/null";
    guest.check(&format!("set -e; {}; {write}", wait_for("xvdb")), GUEST_LIMIT)?;
    // Nodes are written every five seconds.
    let written = until(&format!("xenstore-read {node} 2>/dev/null | grep -q ' sectors-written=2048 '"));
    storage.dom0(&written).doing("waiting for the vbd's counters")?;
    let controllers = "grep 'state=running' | grep -vq 'answered=0 '";
    storage.dom0(&format!("xenstore-ls /local/domain/{blkdom}/data/statistics | {controllers}"))?;
    storage.detach(guest.domid, "xvdb")?;
    storage.dom0(&until(&format!("! xenstore-read {node} 2>/dev/null"))).doing("waiting for the node to go").map(|_| ())
}

/// The kernel and the initramfs come from a file system that Dom0 has mounted from a vbd of its own.
pub(super) fn a_guest_boots_from_a_kernel_on_dom0s_vbd(storage: &mut Storage) -> Result<()> {
    storage.ensure_blkdom()?;
    storage.attach(0, "xvdz", "ro", &format!("{}{ROOT}", storage.disk()))?;
    storage.dom0(&format!("{}; mkdir -p /mnt && mount -t ext4 -o ro,noload /dev/xvdz /mnt", wait_for("xvdz")))?;
    let settings = "'kernel=\"/mnt/boot/vmlinuz\"' 'ramdisk=\"/mnt/boot/initrd.gz\"'".into();
    let guest = storage.guest_with(&GuestConfig { settings, ..guest_config("from-vbd") })?;
    guest.check("true", GUEST_LIMIT)?;
    storage.destroy(guest)?;
    storage.dom0("umount /mnt")?;
    storage.detach(0, "xvdz")
}

/// What pygrub does, in a few lines: finds kernel and initramfs on the disk that libxl attached to Dom0 for it.
const BOOTLOADER: &str = r#"#!/bin/sh
for word in "$@"; do
    case "$word" in
        --output=*) output=${word#*=} ;;
        --output-directory=*) folder=${word#*=} ;;
        --args=*) arguments=${word#*=} ;;
        -*) ;;
        *) disk=$word ;;
    esac
done
echo "$disk" >/run/bootloader-disk
mkdir -p /run/bootloader-mnt && mount -t ext4 -o ro,noload "$disk" /run/bootloader-mnt || exit 1
cp /run/bootloader-mnt/boot/vmlinuz "$folder/kernel" && cp /run/bootloader-mnt/boot/initrd.gz "$folder/ramdisk" || exit 1
umount /run/bootloader-mnt
printf 'kernel %s/kernel\0ramdisk %s/ramdisk\0args %s root=/dev/xvda\0' "$folder" "$folder" "$arguments" >"$output"
"#;

pub(super) fn a_bootloader_finds_the_guests_kernel_on_its_disk(storage: &mut Storage) -> Result<()> {
    storage.destroy_if_running("root")?;
    storage.dom0(&format!("cat >/root/bootloader <<'EOF'\n{BOOTLOADER}EOF\nchmod +x /root/bootloader"))?;
    let disk = disk_setting("xvda", "rw", &format!("{}{ROOT}", storage.disk()));
    let settings = format!("'disk=[{disk}]' 'bootloader=\"/root/bootloader\"'");
    let config = GuestConfig { settings, ..guest_config("loaded") };
    let guest = storage.guest_with(&config).doing("creating a guest by a bootloader")?;
    let root = guest.check("awk '$2 == \"/\" { print $1, $3 }' /proc/mounts", GUEST_LIMIT)?;
    ensure(root.contains("/dev/xvda ext4"), || format!("its root is {root:?}"))?;
    let seen = storage.dom0("cat /run/bootloader-disk; xl block-list 0 | awk 'NR > 1'")?;
    ensure(seen.trim() == "/dev/xvda", || format!("the bootloader's disk, and what Dom0 still has: {seen:?}"))?;
    storage.destroy(guest)
}
