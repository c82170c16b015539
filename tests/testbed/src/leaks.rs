//! What domains hold of Xen's and xenstore's resources, to see that nothing stays behind.
//!
//! Counts come from Xen's own debug dumps (`xl debug-keys g` and `e`) and from xenstored's quota report, so a
//! leak shows whatever the domain itself believes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Duration;

use crate::dom0::Dom0;
use crate::failure::{Failure, Result};

/// How often, a second apart, it is looked whether closing, detaching and cleaning up are over before something counts as left
/// behind.
const SETTLE_LOOKS: u32 = 30;

/// Everything counted at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resources {
    /// Paths of all xenstore nodes.
    nodes: BTreeSet<String>,
    /// Grants in use, by the domain that uses them.
    grants: BTreeMap<u16, usize>,
    /// Open event-channel ports, by domain.
    ports: BTreeMap<u16, usize>,
    /// What xenstored counts for the driver domain: watches, transactions, nodes and more, by name.
    quota: BTreeMap<String, u64>,
}

impl Resources {
    /// Takes stock; `netdom` is the domain whose xenstore quota is read.
    ///
    /// # Errors
    /// Dom0 does not answer.
    pub fn take(dom0: &Dom0, netdom: u16) -> Result<Self> {
        let script = format!(
            "echo @nodes; xenstore-ls -f | sed 's/ = .*//'\n\
             echo @quota; xenstore-control quota {netdom} 2>/dev/null\n\
             xl dmesg -c >/dev/null; xl debug-keys g; xl debug-keys e; echo @xen; xl dmesg"
        );
        Ok(Self::parse(&dom0.check(&script, Duration::from_secs(60))?))
    }

    /// Fails if more (or less) is held than this, by what `stock` says; what is still being closed gets a while.
    ///
    /// # Errors
    /// Names every difference, or `stock` failed.
    pub fn are_all(&self, stock: impl Fn() -> Result<Self>) -> Result<()> {
        let mut changes = String::new();
        for _ in 0..SETTLE_LOOKS {
            changes = stock()?.changes_since(self);
            if changes.is_empty() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_secs(1));
        }
        Err(Failure::new(format!("left behind:\n{changes}")))
    }

    fn parse(text: &str) -> Self {
        let mut found = Self::default();
        let (mut section, mut ports_of) = ("", None);
        for line in text.lines() {
            match line.strip_prefix('@') {
                Some(name) => section = name,
                // A driver domain's statistics follow its vifs some seconds later.
                None if section == "nodes" && line.contains("/data/statistics") => {}
                None if section == "nodes" => drop(found.nodes.insert(line.to_owned())),
                None if section == "quota" => found.take_quota(line),
                None => found.take_dump(line.trim_start_matches("(XEN)").trim(), &mut ports_of),
            }
        }
        found
    }

    /// A line like `watches: 3` or `watches   :   3 / 128`.
    fn take_quota(&mut self, line: &str) {
        let Some((name, value)) = line.split_once(':') else { return };
        if let Some(value) = value.split_whitespace().next().and_then(|word| word.parse().ok()) {
            self.quota.insert(name.trim().to_owned(), value);
        }
    }

    /// A line of Xen's dumps: `[0x008]  2 0x137a02 0x00000002 ...` is grant 8 used by domain 2, `Event channel
    /// information for domain 2` starts a list, `12 [0/0/ - ]: s=3 ...` is a port in it.
    fn take_dump(&mut self, line: &str, ports_of: &mut Option<u16>) {
        if let Some(domain) = line.strip_prefix("Event channel information for domain ") {
            *ports_of = domain.trim_end_matches(':').parse().ok();
            return;
        }
        let mut words = line.split_whitespace();
        let first = words.next().unwrap_or_default();
        if first.starts_with("[0x") {
            if let Some(domain) = words.next().and_then(|word| word.parse().ok()) {
                count(&mut self.grants, domain);
            }
        } else if let (Ok(_), true, Some(domain)) = (first.parse::<u32>(), line.contains("]: s="), *ports_of) {
            count(&mut self.ports, domain);
        }
    }

    /// What there is more of now than in `before`, and what is gone, one line each; empty if nothing leaked.
    ///
    /// Fewer grants are no leak: a backend lets go of pages that stayed mapped for a frontend (persistent grants) when
    /// they have been idle for a while.
    #[must_use]
    pub fn changes_since(&self, before: &Self) -> String {
        let mut text = String::new();
        for path in self.nodes.difference(&before.nodes) {
            let _ = writeln!(text, "new node {path}");
        }
        for path in before.nodes.difference(&self.nodes) {
            let _ = writeln!(text, "lost node {path}");
        }
        let mut compare = |what: &str, now: &BTreeMap<u16, usize>, then: &BTreeMap<u16, usize>, may_shrink: bool| {
            for domain in now.keys().chain(then.keys()).collect::<BTreeSet<_>>() {
                let (now, then) = (now.get(domain).unwrap_or(&0), then.get(domain).unwrap_or(&0));
                if now > then || now < then && !may_shrink {
                    let _ = writeln!(text, "{what} of domain {domain}: {then} before, {now} now");
                }
            }
        };
        compare("grants used", &self.grants, &before.grants, true);
        compare("ports", &self.ports, &before.ports, false);
        for name in ["watches", "transactions", "outstanding"] {
            let (now, then) = (self.quota.get(name), before.quota.get(name));
            if now != then {
                let _ = writeln!(text, "xenstore {name}: {then:?} before, {now:?} now");
            }
        }
        text
    }
}

fn count(counts: &mut BTreeMap<u16, usize>, domain: u16) {
    let count = counts.entry(domain).or_default();
    *count = count.saturating_add(1);
}

#[cfg(test)]
mod tests {
    use super::*;

    const DUMP: &str = "@nodes\n/local\n@quota\nwatches: 3\n@xen\n\
        (XEN) grant-table for remote d1 (v1)\n\
        (XEN) [0x000]      0 0x137a02 0x00000002          0 0x137a02 0x19\n\
        (XEN) [0x008]      2 0x137a01 0x00000001          2 0x137a01 0x19\n\
        (XEN) Event channel information for domain 2:\n\
        (XEN) Polling vCPUs: {}\n\
        (XEN)        1 [0/0/  -   ]: s=3 n=0 x=0 d=0 p=18\n";

    #[test]
    fn dumps_are_counted_by_domain() {
        let found = Resources::parse(DUMP);
        assert_eq!(found.grants, BTreeMap::from([(0, 1), (2, 1)]));
        assert_eq!(found.ports, BTreeMap::from([(2, 1)]));
        assert_eq!(found.quota, BTreeMap::from([("watches".to_owned(), 3)]));
    }

    #[test]
    fn every_kind_of_leak_is_named() {
        let before = Resources::parse(DUMP);
        assert_eq!(before.changes_since(&before), "");
        let leaky = DUMP
            .replace("/local\n", "/local\n/local/left\n")
            .replace("watches: 3", "watches: 4")
            .replace("(XEN) Event", "(XEN) [0x009]      2 0x1 0x00000001          2 0x1 0x19\n(XEN) Event")
            + "(XEN)        2 [0/0/  -   ]: s=6 n=0 x=0\n";
        let changes = Resources::parse(&leaky).changes_since(&before);
        for what in ["new node /local/left", "grants used of domain 2: 1 before, 2 now", "ports of domain 2", "watches"]
        {
            assert!(changes.contains(what), "{what} not in:\n{changes}");
        }
    }
    #[test]
    fn a_page_that_is_no_longer_mapped_is_no_leak_and_a_port_that_is_gone_is_named() {
        let before = Resources::parse(DUMP);
        let less = |line: &str| Resources::parse(&DUMP.replace(line, "")).changes_since(&before);
        assert_eq!(less("[0x008]"), "");
        assert_eq!(less("1 [0/0/  -   ]: s=3"), "ports of domain 2: 1 before, 0 now\n");
    }
}
