//! Cards that come and go while the domain runs: `xl pci-detach`, `xl pci-attach`.
//!
//! The task here speaks with xen-pciback; the loop alone touches cards in service. What they tell each other is in
//! [`Exchange`].

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::future::poll_fn;
use core::task::Poll;
use core::time::Duration;

use pciback::{PciBus, Sbdf};
use xen_pv_rt::hyp::{Platform, Watch as _, sleep};
use xen_pv_rt::task::Signal;
use xen_pv_rt::xenbus::read_text;

use super::attach;
use crate::nic::{AttachedNic, Settings};

/// How long to wait before a connection that could not be made is tried again.
const RECONNECT_POLL: Duration = Duration::from_secs(5);
/// Our directory on the PCI bus names its backend for as long as there is a bus.
const BACKEND: &str = "device/pci/0/backend";

/// What the task and the loop tell each other.
pub(super) struct Exchange<H: Platform> {
    /// The bus; another one after the last card was taken away and one was given again.
    pub(super) bus: RefCell<PciBus<H>>,
    /// Functions that Dom0 wants back and that are not out of service yet.
    pub(super) wanted_back: RefCell<Vec<Sbdf>>,
    /// Cards that are ready for service.
    pub(super) arrived: RefCell<Vec<AttachedNic<H>>>,
}

impl<H: Platform> Exchange<H> {
    pub(super) fn new(bus: PciBus<H>) -> Self {
        Self { bus: RefCell::new(bus), wanted_back: RefCell::default(), arrived: RefCell::default() }
    }
}

/// Has cards taken out of service when Dom0 wants them back, and makes those ready that it adds.
pub(super) async fn follow<H: Platform>(hyp: H, exchange: Rc<Exchange<H>>, settings: Settings, wake: Signal) {
    loop {
        let bus = exchange.bus.borrow().clone();
        let wanted = bus.wanted_back().await;
        exchange.wanted_back.borrow_mut().extend(wanted);
        wake.raise();
        // The loop looks at the cards in the same turn, and wakes us for the next.
        poll_fn(|_| if exchange.wanted_back.borrow().is_empty() { Poll::Ready(()) } else { Poll::Pending }).await;
        let goes_on = bus.confirm_removal().await;
        let (bus, added) = if goes_on {
            let added = bus.added().await;
            (bus, added)
        } else {
            log::warn!("pciback: the bus is gone");
            let bus = reconnect(&hyp).await;
            exchange.bus.replace(bus.clone());
            let functions = bus.functions();
            (bus, functions)
        };
        for sbdf in added {
            match attach(&bus, sbdf, settings).await {
                Ok(card) => {
                    exchange.arrived.borrow_mut().push(card);
                    wake.raise();
                }
                Err(error) => log::error!("be=hw pci={sbdf} cause=NIC_FAILED text=\"{error}\" action=refuse n=0"),
            }
        }
    }
}

/// Waits until Dom0 gives us a bus again.
async fn reconnect<H: Platform>(hyp: &H) -> PciBus<H> {
    loop {
        if let Ok(watch) = hyp.watch(BACKEND).await {
            while read_text(hyp, BACKEND).await.is_err() {
                watch.next().await;
            }
            match PciBus::connect(hyp.clone()).await {
                Ok(bus) => return bus,
                Err(error) => log::warn!("{error}"),
            }
        }
        sleep(hyp, RECONNECT_POLL).await;
    }
}
