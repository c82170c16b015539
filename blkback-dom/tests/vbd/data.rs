//! Bytes arrive where they belong: every ABI, ring size, segment shape and sector size.

use std::time::Duration;

use blkback_dom::disk::{DiskError, Op};
use blkback_dom::vbd::Budget;
use fake_xen::{BlkRequest, BlkfrontOptions, VbdConfig};
use xen_pv_rt::hyp::Access;

use crate::ram::Asked;
use crate::rig::{DISK, Rig, target_config};

fn pattern(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|at| (at / 512) as u8 ^ seed ^ (at as u8).rotate_left(3)).collect()
}

#[test]
fn what_is_written_is_on_the_disk_and_reads_back() {
    let mut rig = Rig::new();
    let guest = rig.guest_on("nvme0n1");
    let bytes = pattern(44 * 1024, 7);
    assert_eq!(rig.write(guest, 100, &bytes), 0);
    assert_eq!(rig.ram.bytes(0, 100, 88), bytes);
    assert_eq!(rig.read(guest, 100, bytes.len()), Ok(bytes));
}

#[test]
fn every_abi_and_ring_size_works_bf_34_bf_36() {
    for (x86_32, protocol) in [(false, Some("x86_64-abi")), (true, Some("x86_32-abi")), (true, None)] {
        for order in 0..=4 {
            for numbered in [false, true] {
                let mut rig = Rig::new();
                let options = BlkfrontOptions { x86_32, protocol, order, numbered, ..BlkfrontOptions::default() };
                let guest = rig.guest_with(&target_config("nvme0n1@0+1024"), options);
                rig.assert_works(guest);
                // Once around the ring.
                for _ in 0..40 {
                    let flushes: Vec<_> = (0..16 << order).map(|_| BlkRequest::flush(rig.id())).collect();
                    assert!(rig.ask(guest, &flushes).iter().all(|status| *status == 0));
                    if order > 0 {
                        break;
                    }
                }
            }
        }
    }
}

#[test]
fn several_queues_serve_one_disk() {
    let mut rig = Rig::new();
    let options = BlkfrontOptions { queues: 4, order: 1, ..BlkfrontOptions::default() };
    let guest = rig.guest_with(&target_config("nvme0n1"), options);
    for queue in 0..4_usize {
        let (segments, _pages) = rig.pages(guest, 1, |_| queue as u8 + 1);
        let request = BlkRequest::direct(1, rig.id(), queue as u64 * 8, &segments);
        rig.fronts[guest].submit_to(queue, &[request]);
    }
    rig.until("all queues are answered", |rig| rig.fronts[guest].unanswered() == 0);
    let mut queues: Vec<_> =
        rig.fronts[guest].take_answers().iter().map(|answer| (answer.queue, answer.status)).collect();
    queues.sort_unstable();
    assert_eq!(queues, [(0, 0), (1, 0), (2, 0), (3, 0)]);
    for queue in 0..4_u64 {
        assert!(rig.ram.bytes(0, queue * 8, 8).iter().all(|byte| *byte == queue as u8 + 1));
    }
}

#[test]
fn segments_of_every_shape_are_packed_in_order_bf_46() {
    let mut rig = Rig::new();
    let guest = rig.guest_on("nvme0n1");
    let shapes = [(0, 7), (3, 3), (0, 0), (7, 7), (1, 6), (2, 5), (0, 3), (4, 7), (5, 6)];
    let mut segments = Vec::new();
    let mut expected = Vec::new();
    for (number, (first, last)) in shapes.iter().enumerate() {
        let (gref, page) = rig.fronts[guest].page(Access::ReadWrite);
        page.write(0, &pattern(4096, number as u8));
        let mut bytes = vec![0; (usize::from(last - first) + 1) * 512];
        page.read(usize::from(*first) * 512, &mut bytes);
        expected.extend(bytes);
        segments.push((gref, *first, *last));
    }
    let write = BlkRequest::direct(1, rig.id(), 40, &segments);
    assert_eq!(rig.ask(guest, &[write]), [0]);
    assert_eq!(rig.ram.bytes(0, 40, expected.len() as u64 / 512), expected);
    // Only the sectors named were read, and a read writes only those.
    for ((gref, first, last), _) in segments.iter().zip(0..) {
        let domid = rig.device(guest).frontend;
        let range = usize::from(*first) * 512..(usize::from(*last) + 1) * 512;
        assert!(
            rig.xen.copied_from(domid, *gref).iter().all(|read| read.start >= range.start && read.end <= range.end)
        );
    }
}

#[test]
fn an_indirect_request_moves_a_megabyte() {
    let mut rig = Rig::new();
    let guest = rig.guest_on("nvme0n1");
    let (segments, pages) = rig.pages(guest, 256, |number| number as u8);
    let (list, list_page) = rig.fronts[guest].page(Access::ReadOnly);
    BlkRequest::write_list(&list_page, &segments);
    let write = BlkRequest::indirect(1, rig.id(), 16, 256, list);
    assert_eq!(rig.ask(guest, &[write]), [0], "{}", rig.state());
    for number in 0..256_u64 {
        assert!(rig.ram.bytes(0, 16 + number * 8, 8).iter().all(|byte| *byte == number as u8), "page {number}");
    }
    for page in &pages {
        page.write(0, &[0; 4096]);
    }
    let read = BlkRequest::indirect(0, rig.id(), 16, 256, list);
    assert_eq!(rig.ask(guest, &[read]), [0]);
    for (number, page) in pages.iter().enumerate() {
        assert_eq!(page.word(1023), u32::from_le_bytes([number as u8; 4]), "page {number}");
    }
}

#[test]
fn a_disk_of_4096_byte_sectors_is_served_in_512_byte_units() {
    let mut rig = Rig::new();
    let guest = rig.guest_on("nvme0n2");
    assert_eq!(rig.fronts[guest].backend_key("sector-size").as_deref(), Some("4096"));
    assert_eq!(rig.fronts[guest].backend_key("sectors").as_deref(), Some("1024"));
    let bytes = pattern(8192, 9);
    assert_eq!(rig.write(guest, 16, &bytes), 0);
    assert_eq!(rig.ram.bytes(1, 16, 16), bytes);
    assert_eq!(rig.write(guest, 4, &bytes), -1);
    assert_eq!(rig.read(guest, 16, 512), Err(-1));
}

#[test]
fn a_disk_that_takes_little_at_a_time_gets_little_at_a_time_bf_48() {
    let mut rig = Rig::new();
    rig.ram.disk_mut(0).geometry.max_transfer_bytes = 8192;
    let guest = rig.guest_on("nvme0n1");
    let bytes = pattern(44 * 1024, 3);
    assert_eq!(rig.write(guest, 0, &bytes), 0);
    assert_eq!(rig.ram.trace.len(), 6);
    assert_eq!(rig.read(guest, 0, bytes.len()), Ok(bytes.clone()));
    // One command of several fails: so does the request, once all are back.
    rig.ram.fail = Box::new(|asked| (asked.op == Op::Write && asked.sector == 32).then_some(DiskError::Media));
    assert_eq!(rig.write(guest, 0, &bytes), -1);
    rig.ram.fail = Box::new(|_| None);
    rig.assert_works(guest);
    rig.run(Duration::from_millis(50));
    assert_eq!(rig.lines(guest, "MEDIA").len(), 1);
}

#[test]
fn commands_that_finish_backwards_are_told_apart() {
    let mut rig = Rig::new();
    rig.ram.backwards = true;
    let guest = rig.guest_on("nvme0n1");
    let mut requests = Vec::new();
    let mut kept = Vec::new();
    for number in 0..32_u64 {
        let (segments, pages) = rig.pages(guest, 1, |_| number as u8);
        requests.push(BlkRequest::direct(1, number, number * 8, &segments));
        kept.push(pages);
    }
    rig.ram.hold = true;
    rig.fronts[guest].submit(&requests);
    rig.run(Duration::from_millis(5));
    rig.ram.hold = false;
    rig.until("all are answered", |rig| rig.fronts[guest].unanswered() == 0);
    let answers = rig.fronts[guest].take_answers();
    assert!(answers.iter().all(|answer| answer.status == 0));
    for number in 0..32_u64 {
        assert!(rig.ram.bytes(0, number * 8, 8).iter().all(|byte| *byte == number as u8));
    }
}

#[test]
fn a_discard_reaches_the_disk_in_pieces_it_takes_bf_19() {
    let mut rig = Rig::new();
    let guest = rig.guest_on("nvme0n1");
    let all = BlkRequest::discard(rig.id(), 0, DISK);
    assert_eq!(rig.ask(guest, &[all]), [0]);
    assert_eq!(rig.ram.trace.len() as u64, DISK / 64);
    assert_eq!(rig.ram.trace[1], Asked { disk: 0, op: Op::Discard { sectors: 64 }, sector: 64, sectors: 64 });
    let none = VbdConfig { more: vec![("discard-enable".into(), "0".into())], ..target_config("nvme0n2") };
    let without = rig.guest_with(&none, BlkfrontOptions::default());
    assert_eq!(rig.fronts[without].backend_key("feature-discard").as_deref(), Some("0"));
    let request = BlkRequest::discard(rig.id(), 0, 8);
    assert_eq!(rig.ask(without, &[request]), [-2]);
}

#[test]
fn a_secure_discard_erases_and_is_offered_only_if_every_disk_can_bf_19() {
    let mut rig = Rig::new();
    rig.ram.disk_mut(0).capabilities.max_secure_erase_sectors = 16;
    rig.blkback.disk_changed(rig.ram.named()[0].clone());
    let guest = rig.guest_on("nvme0n1");
    assert_eq!(rig.fronts[guest].backend_key("discard-secure").as_deref(), Some("1"));
    let request = BlkRequest::secure_discard(rig.id(), 8, 40);
    assert_eq!(rig.ask(guest, &[request]), [0]);
    let asked: Vec<_> = rig.ram.trace.iter().map(|asked| (asked.op, asked.sector)).collect();
    let erase = |sectors| Op::SecureErase { sectors };
    assert_eq!(asked, [(erase(16), 8), (erase(16), 24), (erase(8), 40)]);
    assert!(rig.ram.bytes(0, 8, 40).iter().all(|byte| *byte == 0xee));
    assert_eq!(rig.ram.bytes(0, 48, 1), [0; 512]);
    // A plain one is what it was, and another disk cannot.
    let request = BlkRequest::discard(rig.id(), 64, 64);
    assert_eq!(rig.ask(guest, &[request]), [0]);
    assert_eq!(rig.ram.trace.last().map(|asked| asked.op), Some(Op::Discard { sectors: 64 }));
    let without = rig.guest_on("nvme0n2");
    assert_eq!(rig.fronts[without].backend_key("discard-secure").as_deref(), Some("0"));
    let request = BlkRequest::secure_discard(rig.id(), 0, 8);
    assert_eq!(rig.ask(without, &[request]), [-2]);
}

#[test]
fn a_tiny_budget_serves_the_largest_request_bf_43() {
    let mut rig = Rig::with(Budget { requests: 2, parts: 1, pages: 12, persistent: 0 }, |_| {});
    let guest = rig.guest_on("nvme0n1");
    let (segments, _pages) = rig.pages(guest, 256, |number| !number as u8);
    let (list, list_page) = rig.fronts[guest].page(Access::ReadOnly);
    BlkRequest::write_list(&list_page, &segments);
    let requests: Vec<_> = (0..8).map(|_| BlkRequest::indirect(1, rig.id(), 0, 256, list)).collect();
    assert_eq!(rig.ask(guest, &requests), [0; 8]);
    assert!(rig.ram.bytes(0, 255 * 8, 8).iter().all(|byte| *byte == 0));
    rig.assert_works(guest);
}

#[test]
fn a_full_disk_queue_holds_nothing_up_for_good() {
    let mut rig = Rig::new();
    rig.ram.depth = 1;
    let (a, b) = (rig.guest(), rig.guest());
    for _ in 0..3 {
        rig.assert_works(a);
        rig.assert_works(b);
    }
}
