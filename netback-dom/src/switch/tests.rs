#![expect(clippy::unwrap_used, clippy::arithmetic_side_effects, reason = "tests")]

use core::time::Duration;

use super::*;

const A: PortId = PortId::Vif(0);
const B: PortId = PortId::Vif(1);
const WIRE: PortId = PortId::Uplink(0);
const RED: BridgeId = BridgeId(0);
const BLUE: BridgeId = BridgeId(1);

fn mac(last: u8) -> MacAddress {
    MacAddress([0x02, 0, 0, 0, 0, last])
}

fn many(number: u16) -> MacAddress {
    let [high, low] = number.to_be_bytes();
    MacAddress([0x02, 0xff, 0, 0, high, low])
}

fn at(seconds: u64) -> Instant {
    Instant::from_nanos(seconds * 1_000_000_000)
}

fn switch() -> Switch {
    let mut switch = Switch::new(TableLimits::default(), 1);
    switch.add_port(A, RED, Some(mac(0xa)));
    switch.add_port(B, RED, Some(mac(0xb)));
    switch.add_port(WIRE, RED, None);
    switch.add_port(PortId::Vif(9), BLUE, Some(mac(0x9)));
    switch
}

fn flood(switch: &Switch, from: PortId) -> Vec<PortId> {
    let mut ports = Vec::new();
    let mut next = 0;
    while let Some((port, after)) = switch.next_flood_port(from, next) {
        ports.push(port);
        next = after;
    }
    ports
}

#[test]
fn an_address_that_was_seen_is_sent_to_its_port_only() {
    let mut switch = switch();
    assert_eq!(switch.forward(A, mac(1), mac(0xa), at(0)), Verdict::Flood);
    assert_eq!(switch.forward(WIRE, mac(0xa), mac(1), at(0)), Verdict::To(A));
    assert_eq!(switch.forward(A, mac(1), mac(0xa), at(0)), Verdict::To(WIRE));
}

#[test]
fn the_toolstacks_address_is_known_before_the_first_frame() {
    assert_eq!(switch().forward(WIRE, mac(0xb), mac(1), at(0)), Verdict::To(B));
}

#[test]
fn a_frame_never_goes_back_where_it_came_from() {
    let mut switch = switch();
    switch.forward(WIRE, MacAddress::BROADCAST, mac(1), at(0));
    assert_eq!(switch.forward(WIRE, mac(1), mac(2), at(0)), Verdict::Discard);
    assert_eq!(flood(&switch, A), [B, WIRE]);
    assert_eq!(flood(&switch, WIRE), [A, B]);
}

#[test]
fn bridges_are_separate() {
    let mut switch = switch();
    assert_eq!(switch.forward(A, mac(0x9), mac(0xa), at(0)), Verdict::Flood);
    assert_eq!(flood(&switch, PortId::Vif(9)), []);
}

#[test]
fn groups_are_flooded_and_reserved_groups_are_not() {
    let mut switch = switch();
    assert_eq!(switch.forward(A, MacAddress::BROADCAST, mac(0xa), at(0)), Verdict::Flood);
    assert_eq!(switch.forward(A, MacAddress([1, 0, 0x5e, 0, 0, 1]), mac(0xa), at(0)), Verdict::Flood);
    assert_eq!(switch.forward(A, MacAddress([1, 0x80, 0xc2, 0, 0, 0xe]), mac(0xa), at(0)), Verdict::Discard);
    assert_eq!(switch.forward(A, MacAddress([1, 0x80, 0xc2, 0, 0, 0x10]), mac(0xa), at(0)), Verdict::Flood);
}

#[test]
fn a_learned_address_moves_and_a_pinned_one_does_not() {
    let mut switch = switch();
    switch.forward(WIRE, mac(7), mac(1), at(0));
    switch.forward(A, mac(7), mac(1), at(1));
    assert_eq!(switch.forward(B, mac(1), mac(0xb), at(1)), Verdict::To(A));
    switch.forward(A, mac(7), mac(0xb), at(2));
    assert_eq!(switch.forward(WIRE, mac(0xb), mac(5), at(2)), Verdict::To(B));
}

#[test]
fn a_group_address_is_never_learned_as_a_source() {
    let mut switch = switch();
    switch.forward(A, mac(7), MacAddress::BROADCAST, at(0));
    assert_eq!(switch.forward(WIRE, MacAddress::BROADCAST, mac(1), at(0)), Verdict::Flood);
}

#[test]
fn addresses_age_unless_they_are_pinned_or_seen() {
    let mut switch = switch();
    switch.forward(WIRE, mac(7), mac(1), at(0));
    switch.forward(WIRE, mac(7), mac(2), at(0));
    switch.forward(WIRE, mac(7), mac(2), at(200));
    assert_eq!(switch.forward(A, mac(1), mac(0xa), at(299)), Verdict::To(WIRE));
    assert_eq!(switch.forward(A, mac(1), mac(0xa), at(300)), Verdict::Flood);
    assert_eq!(switch.forward(A, mac(2), mac(0xa), at(300)), Verdict::To(WIRE));
    assert_eq!(switch.forward(WIRE, mac(0xb), mac(3), at(9999)), Verdict::To(B));
}

#[test]
fn a_guest_that_floods_addresses_evicts_nobody() {
    let mut switch = switch();
    switch.forward(WIRE, mac(7), mac(1), at(0));
    for number in 0..5000 {
        switch.forward(A, mac(7), many(number), at(1));
    }
    assert_eq!(switch.table.learned(A), TableLimits::default().per_vif);
    assert_eq!(switch.forward(B, mac(1), mac(0xb), at(2)), Verdict::To(WIRE));
    assert_eq!(switch.forward(B, mac(0xa), mac(0xb), at(2)), Verdict::To(A));
}

#[test]
fn room_comes_back_when_addresses_have_aged() {
    let mut table = MacTable::new(TableLimits { per_vif: 2, ..TableLimits::default() }, 3);
    for number in 0..2 {
        table.learn(RED, many(number), A, at(0));
    }
    table.learn(RED, many(2), A, at(10));
    assert_eq!(table.lookup(RED, many(2), at(10)), None);
    table.expire(at(300));
    assert_eq!(table.learned(A), 0);
    table.learn(RED, many(2), A, at(300));
    assert_eq!(table.lookup(RED, many(2), at(300)), Some(A));
}

#[test]
fn a_port_that_goes_takes_its_addresses_along() {
    let mut switch = switch();
    switch.forward(A, mac(7), mac(1), at(0));
    switch.remove_port(A);
    assert_eq!(switch.forward(B, mac(1), mac(0xb), at(1)), Verdict::Flood);
    assert_eq!(switch.forward(B, mac(0xa), mac(0xb), at(1)), Verdict::Flood);
    assert_eq!(switch.forward(A, mac(0xb), mac(1), at(1)), Verdict::Discard);
}

#[test]
fn the_count_of_learned_addresses_stays_right() {
    let limits = TableLimits { entries: 16, per_vif: 5, per_uplink: 5, ageing: Duration::from_secs(3) };
    let mut table = MacTable::new(limits, 77);
    for step in 0..2000_u64 {
        let port = if step % 3 == 0 { A } else { B };
        table.learn(RED, many(u16::try_from(step * 7 % 23).unwrap()), port, at(step / 10));
        for port in [A, B] {
            let held = table.held(port);
            assert_eq!(usize::from(table.learned(port)), held);
            assert!(held <= 5);
        }
    }
}
