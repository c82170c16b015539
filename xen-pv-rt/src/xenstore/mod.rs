//! The xenstore client: requests, replies, watch events over one shared page.
//!
//! [`poll`](Xenstore::poll) moves bytes and never waits; the operations are futures that the control plane's tasks
//! hold. Requests are pipelined and matched to replies by number. Nothing that xenstored does can make this
//! code panic, loop, or grow without bound: it is as untrusted as a frontend, except that it may lie about
//! its own store.
//!
//! Xen: `public/io/xs_wire.h`, `docs/misc/xenstore.txt`, `docs/misc/xenstore-ring.txt`.

mod connection;
mod fault;
mod incoming;
mod listing;
mod outgoing;
mod requests;
#[cfg(test)]
pub(crate) mod tests;
mod transactions;
mod watches;
mod wire;

use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::future::{Future, poll_fn};
use core::pin::Pin;
use core::sync::atomic::AtomicU32;
use core::task::{Context, Poll};

use crate::hyp::{Instant, Transaction, Watch, Xenstore, XsError};

use connection::Connection;
use listing::{Listing, Part};
use requests::Owner;
use ring::xenstore::Page;
use watches::Stage;
use wire::{Kind, check_path};

/// The way to xenstored.
pub trait XsRing {
    /// The page shared with xenstored, `struct xenstore_domain_interface`: 1024 words.
    fn words(&self) -> &[AtomicU32];
    /// Notifies xenstored's event channel.
    fn notify(&self);
}

struct Shared<R> {
    ring: R,
    connection: RefCell<Connection>,
}

/// A handle to the one connection.
pub struct Client<R>(Rc<Shared<R>>);

impl<R> Clone for Client<R> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<R: XsRing> Client<R> {
    /// Connects, taking the page over as an earlier program in this domain may have left it.
    pub fn new(ring: R) -> Self {
        let connection = RefCell::new(Connection::new(Page::new(ring.words())));
        Self(Rc::new(Shared { ring, connection }))
    }

    /// The ring this was made with.
    pub fn ring(&self) -> &R {
        &self.0.ring
    }

    fn with<T>(&self, body: impl FnOnce(&mut Connection, Page<'_>) -> T) -> T {
        let mut connection = self.0.connection.borrow_mut();
        let result = body(&mut connection, Page::new(self.0.ring.words()));
        let moved = connection.take_moved();
        drop(connection);
        // The protocol asks for a notification whenever an index has moved, either one.
        if moved {
            self.0.ring.notify();
        }
        result
    }

    /// Sends a request now, or as soon as there is room, and waits for its answer.
    async fn call(&self, kind: Kind, t: Transaction, body: &[&[u8]]) -> Result<Vec<u8>, XsError> {
        let id = self.with(|connection, page| {
            let id = connection.submit(Owner::Task, kind, t, body)?;
            connection.send(page);
            Ok(id)
        })?;
        Answer { client: self, id }.await
    }

    async fn end(&self, t: Transaction, verdict: &[u8]) -> Result<(), XsError> {
        if t == Transaction::NONE {
            return Err(XsError::Invalid);
        }
        let id = self.with(|connection, page| {
            let id = connection.submit(Owner::Task, Kind::TRANSACTION_END, t, &[verdict])?;
            connection.transactions.ended(t);
            connection.send(page);
            Ok(id)
        })?;
        Answer { client: self, id }.await.map(|_| ())
    }

    /// Reads a list that is too long for one reply.
    async fn list_parts(&self, t: Transaction, path: &str) -> Result<Vec<String>, XsError> {
        let mut listing = Listing::new();
        loop {
            let offset = listing.offset();
            let body: [&[u8]; 4] = [path.as_bytes(), b"\0", offset.as_bytes(), b"\0"];
            match listing.add(&self.call(Kind::DIRECTORY_PART, t, &body).await?)? {
                Part::More => {}
                Part::Last => return listing.finish(),
            }
        }
    }
}

impl<R: XsRing + 'static> Xenstore for Client<R> {
    type Watch = WatchHandle<R>;

    /// To be called after the port's pending bit was cleared. Takes bounded time.
    fn poll(&self, now: Instant) -> bool {
        self.with(|connection, page| connection.turn(page, now))
    }

    async fn read(&self, t: Transaction, path: &str) -> Result<Vec<u8>, XsError> {
        check_path(path)?;
        self.call(Kind::READ, t, &[path.as_bytes(), b"\0"]).await
    }

    async fn write(&self, t: Transaction, path: &str, value: &str) -> Result<(), XsError> {
        check_path(path)?;
        self.call(Kind::WRITE, t, &[path.as_bytes(), b"\0", value.as_bytes()]).await.map(|_| ())
    }

    async fn list(&self, t: Transaction, path: &str) -> Result<Vec<String>, XsError> {
        check_path(path)?;
        match self.call(Kind::DIRECTORY, t, &[path.as_bytes(), b"\0"]).await {
            Ok(reply) => listing::names(&reply),
            Err(XsError::TooBig) => self.list_parts(t, path).await,
            Err(error) => Err(error),
        }
    }

    async fn remove(&self, t: Transaction, path: &str) -> Result<(), XsError> {
        check_path(path)?;
        self.call(Kind::RM, t, &[path.as_bytes(), b"\0"]).await.map(|_| ())
    }

    async fn begin(&self) -> Result<Transaction, XsError> {
        let reply = self.call(Kind::TRANSACTION_START, Transaction::NONE, &[b"\0"]).await?;
        self.with(|connection, _| connection.transactions.begun(&reply))
    }

    async fn commit(&self, t: Transaction) -> Result<(), XsError> {
        self.end(t, b"T\0").await
    }

    async fn abort(&self, t: Transaction) -> Result<(), XsError> {
        self.end(t, b"F\0").await
    }

    async fn watch(&self, path: &str) -> Result<Self::Watch, XsError> {
        check_path(path)?;
        let token = self.with(|connection, _| connection.watches.add(path));
        // Removes the watch again if this future is dropped or fails.
        let handle = WatchHandle { client: self.clone(), token };
        let id = self.with(|connection, page| {
            let id = connection.watch(path, token)?;
            connection.send(page);
            Ok(id)
        })?;
        let answer = Answer { client: self, id }.await;
        let stage = if answer.is_ok() { Stage::Live } else { Stage::Unknown };
        self.with(|connection, _| connection.watches.set_stage(token, stage));
        match answer {
            Ok(_) => Ok(handle),
            // xenstored's answer to a watch beyond the quota; the path itself was not too long.
            Err(XsError::TooBig) => Err(XsError::Quota),
            Err(error) => Err(error),
        }
    }
}

/// A registered watch; removed on drop.
pub struct WatchHandle<R: XsRing> {
    client: Client<R>,
    token: u32,
}

impl<R: XsRing> Watch for WatchHandle<R> {
    async fn next(&self) -> String {
        poll_fn(|_| match self.client.with(|connection, _| connection.watches.take(self.token)) {
            Some(path) => Poll::Ready(path),
            None => Poll::Pending,
        })
        .await
    }
}

impl<R: XsRing> Drop for WatchHandle<R> {
    fn drop(&mut self) {
        self.client.with(|connection, page| {
            connection.unwatch(self.token);
            connection.send(page);
        });
    }
}

/// The answer to request `id`; dropping it abandons the request.
struct Answer<'c, R: XsRing> {
    client: &'c Client<R>,
    id: u32,
}

impl<R: XsRing> Future for Answer<'_, R> {
    type Output = Result<Vec<u8>, XsError>;

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Self::Output> {
        match self.client.with(|connection, _| connection.requests.take(self.id)) {
            Some(outcome) => Poll::Ready(outcome),
            None => Poll::Pending,
        }
    }
}

impl<R: XsRing> Drop for Answer<'_, R> {
    fn drop(&mut self) {
        self.client.with(|connection, page| {
            connection.abandon(self.id);
            connection.send(page);
        });
    }
}
