//! What is counted: each case does a number of iterations of one thing that a data path does per packet or request.

use std::cell::Cell;
use std::hint::black_box;
use std::sync::atomic::{AtomicU32, Ordering};

use blkback_dom::disk::Span;
use blkback_dom::disk::layout::{self, Pieces, cut};
use blkback_dom::disk::nvme::pointer::{list, pointer};
use fake_xen::FakeXen;
use netback_dom::checksum::{self, Sum};
use netback_dom::nic::MacAddress;
use netback_dom::switch::guard::Guard;
use netback_dom::switch::storm::StormLimits;
use netback_dom::switch::vlan::{Vid, Vlans};
use netback_dom::switch::{BridgeId, PortConfig, PortId, Switch, SwitchOptions, Verdict};
use ring::BackRing;
use ring::blkif::{Limits, Request};
use ring::netif::{Assembled, Negotiated, Status, Tx, TxResponse, TxSlot, assemble};
use xen_pv_rt::hyp::{CopyBatch, GrantError, Instant, Maddr};

/// A case: its name, and what does so many iterations.
pub type Case = (&'static str, fn(u32));

/// Every case.
pub const ALL: &[Case] = &[
    ("ring: take, answer and publish 32 requests", ring_batch),
    ("netif: assemble a packet of one slot", assemble_small),
    ("netif: assemble a packet of four slots", assemble_large),
    ("blkif: validate a read of 11 segments", validate_read),
    ("blkif: refuse an impossible request", validate_bad),
    ("nvme: PRP entries of 4 KiB", prp_small),
    ("nvme: PRP entries of 128 KiB in 32 pages", prp_large),
    ("copies: a batch of none", copy_nothing),
    ("switch: forward between 32 ports, 256 addresses", forward),
    ("switch: flood", flood),
    ("checksum: sum 1500 bytes", sum_packet),
    ("checksum: find that of a TCP frame", locate),
];

/// Words before the first slot of a ring page.
const RING_HEADER: usize = 16;
const BATCH: u32 = 32;

fn ring_batch(iterations: u32) {
    let page: Vec<AtomicU32> = (0..1024).map(|_| AtomicU32::new(0)).collect();
    let Ok(mut ring) = BackRing::<Tx, &[AtomicU32]>::attach(page.as_slice()) else { return };
    let mut produced = 0_u32;
    for _ in 0..iterations {
        produced = produced.wrapping_add(BATCH);
        // The first word of the page is the frontend's producer index.
        if let Some(index) = page.first() {
            index.store(produced, Ordering::Release);
        }
        let mut taken = Vec::with_capacity(32);
        let _ = ring.take_requests(BATCH, |slot, ticket| taken.push((slot.request().id, ticket)));
        for (id, ticket) in taken {
            ring.respond(ticket, &TxResponse { id, status: Status::Okay });
        }
        let _ = black_box(ring.push_responses());
    }
    debug_assert!(page.len() > RING_HEADER);
}

/// Assembles what is in a ring of its own again and again.
fn assemble_slots(slots: &[[u32; 3]], iterations: u32) {
    let page: Vec<AtomicU32> = (0..1024).map(|_| AtomicU32::new(0)).collect();
    for (place, word) in page.iter().skip(RING_HEADER).zip(slots.iter().cycle().flatten().take(256 * 3)) {
        place.store(*word, Ordering::Relaxed);
    }
    let Ok(mut ring) = BackRing::<Tx, &[AtomicU32]>::attach(page.as_slice()) else { return };
    let negotiated = Negotiated::default();
    let mut produced = 0_u32;
    for _ in 0..iterations {
        produced = produced.wrapping_add(u32::try_from(slots.len()).unwrap_or(0));
        if let Some(index) = page.first() {
            index.store(produced, Ordering::Release);
        }
        let Ok(Some(Assembled::Packet(mut packet))) = assemble(&negotiated, || ring.take_request().ok().flatten())
        else {
            return;
        };
        black_box(packet.total);
        while let Some(ticket) = packet.debt.pay() {
            ring.respond(ticket, &TxResponse { id: 0, status: Status::Okay });
        }
        let _ = black_box(ring.push_responses());
    }
}

fn assemble_small(iterations: u32) {
    assemble_slots(&[slot(7, 0, 0, 60)], iterations);
}

fn assemble_large(iterations: u32) {
    const MORE: u32 = 1 << 2;
    let slots = [slot(7, 0, MORE, 14_000), slot(8, 0, MORE, 4096), slot(9, 0, MORE, 4096), slot(10, 0, 0, 4000)];
    assemble_slots(&slots, iterations);
}

fn slot(gref: u32, offset: u32, flags: u32, size: u32) -> [u32; 3] {
    TxSlot::from_words([gref, offset | flags << 16, 1 | size << 16]).into_words()
}

const LIMITS: Limits = Limits {
    sectors: 1 << 20,
    granularity: 1,
    read_only: false,
    flush: true,
    barrier: true,
    discard: true,
    secure_discard: false,
    indirect_segments: 256,
};

fn validate_read(iterations: u32) {
    let mut words = [0_u32; 28];
    // A read of 11 whole pages at sector 800.
    for (at, value) in [(0, 11 << 8), (4, 800)] {
        words.iter_mut().skip(at).take(1).for_each(|word| *word = value);
    }
    for segment in words.iter_mut().skip(6).step_by(2) {
        *segment = 77;
    }
    for segment in words.iter_mut().skip(7).step_by(2) {
        *segment = 7 << 8;
    }
    for _ in 0..iterations {
        let _ = black_box(Request::from_words(black_box(words)).validate(&LIMITS));
    }
}

fn validate_bad(iterations: u32) {
    let words = [u32::MAX; 28];
    for _ in 0..iterations {
        let _ = black_box(Request::from_words(black_box(words)).validate(&LIMITS));
    }
}

/// Cuts pages that lie apart into commands and builds their data pointers, again and again.
fn prp(pages: u64, iterations: u32) {
    let limits = layout::Limits { bytes: 128 * 4096, block: 512, pages: true, segments: 0 };
    let spans: Vec<_> =
        (0..pages).map(|page| Span { maddr: Maddr::from_raw(page.wrapping_mul(3) << 12), len: 4096 }).collect();
    for _ in 0..iterations {
        let mut pieces = Pieces::new();
        let _ = black_box(cut(black_box(&spans), limits, &mut pieces));
        for piece in &pieces {
            black_box(pointer(piece, Maddr::from_raw(1 << 30)));
            black_box(list(piece).fold(0_u64, u64::wrapping_add));
        }
    }
}

fn prp_small(iterations: u32) {
    prp(1, iterations);
}

fn prp_large(iterations: u32) {
    prp(32, iterations);
}

/// What every turn does that finds nothing to copy: a batch is some KiB, and must not be cleared or moved.
fn copy_nothing(iterations: u32) {
    let xen = FakeXen::new();
    let (hyp, mut noted) = (xen.hyp(), ());
    for _ in 0..iterations {
        let mut batch = CopyBatch::<_, &Cell<Option<GrantError>>>::new(&hyp, &mut noted);
        black_box(&mut batch);
        black_box(batch.finish());
    }
}

fn address(port: u16, number: u8) -> MacAddress {
    let [high, low] = port.to_be_bytes();
    MacAddress([0x02, 0, 0, high, low, number])
}

/// An Ethernet header of no protocol in particular.
fn header(dest: MacAddress, source: MacAddress) -> [u8; 14] {
    let mut header = [0x88; 14];
    for (to, from) in header.iter_mut().zip(dest.0.into_iter().chain(source.0)) {
        *to = from;
    }
    header
}

fn switch() -> Switch {
    let storm = StormLimits { broadcast: 0, multicast: 0, unknown: 0 };
    let mut switch = Switch::new(SwitchOptions { storm, ..SwitchOptions::default() }, 1);
    for port in 0..32 {
        let (own, vlans) = (Some(address(port, 0)), Vlans::Access(Vid::NATIVE));
        switch.add_port(
            PortId::Vif(port),
            PortConfig { bridge: BridgeId(0), own, vlans, guard: Guard::NONE, local: false },
        );
    }
    for (port, number) in (0..32).flat_map(|port| (1..8).map(move |number| (port, number))) {
        switch.forward(PortId::Vif(port), &header(MacAddress::BROADCAST, address(port, number)), Instant::default());
    }
    switch
}

fn forward(iterations: u32) {
    let mut switch = switch();
    for iteration in 0..iterations {
        let [low, high, ..] = iteration.to_le_bytes();
        let (from, to) = (u16::from(low % 32), u16::from(low.wrapping_add(high).wrapping_add(1) % 32));
        let verdict =
            switch.forward(PortId::Vif(from), &header(address(to, high % 8), address(from, 0)), Instant::default());
        black_box(verdict);
    }
}

fn flood(iterations: u32) {
    let mut switch = switch();
    for _ in 0..iterations {
        let from = PortId::Vif(3);
        let verdict = switch.forward(from, &header(MacAddress::BROADCAST, address(3, 0)), Instant::default());
        let Verdict::Flood(flood) = verdict else { continue };
        let mut next = 0;
        while let Some((port, after)) = switch.next_exit(&flood, next) {
            black_box(port);
            next = after;
        }
    }
}

fn sum_packet(iterations: u32) {
    let bytes: Vec<u8> = (0..=255).cycle().take(1500).collect();
    for _ in 0..iterations {
        let mut sum = Sum::default();
        sum.add(black_box(&bytes));
        black_box(sum.fold());
    }
}

fn locate(iterations: u32) {
    let mut frame = vec![0x02, 0, 0, 0, 0, 1, 0x02, 0, 0, 0, 0, 2, 8, 0, 0x45, 0, 0, 100, 0, 0, 0x40, 0, 64, 6];
    frame.resize(114, 0x55);
    for byte in frame.iter_mut().skip(46).take(1) {
        // A TCP header of 20 bytes.
        *byte = 0x50;
    }
    for _ in 0..iterations {
        black_box(checksum::locate(black_box(&frame), frame.len()));
    }
}
