//! Long lists.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use crate::hyp::{Transaction, Xenstore, XsError};
use crate::xenstore::listing::{Listing, Part, names};

use super::Bench;
use super::daemon::{DIRECTORY, PART};

#[test]
fn a_list_beyond_one_reply_is_read_in_parts() {
    for count in [500, 819, 820, 5000] {
        let mut bench = Bench::new();
        let expected: Vec<String> = (0..count).map(|n| format!("{n:04}")).collect();
        expected.iter().for_each(|name| bench.daemon.write(&format!("/local/domain/{name}"), b""));
        let list = bench.run(|xs| async move { xs.list(Transaction::NONE, "/local/domain").await });
        assert_eq!(list, Ok(expected));
        let parts = bench.daemon.seen.iter().filter(|seen| seen.kind == PART).count();
        assert_eq!(parts, if count < 820 { 0 } else { count * 5 / 4092 + 1 });
    }
}

#[test]
fn a_list_that_changes_meanwhile_is_read_again() {
    let mut listing = Listing::new();
    assert_eq!(listing.add(b"1\0a\0b\0"), Ok(Part::More));
    assert_eq!(listing.offset(), "4");
    assert_eq!(listing.add(b"2\0c\0\0"), Ok(Part::More));
    assert_eq!(listing.offset(), "0");
    assert_eq!(listing.add(b"2\0x\0y\0"), Ok(Part::More));
    assert_eq!(listing.add(b"2\0\0"), Ok(Part::Last));
    assert_eq!(listing.finish(), Ok(Vec::from(["x".to_string(), "y".to_string()])));
}

#[test]
fn a_list_that_never_rests_or_ends_is_given_up() {
    let mut listing = Listing::new();
    let results: Vec<_> = (0..20).map(|n| listing.add(format!("{n}\0a\0").as_bytes())).collect();
    assert!(results.contains(&Err(XsError::Again)));

    let mut listing = Listing::new();
    let reply = ["1\0".to_string(), "name\0".repeat(800)].concat();
    let end = (0..1000).find_map(|_| listing.add(reply.as_bytes()).err());
    assert_eq!(end, Some(XsError::TooBig));
}

#[test]
fn a_part_without_progress_ends_the_reading() {
    // No name and no end: asked again, it would be the same for ever.
    assert_eq!(Listing::new().add(b"1\0"), Err(XsError::Malformed));
    assert_eq!(Listing::new().add(b""), Err(XsError::Malformed));
    assert_eq!(Listing::new().add(b"1"), Err(XsError::Malformed));
    assert_eq!(Listing::new().add(b"1\0abc"), Err(XsError::Malformed));
}

#[test]
fn a_list_cut_short_is_malformed() {
    assert_eq!(names(b""), Ok(Vec::new()));
    assert_eq!(names(b"a\0"), Ok(Vec::from(["a".to_string()])));
    for list in [&b"a"[..], b"a\0b", b"\0", b"a\0\0b\0", b"\xff\0"] {
        assert_eq!(names(list), Err(XsError::Malformed));
    }
    let mut bench = Bench::new();
    bench.daemon.held = Some(Vec::new());
    let outcome = bench.spawn(|xs| async move { xs.list(Transaction::NONE, "data").await });
    bench.daemon.run();
    let id = bench.daemon.seen[0].id;
    bench.daemon.send(DIRECTORY, id, b"a\0b");
    bench.settle();
    assert_eq!(outcome.get(), Err(XsError::Malformed));
}
