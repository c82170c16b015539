//! The main job: Dom0 without drivers, guests on the network, files that arrive whole.

use std::time::Duration;

use super::checks::{eventually, no_bad_frames, ping, wire_address, xl_quietly};
use super::statistics::{PUBLISHED_LIMIT, number, statistics};
use crate::bed::{ADDRESS_LIMIT, Bed, NETDOM};
use crate::failure::{Doing, Result, ensure};
use crate::guest::mac;
use crate::wire::pattern;

/// How long 64 MiB may take: the slowest seen is a tenth of this.
const FETCH_LIMIT: Duration = Duration::from_secs(240);

/// Modules whose presence would mean that Dom0 drives hardware itself.
const HARDWARE_MODULES: &str =
    "e1000|e1000e|igb|igc|ixgbe|virtio_net|8139|r8169|tg3|bnx|ahci|libata|nvme|virtio_blk|sd_mod|mptsas";

pub(super) fn dom0_has_no_hardware_driver(bed: &mut Bed) -> Result<()> {
    let limit = Duration::from_secs(10);
    let bound = bed.dom0().check(
        "for d in /sys/bus/pci/devices/*; do [ -e $d/driver ] && echo $(basename $d) $(basename $(readlink $d/driver)); done; true",
        limit,
    )?;
    let nic = bed.nic().bdf();
    for line in bound.lines() {
        ensure(line == format!("0000:{nic} pciback"), || format!("Dom0 drives a device itself: {line}"))?;
    }
    ensure(bound.contains(&nic), || format!("{nic} is not owned by pciback: {bound}"))?;
    let modules = bed.dom0().check(&format!("lsmod | grep -E '^({HARDWARE_MODULES}) ' || true"), limit)?;
    ensure(modules.is_empty(), || format!("Dom0 has hardware modules loaded: {modules}"))
}

pub(super) fn dom0_gets_its_only_nic_from_the_driver_domain(bed: &mut Bed) -> Result<()> {
    bed.ensure_netdom()?;
    let before = bed.wire.counters();
    xl_quietly(bed, &format!("network-attach 0 mac={} backend={NETDOM}", mac(0xD0, 0)))?;
    let wire = wire_address(bed);
    let hash = pattern::sha256(4_000_000);
    let script = format!(
        "until [ -e /sys/class/net/eth0 ]; do sleep 0.1; done\n\
         udhcpc -i eth0 -n -q -t 20 -T 1 || exit 1\n\
         ping -c 3 -W 3 {wire} || exit 1\n\
         [ $(ls /sys/class/net | grep -vc '^lo$') = 1 ] || {{ echo 'more than one NIC'; exit 1; }}\n\
         sum=$(wget -q -O - http://{wire}/bytes/4000000 | sha256sum)\n\
         [ \"${{sum%% *}}\" = {hash} ] || {{ echo \"wrong sum $sum\"; exit 1; }}"
    );
    bed.dom0().check(&script, Duration::from_secs(90)).doing("Dom0 on its vif")?;
    no_bad_frames(&bed.wire.counters().since(&before))?;
    xl_quietly(bed, "network-detach 0 0")
}

pub(super) fn guests_get_addresses_and_reach_each_other(bed: &mut Bed) -> Result<()> {
    let before = bed.wire.counters();
    let (g1, g2) = (bed.guest(1)?, bed.guest(2)?);
    let (a1, a2) = (g1.address("eth0", ADDRESS_LIMIT)?, g2.address("eth0", ADDRESS_LIMIT)?);
    ensure(a1 != a2, || format!("both guests have {a1}"))?;
    let leased: Vec<_> = bed.wire.leases().iter().map(|lease| lease.address.to_string()).collect();
    ensure(leased.contains(&a1) && leased.contains(&a2), || format!("{a1} and {a2} are not of {leased:?}"))?;
    for guest in [&g1, &g2] {
        ping(guest, &wire_address(bed))?;
    }
    ping(&g1, &a2)?;
    ping(&g2, &a1)?;
    no_bad_frames(&bed.wire.counters().since(&before))
}

pub(super) fn a_64_mib_file_arrives_whole_from_wire_and_guest(bed: &mut Bed) -> Result<()> {
    let (g1, g2) = (bed.guest(1)?, bed.guest(2)?);
    let before = bed.wire.counters();
    let hash = pattern::sha256(pattern::FILE_BYTES);
    let wire = wire_address(bed);
    let sum = g1.check(
        &format!("mkdir -p /run/www && wget -q -O /run/www/file http://{wire}/file && sha256sum /run/www/file"),
        FETCH_LIMIT,
    )?;
    ensure(sum.starts_with(&hash), || format!("from the wire: want {hash}, got {sum}"))?;
    let address = g1.address("eth0", ADDRESS_LIMIT)?;
    g1.check("httpd -h /run/www", Duration::from_secs(10))?;
    let sum = g2.check(
        &format!("wget -q -O /run/copy http://{address}/file && sha256sum /run/copy && rm /run/copy"),
        FETCH_LIMIT,
    )?;
    ensure(sum.starts_with(&hash), || format!("from {}: want {hash}, got {sum}", g1.name))?;
    g1.check("rm -r /run/www; killall httpd", Duration::from_secs(10))?;
    // Of so many segments some come together and are joined.
    let node = format!("vif-{}-0", g1.domid);
    let joined = |bed: &Bed| statistics(bed, &node).ok().flatten().map_or(0, |words| number(&words, "rx-joined"));
    eventually(PUBLISHED_LIMIT, || joined(bed) > 0);
    ensure(joined(bed) > 0, || "no segments from the wire were joined".into())?;
    no_bad_frames(&bed.wire.counters().since(&before))
}
