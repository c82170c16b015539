//! A domain that tries out the runtime on real Xen. The command line says what to do: `checks`, or one of the
//! bad ends `panic`, `fault`, `write-text`, `deep`, `overflow`.

#![cfg_attr(xen_guest, no_std, no_main)]
#![allow(
    unsafe_code,
    clippy::as_conversions,
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::undocumented_unsafe_blocks,
    reason = "a test, and one that is to crash"
)]

#[cfg(xen_guest)]
mod checks;
#[cfg(xen_guest)]
mod ends;

#[cfg(xen_guest)]
extern crate alloc;

#[cfg(xen_guest)]
use xen_pv_rt::arch::{Exit, Xen};

#[cfg(xen_guest)]
#[unsafe(no_mangle)]
fn domain_main(xen: Xen, command_line: &str) -> Exit {
    log::info!("rt-dom: {command_line}");
    match command_line {
        "checks" => checks::run(xen),
        "panic" => ends::panic(),
        "fault" => ends::fault(),
        "write-text" => ends::write_text(),
        "deep" => ends::deep(xen),
        "overflow" => ends::overflow(),
        _ => {
            log::error!("rt-dom: no such thing to do");
            return Exit::Failed;
        }
    }
    Exit::PowerOff
}

#[cfg(not(xen_guest))]
fn main() {
    eprintln!("rt-dom is a Xen guest image");
    std::process::exit(2);
}
