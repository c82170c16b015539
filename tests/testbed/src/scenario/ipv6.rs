//! IPv6 between guests and the wire and among guests, and datagrams whose content is compared.

use std::time::Duration;

use super::checks::{no_bad_frames, ping, wire_address};
use super::content::{add_address_v6, address_v6, fetch, send, wire_address_v6};
use crate::bed::Bed;
use crate::failure::{Doing, Result, ensure};
use crate::guest::Guest;
use crate::wire::services::ECHO_PORT;

const BULK_BYTES: u64 = 16_000_001;
const BULK_LIMIT: Duration = Duration::from_secs(150);

/// Guest `number` with its IPv6 address on `eth0`.
fn guest_with_v6(bed: &mut Bed, number: u8) -> Result<Guest> {
    let guest = bed.guest(number)?;
    guest.check(&add_address_v6("eth0", &address_v6(number, 0)), Duration::from_secs(10))?;
    Ok(guest)
}

pub(super) fn bulk_tcp_over_ipv6_arrives_whole_in_both_directions(bed: &mut Bed) -> Result<()> {
    let guest = guest_with_v6(bed, 1)?;
    let (wire, before) = (wire_address_v6(bed), bed.wire.counters());
    ping(&guest, &wire)?;
    let sizes = format!(
        "for size in 0 1 8 9 100 1231 1232 1233 1451 1452; do\n\
         ping -q -c 1 -W 5 -s $size {wire} >/dev/null || {{ echo \"no answer to $size bytes\"; exit 1; }}\ndone"
    );
    guest.check(&sizes, Duration::from_secs(60))?;
    guest.check(&fetch(&wire, BULK_BYTES), BULK_LIMIT).doing("TCP from the wire")?;
    guest.check(&send(&wire, BULK_BYTES), BULK_LIMIT).doing("TCP to the wire")?;
    no_bad_frames(&bed.wire.counters().since(&before))
}

pub(super) fn datagrams_come_back_with_their_content(bed: &mut Bed) -> Result<()> {
    let guest = guest_with_v6(bed, 1)?;
    let before = bed.wire.counters();
    for (wire, odd, largest) in [(wire_address(bed), 1471, 1472), (wire_address_v6(bed), 1451, 1452)] {
        ping(&guest, &wire)?;
        // Around the end of the headers, of the slot that holds them, and of the MTU.
        let script = format!(
            "bash -c 'exec 3<>/dev/udp/{wire}/{ECHO_PORT}\n\
             for size in 1 2 17 18 19 63 64 85 86 87 127 128 129 511 1000 1400 {odd} {largest}; do\n\
             for try in 1 2 3; do\n\
             head -c $size /dev/urandom >/run/sent; dd if=/run/sent bs=2000 >&3 2>/dev/null\n\
             timeout 5 dd bs=2000 count=1 <&3 >/run/back 2>/dev/null\n\
             cmp /run/sent /run/back && break\n\
             [ ! -s /run/back ] || exit 1; [ $try -lt 3 ] || {{ echo \"nothing came back of $size bytes\"; exit 1; }}\n\
             done; done'"
        );
        guest.check(&script, Duration::from_secs(120)).doing(format!("datagrams to {wire}"))?;
    }
    no_bad_frames(&bed.wire.counters().since(&before))
}

pub(super) fn guests_reach_each_other_over_ipv6(bed: &mut Bed) -> Result<()> {
    let (g1, g2) = (guest_with_v6(bed, 1)?, guest_with_v6(bed, 2)?);
    let (a1, a2) = (address_v6(1, 0), address_v6(2, 0));
    ping(&g1, &a2)?;
    ping(&g2, &a1)?;
    let before = bed.wire.counters();
    g1.check(&format!("ping -c 3 -i 0.2 -W 3 -s 4000 {a2}"), Duration::from_secs(30)).doing("fragments")?;
    let serve = format!(
        "mkdir -p /run/www6 && head -c {BULK_BYTES} /dev/urandom >/run/www6/file && \
         httpd -p '[::]:8006' -h /run/www6 && sha256sum </run/www6/file"
    );
    let want = g1.check(&serve, Duration::from_secs(60))?;
    let got = g2.check(&format!("wget -q -O - http://[{a1}]:8006/file | sha256sum"), BULK_LIMIT)?;
    g1.check("rm -r /run/www6; killall httpd", Duration::from_secs(10))?;
    ensure(want == got, || format!("want {want}, got {got}"))?;
    let seen = bed.wire.counters().since(&before);
    ensure(seen.bytes_in < 100_000, || format!("{} bytes of guest-to-guest traffic reached the wire", seen.bytes_in))?;
    no_bad_frames(&seen)
}
