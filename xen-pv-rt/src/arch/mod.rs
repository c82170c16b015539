//! The implementation of [`hyp`](crate::hyp) on Xen, for a PV guest on x86-64.
//!
//! A domain image provides `fn domain_main(Xen, &str) -> Exit`, which `boot` calls by that symbol; everything before that (console, memory, traps, clock, grants, xenstore) is
//! set up here.

#![expect(
    clippy::as_conversions,
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    reason = "addresses are integers here, usize is 64 bits, and values come from Xen or from ourselves"
)]

mod abi;
mod boot;
mod clock;
mod console;
mod crash;
mod devices;
mod entry;
mod events;
mod grants;
mod hypercall;
mod memory;
mod paging;
mod runstate;
mod shared;
mod stack;
mod store;
mod timer;
mod traps;

pub use boot::Exit;
pub use console::ConsoleStream;
pub use devices::Registers;
pub use events::{Virq, XenPort};
pub use grants::{GrantedPage, MappedPage};
pub use memory::memory_use;
pub use runstate::{RunTimes, run_times};

/// The hypervisor: a handle without contents, for the one vCPU.
#[derive(Clone, Copy, Debug)]
pub struct Xen(());

impl Xen {
    /// Panics if the stack has nearly run out. To be called once per turn of the event loop.
    pub fn check_stack(&self) {
        stack::check();
    }
}
