//! A cable that is pulled out and put back.

use std::time::Duration;

use serde_json::json;

use super::checks::{eventually, ping, wire_address};
use crate::bed::{Bed, NETDOM};
use crate::failure::{Doing, Result, ensure};
use crate::guest::console_log;

/// How long the driver domain and the guest may take to see a change.
const LIMIT: Duration = Duration::from_secs(60);

pub(super) fn the_link_goes_and_comes_back(bed: &mut Bed) -> Result<()> {
    let guest = bed.guest(1)?;
    let wire = wire_address(bed);
    ping(&guest, &wire)?;
    for round in 0..2 {
        change(bed, false, "link is down").doing(format!("round {round}"))?;
        let lost = guest.run(&format!("ping -c 1 -W 2 {wire}"), LIMIT)?;
        ensure(!lost.ok(), || "a ping was answered without a link".to_owned())?;
        change(bed, true, "link is up").doing(format!("round {round}"))?;
        eventually(LIMIT, || ping(&guest, &wire).is_ok());
        ping(&guest, &wire).doing("after the link came back")?;
    }
    Ok(())
}

/// Changes the link and waits until the driver domain has said so once more.
fn change(bed: &Bed, up: bool, says: &str) -> Result<()> {
    let before = said(bed, says)?;
    bed.machine.monitor("set_link", &json!({ "name": bed.nic().netdev(), "up": up }))?;
    eventually(LIMIT, || said(bed, says).is_ok_and(|count| count > before));
    let after = said(bed, says)?;
    ensure(after > before, || format!("the driver domain does not say {says:?}"))
}

fn said(bed: &Bed, words: &str) -> Result<usize> {
    let log = bed.dom0().check(&format!("cat {}", console_log(NETDOM)), LIMIT)?;
    Ok(log.matches(words).count())
}
