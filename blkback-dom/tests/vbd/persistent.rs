//! Persistent grants: pages of a frontend that stay mapped.

use std::time::Duration;

use blkback_dom::vbd::Budget;
use fake_xen::{BlkRequest, BlkSegment, BlkfrontOptions, Page};
use xen_pv_rt::hyp::{Access, GrantError, GrantRef};

use crate::rig::{Guest, Rig, target_config};

const CAP: usize = 16;

/// A domain that maps, and a guest that uses its grants again. Its ring is one mapped page.
fn persistent() -> (Rig, Guest) {
    let mut rig = Rig::with(Budget { persistent: CAP, ..Budget::default() }, |_| {});
    let guest = connect(&mut rig, "1");
    (rig, guest)
}

fn connect(rig: &mut Rig, says: &str) -> Guest {
    let start = rig.fronts.len() * 1024;
    let guest = rig.add(&target_config(&format!("nvme0n1@{start}+1024")), BlkfrontOptions::default());
    rig.fronts[guest].write("feature-persistent", says);
    rig.until("connected", |rig| rig.is_connected(guest));
    guest
}

/// Pages that are mapped beside the ring.
fn mapped(rig: &Rig) -> usize {
    rig.usage().mapped - 1
}

fn copies(rig: &Rig, guest: Guest, gref: GrantRef) -> usize {
    let domid = rig.device(guest).frontend;
    rig.xen.copied_from(domid, gref).len() + rig.xen.copied_to(domid, gref).len()
}

fn transfer(rig: &mut Rig, guest: Guest, operation: u8, sector: u64, segments: &[BlkSegment]) -> i16 {
    let request = BlkRequest::direct(operation, rig.id(), sector, segments);
    rig.ask(guest, &[request])[0]
}

fn holds(page: &Page, byte: u8) -> bool {
    let mut bytes = [0; 4096];
    page.read(0, &mut bytes);
    bytes == [byte; 4096]
}

#[test]
fn a_page_is_mapped_once_and_its_data_is_not_copied() {
    let (mut rig, guest) = persistent();
    let (segments, pages) = rig.pages(guest, 4, |number| number as u8);
    for round in 0..20_u8 {
        pages.iter().for_each(|page| page.write(0, &[round; 4096]));
        assert_eq!(transfer(&mut rig, guest, 1, u64::from(round) * 32, &segments), 0);
        pages.iter().for_each(|page| page.write(0, &[0xff; 4096]));
        assert_eq!(transfer(&mut rig, guest, 0, u64::from(round) * 32, &segments), 0);
        assert!(pages.iter().all(|page| holds(page, round)), "round {round}");
    }
    assert_eq!(mapped(&rig), 4);
    assert!(segments.iter().all(|(gref, ..)| copies(&rig, guest, *gref) == 0));
}

#[test]
fn a_list_in_a_mapped_page_is_read_there() {
    let (mut rig, guest) = persistent();
    let (segments, pages) = rig.pages(guest, 8, |_| 0x77);
    let (list, page) = rig.fronts[guest].page(Access::ReadWrite);
    BlkRequest::write_list(&page, &segments);
    for _ in 0..3 {
        let request = BlkRequest::indirect(1, rig.id(), 64, 8, list);
        assert_eq!(rig.ask(guest, &[request]), [0]);
    }
    assert_eq!((mapped(&rig), copies(&rig, guest, list)), (9, 1), "only the first time it was not mapped");
    assert!(rig.ram.bytes(0, 64, 64).iter().all(|byte| *byte == 0x77));
    // The list is judged each time.
    page.set_word(1, 0xffff);
    let request = BlkRequest::indirect(1, rig.id(), 64, 8, list);
    assert_eq!(rig.ask(guest, &[request]), [-1]);
    assert!(holds(&pages[0], 0x77));
}

/// A list is shorter than the page it is in. What is behind it is no reference: one that cannot be mapped would end all
/// mapping.
#[test]
fn what_is_behind_a_list_is_not_mapped_and_ends_nothing() {
    let (mut rig, guest) = persistent();
    let (segments, _pages) = rig.pages(guest, 9, |_| 0x22);
    let (list, page) = rig.fronts[guest].page(Access::ReadWrite);
    BlkRequest::write_list(&page, &segments);
    let request = BlkRequest::indirect(1, rig.id(), 0, 9, list);
    assert_eq!(rig.ask(guest, &[request]), [0]);
    assert_eq!(mapped(&rig), 10, "nine pages and the list");
    let (fresh, _pages) = rig.pages(guest, 2, |_| 0x33);
    assert_eq!(transfer(&mut rig, guest, 1, 96, &fresh), 0);
    assert_eq!(mapped(&rig), 12);
    assert!(segments.iter().chain(&fresh).all(|(gref, ..)| copies(&rig, guest, *gref) == 0));
}

#[test]
fn parts_of_pages_move_their_own_bytes() {
    let (mut rig, guest) = persistent();
    let (pieces, pages) = rig.pages(guest, 3, |number| number as u8 + 1);
    let some: Vec<_> = pieces.iter().zip([(2, 5), (0, 0), (7, 7)]).map(|((gref, ..), (a, b))| (*gref, a, b)).collect();
    for segments in [&some[..1], &some[..]] {
        assert_eq!(transfer(&mut rig, guest, 1, 80, segments), 0);
        assert_eq!(rig.ram.bytes(0, 80, 4), [1; 4 * 512]);
    }
    assert_eq!(rig.ram.bytes(0, 84, 2), [[2; 512], [3; 512]].concat());
    assert_eq!(transfer(&mut rig, guest, 0, 84, &[(pieces[0].0, 1, 1)]), 0);
    let mut bytes = [0; 2048];
    pages[0].read(0, &mut bytes);
    assert_eq!([&bytes[..512], &bytes[512..1024], &bytes[1024..1536]].map(|part| part[0]), [1, 2, 1]);
}

#[test]
fn more_grants_than_the_cap_are_copied_bf_30() {
    let (mut rig, guest) = persistent();
    for number in 0..CAP as u64 * 10 {
        let (segments, pages) = rig.pages(guest, 1, |_| number as u8);
        assert_eq!(transfer(&mut rig, guest, 1, number % 100 * 8, &segments), 0);
        pages[0].write(0, &[0xff; 4096]);
        assert_eq!(transfer(&mut rig, guest, 0, number % 100 * 8, &segments), 0);
        assert!(holds(&pages[0], number as u8) && mapped(&rig) <= CAP, "page {number}");
    }
    assert_eq!(mapped(&rig), CAP);
    rig.assert_works(guest);
}

#[test]
fn what_is_not_used_for_a_while_is_unmapped_and_mapped_again_when_it_is() {
    let (mut rig, guest) = persistent();
    let (segments, _pages) = rig.pages(guest, 3, |_| 3);
    assert_eq!(transfer(&mut rig, guest, 1, 0, &segments), 0);
    rig.xen.advance(Duration::from_secs(50));
    assert_eq!(transfer(&mut rig, guest, 1, 0, &segments[..1]), 0);
    assert_eq!(mapped(&rig), 3);
    rig.xen.advance(Duration::from_secs(30));
    assert_eq!(transfer(&mut rig, guest, 1, 0, &segments[..1]), 0);
    assert_eq!(mapped(&rig), 1, "two were idle for 80 s");
    assert!(!rig.xen.revoke(rig.device(guest).frontend, segments[2].0));
    assert_eq!(transfer(&mut rig, guest, 1, 0, &segments[..2]), 0);
    assert_eq!(mapped(&rig), 2);
}

#[test]
fn a_frontend_that_leaves_has_all_pages_back_bf_31() {
    for destroyed in [false, true] {
        let (mut rig, guest) = persistent();
        let domid = rig.device(guest).frontend;
        let (segments, _pages) = rig.pages(guest, 8, |_| 8);
        assert_eq!(transfer(&mut rig, guest, 1, 0, &segments), 0);
        // It ends the access under our hands: Xen keeps the page, and requests with it go on.
        assert!(rig.xen.revoke(domid, segments[0].0));
        assert_eq!(transfer(&mut rig, guest, 1, 0, &segments), 0);
        // Also while a disk has a command with it: the disk lets go first.
        rig.ram.hold = true;
        let request = BlkRequest::direct(0, rig.id(), 0, &segments);
        rig.fronts[guest].submit(&[request]);
        rig.run(Duration::from_millis(10));
        if destroyed {
            rig.toolstack.destroy_domain(domid)
        } else {
            rig.fronts[guest].close()
        }
        rig.run(Duration::from_millis(500));
        assert_eq!(mapped(&rig), 8, "unmapped while a disk writes to them");
        rig.ram.hold = false;
        rig.wake();
        rig.until("nothing is mapped", |rig| rig.usage().mapped == 0);
        assert!(segments.iter().all(|(gref, ..)| !rig.xen.revoke(domid, *gref)));
    }
}

#[test]
fn one_grant_in_two_requests_is_mapped_until_both_are_over_bf_32() {
    let (mut rig, guest) = persistent();
    let (segments, pages) = rig.pages(guest, 1, |_| 0x32);
    rig.ram.hold = true;
    let requests = [BlkRequest::direct(1, 1, 0, &segments), BlkRequest::direct(1, 2, 8, &segments)];
    rig.fronts[guest].submit(&requests);
    rig.run(Duration::from_millis(10));
    rig.xen.advance(Duration::from_secs(100));
    rig.wake();
    rig.run(Duration::from_millis(10));
    assert_eq!(mapped(&rig), 1, "a page that a disk has is not idle");
    rig.ram.hold = false;
    rig.wake();
    rig.until("answered", |rig| rig.fronts[guest].unanswered() == 0);
    assert!(rig.fronts[guest].take_answers().iter().all(|answer| answer.status == 0));
    // The page was written from; now it is read into.
    pages[0].write(0, &[0; 4096]);
    assert_eq!(transfer(&mut rig, guest, 0, 8, &segments), 0);
    assert!(holds(&pages[0], 0x32));
}

#[test]
fn a_read_only_grant_is_never_written_through_a_mapping_bf_32() {
    let (mut rig, guest) = persistent();
    let (gref, page) = rig.fronts[guest].page(Access::ReadOnly);
    page.write(0, &[0x11; 4096]);
    assert_eq!(transfer(&mut rig, guest, 1, 0, &[(gref, 0, 7)]), 0, "writing from it is allowed");
    assert_eq!(transfer(&mut rig, guest, 0, 8, &[(gref, 0, 7)]), -1);
    assert!(holds(&page, 0x11));
    assert_eq!(mapped(&rig), 0);
    // Whose grants cannot be mapped is served by copying.
    rig.assert_works(guest);
    assert_eq!(mapped(&rig), 0);
}

#[test]
fn another_page_behind_a_mapped_grant_harms_its_owner_only() {
    let (mut rig, guest) = persistent();
    let victim = connect(&mut rig, "0");
    let domid = rig.device(guest).frontend;
    let (segments, pages) = rig.pages(guest, 1, |_| 0x0a);
    assert_eq!(transfer(&mut rig, guest, 1, 0, &segments), 0);
    let other = Page::new();
    other.write(0, &[0x0b; 4096]);
    rig.xen.replace(domid, segments[0].0, &other);
    assert_eq!(transfer(&mut rig, guest, 1, 8, &segments), 0);
    assert_eq!(rig.ram.bytes(0, 8, 8), [0x0a; 4096], "the page that was granted first");
    pages[0].write(0, &[0; 4096]);
    assert_eq!(transfer(&mut rig, guest, 0, 8, &segments), 0);
    assert!(holds(&pages[0], 0x0a) && holds(&other, 0x0b));
    rig.assert_works(victim);
    rig.fronts[guest].close();
    rig.until("only the victim's ring is mapped", |rig| rig.usage().mapped == 1);
}

#[test]
fn a_mapping_that_fails_is_made_up_for_by_copying_bf_29() {
    for failing in 0..4 {
        let (mut rig, guest) = persistent();
        let mut left = failing;
        rig.xen.faults().map = Some(Box::new(move |_: &(_, GrantRef)| {
            left -= 1;
            (left == -1).then_some(GrantError::NoSpace)
        }));
        let (segments, _pages) = rig.pages(guest, 4, |number| number as u8);
        for operation in [1, 0] {
            assert_eq!(transfer(&mut rig, guest, operation, 0, &segments), 0);
        }
        assert_eq!(mapped(&rig), 3, "page {failing}");
        assert_eq!(rig.lines(guest, "GRANT_SYS").len(), 1, "{:?}", rig.log());
        rig.assert_works(guest);
        rig.fronts[guest].close();
        rig.until("nothing is mapped", |rig| rig.usage().mapped == 0);
    }
}

#[test]
fn nothing_is_mapped_for_a_frontend_that_does_not_ask_for_it() {
    let mut rig = Rig::with(Budget { persistent: CAP, ..Budget::default() }, |_| {});
    for says in ["0", "yes", "-1"] {
        let guest = connect(&mut rig, says);
        rig.assert_works(guest);
        assert_eq!(rig.fronts[guest].backend_key("feature-persistent").as_deref(), Some("1"));
        assert_eq!(rig.usage().mapped, rig.fronts.len(), "rings only");
    }
}
