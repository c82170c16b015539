//! The demonstration behind `make run`: the main job, told step by step.

use std::time::{Duration, Instant};

use crate::bed::{ADDRESS_LIMIT, Bed, NETDOM};
use crate::disk::FIRST_DISK_SLOT;
use crate::failure::{Doing, Result, ensure};
use crate::guest::{Guest, GuestConfig, console_log, mac};
use crate::measure::Costs;
use crate::shell::until;
use crate::storage;
use crate::wire::pattern;

const FETCH_LIMIT: Duration = Duration::from_secs(240);
const SHORT: Duration = Duration::from_secs(30);
/// The storage domain's name.
const STORAGE: &str = "blkdom";
/// What Dom0 and each guest get of the disk.
const SLICE_MIB: usize = 160;

/// One row of the closing table.
#[derive(Debug)]
struct Row {
    who: String,
    what: String,
    result: String,
}

/// Shows everything on a freshly booted bed.
///
/// # Errors
/// The first step that did not do what it should.
pub fn show(bed: &mut Bed) -> Result<()> {
    let mut rows = Vec::new();
    show_dom0(bed)?;
    let costs = show_driver_domain(bed)?;
    show_storage_domain(bed)?;
    show_dom0_network(bed, &mut rows)?;
    show_dom0_disk(bed, &mut rows)?;
    let guests = show_guests(bed, &mut rows)?;
    show_guest_disks(bed, &guests)?;
    show_files(bed, &guests, &mut rows)?;
    show_summary(bed, &rows, &costs);
    let faults = bed.wire.counters().faults();
    ensure(faults == 0, || format!("{faults} frames on the wire were wrong"))
}

fn step(text: &str) {
    println!("\n==> {text}");
}

fn show_dom0(bed: &Bed) -> Result<()> {
    step(&format!("Xen and Dom0 are up after {:.1} s", bed.machine.boot_time.as_secs_f32()));
    let script = "echo \"Xen $(xl info xen_version), Linux $(uname -r) in Dom0\"\n\
                  for d in /sys/bus/pci/devices/*; do\n\
                  driver=none; [ -e $d/driver ] && driver=$(basename $(readlink $d/driver))\n\
                  echo \"  driver $driver: $(lspci -s ${d##*/})\"\ndone\n\
                  echo 'Modules in Dom0:' $(lsmod | awk 'NR > 1 { print $1 }')";
    print!("{}", bed.dom0().check(script, SHORT)?);
    let mut bed_checked = Vec::new();
    for line in bed.dom0().check("ls -d /sys/bus/pci/drivers/*/0000:* 2>/dev/null || true", SHORT)?.lines() {
        let driver = line.split('/').nth(5).unwrap_or_default().to_owned();
        ensure(driver == "pciback", || format!("Dom0 drives a device itself: {line}"))?;
        bed_checked.push(driver);
    }
    println!(
        "No device has a driver in Dom0 other than pciback ({}); no hardware network or disk module is loaded.",
        bed_checked.len()
    );
    Ok(())
}

fn show_driver_domain(bed: &Bed) -> Result<Costs> {
    step(&format!("xl create: the driver domain takes {} ({})", bed.nic().bdf(), bed.config.nic));
    let costs = Costs::of_first_start(bed)?;
    print!("{}", bed.dom0().check("xl list", SHORT)?);
    print!("{}", indent(&bed.dom0().check(&format!("cat {}", console_log(NETDOM)), SHORT)?));
    Ok(costs)
}

fn show_storage_domain(bed: &Bed) -> Result<()> {
    let slot = FIRST_DISK_SLOT;
    step(&format!("xl create: another driver domain takes 00:{slot:x}.0 (NVMe)"));
    let log = console_log(STORAGE);
    let script = format!(
        "xl pci-assignable-add 00:{slot:x}.0 && xl create -q /root/xl/blkback-dom.cfg || exit 1\n\
         {}; xl list; cat {log} >&2",
        until(&format!("grep -q serving {log}"))
    );
    print!("{}", indent(&bed.dom0().check(&script, SHORT.saturating_mul(2))?));
    Ok(())
}

/// The words of `xl block-attach` for the `index`th slice of the disk.
fn slice(vdev: &str, index: usize) -> String {
    let start = index.saturating_mul(SLICE_MIB).saturating_add(1);
    format!("format=raw backendtype=phy backend={STORAGE} vdev={vdev} access=rw target=nvme0n1@{start}M+{SLICE_MIB}M")
}

fn show_dom0_disk(bed: &Bed, rows: &mut Vec<Row>) -> Result<()> {
    step(&format!("xl block-attach 0 {}: Dom0's own and only disk", slice("xvdz", 0)));
    let script = format!(
        "modprobe xen-blkfront; xl block-attach 0 {} || exit 1\n\
         {}\n\
         dd if=/dev/urandom of=/run/r bs=1M count=16 2>/dev/null; dd if=/run/r of=/dev/xvdz bs=1M conv=fsync 2>/dev/null || exit 1\n\
         echo 3 >/proc/sys/vm/drop_caches; dd if=/dev/xvdz bs=1M count=16 2>/dev/null | cmp - /run/r || exit 1; rm /run/r\n\
         ls /sys/block; echo 'Modules in Dom0:' $(lsmod | awk 'NR > 1 {{ print $1 }}')",
        slice("xvdz", 0),
        until("[ -b /dev/xvdz ]")
    );
    print!("{}", indent(&bed.dom0().check(&script, SHORT.saturating_mul(2)).doing("Dom0 on its vbd")?));
    storage::has_no_disk_driver(bed.dom0())?;
    let result = "16 MiB written and read back; no storage module is loaded".to_owned();
    rows.push(Row { who: "Dom0".into(), what: "a vbd".into(), result });
    Ok(())
}

fn show_guest_disks(bed: &Bed, guests: &[Guest; 2]) -> Result<()> {
    step("xl block-attach: a disk for each guest, where the files go");
    for (guest, index) in guests.iter().zip(1..) {
        let words = slice("xvda", index);
        bed.dom0().check(&format!("xl block-attach {} {words}", guest.name), SHORT.saturating_mul(2))?;
        let script = format!(
            "{}\nmke2fs -q -t ext4 /dev/xvda && mkdir -p /run/www && mount -t ext4 /dev/xvda /run/www && df -h /run/www | tail -1",
            until("[ -b /dev/xvda ]")
        );
        let said = guest.check(&script, SHORT.saturating_mul(2))?;
        print!("{}", indent(&format!("{}: {said}", guest.name)));
    }
    Ok(())
}

fn show_dom0_network(bed: &Bed, rows: &mut Vec<Row>) -> Result<()> {
    step(&format!("xl network-attach 0 mac={} backend={NETDOM}: Dom0's own and only NIC", mac(0xD0, 0)));
    let wire = bed.wire.config.address;
    let script = format!(
        "udhcpc -i eth0 -n -q -t 20 -T 1 2>&1 | tail -1; ls /sys/class/net | grep -v '^lo$'\nping -c 5 -i 0.2 {wire} | tail -1"
    );
    let output = bed.dom0().check(&script, SHORT).doing("Dom0 on its vif")?;
    print!("{}", indent(&output));
    let address = bed.dom0().check("ip -4 -o addr show dev eth0 | awk '{ print $4 }'", SHORT)?;
    rows.push(Row { who: "Dom0".into(), what: "address by DHCP".into(), result: address.trim().into() });
    Ok(())
}

fn show_guests(bed: &mut Bed, rows: &mut Vec<Row>) -> Result<[Guest; 2]> {
    step("xl create: two stock Debian guests with vif=['backend=netdom']");
    let config = |number| GuestConfig { memory_mib: 320, ..GuestConfig::numbered(number, NETDOM) };
    let started = Instant::now();
    let guests = [bed.guest_with(&config(1))?, bed.guest_with(&config(2))?];
    println!("  both are up after {:.1} s", started.elapsed().as_secs_f32());
    let addresses = [guests[0].address("eth0", ADDRESS_LIMIT)?, guests[1].address("eth0", ADDRESS_LIMIT)?];
    let wire = bed.wire.config.address.to_string();
    for (guest, address, peer) in
        [(&guests[0], &addresses[0], &addresses[1]), (&guests[1], &addresses[1], &addresses[0])]
    {
        rows.push(Row { who: guest.name.clone(), what: "address by DHCP".into(), result: address.clone() });
        for (what, target) in [("ping the wire", &wire), ("ping the other guest", peer)] {
            let said = guest.check(&format!("ping -c 10 -i 0.2 -W 3 {target} | tail -2"), SHORT)?;
            print!("{}", indent(&format!("{}, {what} {target}:\n{said}", guest.name)));
            ensure(said.contains(" 0% packet loss"), || format!("{} lost pings to {target}", guest.name))?;
            let times = said.lines().last().and_then(|line| line.split("= ").nth(1)).unwrap_or("answered");
            rows.push(Row { who: guest.name.clone(), what: what.into(), result: format!("min/avg/max {times}") });
        }
    }
    Ok(guests)
}

fn show_files(bed: &Bed, guests: &[Guest; 2], rows: &mut Vec<Row>) -> Result<()> {
    step("each guest fetches 64 MiB from the wire onto its disk, then from the other guest");
    let hash = pattern::sha256(pattern::FILE_BYTES);
    let wire = bed.wire.config.address.to_string();
    let addresses = [guests[0].address("eth0", ADDRESS_LIMIT)?, guests[1].address("eth0", ADDRESS_LIMIT)?];
    for guest in guests {
        guest.check("httpd -h /run/www", SHORT)?;
        fetch(guest, &wire, "wire", "/run/www/file", &hash, rows)?;
    }
    fetch(&guests[0], &addresses[1], &guests[1].name, "/run/www/copy", &hash, rows)?;
    fetch(&guests[1], &addresses[0], &guests[0].name, "/run/www/copy", &hash, rows)
}

/// Fetches the file from `address` into `file`, checks its hash as the disk has it and notes the rate, taken by the
/// guest's clock.
fn fetch(guest: &Guest, address: &str, from: &str, file: &str, hash: &str, rows: &mut Vec<Row>) -> Result<()> {
    let script = format!(
        "now() {{ awk '{{ printf \"%d\", $1 * 1000 }}' /proc/uptime; }}\n\
         start=$(now)\nwget -q -O {file} http://{address}/file || exit 1\n\
         echo @ms $(($(now) - start))\nsync; echo 3 >/proc/sys/vm/drop_caches; sha256sum {file}"
    );
    let said = guest.check(&script, FETCH_LIMIT).doing(format!("fetching from {from}"))?;
    let sum = said.lines().last().unwrap_or_default();
    ensure(sum.starts_with(hash), || format!("{} got a wrong file from {from}: {sum}", guest.name))?;
    let taken_ms = said.lines().find_map(|line| line.strip_prefix("@ms ")?.parse::<u64>().ok()).unwrap_or(0).max(1);
    // 8 bits a byte, bits per ms are 1000 bits per s, so this is Mbit/s.
    let rate = pattern::FILE_BYTES.saturating_mul(8).checked_div(taken_ms.saturating_mul(1000)).unwrap_or(0);
    let result = format!("SHA-256 right when read from the disk, {rate} Mbit/s");
    println!("  {} from {from}: {result}", guest.name);
    rows.push(Row { who: guest.name.clone(), what: format!("64 MiB from {from}"), result });
    Ok(())
}

fn show_summary(bed: &Bed, rows: &[Row], costs: &Costs) {
    let seen = bed.wire.counters();
    step(&format!("summary: Xen {}, {}, served by {NETDOM}", bed.config.xen, bed.config.nic));
    println!("  {:<6} {:<22} result", "who", "what");
    for row in rows {
        println!("  {:<6} {:<22} {}", row.who, row.what, row.result);
    }
    println!(
        "  {:<6} {:<22} {} frames in, {} out, {} wrong",
        "wire",
        "frames seen",
        seen.frames_in,
        seen.frames_out,
        seen.faults()
    );
    print!("\n{costs}");
}

fn indent(text: &str) -> String {
    text.lines().map(|line| format!("  | {}\n", line.trim_end())).collect()
}
