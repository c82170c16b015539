//! What the frames look like: every size, bulk in both directions, and guest to guest.

use std::time::Duration;

use smoltcp::wire::{EthernetAddress, IpEndpoint, Ipv4Address};

use super::checks::{eventually, no_bad_frames, wire_address};
use crate::bed::{ADDRESS_LIMIT, Bed};
use crate::failure::{Doing, Failure, Result, ensure};
use crate::shell::until;
use crate::wire::services::Burst;

/// Bytes moved in each direction by the bulk test.
const BULK_BYTES: u64 = 64_000 * BULK_BLOCKS;
const BULK_BLOCKS: u64 = 250;
const BULK_LIMIT: Duration = Duration::from_secs(120);

pub(super) fn pings_of_every_size_are_answered(bed: &mut Bed) -> Result<()> {
    let guest = bed.guest(1)?;
    let before = bed.wire.counters();
    // Around the smallest frame, the sizes a ring slot or a copy could get wrong, and the largest packet.
    let script = format!(
        "for size in $(seq 0 24) $(seq 25 97 1420) $(seq 1420 1472); do\n\
         ping -q -c 1 -W 5 -s $size {} >/dev/null || {{ echo \"no answer to $size bytes\"; exit 1; }}\ndone",
        wire_address(bed)
    );
    guest.check(&script, Duration::from_secs(120))?;
    no_bad_frames(&bed.wire.counters().since(&before))
}

pub(super) fn bulk_tcp_and_udp_leave_no_bad_frame_on_the_wire(bed: &mut Bed) -> Result<()> {
    let guest = bed.guest(1)?;
    let before = bed.wire.counters();
    let wire = wire_address(bed);
    let script = format!("bash -c 'dd if=/dev/zero bs=64000 count={BULK_BLOCKS} >/dev/tcp/{wire}/9'");
    guest.check(&script, BULK_LIMIT).doing("TCP to the wire")?;
    let script = format!("[ $(bash -c 'head -c {BULK_BYTES} </dev/tcp/{wire}/19' | wc -c) = {BULK_BYTES} ]");
    guest.check(&script, BULK_LIMIT).doing("TCP from the wire")?;
    // Datagrams of awkward sizes: with and without a second slot, odd lengths.
    let script = format!(
        "for size in 1 2 17 18 100 1471 1472; do bash -c \"head -c $size /dev/zero >/dev/udp/{wire}/9\" || exit 1; done"
    );
    guest.check(&script, Duration::from_secs(60)).doing("UDP to the wire")?;
    receive_datagrams(bed)?;
    // The guest may be done before its last segments are.
    eventually(Duration::from_secs(20), || bed.wire.counters().since(&before).tcp_sink_bytes >= BULK_BYTES);
    let seen = bed.wire.counters().since(&before);
    ensure(seen.tcp_sink_bytes == BULK_BYTES, || format!("the wire's sink took {} bytes", seen.tcp_sink_bytes))?;
    ensure(seen.udp_sink_datagrams == 7, || format!("the wire took {} of 7 datagrams", seen.udp_sink_datagrams))?;
    no_bad_frames(&seen)
}

/// Datagrams from the wire at a moderate rate arrive, nearly all of them.
fn receive_datagrams(bed: &mut Bed) -> Result<()> {
    let guest = bed.guest(1)?;
    let address: Ipv4Address = guest.address("eth0", ADDRESS_LIMIT)?.parse().doing("guest's address")?;
    let received = "awk '/^Udp: [0-9]/ { print $2 + $3 }' /proc/net/snmp";
    let count = |text: String| text.trim().parse::<u64>().doing("counting datagrams");
    let before = count(guest.check(received, Duration::from_secs(10))?)?;
    let burst = Burst { to: IpEndpoint::new(address.into(), 5000), payload_bytes: 512, count: 400, per_second: 200 };
    bed.wire.send_datagrams(burst);
    for _ in 0..30 {
        std::thread::sleep(Duration::from_millis(500));
        if count(guest.check(received, Duration::from_secs(10))?)?.saturating_sub(before) >= 396 {
            return Ok(());
        }
    }
    let arrived = count(guest.check(received, Duration::from_secs(10))?)?.saturating_sub(before);
    Err(Failure::new(format!("{arrived} of 400 datagrams arrived in {}", guest.name)))
}

pub(super) fn guest_to_guest_traffic_stays_off_the_wire(bed: &mut Bed) -> Result<()> {
    let (g1, g2) = (bed.guest(1)?, bed.guest(2)?);
    let address = g2.address("eth0", ADDRESS_LIMIT)?;
    // Fragments and bulk; the first ping lets the switch learn both.
    g1.check(&format!("ping -c 2 -W 3 {address}"), Duration::from_secs(30))?;
    let before = bed.wire.counters();
    g1.check(&format!("ping -c 5 -i 0.2 -W 3 -s 4000 {address}"), Duration::from_secs(30)).doing("fragments")?;
    // Port 5001, as the kernel writes it.
    let listening = until("grep -q ':1389 00' /proc/net/tcp /proc/net/tcp6");
    g2.check(&format!("nc -l -p 5001 >/dev/null 2>&1 & {listening}"), Duration::from_secs(20))?;
    g1.check(&format!("head -c {BULK_BYTES} /dev/zero | nc {address} 5001"), BULK_LIMIT)?;
    let seen = bed.wire.counters().since(&before);
    // Something broadcast may have come by, but nothing of 16 MB.
    ensure(seen.bytes_in < 100_000, || format!("{} bytes of guest-to-guest traffic reached the wire", seen.bytes_in))?;
    let foreign = bed.wire.sources().into_iter().find(|mac| !is_known(*mac));
    ensure(foreign.is_none(), || format!("a frame from {foreign:?} came out of the NIC"))
}

/// Whether an address is one that the test bed gave out.
fn is_known(mac: EthernetAddress) -> bool {
    mac.0.starts_with(&[0x00, 0x16, 0x3E, 0x00]) || mac.0.starts_with(&[0x52, 0x54, 0x00, 0xB0])
}
