#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use core::sync::atomic::AtomicU32;

use super::*;

/// Slots of two words, of which a request is the first and a response too.
struct Words;

impl Protocol for Words {
    type Slot = [u32; 2];
    type Request = u32;
    type Response = u32;
    const RESPONSE_WORDS: usize = 1;
    fn decode(slot: &[u32; 2]) -> u32 {
        slot[0]
    }
    fn encode(response: &u32) -> [u32; 2] {
        [*response, 0]
    }
}

type Page = Vec<AtomicU32>;

/// Memory for a ring of 4 slots.
fn page() -> Page {
    (0..HEADER_WORDS + 8).map(|_| AtomicU32::new(0)).collect()
}

fn set(ring: &BackRing<Words, Page>, word: usize, value: u32) {
    ring.mem[word].store(value, Ordering::SeqCst);
}

fn get(ring: &BackRing<Words, Page>, word: usize) -> u32 {
    ring.mem[word].load(Ordering::SeqCst)
}

fn ring_at(index: u32) -> BackRing<Words, Page> {
    let page = page();
    for word in [REQ_PROD, RSP_PROD] {
        page[word].store(index, Ordering::SeqCst);
    }
    BackRing::attach(page).unwrap()
}

/// Publishes `count` more requests.
fn produce(ring: &BackRing<Words, Page>, count: u32) {
    set(ring, REQ_PROD, get(ring, REQ_PROD).wrapping_add(count));
}

fn take(ring: &mut BackRing<Words, Page>) -> Ticket {
    ring.take_request().unwrap().unwrap().1
}

#[test]
fn a_ring_has_as_many_slots_as_fit_rounded_down_to_a_power_of_two() {
    let ring_of = |words: usize| {
        let mem: Page = (0..words).map(|_| AtomicU32::new(0)).collect();
        BackRing::<Words, Page>::attach(mem).map(|ring| ring.nr_ents())
    };
    for (slots, expected) in [(1, 1), (2, 2), (3, 2), (7, 4), (8, 8)] {
        assert_eq!(ring_of(HEADER_WORDS + 2 * slots), Ok(expected));
    }
    for words in [0, HEADER_WORDS, HEADER_WORDS + 1] {
        assert_eq!(ring_of(words), Err(RingFault::TooSmall));
    }
}

#[test]
fn requests_come_in_order_and_responses_go_to_the_same_slots() {
    let mut ring = ring_at(0);
    for (slot, value) in [(0, 10), (1, 11), (2, 12)] {
        set(&ring, HEADER_WORDS + 2 * slot, value);
    }
    produce(&ring, 3);
    for value in 10..13 {
        let (request, ticket) = ring.take_request().unwrap().unwrap();
        assert_eq!(request, value);
        ring.respond(ticket, &(value + 100));
    }
    assert!(ring.take_request().unwrap().is_none());
    assert_eq!(get(&ring, RSP_PROD), 0, "responses are not visible before they are pushed");
    let _ = ring.push_responses();
    assert_eq!(get(&ring, RSP_PROD), 3);
    assert_eq!((0..3).map(|slot| get(&ring, HEADER_WORDS + 2 * slot)).collect::<Vec<_>>(), [110, 111, 112]);
}

#[test]
fn a_response_leaves_the_words_alone_that_it_does_not_have() {
    let mut ring = ring_at(0);
    set(&ring, HEADER_WORDS + 1, 77);
    produce(&ring, 1);
    let ticket = take(&mut ring);
    ring.respond(ticket, &1);
    assert_eq!(get(&ring, HEADER_WORDS + 1), 77);
}

#[test]
fn a_producer_beyond_the_ring_is_refused() {
    for start in [0, 7, u32::MAX - 1] {
        for ahead in [5, 6, 1 << 31, u32::MAX] {
            let mut ring = ring_at(start);
            let req_prod = start.wrapping_add(ahead);
            set(&ring, REQ_PROD, req_prod);
            let fault = RingFault::ReqProd { req_prod, req_cons: start };
            assert_eq!(ring.unconsumed(), Err(fault));
            assert_eq!(ring.take_request().map(|_| ()), Err(fault));
            assert_eq!(ring.final_check_for_requests(), Err(fault));
            assert_eq!(ring.take_requests(9, |_, _| ()), Err(fault));
        }
    }
}

#[test]
fn a_producer_moving_backwards_is_refused() {
    let mut ring = ring_at(0);
    produce(&ring, 3);
    let tickets: Vec<Ticket> = (0..3).map(|_| take(&mut ring)).collect();
    // Unanswered requests are not taken twice, though ring.h's own check would allow it.
    for back in [2, 1, 0] {
        set(&ring, REQ_PROD, back);
        assert_eq!(ring.unconsumed(), Err(RingFault::ReqProd { req_prod: back, req_cons: 3 }));
    }
    set(&ring, REQ_PROD, 3);
    for ticket in tickets {
        ring.respond(ticket, &0);
    }
    let _ = ring.push_responses();
    set(&ring, REQ_PROD, 2);
    assert_eq!(ring.unconsumed(), Err(RingFault::ReqProd { req_prod: 2, req_cons: 3 }));
}

#[test]
fn a_ring_with_every_slot_outstanding_does_not_spin() {
    let mut ring = ring_at(0);
    produce(&ring, 4);
    let tickets: Vec<Ticket> = (0..4).map(|_| take(&mut ring)).collect();
    assert_eq!(ring.outstanding(), 4);
    assert_eq!(ring.unconsumed(), Ok(0));
    assert_eq!(ring.final_check_for_requests(), Ok(0));
    // One more cannot be there: no slot is free.
    produce(&ring, 1);
    assert!(ring.unconsumed().is_err());
    drop(tickets);
}

#[test]
fn a_frontend_that_contradicts_itself_from_the_start_is_refused() {
    let page = page();
    page[REQ_PROD].store(5, Ordering::SeqCst);
    assert_eq!(BackRing::<Words, _>::attach(page).map(drop), Err(RingFault::ReqProd { req_prod: 5, req_cons: 0 }));
}

#[test]
fn a_successor_takes_every_unanswered_request_again() {
    let mut first = ring_at(u32::MAX);
    for slot in 0..4 {
        set(&first, HEADER_WORDS + 2 * slot, u32::try_from(slot).unwrap());
    }
    produce(&first, 4);
    let answered = take(&mut first);
    let _lost = (take(&mut first), take(&mut first));
    first.respond(answered, &99);
    let _ = first.push_responses();
    let mut second = BackRing::<Words, Page>::attach(first.into_mem()).unwrap();
    assert_eq!(second.unconsumed(), Ok(3));
    let again: Vec<u32> = std::iter::from_fn(|| second.take_request().unwrap().map(|(value, _)| value)).collect();
    // Slot 3 was the first request's, before the index wrapped.
    assert_eq!(again, [0, 1, 2]);
}

#[test]
fn a_ticket_of_another_ring_overwrites_nothing() {
    let (mut ring, mut other) = (ring_at(0), ring_at(0));
    set(&ring, HEADER_WORDS, 42);
    produce(&ring, 1);
    produce(&other, 1);
    let foreign = take(&mut other);
    ring.respond(foreign, &0);
    assert_eq!(ring.take_request().unwrap().map(|(value, _)| value), Some(42));
}

#[test]
fn the_frontend_is_notified_when_a_response_crosses_its_event_and_not_otherwise() {
    // (responses already published, rsp_event, responses pushed now, notified)
    let table = [
        (0, 1, 1, Notify::Needed),
        (0, 2, 1, Notify::NotNeeded),
        (0, 2, 2, Notify::Needed),
        (0, 1, 3, Notify::Needed),
        (1, 1, 2, Notify::NotNeeded),
        (0, 0, 4, Notify::NotNeeded),
        (2, 4, 2, Notify::Needed),
        (2, 0x8000_0000, 2, Notify::NotNeeded),
    ];
    for start in [0, 1, u32::MAX - 2] {
        for (before, event, count, expected) in table {
            let mut ring = ring_at(start);
            produce(&ring, before + count);
            let answer = |ring: &mut BackRing<Words, Page>, count| {
                for _ in 0..count {
                    let ticket = take(ring);
                    ring.respond(ticket, &0);
                }
            };
            answer(&mut ring, before);
            let _ = ring.push_responses();
            set(&ring, RSP_EVENT, start.wrapping_add(event));
            answer(&mut ring, count);
            assert_eq!(ring.push_responses(), expected, "start {start}, {before} + {count}, event {event}");
            assert_eq!(ring.push_responses(), Notify::NotNeeded, "nothing new");
        }
    }
}

#[test]
fn the_event_is_asked_for_behind_what_was_taken() {
    for start in [0, u32::MAX] {
        let mut ring = ring_at(start);
        produce(&ring, 2);
        let _first = take(&mut ring);
        assert_eq!(ring.final_check_for_requests(), Ok(1));
        assert_eq!(get(&ring, REQ_EVENT), start.wrapping_add(2));
        assert_eq!(ring.arm(3), Ok(1));
        assert_eq!(get(&ring, REQ_EVENT), start.wrapping_add(4));
    }
}

#[test]
fn what_the_frontend_scribbles_into_our_fields_changes_nothing() {
    let mut ring = ring_at(0);
    produce(&ring, 2);
    let first = take(&mut ring);
    for word in [RSP_PROD, REQ_EVENT] {
        set(&ring, word, 0xdead_beef);
    }
    ring.respond(first, &0);
    let _ = ring.push_responses();
    assert_eq!(get(&ring, RSP_PROD), 1);
    assert_eq!(ring.unconsumed(), Ok(1));
}

#[test]
fn a_million_requests_wrap_around_the_index() {
    let mut ring = ring_at(0xffff_ff00);
    for round in 0..250_000_u32 {
        for slot in 0..4_u32 {
            let at = usize::try_from(round.wrapping_mul(4).wrapping_add(slot) % 4).unwrap();
            set(&ring, HEADER_WORDS + 2 * at, round);
        }
        produce(&ring, 4);
        let mut taken = 0;
        let mut debt = Debt::default();
        let count = ring.take_requests(9, |value, ticket| {
            assert_eq!(value, round);
            debt.add(ticket);
            taken += 1;
        });
        assert_eq!((count, taken, debt.owed()), (Ok(4), 4, 4));
        while let Some(ticket) = debt.pay() {
            ring.respond(ticket, &0);
        }
        let _ = ring.push_responses();
        assert_eq!(ring.outstanding(), 0);
    }
}

#[test]
fn a_batch_takes_no_more_than_it_is_told() {
    let mut ring = ring_at(0);
    produce(&ring, 3);
    let mut debt = Debt::default();
    assert_eq!(ring.take_requests(2, |_, ticket| debt.add(ticket)), Ok(2));
    assert_eq!((ring.unconsumed(), ring.outstanding(), debt.owed()), (Ok(1), 2, 2));
}
