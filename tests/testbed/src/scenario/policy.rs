//! What options and `xl`'s keys make of the switch: addresses, VLANs, isolation, bridges.

use std::time::Duration;

use super::checks::{no_bad_frames, ping, wire_address, xl_quietly};
use crate::bed::{ADDRESS_LIMIT, Bed, NETDOM};
use crate::failure::{Doing, Failure, Result, ensure};
use crate::guest::{Guest, GuestConfig, XL_LIMIT, console_log, mac};
use crate::shell::until;
use crate::suite::TestBed as _;

const LIMIT: Duration = Duration::from_secs(60);
/// The NIC that only scenarios with two have.
pub(super) const SECOND_BDF: &str = "00:04.0";

/// Guest `number` with more keys for its vif.
pub(super) fn guest_with(bed: &mut Bed, number: u8, keys: &str) -> Result<Guest> {
    bed.ensure_netdom()?;
    let vifs = vec![format!("mac={},backend={NETDOM}{keys}", mac(number, 0))];
    Guest::create(bed.dom0(), &GuestConfig { vifs, memory_mib: 256, ..GuestConfig::numbered(number, NETDOM) })
}

/// Fails if an address answers.
pub(super) fn silent(guest: &Guest, address: &str) -> Result<()> {
    let outcome = guest.run(&format!("ping -c 3 -W 2 {address}"), LIMIT)?;
    ensure(!outcome.ok(), || format!("{} reaches {address}", guest.name))
}

/// Gives a guest's interface an address of its own in place of the one from DHCP.
pub(super) fn give(guest: &Guest, interface: &str, address: &str) -> Result<()> {
    let script = format!(
        "killall udhcpc 2>/dev/null; ip addr flush dev {interface}; ip addr add {address} dev {interface}; \
         ip link set {interface} up"
    );
    guest.check(&script, LIMIT).map(|_| ())
}

/// Waits until the driver domain's console says something about a cause.
pub(super) fn console_says(bed: &Bed, cause: &str) -> Result<()> {
    let script = until(&format!("grep -q {cause} {}", console_log(NETDOM)));
    bed.dom0().check(&script, LIMIT).doing(format!("waiting for {cause} on the console")).map(|_| ())
}

pub(super) fn guests_use_the_addresses_they_were_given(bed: &mut Bed) -> Result<()> {
    bed.reset()?;
    let wire = wire_address(bed);
    // Beyond what the wire's DHCP server gives out here.
    let guest = guest_with(bed, 21, ",ip=10.0.0.121 fd00::121")?;
    give(&guest, "eth0", "10.0.0.121/24")?;
    ping(&guest, &wire).doing("the address in the list")?;
    give(&guest, "eth0", "10.0.0.122/24")?;
    silent(&guest, &wire).doing("an address that is not in the list")?;
    console_says(bed, "SPOOF")?;
    let other = format!(
        "ip link set eth0 down; ip link set eth0 address {}; ip link set eth0 up; ip addr flush dev eth0; \
         ip addr add 10.0.0.121/24 dev eth0",
        mac(22, 0)
    );
    guest.check(&other, LIMIT)?;
    silent(&guest, &wire).doing("another MAC address")?;
    let back = format!("ip link set eth0 down; ip link set eth0 address {}; ip link set eth0 up", mac(21, 0));
    guest.check(&back, LIMIT)?;
    give(&guest, "eth0", "10.0.0.121/24")?;
    ping(&guest, &wire).doing("its own again")?;
    guest.destroy()?;
    // DHCP is allowed: with the address it will get in the list, an ordinary guest comes up.
    let lease = bed.guest(23)?.address("eth0", ADDRESS_LIMIT)?;
    let guest = bed.guest(23)?;
    bed.destroy(guest)?;
    let guest = guest_with(bed, 23, &format!(",ip={lease}"))?;
    let address = guest.address("eth0", ADDRESS_LIMIT).doing("DHCP with a list")?;
    ensure(address == lease, || format!("{address} in place of {lease}"))?;
    ping(&guest, &wire)?;
    guest.destroy()
}

pub(super) fn guests_stay_in_their_vlans(bed: &mut Bed) -> Result<()> {
    bed.reset()?;
    if bed.config.xen == "4.17" {
        // This xl has no vlan=: the option does for all.
        return vlan_option(bed);
    }
    let before = bed.wire.counters();
    bed.wire.speak_vlan(10);
    let outcome = in_vlan_10(bed);
    bed.wire.speak_vlan(0);
    outcome?;
    let seen = bed.wire.counters().since(&before);
    ensure(seen.tagged_in > 0, || format!("no tag on the wire: {seen:?}"))?;
    no_bad_frames(&seen)?;
    bed.reset()
}

/// Two guests in VLAN 10, in which the wire is too, one in VLAN 20, one that has both with tags.
fn in_vlan_10(bed: &mut Bed) -> Result<()> {
    let wire = wire_address(bed);
    let first = guest_with(bed, 24, ",vlan=10")?;
    let address = first.address("eth0", ADDRESS_LIMIT).doing("DHCP in VLAN 10")?;
    ping(&first, &wire)?;
    first.check(&format!("wget -q -O /dev/null http://{wire}/bytes/4000000"), LIMIT).doing("TCP in VLAN 10")?;
    let stranger = guest_with(bed, 25, ",vlan=20")?;
    give(&stranger, "eth0", "10.0.0.220/24")?;
    silent(&stranger, &wire).doing("VLAN 20 to 10")?;
    silent(&stranger, &address).doing("VLAN 20 to 10")?;
    let hop = "modprobe 8021q; ip link add link eth0 name eth0.10 type vlan id 10; ip addr flush dev eth0; \
               ip addr add 10.0.0.220/24 dev eth0.10; ip link set eth0.10 up";
    stranger.check(hop, LIMIT)?;
    silent(&stranger, &wire).doing("a tag that is not its own")?;
    console_says(bed, "VLAN")?;
    let trunk = guest_with(bed, 26, ",vlan=30p/10/20")?;
    let tags = "modprobe 8021q; killall udhcpc 2>/dev/null; for id in 10 20; do \
                ip link add link eth0 name eth0.$id type vlan id $id; ip link set eth0.$id up; done; ip link set eth0 up; \
                ip addr add 10.0.0.226/24 dev eth0.10; ip addr add 10.0.20.226/24 dev eth0.20";
    trunk.check(tags, LIMIT)?;
    ping(&trunk, &wire).doing("a trunk to the wire")?;
    ping(&trunk, &address).doing("a trunk to VLAN 10")?;
    trunk.check(&format!("wget -q -O /dev/null http://{wire}/bytes/2000000"), LIMIT).doing("TCP over a trunk")?;
    give(&stranger, "eth0", "10.0.20.25/24")?;
    stranger.check("ip link del eth0.10", LIMIT)?;
    ping(&trunk, "10.0.20.25").doing("a trunk to VLAN 20")
}

fn vlan_option(bed: &mut Bed) -> Result<()> {
    bed.create_netdom("'extra=\"vlan=10\"'")?;
    bed.wire.speak_vlan(10);
    let guest = guest_with(bed, 24, "")?;
    let outcome =
        guest.address("eth0", ADDRESS_LIMIT).doing("DHCP in VLAN 10").and_then(|_| ping(&guest, &wire_address(bed)));
    bed.wire.speak_vlan(0);
    outcome?;
    bed.reset()
}

pub(super) fn isolated_guests_reach_the_wire_only(bed: &mut Bed) -> Result<()> {
    bed.reset()?;
    bed.create_netdom("'extra=\"isolate=yes\"'")?;
    let (first, second) = (bed.guest(1)?, bed.guest(2)?);
    let address = second.address("eth0", ADDRESS_LIMIT)?;
    for guest in [&first, &second] {
        ping(guest, &wire_address(bed))?;
    }
    silent(&first, &address)?;
    bed.reset()
}

/// Runs something with a driver domain that has two cards.
pub(super) fn with_two_cards(bed: &mut Bed, extra: &str, scenario: fn(&mut Bed) -> Result<()>) -> Result<()> {
    let pci = format!("'pci=[\"{}\",\"{SECOND_BDF}\"]'", bed.nic().bdf());
    with_second_card_assignable(bed, &format!("{pci} 'extra=\"{extra}\"'"), scenario)
}

/// Runs a scenario with a driver domain created with `settings`, while Dom0 can give it the second card.
pub(super) fn with_second_card_assignable(
    bed: &mut Bed,
    settings: &str,
    scenario: fn(&mut Bed) -> Result<()>,
) -> Result<()> {
    bed.reset()?;
    bed.dom0().check(&format!("xl pci-assignable-add {SECOND_BDF}"), XL_LIMIT)?;
    let outcome = bed.create_netdom(settings).and_then(|()| scenario(bed));
    bed.reset()?;
    bed.dom0().check(&format!("xl pci-assignable-remove {SECOND_BDF}"), XL_LIMIT)?;
    outcome
}

pub(super) fn second_wire(bed: &Bed) -> Result<String> {
    let wire = bed.more_wires.first().ok_or_else(|| Failure::new("the bed has one NIC"))?;
    Ok(wire.config.address.to_string())
}

pub(super) fn two_cards_have_a_bridge_each(bed: &mut Bed) -> Result<()> {
    with_two_cards(bed, "management=10.0.1.99/24 management-bridge=xenbr1", |bed| {
        let (near, far) = (wire_address(bed), second_wire(bed)?);
        let first = guest_with(bed, 27, ",bridge=xenbr0")?;
        let second = guest_with(bed, 28, ",bridge=xenbr1")?;
        let address = first.address("eth0", ADDRESS_LIMIT)?;
        ensure(address.starts_with("10.0.0."), || format!("xenbr0 gave {address}"))?;
        let address = second.address("eth0", ADDRESS_LIMIT)?;
        ensure(address.starts_with("10.0.1."), || format!("xenbr1 gave {address}"))?;
        ping(&first, &near)?;
        ping(&second, &far)?;
        ping(&second, "10.0.1.99").doing("the management address")?;
        first.check("ip addr add 10.0.1.227/24 dev eth0", LIMIT)?;
        silent(&first, "10.0.1.99").doing("the management address from another bridge")?;
        give(&second, "eth0", "10.0.0.228/24")?;
        silent(&second, &near).doing("from bridge to bridge")?;
        // An unknown bridge is that vif's trouble alone.
        let name = &first.name;
        bed.dom0().run(&format!("xl network-attach {name} bridge=nowhere backend={NETDOM}"), XL_LIMIT)?;
        console_says(bed, "nowhere")?;
        ping(&first, &near)?;
        bed.dom0().run(&format!("xl network-detach {name} 1"), XL_LIMIT)?;
        first.destroy()?;
        second.destroy()
    })
}

pub(super) fn two_cards_share_a_bridge_without_a_loop(bed: &mut Bed) -> Result<()> {
    with_two_cards(bed, "bridge=lan:0,1", |bed| {
        let (near, far) = (wire_address(bed), second_wire(bed)?);
        let guest = guest_with(bed, 29, ",bridge=lan")?;
        // Both wires offer an address; one for each makes it independent of who is faster.
        give(&guest, "eth0", "10.0.0.229/24")?;
        guest.check("ip addr add 10.0.1.229/24 dev eth0", LIMIT)?;
        ping(&guest, &near).doing("the first card")?;
        ping(&guest, &far).doing("the second card")?;
        let first = bed.wire.sources();
        let second = bed.more_wires.first().map(|wire| wire.config.mac);
        ensure(second.is_none_or(|mac| !first.contains(&mac)), || "a frame went from card to card".to_owned())?;
        xl_quietly(bed, &format!("network-attach {} bridge=lan backend={NETDOM}", guest.name))?;
        xl_quietly(bed, &format!("network-detach {} 1", guest.name))?;
        guest.destroy()
    })
}
