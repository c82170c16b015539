//! What keeps a guest within bounds: its rate, storm limits, and the multicast frames it gets.

use std::time::{Duration, Instant};

use super::checks::{eventually, no_bad_frames, ping, wire_address};
use super::content::send;
use super::policy::{console_says, guest_with, silent};
use super::statistics::{PUBLISHED_LIMIT, number, statistics};
use crate::bed::{ADDRESS_LIMIT, Bed};
use crate::failure::{Doing, Failure, Result, ensure};
use crate::guest::{Guest, XL_LIMIT};
use crate::shell::until;
use crate::suite::TestBed;

const LIMIT: Duration = Duration::from_secs(120);
/// Bytes that are sent to measure a rate.
const BYTES: u32 = 1_000_000;
/// `rate=1Mb/s@50ms`, in bytes per second.
const RATE: u32 = 125_000;
/// Broadcasts per second, and how many are sent as fast as the guest can.
const STORM_LIMIT: u64 = 50;
const STORM: u64 = 1000;
/// Multicast frames that are sent at a time.
const FRAMES: u64 = 10;
/// A group address that nobody else uses.
const GROUP: [u8; 6] = [0x01, 0x00, 0x5e, 0x01, 0x02, 0x03];

pub(super) fn a_rate_holds_and_changes_while_the_guest_runs(bed: &mut Bed) -> Result<()> {
    let guest = guest_with(bed, 31, ",rate=1Mb/s@50ms")?;
    guest.address("eth0", ADDRESS_LIMIT)?;
    let netdom = bed.ensure_netdom()?;
    let key = format!("/local/domain/{netdom}/backend/vif/{}/0/rate", guest.domid);
    let dom0 = |script: String| bed.dom0().check(&script, XL_LIMIT);
    let wire = wire_address(bed);
    // The first 6250 bytes are free; headers count, so it takes a little longer than this.
    let expected = Duration::from_secs((BYTES / RATE).into());
    let held = upload_time(&guest, &wire)?;
    ensure(held >= expected.mul_f32(0.95), || format!("{BYTES} bytes in {held:?}, with a rate for {expected:?}"))?;
    ensure(held <= expected.mul_f32(4.0), || format!("{BYTES} bytes took {held:?}, with a rate for {expected:?}"))?;
    // Ten times as fast, without the guest noticing anything.
    dom0(format!("xenstore-write {key} 62500,50000"))?;
    let faster = upload_time(&guest, &wire).doing("with ten times the rate")?;
    ensure(faster < held.mul_f32(0.5), || format!("{held:?} with a rate of {RATE}, {faster:?} with ten times that"))?;
    dom0(format!("xenstore-write {key} 10Mb/s"))?;
    console_says(bed, "RATE")?;
    silent(&guest, &wire).doing("with a rate that makes no sense")?;
    dom0(format!("xenstore-rm {key}"))?;
    ping(&guest, &wire).doing("without a rate")?;
    guest.destroy()
}

/// How long the guest's clock says that it takes to send [`BYTES`] bytes to the wire, which confirms them.
fn upload_time(guest: &Guest, wire: &str) -> Result<Duration> {
    let now = "awk '{ print $1 }' /proc/uptime";
    let script = format!("before=$({now})\n{}\necho time $before $({now})", send(wire, BYTES.into()));
    let said = guest.check(&script, LIMIT).doing("sending")?;
    let times: Option<Vec<f32>> = said
        .lines()
        .find_map(|line| line.strip_prefix("time "))
        .map(|times| times.split(' ').filter_map(|time| time.trim().parse().ok()).collect());
    match times.as_deref() {
        Some([before, after]) => Ok(Duration::from_secs_f32((after - before).max(0.0))),
        _ => Err(Failure::new(format!("no times in {said:?}"))),
    }
}

pub(super) fn options_in_xenstore_limit_a_broadcast_storm(bed: &mut Bed) -> Result<()> {
    bed.reset()?;
    // Paused, so that the options are there when it starts.
    let create = bed.create_command("").replacen("create", "create -p", 1);
    bed.dom0().check(&create, XL_LIMIT).doing("creating the driver domain")?;
    let netdom = bed.ensure_netdom()?;
    let options = format!(
        "xenstore-write /local/domain/{netdom}/data/options 'storm-broadcast={STORM_LIMIT} antispoof=mac' && xl unpause {netdom}"
    );
    bed.dom0().check(&options, XL_LIMIT)?;
    let guest = bed.guest(1)?;
    let (before, started) = (bed.wire.counters(), Instant::now());
    let storm = format!(
        "ip neigh replace 10.0.0.250 lladdr ff:ff:ff:ff:ff:ff dev eth0 nud permanent\n\
         bash -c 'dd if=/dev/zero bs=100 count={STORM} >/dev/udp/10.0.0.250/9'"
    );
    guest.check(&storm, LIMIT).doing("a storm")?;
    let node = format!("vif-{}-0", guest.domid);
    let dropped = || statistics(bed, &node).ok().flatten().map_or(0, |words| number(&words, "tx-drop-STORM"));
    let allowed = STORM_LIMIT.saturating_mul(started.elapsed().as_secs().saturating_add(2));
    eventually(PUBLISHED_LIMIT, || dropped().saturating_add(allowed) >= STORM);
    let (dropped, seen) = (dropped(), bed.wire.counters().since(&before));
    let passed = seen.broadcasts_in;
    ensure(passed >= STORM_LIMIT / 2 && passed <= allowed, || format!("{passed} broadcasts, {allowed} are allowed"))?;
    ensure(dropped.saturating_add(passed) >= STORM, || format!("{dropped} counted, {passed} passed, of {STORM}"))?;
    no_bad_frames(&seen)?;
    console_says(bed, "STORM")?;
    ping(&guest, &wire_address(bed)).doing("after a storm")?;
    bed.reset()
}

pub(super) fn multicast_control_is_switched_while_connected(bed: &mut Bed) -> Result<()> {
    let guest = bed.guest(1)?;
    let key = format!("/local/domain/{}/device/vif/0/request-multicast-control", guest.domid);
    let watch = format!(
        "(tcpdump -Z root -i eth0 -n -l ether dst 01:00:5e:01:02:03 </dev/null >/run/group 2>/run/group.log &)\n\
         {{ {}; }} || {{ cat /run/group.log; exit 1; }}",
        until("grep -q listening /run/group.log")
    );
    guest.check(&watch, LIMIT).doing("watching a group")?;
    let arrived = arrivals(bed, &guest)?;
    ensure(arrived == FRAMES, || format!("{arrived} of {FRAMES} frames to a group arrived"))?;
    // A stock netfront never asks for a filter. Its list is empty, so once it is on nothing comes through.
    let dom0 = |value: u8| bed.dom0().check(&format!("xenstore-write {key} {value}"), XL_LIMIT);
    for (value, wanted) in [(1, 0), (0, FRAMES)] {
        dom0(value)?;
        eventually(ADDRESS_LIMIT, || arrivals(bed, &guest).is_ok_and(|arrived| arrived == wanted));
        let arrived = arrivals(bed, &guest)?;
        ensure(arrived == wanted, || format!("{arrived} of {FRAMES} frames with request-multicast-control={value}"))?;
        guest.check("ip neigh flush dev eth0", LIMIT)?;
        ping(&guest, &wire_address(bed)).doing("broadcasts are not filtered")?;
    }
    bed.dom0().check(&format!("xenstore-rm {key}"), XL_LIMIT)?;
    guest.check("killall tcpdump", LIMIT).map(drop)
}

/// How many of the frames that the wire sends to the group reach the guest.
fn arrivals(bed: &Bed, guest: &Guest) -> Result<u64> {
    let count = || -> Result<u64> {
        guest.check("grep -c length /run/group; true", LIMIT)?.trim().parse().doing("counting lines of tcpdump")
    };
    let before = count()?;
    let mut frame = GROUP.to_vec();
    frame.extend(bed.wire.config.mac.0);
    // An EtherType for experiments.
    frame.extend([0x88, 0xb5]);
    frame.resize(60, 0);
    for _ in 0..FRAMES {
        bed.wire.send_frame(frame.clone());
    }
    std::thread::sleep(Duration::from_secs(1));
    Ok(count()?.saturating_sub(before))
}
