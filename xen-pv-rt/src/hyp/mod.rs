//! What a backend asks of the hypervisor, as safe traits and id types.
//!
//! One trait per facility: [`Grants`], [`EventChannels`], [`Xenstore`], [`Clock`]; [`Hypervisor`] joins
//! them and is the only bound that backends write. [`Dma`] and [`MmioSpace`] are for code that owns
//! hardware; [`Platform`] joins everything.
//!
//! All traits are safe and single-threaded: an implementation is a cheap handle that tasks and the data
//! plane clone. `arch` implements them with hypercalls, `fake-xen` in-process for host tests.

mod clock;
mod copies;
mod dma;
mod events;
mod grants;
#[cfg(not(xen_guest))]
mod host_memory;
mod ids;
mod memory_use;
mod mmio;
mod xenstore;

pub use clock::{Clock, Instant, sleep, sleep_until};
#[cfg(xen_guest)]
pub(crate) use copies::BATCH as COPY_BATCH;
pub use copies::{Copied, CopyBatch, CopyOwner};
pub use dma::{Dma, DmaBuf, DmaError, DmaPool, DmaRing, PageOwner, RawDma};
pub use events::{BoundPort, EventChannels, EvtchnError};
pub use grants::{
    Access, CopyDest, CopySource, GrantCopy, GrantError, Grants, PAGE_SIZE, PeerSpan, RingPage, SharedPage,
};
#[cfg(not(xen_guest))]
pub use host_memory::{DmaFault, HostMemory, Lent};
pub use ids::{Domid, GrantRef, Maddr, Mfn, Pfn, Pirq, Port, RemotePort};
pub use memory_use::MemoryUse;
pub use mmio::{Mmio, MmioError, MmioSpace};
pub use xenstore::{Transaction, Watch, Xenstore, XsError};

/// The facilities every backend needs; the only bound backends write.
pub trait Hypervisor: Grants + EventChannels + Xenstore + Clock + Clone + 'static {}
impl<T: Grants + EventChannels + Xenstore + Clock + Clone + 'static> Hypervisor for T {}

/// [`Hypervisor`] plus what owning hardware takes.
pub trait Platform: Hypervisor + Dma + MmioSpace {}
impl<T: Hypervisor + Dma + MmioSpace> Platform for T {}
