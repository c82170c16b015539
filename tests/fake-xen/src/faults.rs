//! Faults on demand.
//!
//! Each hook sees every operation before it is carried out and may say how it fails instead. A hook may count
//! ("the third one"), look at the operation, or change the world in the instant before.

use xen_pv_rt::hyp::{Domid, EvtchnError, GrantError, GrantRef, RemotePort, XsError};

/// One end of a grant copy that lies in a peer's page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyOp {
    /// Where it reads, if in a peer's page.
    pub source: Option<(Domid, GrantRef)>,
    /// Where it writes, if in a peer's page.
    pub dest: Option<(Domid, GrantRef)>,
    /// Bytes.
    pub len: u16,
}

/// An operation of the driver domain's on xenstore.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreOp {
    /// Reads a node.
    Read(String),
    /// Writes a node.
    Write(String, String),
    /// Lists a node's children.
    List(String),
    /// Removes a node.
    Remove(String),
    /// Begins a transaction.
    Begin,
    /// Commits a transaction.
    Commit,
    /// Abandons a transaction.
    Abort,
    /// Sets a watch.
    Watch(String),
}

type Hook<A, E> = Option<Box<dyn FnMut(&A) -> Option<E>>>;

/// The hooks. `None` lets everything through.
#[derive(Default)]
pub struct Faults {
    /// Grant maps: the granting domain and its reference.
    pub map: Hook<(Domid, GrantRef), GrantError>,
    /// Grant copies, one call per operation of a batch.
    pub copy: Hook<CopyOp, GrantError>,
    /// Bindings of event channels.
    pub bind: Hook<(Domid, RemotePort), EvtchnError>,
    /// Xenstore operations. Paths are absolute.
    pub store: Hook<StoreOp, XsError>,
}

/// Runs a hook. It is taken out meanwhile, so that it may use the machine.
pub(crate) fn consult<A, E>(
    faults: &std::cell::RefCell<Faults>,
    pick: impl Fn(&mut Faults) -> &mut Hook<A, E>,
    operation: &A,
) -> Option<E> {
    let mut hook = pick(&mut faults.borrow_mut()).take()?;
    let verdict = hook(operation);
    let mut faults = faults.borrow_mut();
    let slot = pick(&mut faults);
    if slot.is_none() {
        *slot = Some(hook);
    }
    verdict
}
