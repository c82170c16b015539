//! No wake-up is lost, in any interleaving and with any reordering that the memory model allows.
//!
//! Two threads share indices through loom's atomics: one end works until it finds nothing and goes to sleep,
//! the other produces and sends an event if it was asked for one. An event ends the sleep. When both have
//! finished, a sleeper with work in front of it and no event on the way is a lost wake-up.
//!
//! The same models without the full fence must fail: that shows that they can.

use std::sync::atomic::Ordering;

use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, AtomicU32, fence};
use loom::thread;
use ring::{BackRing, Notify, Protocol, SharedMem};

const REQ_PROD: usize = 0;
const REQ_EVENT: usize = 1;
const RSP_PROD: usize = 2;
const RSP_EVENT: usize = 3;
const HEADER_WORDS: usize = 16;
/// Slots that hold anything; the ring has as many.
const SLOTS: usize = 2;

/// What travels: one word each way.
struct Echo;

impl Protocol for Echo {
    type Slot = [u32; 1];
    type Request = u32;
    type Response = u32;
    const RESPONSE_WORDS: usize = 1;
    fn decode(slot: &[u32; 1]) -> u32 {
        slot[0]
    }
    fn encode(response: &u32) -> [u32; 1] {
        [*response]
    }
}

/// A ring in the memory model's hands.
struct Page {
    indices: [AtomicU32; 4],
    slots: [AtomicU32; SLOTS],
    /// Whether the full fence is one.
    fenced: bool,
}

impl Page {
    fn new(fenced: bool) -> Self {
        // Both ends are awake at first, and nobody has asked for an event.
        let indices = [0; 4].map(AtomicU32::new);
        Self { indices, slots: [0; SLOTS].map(AtomicU32::new), fenced }
    }

    fn word(&self, word: usize) -> &AtomicU32 {
        if word < HEADER_WORDS { &self.indices[word] } else { &self.slots[word - HEADER_WORDS] }
    }
}

#[derive(Clone)]
struct Shared(Arc<Page>);

impl SharedMem for Shared {
    fn load(&self, word: usize, order: Ordering) -> u32 {
        self.0.word(word).load(order)
    }
    fn store(&self, word: usize, value: u32, order: Ordering) {
        self.0.word(word).store(value, order);
    }
    fn words(&self) -> usize {
        HEADER_WORDS + SLOTS
    }
    fn full_fence(&self) {
        if self.0.fenced {
            fence(Ordering::SeqCst);
        }
    }
}

/// The frontend publishes `count` requests one by one; the backend works until it sleeps.
fn requests(fenced: bool, count: u32) {
    let page = Shared(Arc::new(Page::new(fenced)));
    let event = Arc::new(AtomicBool::new(false));
    let (memory, bell) = (page.clone(), event.clone());
    let frontend = thread::spawn(move || {
        for number in 1..=count {
            memory.store(HEADER_WORDS + (number - 1) as usize, 100 + number, Ordering::Relaxed);
            memory.store(REQ_PROD, number, Ordering::Release);
            memory.full_fence();
            let asked = memory.load(REQ_EVENT, Ordering::Relaxed);
            if number.wrapping_sub(asked) < 1 {
                // A locked operation, as in Xen.
                bell.swap(true, Ordering::SeqCst);
            }
        }
    });
    let mut ring = BackRing::<Echo, _>::attach(page).unwrap();
    let mut taken = 0;
    loop {
        while let Some((request, _)) = ring.take_request().unwrap() {
            taken += 1;
            assert_eq!(request, 100 + taken, "a request is read before it is written");
        }
        if ring.final_check_for_requests().unwrap() == 0 && !event.swap(false, Ordering::SeqCst) {
            break;
        }
    }
    frontend.join().unwrap();
    let awake = event.swap(false, Ordering::SeqCst);
    assert!(awake || taken == count, "asleep with {} requests to serve", count - taken);
}

/// The backend publishes `count` responses one by one; the frontend works until it sleeps.
fn responses(fenced: bool, count: u32) {
    let page = Shared(Arc::new(Page::new(fenced)));
    page.store(REQ_PROD, count, Ordering::Relaxed);
    let event = Arc::new(AtomicBool::new(false));
    let mut ring = BackRing::<Echo, _>::attach(page.clone()).unwrap();
    let bell = event.clone();
    let backend = thread::spawn(move || {
        for number in 1..=count {
            let (_, ticket) = ring.take_request().unwrap().unwrap();
            ring.respond(ticket, &(100 + number));
            if ring.push_responses() == Notify::Needed {
                // A locked operation, as in Xen.
                bell.swap(true, Ordering::SeqCst);
            }
        }
    });
    let mut taken = 0;
    loop {
        while page.load(RSP_PROD, Ordering::Acquire) > taken {
            taken += 1;
            let response = page.load(HEADER_WORDS + (taken - 1) as usize, Ordering::Relaxed);
            assert_eq!(response, 100 + taken, "a response is read before it is written");
        }
        page.store(RSP_EVENT, taken + 1, Ordering::Relaxed);
        page.full_fence();
        if page.load(RSP_PROD, Ordering::Acquire) == taken && !event.swap(false, Ordering::SeqCst) {
            break;
        }
    }
    backend.join().unwrap();
    let awake = event.swap(false, Ordering::SeqCst);
    assert!(awake || taken == count, "asleep with {} responses to read", count - taken);
}

/// Explores the executions of a model: all of them for one message, those with at most three preemptions for
/// more.
fn explore(model: fn(bool, u32), fenced: bool, count: u32) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = (count > 1).then_some(3);
    builder.check(move || model(fenced, count));
}

/// Whether every execution of a model passes.
fn holds(model: fn(bool, u32), fenced: bool, count: u32) -> bool {
    std::panic::catch_unwind(move || explore(model, fenced, count)).is_ok()
}

#[test]
fn no_request_is_left_behind_by_a_backend_that_sleeps() {
    explore(requests, true, 1);
    explore(requests, true, 2);
}

#[test]
fn no_response_is_left_behind_by_a_frontend_that_sleeps() {
    explore(responses, true, 1);
    explore(responses, true, 2);
}

#[test]
fn without_the_full_fence_a_request_is_left_behind() {
    assert!(!holds(requests, false, 1));
}

#[test]
fn without_the_full_fence_a_response_is_left_behind() {
    assert!(!holds(responses, false, 1));
}
