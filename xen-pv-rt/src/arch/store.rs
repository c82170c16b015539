//! The connection to xenstored: the page and port that the builder made, and the client on top.

use alloc::string::String;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::sync::atomic::AtomicU32;

use crate::hyp::{EventChannels, Instant, PAGE_SIZE, Transaction, Xenstore, XsError};
use crate::xenstore::{Client, WatchHandle, XsRing};

use super::abi::{PAGE_SHIFT, StartInfo};
use super::events::{self, XenPort};
use super::{Xen, paging};

/// The page shared with xenstored.
#[derive(Debug)]
pub struct StoreRing {
    va: u64,
    port: XenPort,
}

impl XsRing for StoreRing {
    fn words(&self) -> &[AtomicU32] {
        // SAFETY: the builder gave us this page, mapped, for good; xenstored writes it too, hence atomic words.
        unsafe { core::slice::from_raw_parts(core::ptr::with_exposed_provenance(self.va as usize), PAGE_SIZE / 4) }
    }

    fn notify(&self) {
        Xen(()).notify(&self.port);
    }
}

struct OneCpu(RefCell<Option<Client<StoreRing>>>);
// SAFETY: a domain has one vCPU and no interrupt handlers, so there is one thread of execution.
unsafe impl Sync for OneCpu {}

static CLIENT: OneCpu = OneCpu(RefCell::new(None));

/// Connects. Called once.
pub(super) fn init(start: &StartInfo) -> Result<(), &'static str> {
    let port = events::xenstore_port(start).map_err(|_| "no event channel to xenstored")?;
    let va = paging::pfn_of(start.store_mfn) << PAGE_SHIFT;
    *CLIENT.0.borrow_mut() = Some(Client::new(StoreRing { va, port }));
    Ok(())
}

fn client() -> Result<Client<StoreRing>, XsError> {
    CLIENT.0.borrow().clone().ok_or(XsError::Other)
}

/// Sleeps until xenstored has sent something or `deadline` has passed.
pub(super) fn wait(deadline: Option<Instant>) {
    if let Ok(client) = client() {
        events::wait_on(&client.ring().port, deadline);
    }
}

impl Xenstore for Xen {
    type Watch = WatchHandle<StoreRing>;

    fn poll(&self, now: Instant) -> bool {
        client().is_ok_and(|client| {
            self.take_pending(&client.ring().port);
            client.poll(now)
        })
    }

    async fn read(&self, t: Transaction, path: &str) -> Result<Vec<u8>, XsError> {
        client()?.read(t, path).await
    }
    async fn write(&self, t: Transaction, path: &str, value: &str) -> Result<(), XsError> {
        client()?.write(t, path, value).await
    }
    async fn list(&self, t: Transaction, path: &str) -> Result<Vec<String>, XsError> {
        client()?.list(t, path).await
    }
    async fn remove(&self, t: Transaction, path: &str) -> Result<(), XsError> {
        client()?.remove(t, path).await
    }
    async fn begin(&self) -> Result<Transaction, XsError> {
        client()?.begin().await
    }
    async fn commit(&self, t: Transaction) -> Result<(), XsError> {
        client()?.commit(t).await
    }
    async fn abort(&self, t: Transaction) -> Result<(), XsError> {
        client()?.abort(t).await
    }
    async fn watch(&self, path: &str) -> Result<Self::Watch, XsError> {
        client()?.watch(path).await
    }
}
