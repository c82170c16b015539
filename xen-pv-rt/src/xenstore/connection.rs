//! The connection's life: in service, being reset, looking for a message boundary, given up.

use alloc::collections::BTreeMap;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;
use core::time::Duration;

use crate::hyp::{Instant, Transaction, XsError};

use super::incoming::{Incoming, Next};
use super::outgoing::Outgoing;
use super::page::{BadIndex, Page, RING_BYTES};
use super::requests::{Owner, Requests, Settled};
use super::watches::Watches;
use super::wire::{Header, Kind, error_named};

/// xenstored drops events that found no room for 20 s. Less than that, for safety.
const EVENTS_KEPT: Duration = Duration::from_secs(15);

/// Bytes taken per turn. More than the ring holds, so whatever is left when a turn ends was written during
/// the turn, and its notification is still to be seen.
const TURN_BYTES: u32 = 16 * RING_BYTES;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    /// In service. This includes the search for a message boundary, see [`Incoming::is_hunting`].
    Up,
    /// A reset was asked for, by us or by whoever built the domain; requests wait in line.
    Reconnecting,
    /// xenstored has given up on us, or left the request ring unusable; every request fails.
    Dead,
}

/// What was wrong with xenstored's side of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// An index is where it cannot be.
    Index,
    /// A header that no server sends.
    Framing,
    /// xenstored set the error field.
    Server(u32),
}

impl From<BadIndex> for Fault {
    fn from(BadIndex: BadIndex) -> Self {
        Self::Index
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Index => f.write_str("impossible ring index"),
            Self::Framing => f.write_str("impossible message header"),
            Self::Server(error) => write!(f, "xenstored reports error {error}"),
        }
    }
}

/// Everything but the ring itself.
pub(super) struct Connection {
    link: Link,
    incoming: Incoming,
    outgoing: Outgoing,
    pub(super) requests: Requests,
    pub(super) watches: Watches,
    /// Our numbers for open transactions, and xenstored's.
    transactions: BTreeMap<u32, u32>,
    last_transaction: u32,
    last_turn: Option<Instant>,
    /// Tasks have something new.
    news: bool,
    /// A bogus reply has been reported since the last reset.
    complained: bool,
    moved: u32,
}

impl Connection {
    /// Takes the page over as it stands.
    pub(super) fn new(page: Page<'_>) -> Self {
        let (req_prod, _) = page.own_indices();
        let mut new = Self {
            link: Link::Reconnecting,
            incoming: Incoming::default(),
            outgoing: Outgoing::default(),
            requests: Requests::new(0),
            watches: Watches::default(),
            transactions: BTreeMap::new(),
            last_transaction: 0,
            last_turn: None,
            news: false,
            complained: false,
            moved: 0,
        };
        if !page.reconnecting() {
            new.attach(page);
            // A request takes 16 bytes at least, so the numbers of an earlier user of this page are all below.
            new.requests.renumber(req_prod);
            if req_prod != 0 {
                new.reset_watches();
            }
        }
        new
    }

    /// Moves bytes both ways. Returns whether tasks have something new.
    pub(super) fn turn(&mut self, page: Page<'_>, now: Instant) -> bool {
        if self.link == Link::Reconnecting && !page.reconnecting() {
            self.attach(page);
            self.rewatch();
        }
        if self.link == Link::Dead {
            self.resume(page);
        }
        if self.link == Link::Up {
            self.look_for_lost_events(page, now);
            if let Err(fault) = self.receive(page) {
                self.recover(page, fault);
            }
        }
        self.send(page);
        core::mem::take(&mut self.news)
    }

    /// Whether bytes were moved or a reset was asked for since the last call, of which xenstored must hear.
    pub(super) fn take_moved(&mut self) -> bool {
        core::mem::take(&mut self.moved) != 0
    }

    /// Sends what fits.
    pub(super) fn send(&mut self, page: Page<'_>) {
        while self.link == Link::Up {
            if self.outgoing.is_idle() {
                if self.incoming.is_hunting() && self.requests.in_flight() > 0 {
                    // Nothing but the probe: replies before its own would be skipped.
                    return;
                }
                let Some(request) = self.requests.next() else { return };
                self.outgoing.start(request);
            }
            match self.outgoing.flush(page, &mut self.moved) {
                Ok(()) if self.outgoing.is_idle() => {}
                Ok(()) => return,
                Err(BadIndex) => self.recover(page, Fault::Index),
            }
        }
    }

    /// Puts a request in line.
    pub(super) fn submit(&mut self, owner: Owner, kind: Kind, t: Transaction, body: &[&[u8]]) -> Result<u32, XsError> {
        if self.link == Link::Dead {
            return Err(XsError::Reset);
        }
        let tx_id = match t {
            Transaction::NONE => 0,
            // Begun before a reset, or ended.
            t => *self.transactions.get(&t.into_raw()).ok_or(XsError::Reset)?,
        };
        self.requests.submit(owner, kind, tx_id, body)
    }

    /// Gives a transaction that xenstored has begun a number of ours, which is never used again, so that it cannot
    /// be taken for a later one after a reset.
    pub(super) fn begun(&mut self, reply: &[u8]) -> Result<Transaction, XsError> {
        let tx_id = parse_transaction(reply).ok_or(XsError::Malformed)?;
        self.last_transaction = self.last_transaction.wrapping_add(1).max(1);
        self.transactions.insert(self.last_transaction, tx_id);
        Ok(Transaction::from_raw(self.last_transaction))
    }

    /// The transaction is over, whatever xenstored answers.
    pub(super) fn ended(&mut self, t: Transaction) {
        self.transactions.remove(&t.into_raw());
    }

    /// The task that waited for request `id` has gone.
    pub(super) fn abandon(&mut self, id: u32) {
        if let Some(reply) = self.requests.abandon(id) {
            self.end_orphan(&reply);
        }
    }

    /// The owner of a watch has gone.
    pub(super) fn unwatch(&mut self, token: u32) {
        if let Some(path) = self.watches.remove(token)
            && self.link == Link::Up
        {
            self.internal(Owner::Nobody, Kind::UNWATCH, &watch_body(&path, token));
        }
    }

    fn receive(&mut self, page: Page<'_>) -> Result<(), Fault> {
        if let Some(error) = page.server_error() {
            return Err(Fault::Server(error));
        }
        let start = self.moved;
        while self.moved.wrapping_sub(start) < TURN_BYTES {
            let was_hunting = self.incoming.is_hunting();
            match self.incoming.next(page, &mut self.moved)? {
                Next::Message(header, body) => self.dispatch(header, body),
                Next::Nothing => break,
                Next::LostFraming => return Err(Fault::Framing),
            }
            if was_hunting {
                log::info!("xenstore: found the message boundary again");
                self.reset_watches();
                self.rewatch();
            }
        }
        Ok(())
    }

    fn dispatch(&mut self, header: Header, body: Vec<u8>) {
        if header.kind == Kind::WATCH_EVENT {
            self.news |= self.watches.event(&body);
            return;
        }
        let error = (header.kind == Kind::ERROR).then(|| error_named(&body));
        match self.requests.settle(header.req_id, header.kind, body, error) {
            Settled::Task => self.news = true,
            Settled::Discarded => {}
            Settled::OrphanTransaction(reply) => self.end_orphan(&reply),
            Settled::WatchLost(token, error) => {
                // No event will come from xenstored for it.
                self.watches.fire(token);
                self.news = true;
                if error != XsError::Exists {
                    log::warn!("xenstore: a watch could not be registered again: {error}");
                }
            }
            Settled::Unexpected => {
                self.news = true;
                if !core::mem::replace(&mut self.complained, true) {
                    log::warn!("xenstore: reply to no request of ours: type {} id {}", header.kind.0, header.req_id);
                }
            }
        }
    }

    /// Has everything looked at again if xenstored may have dropped events because we did not read them.
    fn look_for_lost_events(&mut self, page: Page<'_>, now: Instant) {
        let before = self.last_turn.replace(now);
        let gap = before.is_some_and(|before| now.saturating_since(before) > EVENTS_KEPT);
        // Events are only dropped while there is not room for a single byte.
        if gap && self.incoming.is_full(page) {
            self.watches.fire_all();
            self.news = true;
        }
    }

    /// Continues after xenstored broke the protocol.
    fn recover(&mut self, page: Page<'_>, fault: Fault) {
        self.news |= self.requests.fail_all();
        self.transactions.clear();
        self.complained = false;
        self.link = Link::Dead;
        self.resume(page);
        match self.link {
            Link::Reconnecting => log::warn!("xenstore: {fault}; reconnecting"),
            Link::Up => log::warn!("xenstore: {fault}; looking for the next message"),
            Link::Dead => log::error!("xenstore: {fault}; connected devices go on, changes will not be seen"),
        }
    }

    /// Back into service: by a reset if xenstored offers one, else in step again from the reply to a request of
    /// ours. Neither is possible when xenstored has given up, or takes no requests.
    fn resume(&mut self, page: Page<'_>) {
        if page.can_reconnect() {
            self.link = Link::Reconnecting;
            self.requests.renumber(0);
            page.reconnect();
            self.moved = self.moved.saturating_add(1);
        } else if page.server_error().is_none() && self.outgoing.is_sane(page) {
            self.link = Link::Up;
            self.outgoing.drop_unsent();
            if let Some(probe) = self.internal(Owner::Nobody, Kind::READ, &[b"domid\0"]) {
                self.incoming.hunt(page, probe);
                self.moved = self.moved.saturating_add(1);
            }
        }
    }

    /// Starts at the indices of the page.
    fn attach(&mut self, page: Page<'_>) {
        let (req_prod, rsp_cons) = page.own_indices();
        self.incoming = Incoming::at(rsp_cons);
        self.outgoing = Outgoing::at(req_prod);
        self.link = Link::Up;
    }

    /// Frees watches and transactions that xenstored still holds for us. Its answer does not matter: a server
    /// without this request cannot be helped. Never within a transaction (XSA-484).
    fn reset_watches(&mut self) {
        self.internal(Owner::Nobody, Kind::RESET_WATCHES, &[b"\0"]);
    }

    /// Registers all watches again. xenstored fires each once.
    fn rewatch(&mut self) {
        for (token, path) in self.watches.live() {
            self.internal(Owner::Rewatch(token), Kind::WATCH, &watch_body(&path, token));
        }
    }

    fn end_orphan(&mut self, reply: &[u8]) {
        if let Some(tx_id) = parse_transaction(reply) {
            // Bounded by the number of begun transactions, which are tasks' requests.
            let _ = self.requests.submit(Owner::Nobody, Kind::TRANSACTION_END, tx_id, &[b"F\0"]);
        }
    }

    fn internal(&mut self, owner: Owner, kind: Kind, body: &[impl AsRef<[u8]>]) -> Option<u32> {
        let parts: Vec<&[u8]> = body.iter().map(AsRef::as_ref).collect();
        // Fails only for bodies that are too big, and these were sent before.
        self.requests.submit(owner, kind, 0, &parts).ok()
    }
}

/// The body of `WATCH` and `UNWATCH`.
pub(super) fn watch_body(path: &str, token: u32) -> [String; 4] {
    [path.to_string(), "\0".to_string(), token.to_string(), "\0".to_string()]
}

fn parse_transaction(reply: &[u8]) -> Option<u32> {
    let text = core::str::from_utf8(reply).ok()?;
    text.strip_suffix('\0').unwrap_or(text).parse().ok().filter(|id| *id != 0)
}
