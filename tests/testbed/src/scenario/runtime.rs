//! The runtime itself, tried out by a domain of its own (`tests/rt-dom`): what it promises while all is well, and what
//! is left to read when a domain comes to a bad end.

use std::process::Command;

use crate::bed::Bed;
use crate::failure::{Doing, Failure, Result, ensure};
use crate::guest::{XL_LIMIT, console_log};

/// The domain's name.
const NAME: &str = "rt";
/// Symbols and line tables of the image; the image itself is stripped.
const DEBUG_FILE: &str = "out/rt-dom.debug";

pub(super) fn the_runtime_keeps_its_promises(bed: &mut Bed) -> Result<()> {
    let (state, console) = run(bed, "checks")?;
    ensure(console.contains("rt-dom: all checks passed"), || format!("its console:\n{console}"))?;
    ensure(!state.contains('c'), || format!("it ended as a crash ({state})"))
}

pub(super) fn a_panic_says_where(bed: &mut Bed) -> Result<()> {
    crash(bed, "panic", &["rt-dom panics on purpose", "rsp="], "middle")
}

pub(super) fn a_fault_says_where(bed: &mut Bed) -> Result<()> {
    crash(bed, "fault", &["page fault", "address 0x8", "rip=", "rax="], "fault")?;
    crash(bed, "write-text", &["page fault", "error code 0x3", "rip="], "write_text")
}

pub(super) fn a_stack_that_runs_out_ends_the_domain(bed: &mut Bed) -> Result<()> {
    crash(bed, "deep", &["stack overflow", "rsp="], "deep")?;
    // Beyond the end Xen has nowhere to put an exception frame: it crashes the domain and prints the registers.
    let reports = "xl dmesg | grep -c 'Domain .* crashed on cpu'";
    let before = bed.dom0().run(reports, XL_LIMIT)?.output;
    let (state, _) = run(bed, "overflow")?;
    ensure(state.contains('c'), || format!("xl list shows {state}, not a crash"))?;
    let after = bed.dom0().run(reports, XL_LIMIT)?.output;
    ensure(before.trim() != after.trim(), || "Xen did not report the crash".to_owned())
}

/// Runs the domain until it has ended and returns its state as `xl list` has it, and its console.
fn run(bed: &Bed, what: &str) -> Result<(String, String)> {
    let log = console_log(NAME);
    let create = format!(
        ": >{log}; xl create /root/xl/netback-dom.cfg 'pci=[]' 'memory=16' 'name=\"{NAME}\"' 'kernel=\"/root/rt-dom\"' \
         'extra=\"{what}\"' 'on_crash=\"preserve\"' 'on_poweroff=\"preserve\"'"
    );
    bed.dom0().check(&create, XL_LIMIT).doing(format!("creating a domain to try {what}"))?;
    let wait = format!(
        "for i in $(seq 200); do\n\
         state=$(xl list {NAME} | awk 'NR == 2 {{ print $5 }}')\n\
         case \"$state\" in *s*) echo $state; exit 0 ;; esac\n\
         sleep 0.1\ndone\nxl list\nexit 1"
    );
    let state = bed.dom0().check(&wait, XL_LIMIT).doing(format!("waiting for {what} to end"))?;
    let console = bed.dom0().check(&format!("sleep 0.3; cat {log}; xl destroy {NAME}"), XL_LIMIT)?;
    Ok((state.trim().to_owned(), console))
}

/// The domain must crash, and its console hold all of `words` and a backtrace through `function`.
fn crash(bed: &Bed, what: &str, words: &[&str], function: &str) -> Result<()> {
    let (state, console) = run(bed, what)?;
    ensure(state.contains('c'), || format!("{what}: xl list shows {state}, not a crash"))?;
    for word in words {
        ensure(console.contains(word), || format!("{what}: no {word:?} on the console:\n{console}"))?;
    }
    let frames = resolve(&console)?;
    ensure(frames.contains(function), || format!("{what}: no {function} in the backtrace:\n{frames}\n{console}"))
}

/// What `addr2line` makes of the addresses below "backtrace".
fn resolve(console: &str) -> Result<String> {
    let lines = console.lines().map(str::trim).skip_while(|line| !line.starts_with("backtrace")).skip(1);
    let addresses: Vec<_> = lines.take_while(|line| line.starts_with("0x")).collect();
    ensure(!addresses.is_empty(), || format!("no backtrace on the console:\n{console}"))?;
    let output = Command::new("addr2line").args(["-f", "-i", "-C", "-e", DEBUG_FILE]).args(&addresses).output();
    let output = output.doing("running addr2line")?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(Failure::new(format!("addr2line: {}", String::from_utf8_lossy(&output.stderr))))
    }
}
