//! Devices that come and go.
//!
//! One watch on `backend/vif` sees every device of this domain. The task is level-triggered: an event below
//! a known device only wakes that device's task; any other makes it list what is there and start a task for
//! each device that has none. Lost, repeated or spurious events therefore do no harm.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::time::Duration;

use embassy_futures::select::{Either, select};
use xen_pv_rt::hyp::{Domid, Hypervisor, Transaction, Watch, XsError, sleep};
use xen_pv_rt::xenbus::{BackendPath, DeviceKind};

use crate::netback::Shared;
use crate::vif::handshake;

const DIRECTORY: &str = "backend/vif";
/// How long to wait before asking xenstored again after it refused.
const RETRY: Duration = Duration::from_secs(1);

/// Serves every vif of this domain, for ever.
pub(crate) async fn run<H: Hypervisor>(shared: Rc<Shared<H>>) {
    let watch = loop {
        match shared.hyp.watch(DIRECTORY).await {
            Ok(watch) => break watch,
            Err(error) => log::error!("cannot watch {DIRECTORY}: {error}"),
        }
        sleep(&shared.hyp, RETRY).await;
    };
    loop {
        match select(watch.next(), shared.rescan.wait()).await {
            Either::First(changed) => match BackendPath::parse(DeviceKind::Vif, &changed) {
                Some(path) if shared.poke(&path) => {}
                Some(_) => reconcile(&shared).await,
                None => {
                    shared.poke_all();
                    reconcile(&shared).await;
                }
            },
            Either::Second(()) => reconcile(&shared).await,
        }
    }
}

/// Starts a task for each device that has none. A device's task ends by itself.
async fn reconcile<H: Hypervisor>(shared: &Rc<Shared<H>>) {
    loop {
        match devices(&shared.hyp).await {
            Ok(found) => {
                for path in found {
                    start(shared, path);
                }
                return;
            }
            Err(error) => log::warn!("cannot list {DIRECTORY}: {error}"),
        }
        sleep(&shared.hyp, RETRY).await;
    }
}

fn start<H: Hypervisor>(shared: &Rc<Shared<H>>, path: BackendPath) {
    if shared.stopping.get() {
        return;
    }
    let Some(poke) = shared.enter(path) else { return };
    let task = shared.clone();
    shared.tasks.spawn(async move {
        handshake::run(task.clone(), path, poke).await;
        task.leave(&path);
        // The directory may have been created anew while the task was finishing.
        task.rescan.raise();
    });
}

/// Every device directory there is.
async fn devices(hyp: &impl Hypervisor) -> Result<Vec<BackendPath>, XsError> {
    let mut found = Vec::new();
    for frontend in list(hyp, DIRECTORY).await? {
        let Ok(domid) = frontend.parse() else { continue };
        for device in list(hyp, &alloc::format!("{DIRECTORY}/{domid}")).await? {
            if let Ok(devid) = device.parse() {
                found.push(BackendPath { kind: DeviceKind::Vif, frontend: Domid::from_raw(domid), devid });
            }
        }
    }
    Ok(found)
}

async fn list(hyp: &impl Hypervisor, path: &str) -> Result<Vec<alloc::string::String>, XsError> {
    match hyp.list(Transaction::NONE, path).await {
        Err(XsError::NoEntry) => Ok(Vec::new()),
        other => other,
    }
}
