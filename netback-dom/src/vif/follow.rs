//! Keys that a frontend may change while it is connected.
//!
//! Xen: `feature-dynamic-multicast-control`.

use alloc::rc::Rc;
use core::cell::RefCell;

use embassy_futures::select::{Either, select};
use xen_pv_rt::hyp::{Hypervisor, Watch};
use xen_pv_rt::task::Signal;
use xen_pv_rt::xenbus::FrontendPath;

use super::keys::{self, MULTICAST_CONTROL};
use crate::dataplane::Plane;
use crate::switch::PortId;

/// Keeps the data plane up to date about `request-multicast-control` until `stop` is raised.
pub(super) async fn multicast_control<H: Hypervisor>(
    hyp: H,
    plane: Rc<RefCell<Plane<H>>>,
    frontend: FrontendPath,
    id: PortId,
    stop: Signal,
) {
    let watching = async {
        let watch = match hyp.watch(&frontend.key(MULTICAST_CONTROL)).await {
            Ok(watch) => watch,
            Err(error) => {
                log::warn!("request-multicast-control is not followed: {error}");
                return;
            }
        };
        loop {
            drop(watch.next().await);
            let on = keys::read_multicast_control(&hyp, &frontend).await;
            plane.borrow_mut().set_multicast_control(id, on);
        }
    };
    match select(stop.wait(), watching).await {
        Either::First(()) | Either::Second(()) => {}
    }
}
