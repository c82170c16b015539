//! Configurations that cannot work end with one clear line on the console, and leave Dom0 in order.

use std::time::Duration;

use crate::bed::{Bed, NETDOM};
use crate::failure::{Failure, Result, ensure};
use crate::guest::{XL_LIMIT, console_log};
use crate::suite::TestBed as _;

/// How long a domain may take to refuse.
const REFUSAL_LIMIT_SECONDS: u32 = 20;

pub(super) fn a_domain_without_a_device_says_so(bed: &mut Bed) -> Result<()> {
    refuses(bed, "'pci=[]'", &["pci"])
}

pub(super) fn an_unsupported_device_is_named(bed: &mut Bed) -> Result<()> {
    // The SMBus controller of the chipset.
    bed.dom0().check("xl pci-assignable-add 00:1f.3", XL_LIMIT)?;
    let outcome = refuses(bed, "'pci=[\"00:1f.3\"]'", &["8086:2930"]);
    bed.dom0().check("xl pci-assignable-remove 00:1f.3", XL_LIMIT)?;
    outcome
}

pub(super) fn too_little_memory_is_named(bed: &mut Bed) -> Result<()> {
    refuses(bed, "'memory=4'", &["memory"])
}

pub(super) fn an_unknown_option_is_named(bed: &mut Bed) -> Result<()> {
    refuses(bed, "'extra=\"no-such-option=1\"'", &["no-such-option"])
}

/// Starts the driver domain with `overrides`; exactly one console line must hold all of `words`, and the domain
/// must have ended by itself.
fn refuses(bed: &mut Bed, overrides: &str, words: &[&str]) -> Result<()> {
    if bed.netdom()?.is_some() {
        bed.reset()?;
    }
    let log = console_log(NETDOM);
    bed.dom0().check(&format!(": >{log}"), XL_LIMIT)?;
    bed.create_netdom(overrides)?;
    // It ends by a shutdown or as a crash that `on_crash="preserve"` keeps.
    let ended = format!(
        "for i in $(seq {}); do\n\
         state=$(xl list {NETDOM} 2>/dev/null | awk 'NR == 2 {{ print $5 }}')\n\
         case \"$state\" in '' | *s* | *c* | *d*) exit 0 ;; esac\n\
         sleep 0.1\ndone\nxl list\nexit 1",
        REFUSAL_LIMIT_SECONDS.saturating_mul(10)
    );
    let ended = bed.dom0().run(&ended, XL_LIMIT)?;
    let console = bed.dom0().check(&format!("sleep 0.3; cat {log}"), XL_LIMIT)?;
    bed.dom0().run(&format!("xl destroy {NETDOM} 2>/dev/null"), Duration::from_secs(60))?;
    ensure(ended.ok(), || format!("it did not end by itself; its console:\n{console}"))?;
    let found: Vec<_> = console
        .lines()
        .filter(|line| {
            let line = line.to_lowercase();
            line.contains("error") && words.iter().all(|word| line.contains(word))
        })
        .collect();
    match found.as_slice() {
        [_] => Ok(()),
        lines => Err(Failure::new(format!(
            "want one error line with {words:?} on the console, found {}; the console:\n{console}",
            lines.len()
        ))),
    }
}
