//! Nobody waits for a peer that does not answer: not for a silent frontend, not for a stopped xenstored.

use std::thread;
use std::time::{Duration, Instant};

use super::checks::{ping, wire_address, xl_quietly};
use crate::bed::{ADDRESS_LIMIT, Bed, NETDOM};
use crate::failure::{Doing, Result, ensure};
use crate::guest::{Guest, GuestConfig};

/// How long xenstored is stopped.
const STOPPED: Duration = Duration::from_secs(20);
/// Traffic must show in every slice of this length.
const SLICE: Duration = Duration::from_secs(4);

pub(super) fn a_frontend_that_never_connects_delays_nobody(bed: &mut Bed) -> Result<()> {
    bed.ensure_netdom()?;
    let silent = GuestConfig { options: "no-netfront".into(), ..GuestConfig::numbered(4, NETDOM) };
    let silent = Guest::create(bed.dom0(), &silent)?;
    let paused = Guest::start(bed.dom0(), &GuestConfig::numbered(5, NETDOM), "-p")?;
    let eager = bed.guest_with(&GuestConfig::numbered(6, NETDOM)).doing("the guest behind two silent frontends")?;
    ping(&eager, &wire_address(bed))?;
    xl_quietly(bed, &format!("network-attach {} backend={NETDOM}", eager.name))?;
    xl_quietly(bed, &format!("network-detach {} 1", eager.name))?;
    // A frontend that comes late is still welcome.
    silent.check("modprobe xen-netfront", Duration::from_secs(20))?;
    silent.bring_up("eth0", ADDRESS_LIMIT).doing("the late frontend")?;
    bed.destroy(eager)?;
    bed.destroy(silent)?;
    bed.destroy(paused)
}

pub(super) fn traffic_goes_on_while_xenstored_is_stopped(bed: &mut Bed) -> Result<()> {
    let guest = bed.guest(1)?;
    let wire = wire_address(bed);
    let limit = STOPPED.saturating_add(SLICE);
    let script = format!("timeout {} nc {wire} 9 </dev/zero >/dev/null; true", limit.as_secs());
    let sender = guest.clone();
    let traffic = thread::spawn(move || sender.check(&script, limit.saturating_add(Duration::from_secs(20))));
    thread::sleep(Duration::from_secs(1));
    bed.dom0().check("kill -STOP $(cat /run/xen/xenstored.pid)", Duration::from_secs(10))?;
    let outcome = watch_traffic(bed);
    bed.dom0().check("kill -CONT $(cat /run/xen/xenstored.pid)", Duration::from_secs(10))?;
    outcome?;
    // A thread that panicked is a broken harness, not a result.
    traffic.join().map_err(|_| crate::failure::Failure::new("the traffic thread died"))??;
    ping(&guest, &wire)?;
    xl_quietly(bed, &format!("network-attach {} backend={NETDOM}", guest.name)).doing("after xenstored went on")?;
    xl_quietly(bed, &format!("network-detach {} 1", guest.name))
}

fn watch_traffic(bed: &Bed) -> Result<()> {
    let started = Instant::now();
    while started.elapsed() < STOPPED {
        let before = bed.wire.counters();
        thread::sleep(SLICE);
        let seen = bed.wire.counters().since(&before);
        ensure(seen.tcp_sink_bytes > 0, || {
            format!(
                "no byte arrived in {} s, {} s after xenstored stopped",
                SLICE.as_secs(),
                started.elapsed().as_secs()
            )
        })?;
    }
    Ok(())
}
