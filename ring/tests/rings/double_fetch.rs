//! Memory that changes whenever it is looked at: what was checked must be what is used.
//!
//! XSA-155: a backend that reads a field of a request twice may check one value and use another.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use ring::netif::{Assembled, Negotiated, Rx, Tx, assemble};
use ring::{BackRing, SharedMem};

use crate::slots::{MORE_DATA, words};

const HEADER_WORDS: usize = 16;

/// A page whose words give their value once, and something else from then on.
struct Flipping {
    words: Vec<u32>,
    loads: RefCell<BTreeMap<usize, u32>>,
}

impl Flipping {
    fn new(req_prod: u32, slots: &[[u32; 3]]) -> Self {
        let mut words = vec![0; 1024];
        words[0] = req_prod;
        for (at, slot) in slots.iter().enumerate() {
            words[HEADER_WORDS + 3 * at..][..3].copy_from_slice(slot);
        }
        Self { words, loads: RefCell::default() }
    }

    /// How often each word of the slots was loaded.
    fn slot_loads(&self) -> Vec<u32> {
        let loads = self.loads.borrow();
        loads.iter().filter(|(word, _)| **word >= HEADER_WORDS).map(|(_, count)| *count).collect()
    }
}

impl SharedMem for &Flipping {
    fn load(&self, word: usize, _: Ordering) -> u32 {
        let mut loads = self.loads.borrow_mut();
        let count = loads.entry(word).or_default();
        *count += 1;
        let value = self.words[word];
        // The indices stay, so that what is tested is the slots.
        if *count == 1 || word < HEADER_WORDS { value } else { !value }
    }
    fn store(&self, _: usize, _: u32, _: Ordering) {}
    fn words(&self) -> usize {
        self.words.len()
    }
    fn full_fence(&self) {}
}

#[test]
fn each_word_of_a_chain_is_loaded_exactly_once() {
    let chain = [words(7, 100, MORE_DATA, 1, 3000), words(8, 0, MORE_DATA, 2, 1000), words(9, 4000, 0, 3, 96)];
    let page = Flipping::new(3, &chain);
    let mut ring = BackRing::<Tx, _>::attach(&page).unwrap();
    let packet = assemble(&Negotiated::default(), || ring.take_request().unwrap()).unwrap().unwrap();
    let Assembled::Packet(packet) = packet else { panic!("the values of the first look make a packet") };
    let fragments: Vec<_> = packet.fragments.as_slice().iter().map(|f| (f.gref.into_raw(), f.offset, f.size)).collect();
    assert_eq!(fragments, [(7, 100, 1904), (8, 0, 1000), (9, 4000, 96)]);
    assert_eq!(page.slot_loads(), [1; 9]);
}

#[test]
fn each_word_of_a_buffer_is_loaded_exactly_once() {
    let mut page = Flipping::new(2, &[]);
    page.words[HEADER_WORDS..][..4].copy_from_slice(&[5, 50, 6, 60]);
    let mut ring = BackRing::<Rx, _>::attach(&page).unwrap();
    let mut taken = Vec::new();
    ring.take_requests(9, |request, _| taken.push((request.id, request.gref.into_raw()))).unwrap();
    assert_eq!(taken, [(5, 50), (6, 60)]);
    assert_eq!(page.slot_loads(), [1; 4]);
}

#[test]
fn nothing_beyond_the_published_requests_is_looked_at() {
    let page = Flipping::new(1, &[words(7, 0, 0, 1, 60), words(8, 0, 0, 2, 60)]);
    let mut ring = BackRing::<Tx, _>::attach(&page).unwrap();
    while ring.take_request().unwrap().is_some() {}
    assert_eq!(page.slot_loads(), [1; 3]);
}

/// Memory in which also the producer index is a different one on every look.
struct Restless<'a>(&'a RefCell<Vec<u32>>, &'a Flipping);

impl SharedMem for Restless<'_> {
    fn load(&self, word: usize, order: Ordering) -> u32 {
        if word == 0 {
            return self.0.borrow_mut().pop().unwrap_or(0);
        }
        self.1.load(word, order)
    }
    fn store(&self, word: usize, value: u32, order: Ordering) {
        self.1.store(word, value, order);
    }
    fn words(&self) -> usize {
        self.1.words()
    }
    fn full_fence(&self) {}
}

#[test]
fn a_batch_believes_one_look_at_the_producer_index() {
    let page = Flipping::new(0, &[words(7, 0, 0, 1, 60), words(8, 0, 0, 2, 60)]);
    // For attaching 0, for the batch 2, then nonsense.
    let looks = RefCell::new(vec![0xffff_ffff, 2, 0]);
    let mut ring = BackRing::<Tx, _>::attach(Restless(&looks, &page)).unwrap();
    let mut taken = 0;
    assert_eq!(ring.take_requests(256, |_, _| taken += 1), Ok(2));
    assert_eq!(taken, 2);
    assert!(ring.unconsumed().is_err());
}
