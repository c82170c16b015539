//! Event channels: one bit from domain to domain, or from a device.
//!
//! Nothing is delivered asynchronously: a pending port is a bit that the event loop tests and clears with
//! [`EventChannels::take_pending`], and sleeping is one call, [`EventChannels::wait`].
//!
//! Xen: `public/event_channel.h`.

use core::fmt;

use super::{Domid, Instant, Pirq, Port, RemotePort};

/// Why an event channel operation failed. Xen: the negative errno of `EVTCHNOP_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EvtchnError {
    /// The remote port does not exist or is not meant for us (`EINVAL`).
    BadPort,
    /// No such domain (`ESRCH`).
    NoDomain,
    /// This domain may not do that (`EPERM`, `EACCES`).
    Denied,
    /// No free port is left (`ENOSPC`, `ENOMEM`).
    Exhausted,
    /// The interrupt is bound already (`EEXIST`, `EBUSY`).
    Busy,
    /// Any other errno, positive.
    Other(u32),
}

impl fmt::Display for EvtchnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadPort => f.write_str("no such event channel port for us"),
            Self::NoDomain => f.write_str("no such domain"),
            Self::Denied => f.write_str("event channel operation not permitted"),
            Self::Exhausted => f.write_str("no free event channel port"),
            Self::Busy => f.write_str("interrupt already bound"),
            Self::Other(errno) => write!(f, "event channel operation failed with errno {errno}"),
        }
    }
}

/// A bound local port; closed on drop.
pub trait BoundPort {
    /// Our number for it.
    fn port(&self) -> Port;
}

/// Event channel operations.
pub trait EventChannels {
    /// A local port, closed on drop.
    type Port: BoundPort + 'static;

    /// Connects a new local port to `remote`, which `domid` has offered to us.
    ///
    /// The new port starts pending, so that nothing sent before the binding is lost.
    fn bind_interdomain(&self, domid: Domid, remote: RemotePort) -> Result<Self::Port, EvtchnError>;
    /// Offers a new port to `domid`, to be published through xenstore.
    fn alloc_unbound(&self, domid: Domid) -> Result<Self::Port, EvtchnError>;
    /// Connects a new local port to a physical interrupt. `shared`: the line may have other owners (INTx).
    fn bind_pirq(&self, pirq: Pirq, shared: bool) -> Result<Self::Port, EvtchnError>;
    /// Notifies the other end.
    fn notify(&self, port: &Self::Port);
    /// Tests and clears the port's pending bit.
    fn take_pending(&self, port: &Self::Port) -> bool;
    /// Tells Xen that the interrupt behind a pirq port has been serviced, if Xen asked to be told.
    fn eoi(&self, port: &Self::Port);
    /// Sleeps until some bound port is pending or `deadline` has passed. May return early.
    fn wait(&self, deadline: Option<Instant>);
    /// Sleeps until `port` is pending or `deadline` has passed, whatever other ports are. May return early.
    ///
    /// For who waits for one answer and leaves all else until it is there: with [`wait`](Self::wait) it would not sleep while
    /// anything else is pending, and keep the CPU from whom it waits for.
    fn wait_on(&self, port: &Self::Port, deadline: Instant);
    /// The same for what xenstored sends, whose port the builder made. `None`: for as long as it takes.
    fn wait_for_xenstored(&self, deadline: Option<Instant>);
}
