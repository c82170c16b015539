//! The storage driver domain's image.

#![cfg_attr(xen_guest, no_std, no_main)]
#![deny(unsafe_code)]

#[cfg(xen_guest)]
use blkback_dom::domain::Domain;
#[cfg(xen_guest)]
use xen_pv_rt::arch::{Exit, Xen, memory_use, run_times};
#[cfg(xen_guest)]
use xen_pv_rt::control::Request;

#[cfg(xen_guest)]
#[expect(unsafe_code, reason = "the runtime calls the domain by this symbol")]
#[unsafe(no_mangle)]
fn domain_main(xen: Xen, command_line: &str) -> Exit {
    log::info!("blkback-dom {}", env!("CARGO_PKG_VERSION"));
    let mut domain = match Domain::start(xen, command_line, memory_use) {
        Ok(domain) => domain,
        Err(error) => {
            log::error!("cannot serve: {error}");
            return Exit::Failed;
        }
    };
    let (memory, times) = (memory_use(), run_times());
    log::info!("serving; {} of {} KiB of memory in use", memory.used_kib(), memory.total_kib());
    let others = times.runnable.saturating_add(times.blocked).as_millis();
    log::info!("start took {} ms of our own and {others} ms of waiting for others", times.running.as_millis());
    let request = domain.serve(|| xen.check_stack());
    log::info!("stopping: {request:?}");
    domain.stop();
    match request {
        Request::PowerOff | Request::Halt => Exit::PowerOff,
        Request::Reboot => Exit::Reboot,
    }
}

#[cfg(not(xen_guest))]
fn main() {
    eprintln!("blkback-dom is a Xen guest image: build it with `make images` and boot it with `kernel=`");
    std::process::exit(2);
}
