//! Requests that are side by side on a disk become one command, which changes nothing else.

use blkback_dom::disk::{DiskError, Op};
use fake_xen::{BlkRequest, BlkfrontOptions};
use xen_pv_rt::hyp::Access;

use crate::rig::{Guest, Rig, target_config};

/// Sectors of a page.
const PAGE: u64 = 8;

/// Writes of a page each, to pages of the disk, filled with the number of the page.
fn writes(rig: &mut Rig, guest: Guest, pages: impl IntoIterator<Item = u64>) -> Vec<BlkRequest> {
    let write = |page: u64| {
        let (segments, _pages) = rig.pages(guest, 1, |_| page as u8 + 1);
        BlkRequest::direct(1, rig.id(), page * PAGE, &segments)
    };
    pages.into_iter().map(write).collect()
}

/// The commands that the disks were given, as operation, first page and number of pages.
fn commands(rig: &Rig) -> Vec<(Op, u64, u64)> {
    rig.ram.trace.iter().map(|asked| (asked.op, asked.sector / PAGE, asked.sectors / PAGE)).collect()
}

fn assert_written(rig: &Rig, pages: impl IntoIterator<Item = u64>) {
    for page in pages {
        assert!(rig.ram.bytes(0, page * PAGE, PAGE).iter().all(|byte| *byte == page as u8 + 1), "page {page}");
    }
}

#[test]
fn neighbours_are_one_command_and_others_are_not() {
    for persistent in ["0", "1"] {
        let mut rig = Rig::new();
        let guest = rig.add(&target_config("nvme0n1"), BlkfrontOptions::default());
        rig.fronts[guest].write("feature-persistent", persistent);
        rig.until("connected", |rig| rig.is_connected(guest));
        // One after the other, then a gap, backwards, and the same page again.
        let asked = writes(&mut rig, guest, [0, 1, 2, 3, 10, 11, 9, 8, 8]);
        assert_eq!(rig.ask(guest, &asked), [0; 9]);
        let expected = [(0, 4), (10, 2), (9, 1), (8, 1), (8, 1)].map(|(page, count)| (Op::Write, page, count));
        assert_eq!(commands(&rig), expected);
        assert_written(&rig, [0, 1, 2, 3, 8, 9, 10, 11]);
        assert_eq!(rig.read(guest, 0, 4 * 4096).map(|bytes| bytes[3 * 4096]), Ok(4));
    }
}

#[test]
fn a_read_and_a_write_or_two_disks_are_not_joined() {
    let mut rig = Rig::new();
    let (a, b) = (rig.guest_on("nvme0n1@0+1024"), rig.guest_on("nvme0n1@1024+1024"));
    let mut asked = writes(&mut rig, a, [0]);
    let (segments, pages) = rig.pages(a, 1, |_| 0xee);
    asked.push(BlkRequest::direct(0, rig.id(), PAGE, &segments));
    assert_eq!(rig.ask(a, &asked), [0, 0]);
    assert_eq!(pages[0].word(0), 0);
    assert_eq!(commands(&rig), [(Op::Write, 0, 1), (Op::Read, 1, 1)]);
    // The end of one vbd's slice and the start of the next one's are neighbours on the disk, but of different owners.
    let (last, first) = (writes(&mut rig, a, [127]), writes(&mut rig, b, [0]));
    rig.ram.trace.clear();
    rig.fronts[a].submit(&last);
    rig.fronts[b].submit(&first);
    rig.until("both are answered", |rig| rig.fronts.iter().all(|front| front.unanswered() == 0));
    assert_eq!(rig.ram.trace.len(), 2);
}

#[test]
fn a_flush_between_neighbours_stays_between_them() {
    let mut rig = Rig::new();
    let guest = rig.guest_on("nvme0n1");
    let mut asked = writes(&mut rig, guest, [0, 1]);
    asked.push(BlkRequest::flush(rig.id()));
    asked.extend(writes(&mut rig, guest, [2, 3]));
    assert_eq!(rig.ask(guest, &asked), [0; 5]);
    assert_eq!(commands(&rig), [(Op::Write, 0, 2), (Op::Flush, 0, 0), (Op::Write, 2, 2)]);
}

#[test]
fn a_command_is_no_longer_than_the_device_takes_at_once() {
    for (most, longest) in [(4096, 1), (3 * 4096, 3), (1 << 20, 32)] {
        let mut rig = Rig::new();
        rig.ram.disk_mut(0).geometry.command_bytes = most;
        let guest = rig.guest_on("nvme0n1");
        let asked = writes(&mut rig, guest, 0..32);
        assert_eq!(rig.ask(guest, &asked), [0; 32]);
        assert_eq!(commands(&rig).iter().map(|(.., pages)| *pages).max(), Some(longest));
        assert_written(&rig, 0..32);
    }
}

#[test]
fn a_large_request_is_cut_up_for_its_buffers_and_put_together_for_the_disk() {
    let mut rig = Rig::new();
    let guest = rig.guest_on("nvme0n1");
    let (segments, _pages) = rig.pages(guest, 128, |number| number as u8 + 1);
    let (list, list_page) = rig.fronts[guest].page(Access::ReadOnly);
    BlkRequest::write_list(&list_page, &segments);
    let write = BlkRequest::indirect(1, rig.id(), 0, 128, list);
    assert_eq!(rig.ask(guest, &[write]), [0]);
    assert_eq!(commands(&rig), [(Op::Write, 0, 128)]);
    assert_written(&rig, 0..128);
}

#[test]
fn an_error_is_answered_to_the_request_that_it_is_about() {
    let mut rig = Rig::new();
    rig.ram.fail =
        Box::new(|asked| (asked.sector..asked.sector + asked.sectors).contains(&16).then_some(DiskError::Media));
    let guest = rig.guest_on("nvme0n1");
    // The last one is for a sector of the first's, so it has to come after it, also when that is repeated.
    let mut asked = writes(&mut rig, guest, [0, 1, 2, 3]);
    let (segments, _pages) = rig.pages(guest, 1, |_| 0x77);
    asked.push(BlkRequest::direct(1, rig.id(), 0, &segments));
    assert_eq!(rig.ask(guest, &asked), [0, 0, -1, 0, 0]);
    let pages: Vec<_> = commands(&rig).iter().map(|(_, page, count)| (*page, *count)).collect();
    assert_eq!(pages, [(0, 4), (0, 1), (1, 1), (2, 1), (3, 1), (0, 1)]);
    assert_written(&rig, [1, 3]);
    assert!(rig.ram.bytes(0, 0, PAGE).iter().all(|byte| *byte == 0x77));
    // What had to be alone once may be joined the next time.
    rig.ram.fail = Box::new(|_| None);
    rig.ram.trace.clear();
    let asked = writes(&mut rig, guest, 0..4);
    assert_eq!(rig.ask(guest, &asked), [0; 4]);
    assert_eq!(commands(&rig), [(Op::Write, 0, 4)]);
}

#[test]
fn writes_to_a_shared_volume_are_not_joined_as_they_could_not_be_tried_again() {
    let mut rig = Rig::new();
    let guest = rig.guest_on("nvme0n1,shared");
    let asked = writes(&mut rig, guest, 0..4);
    assert_eq!(rig.ask(guest, &asked), [0; 4]);
    assert_eq!(rig.ram.trace.len(), 4);
    let reads: Vec<_> =
        (0..4).map(|page| BlkRequest::direct(0, rig.id(), page * PAGE, &rig.pages(guest, 1, |_| 0).0)).collect();
    assert_eq!(rig.ask(guest, &reads), [0; 4]);
    assert_eq!(commands(&rig)[4..], [(Op::Read, 0, 4)]);
}

#[test]
fn a_disk_that_is_gone_is_not_asked_again() {
    for error in [DiskError::Gone, DiskError::TimedOut, DiskError::Reset] {
        let mut rig = Rig::new();
        rig.ram.fail = Box::new(move |_| Some(error));
        let guest = rig.guest_on("nvme0n1");
        let asked = writes(&mut rig, guest, 0..4);
        assert_eq!(rig.ask(guest, &asked), [-1; 4], "{error:?}");
        assert_eq!(rig.ram.trace.len(), 1, "{error:?}");
    }
}

#[test]
fn what_is_too_much_for_the_queue_goes_by_itself() {
    let mut rig = Rig::new();
    rig.ram.most_spans = 3;
    let guest = rig.guest_on("nvme0n1");
    let asked = writes(&mut rig, guest, 0..8);
    assert_eq!(rig.ask(guest, &asked), [0; 8]);
    assert_written(&rig, 0..8);
}
