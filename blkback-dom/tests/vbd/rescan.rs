//! Tables that are read again while guests are served.

use blkback_dom::disk::{DiskError, Op};
use blkback_dom::vbd::Budget;
use fake_xen::{BlkRequest, BlkfrontOptions, VbdConfig};

use crate::ram::Asked;
use crate::rig::{Guest, Rig, target_config};

/// A rig that reads tables again on request, with a table of these partitions (first sector and sectors) on its first disk.
fn rig(partitions: &[(u32, u32)]) -> Rig {
    let mut rig = Rig::new();
    rig.follow_rescans();
    write_table(&mut rig, partitions);
    rig.rescan();
    rig
}

fn write_table(rig: &mut Rig, partitions: &[(u32, u32)]) {
    rig.ram.platters[0].seen[..512].copy_from_slice(&table(partitions));
}

/// An MBR.
fn table(partitions: &[(u32, u32)]) -> [u8; 512] {
    let mut block = [0; 512];
    for (entry, (start, sectors)) in block[446..510].chunks_mut(16).zip(partitions) {
        entry[4] = 0x83;
        entry[8..12].copy_from_slice(&start.to_le_bytes());
        entry[12..16].copy_from_slice(&sectors.to_le_bytes());
    }
    block[510..].copy_from_slice(&[0x55, 0xaa]);
    block
}

fn sectors(rig: &Rig, guest: Guest) -> Option<String> {
    rig.fronts[guest].backend_key("sectors")
}

/// The published list.
fn volumes(rig: &Rig) -> Vec<String> {
    let node = |number| rig.xen.read_store(&format!("/local/domain/{}/data/volumes/{number}", rig.xen.backend()));
    (0..64).map_while(node).collect()
}

#[test]
fn a_new_partition_is_served_when_dom0_has_asked_and_not_before() {
    let mut rig = rig(&[(64, 1024)]);
    write_table(&mut rig, &[(64, 1024), (2048, 1024)]);
    let second = rig.add(&target_config("nvme0n1:2"), BlkfrontOptions::default());
    rig.until("it is refused", |rig| rig.error_node(second).is_some());
    assert_eq!(rig.lines(second, "NO_PARTITION").len(), 1);
    rig.rescan();
    assert_eq!(volumes(&rig).len(), 4, "two disks and two partitions: {:?}", volumes(&rig));
    let guest = rig.guest_on("nvme0n1:2");
    rig.assert_works(guest);
    assert_eq!(rig.ram.bytes(0, 1024, 512), [0; 512 * 512], "nothing was written elsewhere");
    write_table(&mut rig, &[(64, 1024)]);
    rig.rescan();
    assert_eq!(volumes(&rig).len(), 3, "what is gone is no longer in the list");
    rig.assert_works(guest);
}

#[test]
fn a_table_that_a_guest_may_write_is_not_believed() {
    let mut rig = rig(&[(64, 1024), (2048, 1024)]);
    let evil = rig.guest_on("nvme0n1@0+64");
    let mut block = table(&[(64, 1024), (1088, 960)]).to_vec();
    assert_eq!(rig.write(evil, 0, &block), 0);
    rig.rescan();
    assert!(rig.log().iter().any(|line| line.contains("nvme0n1") && line.contains("a guest may write there")));
    let guest = rig.guest_on("nvme0n1:2");
    assert_eq!(sectors(&rig, guest).as_deref(), Some("1024"), "the partition that was there before");
    // A reader's table is as good as any.
    let mut rig = self::rig(&[(64, 1024)]);
    rig.guest_with(&VbdConfig { mode: "r", ..target_config("nvme0n1@0+64") }, BlkfrontOptions::default());
    block.copy_from_slice(&table(&[(64, 512)]));
    rig.ram.platters[0].seen[..512].copy_from_slice(&block);
    rig.rescan();
    let guest = rig.guest_on("nvme0n1:1");
    assert_eq!(sectors(&rig, guest).as_deref(), Some("512"));
}

#[test]
fn a_volume_that_has_grown_grows_under_its_guest_and_one_that_has_moved_stays() {
    let mut rig = rig(&[(64, 1024), (2048, 512)]);
    let (first, second) = (rig.guest_on("nvme0n1:1"), rig.guest_on("nvme0n1:2"));
    assert_eq!(rig.write(second, 0, &[0x22; 512]), 0);
    assert_eq!(rig.read(first, 1024, 512), Err(-1));
    write_table(&mut rig, &[(64, 1536), (3072, 512)]);
    rig.rescan();
    rig.until("the guest is told", |rig| sectors(rig, first).as_deref() == Some("1536"));
    assert_eq!(rig.read(first, 1024, 512).map(drop), Ok(()));
    assert_eq!(rig.lines(second, "MOVED").len(), 1);
    assert_eq!(rig.read(second, 0, 512), Ok(vec![0x22; 512]));
    // It cannot grow over what another one has.
    write_table(&mut rig, &[(64, 2048)]);
    rig.rescan();
    assert_eq!(rig.lines(first, "IN_USE").len(), 1);
    assert_eq!(sectors(&rig, first).as_deref(), Some("1536"));
    assert_eq!(rig.read(first, 1536, 512), Err(-1));
    rig.assert_works(first);
    rig.assert_works(second);
}

#[test]
fn guests_go_on_while_tables_are_read_and_a_full_queue_only_delays_that() {
    let mut rig = rig(&[(64, 1024), (2048, 1024)]);
    let guest = rig.guest_on("nvme0n1:1");
    // The disk takes one command at a time, and has one that it does not finish.
    (rig.ram.depth, rig.ram.hold) = (1, true);
    let (segments, _pages) = rig.pages(guest, 1, |_| 7);
    rig.fronts[guest].submit(&[BlkRequest::direct(1, 1, 0, &segments)]);
    rig.run(std::time::Duration::from_millis(3));
    let path = rig.ask_to_rescan();
    rig.run(std::time::Duration::from_millis(50));
    assert!(rig.xen.read_store(&path).is_some());
    rig.xen.write_store(&path, "again");
    rig.ram.hold = false;
    rig.wake();
    rig.until("the tables are read", |rig| rig.xen.read_store(&path).is_none());
    assert_eq!(volumes(&rig).len(), 4);
    let reads = rig.log().iter().filter(|line| line.contains("reading the tables again")).count();
    assert_eq!(reads, 3, "once at first, once while the disk was busy, once more since it was asked again");
    rig.assert_works(guest);
}

#[test]
fn what_cannot_be_read_stays_as_it_was_and_a_damaged_table_is_none() {
    let mut rig = rig(&[(64, 1024)]);
    let guest = rig.guest_on("nvme0n1:1");
    let table = |asked: &Asked| asked.op == Op::Read && asked.sector == 0 && asked.disk == 0;
    rig.ram.fail = Box::new(move |asked| table(asked).then_some(DiskError::Media));
    rig.rescan();
    assert_eq!(volumes(&rig).len(), 3);
    rig.assert_works(guest);
    rig.ram.fail = Box::new(|_| None);
    write_table(&mut rig, &[(64, 1024), (1000, 1024)]);
    rig.rescan();
    assert_eq!(volumes(&rig).len(), 2, "its partitions overlap");
    rig.assert_works(guest);
    let late = rig.add(&target_config("nvme0n1:1"), BlkfrontOptions::default());
    rig.until("it is refused", |rig| rig.error_node(late).is_some());
}

#[test]
fn a_disk_that_is_added_is_served_and_its_tables_are_read_on_request() {
    let mut rig = Rig::with(Budget::default(), |catalogue| catalogue.disks.truncate(1));
    rig.follow_rescans();
    let early = rig.add(&target_config("nvme0n2"), BlkfrontOptions::default());
    rig.until("it is refused", |rig| rig.error_node(early).is_some());
    // Of 4096-byte sectors, so the numbers in its table count those.
    rig.ram.platters[1].seen[..512].copy_from_slice(&table(&[(16, 64)]));
    rig.blkback.disk_changed(rig.ram.named()[1].clone());
    rig.rescan();
    assert_eq!(volumes(&rig).len(), 3, "two disks and a partition: {:?}", volumes(&rig));
    let guest = rig.guest_on("nvme0n2:1");
    assert_eq!(sectors(&rig, guest).as_deref(), Some("512"));
}
