//! Disks that change their size, and what their guests learn of it.

use std::time::Duration;

use blkback_dom::disk::Op;
use fake_xen::{BlkRequest, BlkfrontOptions, VbdConfig};
use xen_pv_rt::hyp::Access;

use crate::rig::{DISK, Guest, Rig, target_config};

/// The first disk has so many sectors from now on, and the domain hears of it.
fn resize(rig: &mut Rig, sectors: u64) {
    rig.ram.disk_mut(0).geometry.sectors = sectors;
    rig.blkback.disk_changed(rig.ram.named()[0].clone());
    rig.wake();
}

fn answers(rig: &mut Rig, guest: Guest) -> Vec<(u64, i16)> {
    rig.until("all is answered", |rig| rig.fronts[guest].unanswered() == 0);
    let mut answers: Vec<_> = rig.fronts[guest].take_answers().iter().map(|a| (a.id, a.status)).collect();
    answers.sort_unstable();
    answers
}

#[test]
fn requests_that_wait_beyond_the_new_end_are_errors_bf_49() {
    let mut rig = Rig::new();
    let guest = rig.guest_on("nvme0n1");
    // One command with the disk, the others behind it: some were cut into commands, some were not.
    rig.ram.depth = 1;
    rig.ram.hold = true;
    let (segments, _pages) = rig.pages(guest, 40, |_| 0x49);
    let (list, list_page) = rig.fronts[guest].page(Access::ReadOnly);
    BlkRequest::write_list(&list_page, &segments);
    let mut requests = vec![BlkRequest::direct(1, 0, 0, &segments[..1])];
    requests.extend((1..20).map(|id| BlkRequest::direct(1, id, 2048 + id * 8, &segments[..1])));
    requests.push(BlkRequest::indirect(1, 20, 2000, 40, list));
    requests.push(BlkRequest::discard(21, 0, DISK));
    rig.fronts[guest].submit(&requests);
    rig.run(Duration::from_millis(5));
    resize(&mut rig, 2048);
    rig.ram.hold = false;
    let expected: Vec<_> = (0..22).map(|id| (id, if id == 0 { 0 } else { -1 })).collect();
    assert_eq!(answers(&mut rig, guest), expected, "{}", rig.state());
    assert!(rig.ram.trace.iter().all(|asked| asked.op == Op::Flush || asked.sector + asked.sectors <= 2048));
    assert!(rig.is_connected(guest));
    rig.assert_works(guest);
}

#[test]
fn a_slice_that_is_cut_off_fails_until_the_disk_is_back_bf_49() {
    let mut rig = Rig::new();
    let (inside, beyond) = (rig.guest_on("nvme0n1@0+1024"), rig.guest_on("nvme0n1@3000+512"));
    rig.assert_works(beyond);
    resize(&mut rig, 2048);
    let trace = rig.ram.trace.len();
    assert_eq!(rig.read(beyond, 0, 4096), Err(-1));
    assert_eq!(rig.write(beyond, 0, &[1; 4096]), -1);
    assert_eq!(rig.ram.trace.len(), trace);
    rig.assert_works(inside);
    assert!(rig.is_connected(beyond));
    resize(&mut rig, DISK);
    rig.assert_works(beyond);
    rig.assert_works(inside);
}

#[test]
fn every_guest_of_a_disk_is_told_of_its_size_and_may_use_it() {
    let mut rig = Rig::new();
    let whole = VbdConfig { mode: "r", ..target_config("nvme0n1") };
    let (a, b) =
        (rig.guest_with(&whole, BlkfrontOptions::default()), rig.guest_with(&whole, BlkfrontOptions::default()));
    rig.ram.platters[0].seen.resize(8192 * 512, 0x5a);
    assert_eq!(rig.read(a, DISK, 4096), Err(-1));
    for sectors in [8192, 6000, 8192] {
        resize(&mut rig, sectors);
        for guest in [a, b] {
            let told = |rig: &Rig| rig.fronts[guest].backend_key("sectors") == Some(sectors.to_string());
            rig.until("the guest is told", told);
            assert_eq!(rig.read(guest, sectors - 8, 4096), Ok(vec![0x5a; 4096]));
            assert_eq!(rig.read(guest, sectors - 7, 4096), Err(-1));
            assert_eq!(rig.write(guest, 0, &[1; 512]), -1, "it is read-only, whatever its size");
        }
    }
}

#[test]
fn a_slice_says_where_its_first_unit_of_discard_is() {
    for (target, alignment) in
        [("nvme0n1@0+1024", "0"), ("nvme0n1@8+1024", "0"), ("nvme0n1@3+1024", "2560"), ("nvme0n1@15+1024", "512")]
    {
        let mut rig = Rig::new();
        let guest = rig.guest_on(target);
        assert_eq!(rig.fronts[guest].backend_key("discard-granularity").as_deref(), Some("4096"));
        assert_eq!(rig.fronts[guest].backend_key("discard-alignment").as_deref(), Some(alignment), "{target}");
    }
    // The disk's own first unit counts too.
    let mut rig = Rig::with(blkback_dom::vbd::Budget::default(), |catalogue| {
        catalogue.disks[0].about.capabilities.discard_alignment = 7;
    });
    let guest = rig.guest_on("nvme0n1@3+1024");
    assert_eq!(rig.fronts[guest].backend_key("discard-alignment").as_deref(), Some("2048"));
}
