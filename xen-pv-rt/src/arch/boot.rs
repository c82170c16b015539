//! From the first Rust instruction to the domain's own `main`.

use super::abi::{StartInfo, sched};
use super::{Xen, clock, console, crash, events, grants, memory, runstate, shared, stack, store, timer, traps};

/// How a domain ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Its work is done, or it was told to power off.
    PowerOff,
    /// It was told to reboot: the toolstack starts it anew.
    Reboot,
    /// It cannot go on, and has said why on the console.
    Failed,
}

unsafe extern "Rust" {
    /// The domain: serves until there is a reason to end. The text is the kernel command line (`extra=`).
    safe fn domain_main(xen: Xen, command_line: &str) -> Exit;
}

/// Entered from assembly, once, on our own stack.
pub(super) extern "C" fn start(info: &'static StartInfo) -> ! {
    console::init(info);
    stack::init();
    traps::init();
    // The command line lies in memory that is about to be reused.
    let mut text = [0; 1024];
    text.copy_from_slice(&info.cmd_line);
    if let Err(why) = bring_up(info) {
        crash::fail(why);
    }
    let len = text.iter().position(|byte| *byte == 0).unwrap_or(text.len());
    let Ok(command_line) = core::str::from_utf8(&text[..len]) else {
        crash::fail("the command line is not UTF-8");
    };
    let exit = domain_main(Xen(()), command_line);
    crash::shutdown(match exit {
        Exit::PowerOff => sched::SHUTDOWN_POWEROFF,
        Exit::Reboot => sched::SHUTDOWN_REBOOT,
        Exit::Failed => sched::SHUTDOWN_CRASH,
    })
}

fn bring_up(info: &StartInfo) -> Result<(), &'static str> {
    memory::init(info)?;
    shared::init(info).map_err(|_| "cannot map the shared info page")?;
    clock::init();
    runstate::init();
    events::init();
    timer::init();
    grants::init()?;
    store::init(info)
}
