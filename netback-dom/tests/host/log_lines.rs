//! Warnings and errors are lines of words that a program can read, and `docs/log.md` has every cause.

use std::collections::BTreeMap;
use std::time::Duration;

use netback_dom::vif::Cause;

use crate::rig::Rig;

const MANUAL: &str = include_str!("../../../docs/log.md");

/// The words of a line, values without their quotes. `None` if it does not have the form.
fn parse(line: &str) -> Option<BTreeMap<&str, &str>> {
    let mut words = BTreeMap::new();
    let mut rest = line;
    while !rest.is_empty() {
        let (name, after) = rest.split_once('=')?;
        let (value, after) = match after.strip_prefix('"') {
            Some(quoted) => {
                quoted.split_once('"').map(|(value, after)| (value, after.strip_prefix(' ').unwrap_or(after)))?
            }
            None => after.split_once(' ').unwrap_or((after, "")),
        };
        let plain = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase());
        if !plain || words.insert(name, value).is_some() {
            return None;
        }
        rest = after;
    }
    Some(words)
}

/// A line has all its words, and its cause and action are in the manual.
fn assert_well_formed(line: &str) {
    let words = parse(line).unwrap_or_else(|| panic!("not words: {line}"));
    let wanted: &[&str] = match words["be"] {
        "vif" => &["be", "dom", "dev", "q", "cause", "text", "action", "n"],
        "hw" => &["be", "pci", "cause", "text", "action", "n"],
        "xs" => &["be", "cause", "text", "action", "n"],
        other => panic!("unknown be={other}: {line}"),
    };
    let names: Vec<_> = wanted.iter().copied().collect::<std::collections::BTreeSet<_>>().into_iter().collect();
    assert_eq!(words.keys().copied().collect::<Vec<_>>(), names, "{line}");
    for number in ["dom", "dev", "q", "n"] {
        assert!(words.get(number).is_none_or(|value| value.parse::<u64>().is_ok()), "{line}");
    }
    assert!(MANUAL.contains(&format!("`{}`", words["cause"])), "not in docs/log.md: {line}");
    assert!(MANUAL.contains(&format!("`{}`", words["action"])), "not in docs/log.md: {line}");
}

#[test]
fn every_warning_is_a_line_of_words_whose_cause_is_documented() {
    let (mut rig, attacker, victim) = Rig::attacker_and_victim();
    // Dropped: shorter than an Ethernet header.
    rig.fronts[attacker].put_request(&fake_xen::Page::new(), 0, 8, 0);
    rig.fronts[attacker].push_tx();
    rig.run(Duration::from_secs(2));
    // Killed.
    let ahead = rig.fronts[attacker].tx_req_prod().wrapping_add(300);
    rig.fronts[attacker].set_tx_req_prod(ahead);
    rig.until("the attacker is closed", |rig| rig.fronts[attacker].backend_state() == 6);
    // Refused: a frontend directory that is not the frontend's.
    let device = rig.device(victim);
    rig.toolstack.detach(device);
    rig.run(Duration::from_secs(2));
    let domid = rig.toolstack.create_domain("liar");
    let liar = rig.toolstack.create_vif(domid, 0, &Rig::vif_config(3));
    let backend = rig.toolstack.backend_path(&liar);
    rig.xen.write_store(&format!("{backend}/frontend-id"), "0");
    rig.run(Duration::from_secs(5));
    let lines = rig.severe();
    lines.iter().for_each(|line| assert_well_formed(line));
    for action in ["drop", "kill", "refuse"] {
        let seen = lines.iter().any(|line| line.contains(&format!(" action={action} ")));
        assert!(seen, "no {action} in {lines:#?}");
    }
}

#[test]
fn every_cause_is_in_the_manual() {
    for cause in Cause::ALL {
        assert!(MANUAL.contains(&format!("`{}`", cause.code())), "{} is not in docs/log.md", cause.code());
    }
}

#[test]
fn lines_that_are_not_words_are_told_apart() {
    assert!(parse("be=vif dom=7 cause=X text=\"a b\" n=0").is_some());
    for line in ["cannot serve", "be=vif be=vif", "be=hw cause=X something else action=kill", "text=\"open", "=x"] {
        assert!(parse(line).is_none(), "{line}");
    }
}
