//! What netif offers beyond plain packets, as stock guests use it.

use std::time::Duration;

use super::checks::{eventually, no_bad_frames, ping, wire_address, xl_quietly};
use super::policy::guest_with;
use crate::bed::{ADDRESS_LIMIT, Bed, NETDOM};
use crate::failure::{Doing, Failure, Result, ensure};
use crate::guest::{Guest, GuestConfig, mac};
use crate::suite::TestBed as _;
use crate::wire::pattern;

/// Bytes of each download.
const BYTES: u64 = 1_500_000;
/// Downloads at the same time, each a flow of its own.
const FLOWS: usize = 8;

/// How long unloading or loading a driver may take.
const DRIVER_LIMIT: Duration = Duration::from_secs(60);
/// An XDP program of two instructions that passes every packet, as a gzipped object file.
const XDP_PASS: &str = "\
    H4sIAAAAAAACA6t39XFjYmRkgAFGhu8MCB4CbEBiO0BJVpBKveKSopLEJIaKlAKGnMzk1LziVKBYZS5IrKAoPx2qZzsQMwHxVCjfPcCH\
    AR+QBWIhsA4IEGCgDgD5jRmLuAOUVsKiHhlwQsXY0MQzcLiTA43Pi8MNFVCahYD9otBwRAcNUNoASR8jkv0SUBoAGvFgVfABAAA=\
";

pub(super) fn flows_of_a_guest_use_all_its_queues(bed: &mut Bed) -> Result<()> {
    let config = GuestConfig { vcpus: 4, memory_mib: 256, ..GuestConfig::numbered(7, NETDOM) };
    let guest = bed.guest_with(&config)?;
    let queues = guest.check("ls /sys/class/net/eth0/queues", Duration::from_secs(10))?;
    for queue in ["rx-0", "rx-3", "tx-0", "tx-3"] {
        ensure(queues.contains(queue), || format!("the guest has no queue {queue}: {queues}"))?;
    }
    let before = bed.wire.counters();
    let idle = interrupts(&guest)?;
    let (wire, hash) = (wire_address(bed), pattern::sha256(BYTES));
    let script = format!(
        "for i in $(seq {FLOWS}); do wget -q -O - http://{wire}/bytes/{BYTES} | sha256sum >/run/sum.$i & done; wait\n\
         [ $(cat /run/sum.* | grep -c {hash}) = {FLOWS} ] || {{ cat /run/sum.*; exit 1; }}"
    );
    guest.check(&script, Duration::from_secs(240)).doing("downloads at the same time")?;
    let busy = interrupts(&guest)?;
    ensure(idle.len() == 4 && busy.len() == 4, || format!("receive interrupts of {} queues", busy.len()))?;
    let used: Vec<u64> = busy.iter().zip(&idle).map(|(after, before)| after.saturating_sub(*before)).collect();
    // Eight flows leave a queue out now and then, but not three. Joined segments make few interrupts; a queue without
    // traffic has none.
    ensure(used.iter().filter(|count| **count > 5).count() >= 2, || format!("interrupts by queue: {used:?}"))?;
    no_bad_frames(&bed.wire.counters().since(&before))?;
    bed.destroy(guest)
}

/// Receive interrupts of each queue so far.
fn interrupts(guest: &Guest) -> Result<Vec<u64>> {
    let script = "awk '/vif0-q[0-9]+-rx/ { sum = 0; for (i = 2; i <= NF && $i ~ /^[0-9]+$/; i++) sum += $i; print sum }' /proc/interrupts";
    let counts = guest.check(script, Duration::from_secs(10))?;
    let parsed: Option<Vec<u64>> = counts.lines().map(|line| line.trim().parse().ok()).collect();
    parsed.ok_or_else(|| Failure::new(format!("no interrupt counts in {counts:?}")))
}

pub(super) fn a_reloaded_frontend_driver_is_served_again(bed: &mut Bed) -> Result<()> {
    let guest = bed.guest(1)?;
    let wire = wire_address(bed);
    guest.check("kill $(cat /run/udhcpc.eth0.pid); true", DRIVER_LIMIT)?;
    // Unloading the module is no way: it says that it is in use for as long as it drives a device.
    for _ in 0..3 {
        let reload = "cd /sys/bus/xen/drivers/vif && echo vif-0 >unbind && sleep 1 && echo vif-0 >bind";
        guest.check(reload, DRIVER_LIMIT).doing("unbinding and binding the driver")?;
        guest.bring_up("eth0", ADDRESS_LIMIT).doing("after unbinding and binding the driver")?;
        ping(&guest, &wire)?;
    }
    bed.destroy(guest)
}

pub(super) fn a_restored_guest_is_back_on_the_network(bed: &mut Bed) -> Result<()> {
    let mut guest = bed.guest_with(&GuestConfig::numbered(8, NETDOM))?;
    let (wire, before) = (wire_address(bed), guest.domid);
    guest.save_and_restore("/run/saved")?;
    ensure(guest.domid != before, || format!("{} kept domain id {before}", guest.name))?;
    bed.keep(guest.clone());
    ping(&guest, &wire).doing("after the restore")?;
    let (bytes, hash) = (1_000_000, pattern::sha256(1_000_000));
    let sum = guest.check(&format!("wget -q -O - http://{wire}/bytes/{bytes} | sha256sum"), DRIVER_LIMIT)?;
    ensure(sum.starts_with(&hash), || format!("want {hash}, got {sum}"))?;
    bed.destroy(guest)
}

pub(super) fn an_mtu_holds_and_jumbo_frames_stay_whole(bed: &mut Bed) -> Result<()> {
    let guests = [bed.guest(1)?, bed.guest(2)?];
    for (guest, number) in guests.iter().zip(1_u8..) {
        let address = mac(number, 1);
        let vif = format!("network-attach {} mac={address} backend={NETDOM} mtu=9000", guest.name);
        xl_quietly(bed, &vif)?;
        let script = format!(
            "until [ -e /sys/class/net/eth1 ]; do sleep 0.1; done\n\
             ip link set eth1 mtu 9000 up && ip addr add 192.168.99.{number}/24 dev eth1"
        );
        guest.check(&script, ADDRESS_LIMIT).doing("the jumbo vif")?;
    }
    // A frame of 9014 bytes each way, one packet each: fragments would be seven.
    let script = "before=$(cat /sys/class/net/eth1/statistics/rx_packets)\n\
                  ping -c 1 -W 5 192.168.99.2 >/dev/null\n\
                  ping -c 5 -i 0.3 -W 5 -s 8972 192.168.99.2 || exit 1\n\
                  echo $(($(cat /sys/class/net/eth1/statistics/rx_packets) - before))";
    let [first, second] = &guests;
    let said = first.check(script, DRIVER_LIMIT).doing("jumbo frames from guest to guest")?;
    let packets: u64 = said.lines().last().and_then(|line| line.trim().parse().ok()).unwrap_or(u64::MAX);
    ensure(packets < 20, || format!("{packets} packets for 6 answers:\n{said}"))?;
    xl_quietly(bed, &format!("network-detach {} 1", second.name))?;
    // A vif of a smaller MTU, in a guest that does not know of it: what is too long does not arrive.
    xl_quietly(bed, &format!("network-attach {} mac={} backend={NETDOM} mtu=1400", second.name, mac(2, 2)))?;
    let script = "until [ -e /sys/class/net/eth1 ]; do sleep 0.1; done; ip link set eth1 up; ip addr add 192.168.99.2/24 dev eth1";
    second.check(script, ADDRESS_LIMIT)?;
    // The first guest may still know the address of the vif that has gone.
    let script = "ip neigh flush dev eth1; ip link set eth1 mtu 1500; ping -c 3 -W 3 -s 1372 192.168.99.2 || exit 1; ! ping -c 2 -W 3 -s 1472 192.168.99.2";
    first.check(script, DRIVER_LIMIT).doing("a vif with mtu=1400")?;
    for guest in &guests {
        xl_quietly(bed, &format!("network-detach {} 1", guest.name))?;
    }
    Ok(())
}

pub(super) fn jumbo_frames_reach_the_wire_and_come_back(bed: &mut Bed) -> Result<()> {
    bed.reset()?;
    bed.create_netdom("'extra=\"mtu=9000\"'")?;
    bed.wire.set_mtu(9000);
    let outcome = jumbo(bed);
    bed.wire.set_mtu(1500);
    bed.reset()?;
    outcome
}

fn jumbo(bed: &mut Bed) -> Result<()> {
    let (wire, before) = (wire_address(bed), bed.wire.counters());
    let guest = guest_with(bed, 37, ",mtu=9000")?;
    guest.address("eth0", ADDRESS_LIMIT)?;
    guest.check("ip link set eth0 mtu 9000", DRIVER_LIMIT)?;
    // The largest packet and those around it, and around what a buffer of the card or a page holds.
    for size in [1472, 1500, 2000, 2048, 4054, 4055, 4096, 8150, 8971, 8972] {
        guest
            .check(&format!("ping -c 2 -W 5 -s {size} {wire}"), DRIVER_LIMIT)
            .doing(format!("a ping of {size} bytes"))?;
    }
    let pinged = bed.wire.counters().since(&before);
    ensure(pinged.jumbo_in == 18, || format!("{} of 18 long pings came as one frame", pinged.jumbo_in))?;
    let (bytes, hash) = (4_000_000_u64, pattern::sha256(4_000_000));
    let fetch = format!("wget -q -O - http://{wire}/bytes/{bytes} | sha256sum");
    let sum = guest.check(&fetch, DRIVER_LIMIT).doing("TCP from the wire")?;
    ensure(sum.starts_with(&hash), || format!("want {hash}, got {sum}"))?;
    let script = format!("bash -c 'dd if=/dev/zero bs=64000 count=60 >/dev/tcp/{wire}/9'");
    guest.check(&script, DRIVER_LIMIT).doing("TCP to the wire")?;
    eventually(DRIVER_LIMIT, || bed.wire.counters().since(&before).tcp_sink_bytes >= 60 * 64000);
    let seen = bed.wire.counters().since(&before);
    ensure(seen.tcp_sink_bytes == 60 * 64000, || format!("the wire's sink took {} bytes", seen.tcp_sink_bytes))?;
    ensure(seen.jumbo_in > 300, || format!("{} long frames for {} bytes", seen.jumbo_in, seen.tcp_sink_bytes))?;
    guest.destroy()?;
    no_bad_frames(&seen)
}

pub(super) fn a_guest_may_look_at_packets_with_xdp(bed: &mut Bed) -> Result<()> {
    let guest = bed.guest(1)?;
    let wire = wire_address(bed);
    let script = format!(
        "echo {XDP_PASS} | base64 -d | gunzip >/run/pass.o && ip link set dev eth0 xdp obj /run/pass.o sec xdp && ip link show eth0"
    );
    let said = guest.check(&script, DRIVER_LIMIT).doing("attaching a program")?;
    ensure(said.contains("xdp"), || format!("no program on eth0: {said}"))?;
    ping(&guest, &wire).doing("with a program")?;
    let (bytes, hash) = (1_000_000, pattern::sha256(1_000_000));
    let fetch = format!("wget -q -O - http://{wire}/bytes/{bytes} | sha256sum");
    let sum = guest.check(&fetch, DRIVER_LIMIT)?;
    ensure(sum.starts_with(&hash), || format!("want {hash}, got {sum}"))?;
    guest.check("ip link set dev eth0 xdp off", DRIVER_LIMIT).doing("detaching the program")?;
    ping(&guest, &wire).doing("without a program")?;
    let sum = guest.check(&fetch, DRIVER_LIMIT)?;
    ensure(sum.starts_with(&hash), || format!("want {hash}, got {sum}"))
}
