//! Batches of grant copies: what is one hypercall, and who is told of a failure.

#![allow(clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, reason = "test code: a panic is a failed test")]

use std::cell::Cell;

use fake_xen::{FakeXen, Page, Toolstack};
use xen_pv_rt::hyp::{Access, Copied, CopyBatch, CopyDest, CopySource, GrantError, GrantRef, PeerSpan};

/// Copies eight bytes of each grant into a page of its own, in one batch.
fn copy_all(grant: impl Fn(usize, GrantRef) -> GrantRef, count: usize) -> (Copied, Vec<Option<GrantError>>) {
    let xen = FakeXen::new();
    let domid = Toolstack::new(&xen).create_domain("guest");
    let good = xen.grant(domid, &Page::new(), Access::ReadOnly);
    let mut buffers = vec![[0_u8; 8]; count];
    let owners = vec![Cell::new(None); count];
    let (hyp, mut noted) = (xen.hyp(), ());
    let copied = {
        let mut batch = CopyBatch::new(&hyp, &mut noted);
        for (at, (buffer, owner)) in buffers.iter_mut().zip(&owners).enumerate() {
            let span = PeerSpan { domid, gref: grant(at, good), offset: 0 };
            batch.push(owner, CopySource::Peer(span), CopyDest::Local(buffer), 8);
        }
        batch.finish()
    };
    (copied, owners.iter().map(Cell::get).collect())
}

#[test]
fn nothing_is_no_hypercall() {
    assert_eq!(copy_all(|_, good| good, 0), (Copied { calls: 0, operations: 0 }, vec![]));
}

#[test]
fn sixty_four_copies_are_a_hypercall_and_the_next_one_another() {
    let (copied, _) = copy_all(|_, good| good, 64);
    assert_eq!(copied, Copied { calls: 1, operations: 64 });
    let (copied, failed) = copy_all(|_, good| good, 65);
    assert_eq!(copied, Copied { calls: 2, operations: 65 });
    assert!(failed.iter().all(Option::is_none));
}

#[test]
fn only_the_owner_of_a_bad_copy_is_told() {
    for bad in [0, 63, 64, 69] {
        let (copied, failed) = copy_all(|at, good| if at == bad { GrantRef::from_raw(1) } else { good }, 70);
        assert_eq!(copied.operations, 70);
        let told: Vec<_> = (0..70).filter(|at| failed[*at].is_some()).collect();
        assert_eq!((told, failed[bad]), (vec![bad], Some(GrantError::BadGntref)));
    }
}
