//! What `target=` and `access=` mean, and how what cannot be served is refused.

use super::bed::{NAME, Storage, wait_for};
use super::image::{PARTITION_MARK, SLICE_MARK};
use crate::failure::{Result, ensure};
use crate::guest::console_log;

pub(super) fn a_partition_and_a_slice_are_where_they_should_be(storage: &mut Storage) -> Result<()> {
    let guest = storage.guest("g2")?;
    for (target, wanted) in [(":1", PARTITION_MARK), ("@4M+1M", SLICE_MARK)] {
        let found = storage.with_vbd(&guest, "rw", &format!("{}{target}", storage.disk()), "head -n 1 /dev/xvdb")?;
        ensure(found == wanted, || format!("{target} starts with {found:?}"))?;
    }
    Ok(())
}

/// One entry of an MBR: type 83, from sector 2048 on, 32768 sectors.
const MBR_ENTRY: &str = r"\0\0\0\0\203\0\0\0\0\010\0\0\0\200\0\0";

/// Dom0 adds a partition to a disk that it has as a vbd, and has the driver domain look again.
pub(super) fn a_partition_that_dom0_makes_is_served_once_it_asks(storage: &mut Storage) -> Result<()> {
    let (guest, spare) = (storage.guest("g2")?, storage.spare());
    storage.attach(0, "xvdz", "rw", spare)?;
    storage.dom0(&format!(
        "set -e; {}; put() {{ dd of=/dev/xvdz bs=1 seek=$1 conv=notrunc,fsync 2>/dev/null; }}\n\
         printf '{MBR_ENTRY}' | put 446; printf '\\125\\252' | put 510; echo '{mark}' | put 1048576",
        wait_for("xvdz"),
        mark = PARTITION_MARK.trim(),
    ))?;
    storage.detach(0, "xvdz")?;
    let listed = storage.rescan()?;
    ensure(listed.contains(&format!("partition {spare}:1 size=16777216")), || format!("what is listed: {listed}"))?;
    let script = "head -n 1 /dev/xvdb; cat /sys/block/xvdb/size";
    let found = storage.with_vbd(&guest, "rw", &format!("{spare}:1"), script)?;
    ensure(found == format!("{PARTITION_MARK}32768\n"), || format!("the new partition holds {found:?}"))
}

pub(super) fn a_read_only_vbd_is_not_written(storage: &mut Storage) -> Result<()> {
    let guest = storage.guest("g2")?;
    let found = storage.with_vbd(
        &guest,
        "ro",
        &format!("{}:1", storage.disk()),
        "! dd if=/dev/zero of=/dev/xvdb bs=4k count=1 oflag=direct 2>/dev/null; cat /sys/block/xvdb/ro; head -n 1 /dev/xvdb",
    )?;
    ensure(found == format!("1\n{PARTITION_MARK}"), || found)
}

pub(super) fn what_cannot_be_served_is_refused_and_named(storage: &mut Storage) -> Result<()> {
    let (guest, disk) = (storage.guest("g2")?, storage.disk());
    storage.attach(guest.domid, "xvdc", "rw", &format!("{disk}:1"))?;
    // The first one leaves the directories above its error node.
    refused(storage, guest.domid, "no/such/form", "TARGET")?;
    let before = storage.stock()?;
    let overlapping = format!("{disk}@30M+8M");
    let beyond = format!("{disk}@1023M+2M");
    let partition = format!("{disk}:9");
    for (target, cause) in [
        ("nosuch0", "NO_DISK"),
        (overlapping.as_str(), "IN_USE"),
        (partition.as_str(), "NO_PARTITION"),
        ("vg0/root", "NO_VOLUME"),
        (beyond.as_str(), "TOO_BIG"),
    ] {
        refused(storage, guest.domid, target, cause)?;
    }
    storage.nothing_left_behind(&before)?;
    storage.detach(guest.domid, "xvdc")
}

/// A target that must be refused: `xl` fails, and one line on the domain's console and the error node name the cause.
pub(super) fn refused(storage: &Storage, domid: u16, target: &str, cause: &str) -> Result<()> {
    let outcome = storage.attach(domid, "xvdb", "rw", target);
    ensure(outcome.is_err(), || format!("{target} was attached"))?;
    let node = format!("/local/domain/{}/error/backend/vbd/{domid}/51728/error", storage.ensure_blkdom()?);
    let said = storage.dom0(&format!("xenstore-read {node}")).unwrap_or_default();
    // xl leaves the nodes of what it could not attach.
    storage.detach(domid, "xvdb")?;
    ensure(said.contains(cause), || format!("{target}: the error node holds {said:?}"))?;
    let lines = format!("grep -c 'dom={domid} dev=51728 .*cause={cause} ' {}", console_log(NAME));
    let count = storage.dom0(&lines)?;
    ensure(count.trim() == "1", || format!("{target}: {} lines name {cause}", count.trim()))
}
