//! The storage driver domain's image.

#![cfg_attr(xen_guest, no_std, no_main)]
#![deny(unsafe_code)]

#[cfg(xen_guest)]
use xen_pv_rt::arch::{Exit, Xen};

#[cfg(xen_guest)]
#[expect(unsafe_code, reason = "the runtime calls the domain by this symbol")]
#[unsafe(no_mangle)]
fn domain_main(xen: Xen, command_line: &str) -> Exit {
    log::info!("blkback-dom {} up, options: {command_line:?}", env!("CARGO_PKG_VERSION"));
    let memory = xen_pv_rt::arch::memory_use();
    log::info!("memory: {} of {} pages in use", memory.used, memory.total);
    let _ = xen;
    Exit::PowerOff
}

#[cfg(not(xen_guest))]
fn main() {
    eprintln!("blkback-dom is a Xen guest image: build it with `make images` and boot it with `kernel=`");
    std::process::exit(2);
}
