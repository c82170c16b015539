//! Random peers: an honest one sees every request answered once and in order, a lying one is refused before
//! anything happens.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, Ordering};

use proptest::collection::vec;
use proptest::prelude::*;
use ring::{BackRing, Notify, Protocol, RingFault, Ticket};

const HEADER_WORDS: usize = 16;
const SLOTS: u32 = 8;

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

#[derive(Clone, Copy, Debug)]
enum Step {
    /// The frontend publishes up to this many requests.
    Produce(u32),
    /// The backend takes up to this many.
    Take(u32),
    /// It writes up to this many responses.
    Respond(u32),
    /// It publishes them.
    Push,
    /// It gets ready to sleep until there are this many.
    Arm(u32),
    /// The frontend reads responses and asks for an event with the next.
    Consume,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (1..=SLOTS).prop_map(Step::Produce),
        (1..=SLOTS).prop_map(Step::Take),
        (1..=SLOTS).prop_map(Step::Respond),
        Just(Step::Push),
        (1..=SLOTS).prop_map(Step::Arm),
        Just(Step::Consume),
    ]
}

/// The honest frontend, and what it knows to be true.
struct World {
    ring: BackRing<Echo, Vec<AtomicU32>>,
    start: u32,
    produced: u32,
    taken: VecDeque<(u32, Ticket)>,
    answered: u32,
    pushed: u32,
    consumed: u32,
}

impl World {
    fn new(start: u32) -> Self {
        let page: Vec<AtomicU32> = (0..HEADER_WORDS + SLOTS as usize).map(|_| AtomicU32::new(0)).collect();
        page[0].store(start, Ordering::SeqCst);
        page[2].store(start, Ordering::SeqCst);
        page[3].store(start.wrapping_add(1), Ordering::SeqCst);
        let ring = BackRing::attach(page).unwrap();
        Self { ring, start, produced: 0, taken: VecDeque::new(), answered: 0, pushed: 0, consumed: 0 }
    }

    /// The page, as the frontend sees it.
    fn page<T>(&mut self, visit: impl FnOnce(&[AtomicU32]) -> T) -> T {
        assert_eq!(self.ring.outstanding(), u32::try_from(self.taken.len()).unwrap());
        visit(self.ring.mem())
    }

    fn run(&mut self, step: Step) {
        match step {
            Step::Produce(count) => {
                let count = count.min(SLOTS - (self.produced - self.consumed));
                let (start, produced) = (self.start, self.produced);
                self.page(|page| {
                    for number in produced..produced + count {
                        let at = HEADER_WORDS + (start.wrapping_add(number) % SLOTS) as usize;
                        page[at].store(number, Ordering::SeqCst);
                    }
                    page[0].store(start.wrapping_add(produced + count), Ordering::SeqCst);
                });
                self.produced += count;
            }
            Step::Take(count) => {
                for _ in 0..count {
                    let expected = self.answered + u32::try_from(self.taken.len()).unwrap();
                    match self.ring.take_request().unwrap() {
                        Some((number, ticket)) => {
                            assert_eq!(number, expected);
                            self.taken.push_back((number, ticket));
                        }
                        None => assert_eq!(expected, self.produced),
                    }
                }
            }
            Step::Respond(count) => {
                for _ in 0..count {
                    let Some((number, ticket)) = self.taken.pop_front() else { return };
                    self.ring.respond(ticket, &(number ^ 0xffff));
                    self.answered += 1;
                }
            }
            Step::Push => {
                let asked = self.page(|page| page[3].load(Ordering::SeqCst)).wrapping_sub(self.start);
                let crossed = (self.pushed + 1..=self.answered).contains(&asked);
                let expected = if crossed { Notify::Needed } else { Notify::NotNeeded };
                assert_eq!(self.ring.push_responses(), expected);
                self.pushed = self.answered;
            }
            Step::Arm(more) => {
                let there = self.produced - self.answered - u32::try_from(self.taken.len()).unwrap();
                assert_eq!(self.ring.arm(more), Ok(there));
                let event = self.page(|page| page[1].load(Ordering::SeqCst)).wrapping_sub(self.start);
                assert_eq!(event, self.produced - there + more);
            }
            Step::Consume => {
                let (start, consumed, pushed) = (self.start, self.consumed, self.pushed);
                self.page(|page| {
                    assert_eq!(page[2].load(Ordering::SeqCst), start.wrapping_add(pushed));
                    for number in consumed..pushed {
                        let at = HEADER_WORDS + (start.wrapping_add(number) % SLOTS) as usize;
                        assert_eq!(page[at].load(Ordering::SeqCst), number ^ 0xffff);
                    }
                    page[3].store(start.wrapping_add(pushed + 1), Ordering::SeqCst);
                });
                self.consumed = pushed;
            }
        }
    }
}

proptest! {
    #[test]
    fn an_honest_frontend_is_served_in_order(start in any::<u32>(), steps in vec(step(), 1..200)) {
        let mut world = World::new(start);
        for step in steps {
            world.run(step);
        }
    }

    #[test]
    fn an_honest_frontend_is_served_around_the_wrap(back in 0..40_u32, steps in vec(step(), 1..200)) {
        let mut world = World::new(0_u32.wrapping_sub(back));
        for step in steps {
            world.run(step);
        }
    }

    #[test]
    fn any_producer_index_is_bounded_or_refused(
        start in any::<u32>(),
        steps in vec(step(), 0..40),
        lie in prop_oneof![any::<u32>(), 0..20_u32, (0..20_u32).prop_map(|back| 0_u32.wrapping_sub(back))],
    ) {
        let mut world = World::new(start);
        for step in steps {
            world.run(step);
        }
        let req_cons = start.wrapping_add(world.answered + u32::try_from(world.taken.len()).unwrap());
        let req_prod = req_cons.wrapping_add(lie);
        world.page(|page| page[0].store(req_prod, Ordering::SeqCst));
        let free = SLOTS - world.ring.outstanding();
        let expected = if lie <= free { Ok(lie) } else { Err(RingFault::ReqProd { req_prod, req_cons }) };
        prop_assert_eq!(world.ring.unconsumed(), expected);
        let mut count = 0;
        while let Ok(Some(_)) = world.ring.take_request() {
            count += 1;
            prop_assert!(count <= SLOTS);
        }
        prop_assert!(world.ring.outstanding() <= SLOTS);
    }
}
