//! What the driver domain tells Dom0 in xenstore.

use std::collections::BTreeMap;
use std::time::Duration;

use super::checks::{eventually, ping, wire_address};
use crate::bed::Bed;
use crate::failure::{Doing, Failure, Result, ensure};
use crate::guest::XL_LIMIT;

/// Nodes are written every five seconds.
pub(super) const PUBLISHED_LIMIT: Duration = Duration::from_secs(30);

/// The words of one node.
pub type Words = BTreeMap<String, String>;

/// The words of one node of the driver domain's statistics; none if it is not there.
///
/// # Errors
/// The driver domain does not run, or Dom0 does not answer.
pub fn statistics(bed: &Bed, node: &str) -> Result<Option<Words>> {
    let netdom = bed.netdom()?.ok_or_else(|| Failure::new("the driver domain does not run"))?;
    let command = format!("xenstore-read /local/domain/{netdom}/data/statistics/{node}");
    let outcome = bed.dom0().run(&command, XL_LIMIT)?;
    let words = outcome.output.split_whitespace().filter_map(|word| word.split_once('='));
    Ok(outcome.ok().then(|| words.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()))
}

/// A number of a node; 0 if it is not there.
#[must_use]
pub fn number(words: &Words, name: &str) -> u64 {
    words.get(name).and_then(|value| value.parse().ok()).unwrap_or(0)
}

pub(super) fn counters_move_and_only_dom0_reads_them(bed: &mut Bed) -> Result<()> {
    let guest = bed.guest(1)?;
    let node = format!("vif-{}-0", guest.domid);
    let sent = |bed: &Bed| statistics(bed, &node).ok().flatten().map(|words| number(&words, "tx-packets"));
    eventually(PUBLISHED_LIMIT, || sent(bed).is_some());
    let before = sent(bed).ok_or_else(|| Failure::new(format!("no node {node}")))?;
    ping(&guest, &wire_address(bed))?;
    eventually(PUBLISHED_LIMIT, || sent(bed) >= Some(before.saturating_add(5)));
    let after = sent(bed).unwrap_or(0);
    ensure(after >= before.saturating_add(5), || format!("tx-packets {before} before five pings, {after} after"))?;
    let card = statistics(bed, "nic-0")?.ok_or_else(|| Failure::new("no node nic-0"))?;
    ensure(card.get("link").is_some_and(|link| link == "up"), || format!("no link: {card:?}"))?;
    ensure(number(&card, "rx-frames") > 0 && number(&card, "tx-frames") > 0, || format!("no frames: {card:?}"))?;
    let domain = statistics(bed, "domain")?.ok_or_else(|| Failure::new("no node domain"))?;
    ensure(domain.contains_key("version") && number(&domain, "heap-used-bytes") > 0, || format!("{domain:?}"))?;
    nobody_else_reads(bed).doing("who may read")
}

/// Every node belongs to the driver domain, and nobody else is named (Dom0 reads everything).
fn nobody_else_reads(bed: &Bed) -> Result<()> {
    let netdom = bed.netdom()?.unwrap_or(0);
    let listing = bed.dom0().check(&format!("xenstore-ls -fp /local/domain/{netdom}/data/statistics"), XL_LIMIT)?;
    let owner = format!("(n{netdom})");
    let mut lines = listing.lines().filter(|line| line.contains(" = "));
    let open = lines.find(|line| !line.trim_end().ends_with(&owner));
    open.map_or(Ok(()), |line| Err(Failure::new(format!("not only for Dom0: {line}"))))
}
