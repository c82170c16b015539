use std::vec::Vec;

use super::*;

const OWN: MacAddress = MacAddress([0, 0x16, 0x3e, 1, 2, 3]);
const OTHER: MacAddress = MacAddress([0, 0x16, 0x3e, 9, 9, 9]);

fn guard() -> Guard {
    Guard::new(OWN, AddressList::parse("10.0.0.5 fd00::5"))
}

fn ethernet(source: MacAddress, ethertype: u16, payload: &[u8]) -> Vec<u8> {
    [&[0xff; 6][..], &source.0, &ethertype.to_be_bytes(), payload].concat()
}

fn v4(text: &str) -> [u8; 4] {
    text.parse::<Ipv4Addr>().unwrap().octets()
}

fn v6(text: &str) -> [u8; 16] {
    text.parse::<Ipv6Addr>().unwrap().octets()
}

fn arp(sender_mac: MacAddress, sender: &str) -> Vec<u8> {
    let parts = [&[0, 1, 8, 0, 6, 4, 0, 2][..], &sender_mac.0, &v4(sender), &[0; 6], &v4("10.0.0.1")];
    ethernet(OWN, ETHERTYPE_ARP, &parts.concat())
}

fn ipv4(source: &str, protocol: u8, fragment: u16, payload: &[u8]) -> Vec<u8> {
    let mut header = [0; 20];
    header[0] = 0x45;
    header[6..8].copy_from_slice(&fragment.to_be_bytes());
    header[9] = protocol;
    header[12..16].copy_from_slice(&v4(source));
    ethernet(OWN, ETHERTYPE_IPV4, &[&header, payload].concat())
}

fn udp(source: u16, dest: u16) -> Vec<u8> {
    [source.to_be_bytes(), dest.to_be_bytes(), [0, 8], [0, 0]].concat()
}

fn ipv6(source: &str, next: u8, payload: &[u8]) -> Vec<u8> {
    let mut header = [0; 40];
    header[0] = 0x60;
    header[6] = next;
    header[8..24].copy_from_slice(&v6(source));
    ethernet(OWN, ETHERTYPE_IPV6, &[&header, payload].concat())
}

/// A neighbour discovery message with a target and one option that holds a link-layer address.
fn nd(kind: u8, target: &str, option: u8, mac: MacAddress) -> Vec<u8> {
    [&[kind, 0, 0, 0, 0, 0, 0, 0][..], &v6(target), &[option, 1], &mac.0].concat()
}

#[test]
fn only_the_ports_own_mac_address_may_send() {
    let guard = Guard::new(OWN, None);
    assert!(guard.admits(&ethernet(OWN, 0x1234, &[])));
    assert!(!guard.admits(&ethernet(OTHER, 0x1234, &[])));
    assert!(!guard.admits(&[0; 11]));
    assert!(guard.takes(OWN) && guard.takes(MacAddress::BROADCAST) && !guard.takes(OTHER));
    assert!(Guard::NONE.admits(&[]) && Guard::NONE.takes(OTHER));
}

#[test]
fn arp_may_claim_listed_addresses_only() {
    assert!(guard().admits(&arp(OWN, "10.0.0.5")));
    assert!(guard().admits(&arp(OWN, "0.0.0.0")), "a probe");
    assert!(!guard().admits(&arp(OWN, "10.0.0.1")));
    assert!(!guard().admits(&arp(OTHER, "10.0.0.5")));
    assert!(!guard().admits(&arp(OWN, "10.0.0.5")[..30]), "truncated");
    let mut strange = arp(OWN, "10.0.0.5");
    strange[18] = 8;
    assert!(!guard().admits(&strange), "addresses of another length");
}

#[test]
fn ipv4_comes_from_listed_addresses_or_asks_for_one() {
    assert!(guard().admits(&ipv4("10.0.0.5", 6, 0, &[])));
    assert!(!guard().admits(&ipv4("10.0.0.6", 6, 0, &[])));
    assert!(guard().admits(&ipv4("0.0.0.0", 17, 0, &udp(68, 67))), "a DHCP client");
    assert!(!guard().admits(&ipv4("0.0.0.0", 17, 0, &udp(69, 67))));
    assert!(!guard().admits(&ipv4("0.0.0.0", 17, 1, &udp(68, 67))), "a fragment has no ports");
    assert!(!guard().admits(&ipv4("10.0.0.5", 17, 0, &udp(67, 68))), "a DHCP server");
    assert!(!guard().admits(&ipv4("10.0.0.5", 6, 0, &[])[..26]), "truncated");
    let mut short = ipv4("10.0.0.5", 6, 0, &[]);
    short[14] = 0x44;
    assert!(!guard().admits(&short), "a header shorter than its fields");
}

#[test]
fn ipv6_comes_from_listed_addresses_or_the_one_formed_from_the_mac() {
    assert!(guard().admits(&ipv6("fd00::5", 6, &[])));
    assert!(guard().admits(&ipv6("fe80::216:3eff:fe01:203", 6, &[])));
    for source in ["fd00::6", "fe80::1", "::", "::1"] {
        assert!(!guard().admits(&ipv6(source, 6, &[])), "{source}");
    }
    assert!(!guard().admits(&ipv6("fd00::5", 17, &udp(547, 546))), "a DHCP server");
    assert!(guard().admits(&ipv6("fe80::216:3eff:fe01:203", 17, &udp(546, 547))), "a DHCP client");
}

#[test]
fn neighbour_discovery_claims_nothing_that_is_not_the_ports() {
    assert!(guard().admits(&ipv6("fd00::5", 58, &nd(136, "fd00::5", 2, OWN))));
    assert!(!guard().admits(&ipv6("fd00::5", 58, &nd(136, "fd00::6", 2, OWN))));
    assert!(!guard().admits(&ipv6("fd00::5", 58, &nd(136, "fd00::5", 2, OTHER))));
    assert!(guard().admits(&ipv6("fd00::5", 58, &nd(135, "fd00::1", 1, OWN))));
    assert!(!guard().admits(&ipv6("fd00::5", 58, &nd(135, "fd00::1", 1, OTHER))));
    assert!(guard().admits(&ipv6("::", 58, &nd(135, "fd00::5", 14, OTHER))), "is it in use already?");
    assert!(!guard().admits(&ipv6("::", 58, &nd(135, "fd00::6", 14, OTHER))), "it is none of its business");
    assert!(guard().admits(&ipv6("::", 58, &[133, 0, 0, 0, 0, 0, 0, 0])));
    assert!(guard().admits(&ipv6("::", 58, &[143, 0, 0, 0])));
    for kind in [134, 137] {
        assert!(!guard().admits(&ipv6("fe80::216:3eff:fe01:203", 58, &nd(kind, "fd00::5", 1, OWN))));
    }
    let mut endless = nd(136, "fd00::5", 2, OWN);
    endless[25] = 0;
    assert!(!guard().admits(&ipv6("fd00::5", 58, &endless)), "an option without a length");
}

#[test]
fn extension_headers_hide_nothing() {
    // Hop-by-hop options, then ICMPv6; a first fragment.
    for (first, headers) in [(0, std::vec![0_u8; 8]), (60, std::vec![0; 8]), (44, std::vec![0; 8])] {
        let mut bytes = headers.clone();
        bytes[0] = 58;
        bytes.extend(nd(134, "fd00::5", 1, OWN));
        assert!(!guard().admits(&ipv6("fd00::5", first, &bytes)), "{first}");
        let mut bytes = headers;
        bytes[0] = 6;
        bytes.extend([0; 20]);
        assert!(guard().admits(&ipv6("fd00::5", first, &bytes)), "{first}");
    }
    let mut advertisement = std::vec![58, 0, 0, 1, 0, 0, 0, 0];
    advertisement.extend(nd(136, "fd00::5", 2, OWN));
    assert!(!guard().admits(&ipv6("fd00::5", 44, &advertisement)), "neighbour discovery in a fragment");
    assert!(guard().admits(&ipv6("fd00::5", 44, &[58, 0, 0, 8, 0, 0, 0, 0])), "a later fragment");
    let mut endless = Vec::new();
    (0..20).for_each(|_| endless.extend([0_u8; 8]));
    assert!(!guard().admits(&ipv6("fd00::5", 0, &endless)));
    assert!(!guard().admits(&ipv6("fd00::5", 0, &[58, 200])), "headers beyond what can be seen");
}

#[test]
fn nothing_but_ip_may_pass_a_list_of_addresses() {
    for ethertype in [0x8864, 0x0026, 0x9100, 0x8035] {
        assert!(!guard().admits(&ethernet(OWN, ethertype, &[0; 40])), "{ethertype:#x}");
    }
    let mut tagged = ipv4("10.0.0.6", 6, 0, &[]);
    tagged.splice(12..12, [0x81, 0, 0, 5]);
    assert!(!guard().admits(&tagged), "a tag hides nothing");
    tagged.splice(12..12, [0x81, 0, 0, 5].repeat(4));
    assert!(!guard().admits(&tagged), "nor do many");
}

#[test]
fn no_bytes_make_it_panic() {
    use proptest::prelude::*;
    proptest!(|(kind in 0..3_usize, bytes in proptest::collection::vec(any::<u8>(), 0..200))| {
        let ethertype = [ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6][kind];
        let _ = guard().admits(&ethernet(OWN, ethertype, &bytes));
        let _ = guard().admits(&bytes);
    });
}

#[test]
fn claims_are_found_in_arp_and_neighbour_discovery() {
    let claim = |frame: &[u8]| super::claim(frame).map(|address| std::string::ToString::to_string(&address));
    assert_eq!(claim(&arp(OWN, "10.0.0.7")).as_deref(), Some("10.0.0.7"));
    assert_eq!(claim(&ipv6("fd00::9", 58, &nd(136, "fd00::7", 2, OWN))).as_deref(), Some("fd00::7"));
    assert_eq!(claim(&ipv6("::", 58, &nd(135, "fd00::7", 14, OWN))).as_deref(), Some("fd00::7"));
    for harmless in [
        ipv6("fd00::9", 58, &nd(135, "fd00::7", 1, OWN)),
        ipv4("10.0.0.7", 6, 0, &[]),
        arp(OWN, "10.0.0.7")[..30].into(),
    ] {
        assert_eq!(claim(&harmless), None);
    }
}
