//! File systems and data on vbds: made, checked, trimmed, outliving guests; and a guest whose root is one.

use serde_json::json;

use super::bed::{GUEST_LIMIT, Storage, disk_setting, guest_config, wait_for};
use super::image::{FILES, RAW, allocated_bytes};
use crate::failure::{Failure, Result, ensure};
use crate::guest::{Guest, GuestConfig};
use crate::shell::until;

pub(super) fn a_file_system_outlives_its_guest(storage: &mut Storage) -> Result<()> {
    let slice = format!("{}{FILES}", storage.disk());
    let guest = storage.guest("g1")?;
    storage.attach(guest.domid, "xvdb", "rw", &slice)?;
    let sum = guest.check(
        &format!(
            "set -e; {}; mke2fs -q -F -t ext4 /dev/xvdb; mkdir -p /m; mount -t ext4 /dev/xvdb /m
             dd if=/dev/urandom of=/m/a bs=64k count=160 2>/dev/null; cp /m/a /m/b; sync; rm /m/a
             umount /m; e2fsck -fn /dev/xvdb >/dev/null 2>&1; mount -t ext4 /dev/xvdb /m; sha256sum </m/b; sync",
            wait_for("xvdb")
        ),
        GUEST_LIMIT,
    )?;
    // Destroyed with the file system mounted: what was synced must be there all the same.
    storage.destroy(guest)?;
    let guest = storage.guest("g2")?;
    let again = storage.with_vbd(
        &guest,
        "rw",
        &slice,
        "e2fsck -fy /dev/xvdb >/dev/null 2>&1 || [ $? -eq 1 ]; mkdir -p /m; mount -t ext4 /dev/xvdb /m; sha256sum </m/b; umount /m",
    )?;
    ensure(sum == again && sum.len() > 64, || format!("wrote {sum:?}, read {again:?}"))
}

pub(super) fn a_guest_boots_with_its_root_on_a_vbd(storage: &mut Storage) -> Result<()> {
    let mut guest = storage.root_guest()?;
    let root = guest.check("awk '$2 == \"/\" { print $1, $3 }' /proc/mounts; echo kept >/kept; sync", GUEST_LIMIT)?;
    ensure(root.contains("/dev/xvda ext4"), || format!("its root is {root:?}"))?;
    guest.reboot()?;
    storage.keep(guest.clone());
    let kept = guest.check("cat /kept", GUEST_LIMIT)?;
    ensure(kept == "kept\n", || format!("after a reboot the file holds {kept:?}"))
}

pub(super) fn fio_finds_every_byte_it_wrote(storage: &mut Storage) -> Result<()> {
    let guest = storage.root_guest()?;
    verify_by_fio(storage, &guest, &format!("{}{RAW}", storage.disk()))
}

/// Linux's blkfront uses as many queues as it has CPUs, and larger rings if it is told to.
pub(super) fn fio_finds_every_byte_through_two_queues_of_sixteen_pages(storage: &mut Storage) -> Result<()> {
    storage.destroy_if_running("root")?;
    let config = storage.root_config();
    let options = format!("{} xen_blkfront.max_ring_page_order=4 xen_blkfront.max_queues=2", config.options);
    let guest = storage.guest_with(&GuestConfig { options, vcpus: 2, ..config })?;
    let keys = format!("/local/domain/{}/device/vbd/51712", guest.domid);
    let keys = storage
        .dom0(&format!("for key in multi-queue-num-queues queue-1/ring-ref15; do xenstore-read {keys}/$key; done"))?;
    ensure(keys.starts_with("2\n"), || format!("number of queues, and a grant of the second: {keys:?}"))?;
    verify_by_fio(storage, &guest, &format!("{}{RAW}", storage.disk()))?;
    storage.destroy(guest)
}

/// Every block holds its place and a checksum, so data of another sector or of another time is noticed.
fn verify_by_fio(storage: &Storage, guest: &Guest, target: &str) -> Result<()> {
    const JOBS: [&str; 5] = [
        "--rw=randwrite --bs=4k --iodepth=32 --size=8M",
        "--rw=write --bs=128k --iodepth=8 --size=32M",
        "--rw=randrw --bsrange=4k-256k --iodepth=16 --size=16M",
        "--rw=write --bs=64k --iodepth=4 --fsync=16 --size=16M --do_verify=0",
        "--rw=randread --bs=64k --iodepth=16 --size=16M",
    ];
    let fio = "fio --name=job --filename=/dev/xvdb --direct=1 --ioengine=libaio --verify=crc32c --verify_fatal=1 --verify_state_save=0";
    let jobs = JOBS.map(|job| format!("{fio} {job}")).join("; ");
    let said = storage.with_vbd(guest, "rw", target, &jobs)?;
    let without_error = said.matches("err= 0").count();
    ensure(without_error == JOBS.len(), || format!("{without_error} jobs without an error:\n{said}"))
}

/// With a file system mounted that it goes on using.
pub(super) fn a_guest_is_saved_and_restored(storage: &mut Storage) -> Result<()> {
    let disk = disk_setting("xvdb", "rw", &format!("{}{FILES}", storage.disk()));
    let settings = format!("'disk=[{disk}]'");
    let mut guest = storage.guest_with(&GuestConfig { settings, ..guest_config("saved") })?;
    let before = guest.check(
        &format!(
            "set -e; {}; mke2fs -q -F -t ext4 /dev/xvdb; mkdir -p /m; mount -t ext4 /dev/xvdb /m; cd /m
             dd if=/dev/urandom of=a bs=64k count=32 2>/dev/null; dd if=a of=b conv=fsync 2>/dev/null; sha256sum <a",
            wait_for("xvdb")
        ),
        GUEST_LIMIT,
    )?;
    guest.save_and_restore("/root/saved")?;
    storage.keep(guest.clone());
    let script = "set -e; cd /m; sync; echo 3 >/proc/sys/vm/drop_caches; cat a b >c; sync; rm b; sha256sum <a; cd /; \
                  umount /m; e2fsck -fn /dev/xvdb >/dev/null 2>&1";
    let after = guest.check(script, GUEST_LIMIT)?;
    storage.destroy(guest)?;
    ensure(before == after, || format!("before it was saved {before:?}, after it was restored {after:?}"))
}

pub(super) fn fstrim_reaches_the_device(storage: &mut Storage) -> Result<()> {
    let slice = format!("{}{FILES}", storage.disk());
    let guest = storage.guest("g2")?;
    let file = storage.disk_file();
    storage.with_vbd(
        &guest,
        "rw",
        &slice,
        "mke2fs -q -F -t ext4 /dev/xvdb; mkdir -p /m; mount -t ext4 /dev/xvdb /m
         dd if=/dev/urandom of=/m/big bs=1M count=32 2>/dev/null; sync; umount /m",
    )?;
    let full = allocated_bytes(&file)?;
    let said = storage.with_vbd(
        &guest,
        "rw",
        &slice,
        "mount -t ext4 /dev/xvdb /m; rm /m/big; sync; fstrim -v /m; sync; umount /m; e2fsck -fn /dev/xvdb >/dev/null 2>&1",
    )?;
    let given_back = full.saturating_sub(allocated_bytes(&file)?);
    // What the journal and the superblock write meanwhile takes a little.
    if given_back < 30 << 20 {
        return Err(Failure::new(format!("the host got {given_back} bytes back; fstrim said {}", said.trim())));
    }
    Ok(())
}

/// The second disk grows under a guest that has it; QEMU can change the size of no controller but virtio's.
pub(super) fn a_guest_sees_its_disk_grow(storage: &mut Storage) -> Result<()> {
    let guest = storage.guest("g2")?;
    storage.attach(guest.domid, "xvdc", "rw", storage.spare())?;
    let sectors = format!("{} && cat /sys/block/xvdc/size", wait_for("xvdc"));
    let before: u64 = parse(&guest.check(&sectors, GUEST_LIMIT)?)?;
    let grown = before.saturating_mul(2);
    storage.machine().monitor("block_resize", &json!({ "device": "disk1", "size": grown.saturating_mul(512) }))?;
    let script = format!(
        "{}\n\
         dd if=/dev/urandom of=/run/end bs=64k count=16 2>/dev/null\n\
         dd if=/run/end of=/dev/xvdc bs=64k seek={last} oflag=direct 2>/dev/null && \
         dd if=/dev/xvdc bs=64k skip={last} count=16 iflag=direct 2>/dev/null | cmp - /run/end && cat /sys/block/xvdc/size",
        until(&format!("[ $(cat /sys/block/xvdc/size) = {grown} ]")),
        last = grown.checked_div(128).unwrap_or(0).saturating_sub(16),
    );
    let after: u64 = parse(&guest.check(&script, GUEST_LIMIT)?)?;
    storage.detach_and_wait(&guest, &["xvdc"])?;
    ensure(after == grown, || format!("{before} sectors before, {after} after the disk grew to {grown}"))
}

fn parse(text: &str) -> Result<u64> {
    text.trim().parse().map_err(|_| Failure::new(format!("not a number: {text:?}")))
}
