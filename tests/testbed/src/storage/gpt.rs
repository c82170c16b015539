//! GPT: tables that Dom0 makes with sfdisk, and partitions by each of the names that they have there.

use std::fmt::Write as _;

use super::bed::{Storage, wait_for};
use super::grow::grows_under_its_guest;
use crate::failure::{Failure, Result, ensure};
use crate::guest::Guest;

/// What sfdisk makes: each partition's MiB and name. The last one can grow.
const PARTITIONS: [(u32, &str); 3] = [(8, "plain"), (12, "guest root"), (16, "grows")];

/// Dom0's kernel says where partitions are: what it writes to them a guest finds, and the other way round.
pub(super) fn a_guest_finds_gpt_partitions_by_each_of_their_names(storage: &mut Storage) -> Result<()> {
    let (guest, disk) = (storage.guest("g2")?, storage.tables());
    let uuid = make_table(storage)?;
    // At the same time, as long as no two are the same partition.
    let first = [(1, format!("{disk}:1")), (2, "PARTLABEL=guest root".into()), (3, format!("PARTUUID={uuid}"))];
    let second = [(1, "PARTLABEL=plain".into()), (2, format!("{disk}:part2")), (3, "PARTLABEL=grows".into())];
    for targets in [&first, &second] {
        exchange(storage, &guest, targets)?;
    }
    Ok(())
}

/// A guest has partitions by these names. It finds what Dom0 has written there, and Dom0 finds what it writes.
fn exchange(storage: &Storage, guest: &Guest, targets: &[(usize, String)]) -> Result<()> {
    let devices = ["xvdb", "xvdc", "xvdd"];
    let vbds: Vec<_> = devices.into_iter().zip(targets.iter().map(|(_, target)| target.as_str())).collect();
    let (mut script, mut wanted) = (String::from("true"), String::new());
    let (mut look, mut written) = (format!("set -e; {}", wait_for("xvdz3")), String::new());
    for ((device, target), (number, _)) in vbds.iter().zip(targets) {
        let _ = write!(
            script,
            "\nhead -n 1 /dev/{device}; cat /sys/block/{device}/size\n\
             echo '{target}' | dd of=/dev/{device} bs=512 seek=1 conv=sync,fsync 2>/dev/null"
        );
        let _ = writeln!(wanted, "partition {number}\n{}", sectors(*number));
        let _ = write!(look, "\ndd if=/dev/xvdz{number} bs=512 skip=1 count=1 2>/dev/null | head -n 1");
        let _ = writeln!(written, "{target}");
    }
    let found = storage.with_vbds(guest, "rw", &vbds, &script)?;
    ensure(found == wanted, || format!("the guest finds {found:?} in {vbds:?}"))?;
    storage.attach(0, "xvdz", "ro", storage.tables())?;
    let found = storage.dom0(&look)?;
    storage.detach(0, "xvdz")?;
    ensure(found == written, || format!("the guest wrote {written:?}, Dom0 finds {found:?}"))
}

/// Also a disk whose own size cannot change has vbds that grow.
pub(super) fn a_partition_grows_under_its_guest(storage: &mut Storage) -> Result<()> {
    make_table(storage)?;
    let number = PARTITIONS.len();
    grows_under_its_guest(storage, "PARTLABEL=grows", |storage| {
        storage.attach(0, "xvdz", "rw", &format!("{},shared", storage.tables()))?;
        storage.dom0(&format!(
            "set -e; {}; echo ',+' | sfdisk -q --no-reread --no-tell-kernel -N {number} /dev/xvdz >/dev/null; sync",
            wait_for("xvdz"),
        ))?;
        storage.detach(0, "xvdz")
    })
}

/// Makes the table, with each partition's number in its first line; the id of the last partition.
fn make_table(storage: &Storage) -> Result<String> {
    storage.ensure_blkdom()?;
    storage.attach(0, "xvdz", "rw", storage.tables())?;
    let table: Vec<_> = PARTITIONS.iter().map(|(mib, name)| format!("size={mib}MiB, name=\"{name}\"")).collect();
    let last = PARTITIONS.len();
    let uuid = storage.dom0(&format!(
        "set -e; {}; sfdisk -q --wipe always /dev/xvdz >/dev/null <<'EOF'\nlabel: gpt\n{}\nEOF\n{}\n\
         for i in $(seq {last}); do echo partition $i | dd of=/dev/xvdz$i conv=fsync 2>/dev/null; done\n\
         sfdisk --part-uuid /dev/xvdz {last}",
        wait_for("xvdz"),
        table.join("\n"),
        wait_for(&format!("xvdz{last}")),
    ))?;
    storage.detach(0, "xvdz")?;
    let listed = storage.rescan()?;
    for ((_, name), number) in PARTITIONS.iter().zip(1..) {
        let size = u64::from(sectors(number)).saturating_mul(512);
        let line = format!("partition {}:{number} size={size} label=\"{name}\"", storage.tables());
        ensure(listed.contains(&line), || format!("{line} is not among\n{listed}"))?;
    }
    match uuid.trim() {
        "" => Err(Failure::new("the last partition has no id")),
        uuid => Ok(uuid.into()),
    }
}

/// Sectors of a partition by its number.
fn sectors(number: usize) -> u32 {
    let (mib, _) = number.checked_sub(1).and_then(|index| PARTITIONS.get(index)).copied().unwrap_or_default();
    mib.saturating_mul(2048)
}
