#![expect(clippy::unwrap_used, clippy::panic, clippy::arithmetic_side_effects, reason = "tests")]

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

/// A vif with an address of its own.
fn vif(bridge: BridgeId, own: MacAddress) -> PortConfig {
    PortConfig { bridge, own: Some(own), vlans: Vlans::Access(Vid::NATIVE), guard: Guard::NONE, local: false }
}

fn switch_with(options: SwitchOptions) -> Switch {
    let mut switch = Switch::new(options, 1);
    switch.add_port(A, vif(RED, mac(0xa)));
    switch.add_port(B, vif(RED, mac(0xb)));
    switch.add_port(WIRE, PortConfig::uplink(RED));
    switch.add_port(PortId::Vif(9), vif(BLUE, mac(0x9)));
    switch
}

fn switch() -> Switch {
    switch_with(SwitchOptions::default())
}

/// A [`Verdict`] without details.
#[derive(Debug, PartialEq, Eq)]
enum Way {
    To(PortId),
    Flood,
    Discard,
    Refuse(Refusal),
}

fn header(dest: MacAddress, source: MacAddress) -> Vec<u8> {
    [&dest.0[..], &source.0, &[0x12, 0x34]].concat()
}

fn forward(switch: &mut Switch, from: PortId, dest: MacAddress, source: MacAddress, now: Instant) -> Way {
    match switch.forward(from, &header(dest, source), now) {
        Verdict::To(exit) => {
            assert_eq!(exit.bearing, Bearing { vlan: Vid::NATIVE, form: vlan::Form::Untagged });
            Way::To(exit.port)
        }
        Verdict::Flood(_) => Way::Flood,
        Verdict::Discard => Way::Discard,
        Verdict::Refuse(why) => Way::Refuse(why),
    }
}

fn exits(switch: &mut Switch, from: PortId, head: &[u8]) -> Vec<Exit> {
    let Verdict::Flood(flood) = switch.forward(from, head, at(0)) else { return Vec::new() };
    let mut exits = Vec::new();
    let mut next = 0;
    while let Some((exit, after)) = switch.next_exit(&flood, next) {
        exits.push(exit);
        next = after;
    }
    exits
}

fn flood(switch: &mut Switch, from: PortId) -> Vec<PortId> {
    let head = header(MacAddress::BROADCAST, mac(0x77));
    exits(switch, from, &head).into_iter().map(|exit| exit.port).collect()
}

#[test]
fn an_address_that_was_seen_is_sent_to_its_port_only() {
    let mut switch = switch();
    assert_eq!(forward(&mut switch, A, mac(1), mac(0xa), at(0)), Way::Flood);
    assert_eq!(forward(&mut switch, WIRE, mac(0xa), mac(1), at(0)), Way::To(A));
    assert_eq!(forward(&mut switch, A, mac(1), mac(0xa), at(0)), Way::To(WIRE));
}

#[test]
fn the_toolstacks_address_is_known_before_the_first_frame() {
    assert_eq!(forward(&mut switch(), WIRE, mac(0xb), mac(1), at(0)), Way::To(B));
}

#[test]
fn a_frame_never_goes_back_where_it_came_from() {
    let mut switch = switch();
    forward(&mut switch, WIRE, MacAddress::BROADCAST, mac(1), at(0));
    assert_eq!(forward(&mut switch, WIRE, mac(1), mac(2), at(0)), Way::Discard);
    assert_eq!(flood(&mut switch, A), [B, WIRE]);
    assert_eq!(flood(&mut switch, WIRE), [A, B]);
}

#[test]
fn bridges_are_separate() {
    let mut switch = switch();
    assert_eq!(forward(&mut switch, A, mac(0x9), mac(0xa), at(0)), Way::Flood);
    assert_eq!(flood(&mut switch, PortId::Vif(9)), []);
}

#[test]
fn groups_are_flooded_and_reserved_groups_are_not() {
    let mut switch = switch();
    assert_eq!(forward(&mut switch, A, MacAddress::BROADCAST, mac(0xa), at(0)), Way::Flood);
    assert_eq!(forward(&mut switch, A, MacAddress([1, 0, 0x5e, 0, 0, 1]), mac(0xa), at(0)), Way::Flood);
    assert_eq!(forward(&mut switch, A, MacAddress([1, 0x80, 0xc2, 0, 0, 0xe]), mac(0xa), at(0)), Way::Discard);
    assert_eq!(forward(&mut switch, A, MacAddress([1, 0x80, 0xc2, 0, 0, 0x10]), mac(0xa), at(0)), Way::Flood);
}

#[test]
fn a_learned_address_moves_and_a_pinned_one_does_not() {
    let mut switch = switch();
    forward(&mut switch, WIRE, mac(7), mac(1), at(0));
    forward(&mut switch, A, mac(7), mac(1), at(1));
    assert_eq!(forward(&mut switch, B, mac(1), mac(0xb), at(1)), Way::To(A));
    forward(&mut switch, A, mac(7), mac(0xb), at(2));
    assert_eq!(forward(&mut switch, WIRE, mac(0xb), mac(5), at(2)), Way::To(B));
}

#[test]
fn a_group_address_is_never_learned_as_a_source() {
    let mut switch = switch();
    forward(&mut switch, A, mac(7), MacAddress::BROADCAST, at(0));
    assert_eq!(forward(&mut switch, WIRE, MacAddress::BROADCAST, mac(1), at(0)), Way::Flood);
}

#[test]
fn addresses_age_unless_they_are_pinned_or_seen() {
    let mut switch = switch();
    forward(&mut switch, WIRE, mac(7), mac(1), at(0));
    forward(&mut switch, WIRE, mac(7), mac(2), at(0));
    forward(&mut switch, WIRE, mac(7), mac(2), at(200));
    assert_eq!(forward(&mut switch, A, mac(1), mac(0xa), at(299)), Way::To(WIRE));
    assert_eq!(forward(&mut switch, A, mac(1), mac(0xa), at(300)), Way::Flood);
    assert_eq!(forward(&mut switch, A, mac(2), mac(0xa), at(300)), Way::To(WIRE));
    assert_eq!(forward(&mut switch, WIRE, mac(0xb), mac(3), at(9999)), Way::To(B));
}

#[test]
fn a_guest_that_floods_addresses_evicts_nobody() {
    let mut switch = switch();
    forward(&mut switch, WIRE, mac(7), mac(1), at(0));
    for number in 0..5000 {
        forward(&mut switch, A, mac(7), many(number), at(1));
    }
    assert_eq!(switch.table.learned(A), TableLimits::default().per_vif);
    assert_eq!(forward(&mut switch, B, mac(1), mac(0xb), at(2)), Way::To(WIRE));
    assert_eq!(forward(&mut switch, B, mac(0xa), mac(0xb), at(2)), Way::To(A));
}

#[test]
fn room_comes_back_when_addresses_have_aged() {
    let mut table = MacTable::new(TableLimits { per_vif: 2, ..TableLimits::default() }, 3);
    for number in 0..2 {
        table.learn(RED, Vid::NATIVE, many(number), A, at(0));
    }
    table.learn(RED, Vid::NATIVE, many(2), A, at(10));
    assert_eq!(table.lookup(RED, Vid::NATIVE, many(2), at(10)), None);
    table.expire(at(300));
    assert_eq!(table.learned(A), 0);
    table.learn(RED, Vid::NATIVE, many(2), A, at(300));
    assert_eq!(table.lookup(RED, Vid::NATIVE, many(2), at(300)), Some(A));
}

#[test]
fn a_port_that_goes_takes_its_addresses_along() {
    let mut switch = switch();
    forward(&mut switch, A, mac(7), mac(1), at(0));
    switch.remove_port(A);
    assert_eq!(forward(&mut switch, B, mac(1), mac(0xb), at(1)), Way::Flood);
    assert_eq!(forward(&mut switch, B, mac(0xa), mac(0xb), at(1)), Way::Flood);
    assert_eq!(forward(&mut switch, A, mac(0xb), mac(1), at(1)), Way::Discard);
}

#[test]
fn the_count_of_learned_addresses_stays_right() {
    let limits = TableLimits { entries: 16, per_vif: 5, per_uplink: 5, ageing: Duration::from_secs(3) };
    let mut table = MacTable::new(limits, 77);
    for step in 0..2000_u64 {
        let port = if step % 3 == 0 { A } else { B };
        table.learn(RED, Vid::NATIVE, many(u16::try_from(step * 7 % 23).unwrap()), port, at(step / 10));
        for port in [A, B] {
            let held = table.held(port);
            assert_eq!(usize::from(table.learned(port)), held);
            assert!(held <= 5);
        }
    }
}

#[test]
fn an_address_of_a_vif_is_not_believed_when_the_wire_gives_it_back() {
    let mut switch = switch();
    assert_eq!(forward(&mut switch, WIRE, MacAddress::BROADCAST, mac(0xa), at(0)), Way::Discard);
    assert_eq!(forward(&mut switch, WIRE, mac(0xb), mac(0xa), at(0)), Way::Discard);
    // On another bridge it is just an address.
    switch.add_port(PortId::Uplink(1), PortConfig::uplink(BLUE));
    assert_eq!(forward(&mut switch, PortId::Uplink(1), MacAddress::BROADCAST, mac(0xa), at(0)), Way::Flood);
}

#[test]
fn cards_of_a_bridge_reach_each_other_only_if_that_is_asked_for() {
    let other = PortId::Uplink(1);
    for transit in [false, true] {
        let mut switch = switch_with(SwitchOptions { transit, ..SwitchOptions::default() });
        switch.add_port(other, PortConfig::uplink(RED));
        assert_eq!(flood(&mut switch, A), [B, WIRE, other]);
        let from_wire = flood(&mut switch, WIRE);
        assert_eq!(from_wire, if transit { [A, B, other].to_vec() } else { [A, B].to_vec() });
        forward(&mut switch, other, MacAddress::BROADCAST, mac(5), at(0));
        let way = if transit { Way::To(other) } else { Way::Discard };
        assert_eq!(forward(&mut switch, WIRE, mac(5), mac(6), at(0)), way);
        assert_eq!(forward(&mut switch, A, mac(5), mac(0xa), at(0)), Way::To(other));
    }
}

#[test]
fn the_domains_own_interface_is_reached_from_cards_and_vifs() {
    let own = PortId::Uplink(1);
    let mut switch = switch_with(SwitchOptions { isolate: true, ..SwitchOptions::default() });
    switch.add_port(own, PortConfig::local(RED));
    assert_eq!(flood(&mut switch, WIRE), [A, B, own]);
    assert_eq!(flood(&mut switch, own), [A, B, WIRE]);
    forward(&mut switch, own, MacAddress::BROADCAST, mac(5), at(0));
    for from in [WIRE, A] {
        let source = if from == A { mac(0xa) } else { mac(6) };
        assert_eq!(forward(&mut switch, from, mac(5), source, at(0)), Way::To(own));
    }
}

#[test]
fn isolated_vifs_reach_cards_and_not_each_other() {
    let mut switch = switch_with(SwitchOptions { isolate: true, ..SwitchOptions::default() });
    assert_eq!(flood(&mut switch, A), [WIRE]);
    assert_eq!(flood(&mut switch, WIRE), [A, B]);
    assert_eq!(forward(&mut switch, A, mac(0xb), mac(0xa), at(0)), Way::Discard);
    assert_eq!(forward(&mut switch, WIRE, mac(0xb), mac(1), at(0)), Way::To(B));
    assert_eq!(forward(&mut switch, B, mac(1), mac(0xb), at(0)), Way::To(WIRE));
}

#[test]
fn storms_end_at_their_port() {
    let storm = StormLimits { broadcast: 10, multicast: 20, unknown: 5 };
    let mut switch = switch_with(SwitchOptions { storm, ..SwitchOptions::default() });
    let multicast = MacAddress([1, 0, 0x5e, 0, 0, 1]);
    for (dest, limit) in [(MacAddress::BROADCAST, 10), (multicast, 20), (mac(0x66), 5)] {
        let sent = (0..100).filter(|_| forward(&mut switch, A, dest, mac(0xa), at(1)) == Way::Flood).count();
        assert_eq!(sent, limit);
        assert_eq!(forward(&mut switch, A, dest, mac(0xa), at(1)), Way::Refuse(Refusal::Storm));
        assert_eq!(forward(&mut switch, B, dest, mac(0xb), at(1)), Way::Flood, "another port is not concerned");
    }
    assert_eq!(forward(&mut switch, A, mac(0xb), mac(0xa), at(1)), Way::To(B), "nor is other traffic");
    let later = (0..100).filter(|_| forward(&mut switch, A, MacAddress::BROADCAST, mac(0xa), at(60)) == Way::Flood);
    assert_eq!(later.count(), 10);
}

#[test]
fn no_limit_is_no_limit() {
    let storm = StormLimits { broadcast: 0, multicast: 0, unknown: 0 };
    let mut switch = switch_with(SwitchOptions { storm, ..SwitchOptions::default() });
    assert!((0..100_000).all(|_| forward(&mut switch, A, MacAddress::BROADCAST, mac(0xa), at(1)) == Way::Flood));
}

#[test]
fn a_guarded_vif_has_its_address_to_itself() {
    let mut switch = switch();
    switch.add_port(A, PortConfig { guard: Guard::new(mac(0xa), None), ..vif(RED, mac(0xa)) });
    assert_eq!(forward(&mut switch, A, mac(1), mac(2), at(0)), Way::Refuse(Refusal::Spoof));
    assert_eq!(forward(&mut switch, B, mac(1), mac(0xa), at(0)), Way::Refuse(Refusal::Spoof));
    assert_eq!(forward(&mut switch, A, mac(1), mac(0xa), at(0)), Way::Flood);
    // What is not known to be for it, it does not get.
    let unknown = exits(&mut switch, WIRE, &header(mac(0x44), mac(0x45)));
    assert_eq!(unknown.iter().map(|exit| exit.port).collect::<Vec<_>>(), [B]);
    assert_eq!(flood(&mut switch, WIRE), [B, A]);
    // Others may still use each other's.
    assert_eq!(forward(&mut switch, A, mac(0xb), mac(0xa), at(0)), Way::To(B));
}

fn tagged(dest: MacAddress, source: MacAddress, vlan: u16) -> Vec<u8> {
    let [high, low] = vlan.to_be_bytes();
    [&dest.0[..], &source.0, &[0x81, 0, high, low, 8, 0]].concat()
}

/// A is in VLAN 10, B has 10 with a tag and 20 without, C is in VLAN 20.
fn switch_with_vlans() -> Switch {
    let mut switch = Switch::new(SwitchOptions::default(), 1);
    for (id, last, vlans) in [(A, 0xa, "10"), (B, 0xb, "20p/10"), (C, 0xc, "20")] {
        let vlans = Vlans::parse(vlans).unwrap();
        switch.add_port(id, PortConfig { vlans, ..vif(RED, mac(last)) });
    }
    switch.add_port(WIRE, PortConfig::uplink(RED));
    switch
}

const C: PortId = PortId::Vif(2);

fn bearings(exits: &[Exit]) -> Vec<(PortId, u16, vlan::Form)> {
    exits.iter().map(|exit| (exit.port, exit.bearing.vlan.into_raw(), exit.bearing.form)).collect()
}

#[test]
fn a_frame_stays_in_its_vlan() {
    use vlan::Form::{Tagged, Untagged};
    let mut switch = switch_with_vlans();
    let from_a = exits(&mut switch, A, &header(MacAddress::BROADCAST, mac(0xa)));
    assert_eq!(bearings(&from_a), [(B, 10, Tagged), (WIRE, 10, Tagged)]);
    let from_b = exits(&mut switch, B, &header(MacAddress::BROADCAST, mac(0xb)));
    assert_eq!(bearings(&from_b), [(C, 20, Untagged), (WIRE, 20, Tagged)]);
    let from_b_tagged = exits(&mut switch, B, &tagged(MacAddress::BROADCAST, mac(0xb), 10));
    assert_eq!(bearings(&from_b_tagged), [(A, 10, Untagged), (WIRE, 10, Tagged)]);
    let from_wire = exits(&mut switch, WIRE, &tagged(MacAddress::BROADCAST, mac(1), 20));
    assert_eq!(bearings(&from_wire), [(B, 20, Untagged), (C, 20, Untagged)]);
    assert_eq!(exits(&mut switch, WIRE, &header(MacAddress::BROADCAST, mac(1))), [], "VLAN 1 has no vif");
    for (from, own) in [(A, 0xa), (C, 0xc)] {
        for vlan in [1, if from == A { 20 } else { 10 }] {
            let head = tagged(MacAddress::BROADCAST, mac(own), vlan);
            assert_eq!(switch.forward(from, &head, at(0)), Verdict::Refuse(Refusal::Vlan));
        }
    }
}

#[test]
fn addresses_are_learned_in_each_vlan_apart() {
    let mut switch = switch_with_vlans();
    // A has an address that C has too, in another VLAN.
    switch.forward(A, &header(MacAddress::BROADCAST, mac(7)), at(0));
    switch.forward(C, &header(MacAddress::BROADCAST, mac(7)), at(0));
    for (vlan, port) in [(10, A), (20, C)] {
        let Verdict::To(exit) = switch.forward(WIRE, &tagged(mac(7), mac(1), vlan), at(0)) else {
            panic!("VLAN {vlan}")
        };
        assert_eq!((exit.port, exit.bearing.form), (port, vlan::Form::Untagged));
    }
    // A vif's own address is its own in its VLANs and nobody's in others.
    let Verdict::Flood(_) = switch.forward(WIRE, &tagged(mac(0xa), mac(1), 20), at(0)) else { panic!("flooded") };
    let Verdict::To(exit) = switch.forward(WIRE, &tagged(mac(0xb), mac(1), 10), at(0)) else { panic!("known") };
    assert_eq!((exit.port, exit.bearing.form), (B, vlan::Form::Tagged));
}

#[test]
fn pinned_addresses_find_room_among_learned_ones() {
    let limits = TableLimits { entries: 8, per_vif: 100, per_uplink: 100, ageing: Duration::from_secs(300) };
    let mut table = MacTable::new(limits, 5);
    (0..100).for_each(|number| table.learn(RED, Vid::NATIVE, many(number), WIRE, at(0)));
    table.pin(RED, mac(1), A);
    assert_eq!(table.pinned(RED, mac(1)), Some(A));
    assert_eq!(usize::from(table.learned(WIRE)), table.held(WIRE));
}
