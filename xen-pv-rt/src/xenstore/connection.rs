//! The connection's life: in service, being reset, looking for a message boundary, given up.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::time::Duration;

use crate::hyp::{Instant, Transaction, XsError};

use super::fault::{Fault, Log, Remedy};
use super::incoming::{Incoming, Next};
use super::outgoing::Outgoing;
use super::requests::{Owner, Requests, Settled};
use super::transactions::{self, Transactions};
use super::watches::{Stage, Watches};
use super::wire::{Header, Kind, error_named};
use ring::xenstore::{BadIndex, Page, RING_BYTES};

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

/// Everything but the ring itself.
pub(super) struct Connection {
    link: Link,
    incoming: Incoming,
    outgoing: Outgoing,
    pub(super) requests: Requests,
    pub(super) watches: Watches,
    pub(super) transactions: Transactions,
    last_turn: Option<Instant>,
    /// Tasks have something new.
    news: bool,
    moved: u32,
    log: Log,
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
            transactions: Transactions::default(),
            last_turn: None,
            news: false,
            moved: 0,
            log: Log::default(),
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
        self.log.set_now(now);
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
                Err(BadIndex) => {
                    // The next turn goes on.
                    self.recover(page, Fault::Index);
                    return;
                }
            }
        }
    }

    /// Puts a request in line.
    pub(super) fn submit(&mut self, owner: Owner, kind: Kind, t: Transaction, body: &[&[u8]]) -> Result<u32, XsError> {
        if self.link == Link::Dead {
            return Err(XsError::Reset);
        }
        let tx_id = self.transactions.tx_id(t)?;
        self.requests.submit(owner, kind, tx_id, body)
    }

    /// The task that waited for request `id` has gone.
    pub(super) fn abandon(&mut self, id: u32) {
        if let Some(reply) = self.requests.abandon(id) {
            self.end_orphan(&reply);
        }
    }

    /// Registers the watch `token`, for the first time.
    pub(super) fn watch(&mut self, path: &str, token: u32) -> Result<u32, XsError> {
        let parts = watch_body(path, token);
        let body: Vec<&[u8]> = parts.iter().map(String::as_bytes).collect();
        let id = self.submit(Owner::Task, Kind::WATCH, Transaction::NONE, &body)?;
        self.watches.set_stage(token, Stage::Asked);
        Ok(id)
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
            match self.incoming.next(page, &mut self.moved)? {
                Next::Message(header, body) => self.dispatch(header, body),
                Next::Nothing => break,
                Next::LostFraming => return Err(Fault::Framing),
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
            Settled::Probe => {
                self.log.recovered();
                self.start_afresh();
            }
            Settled::WatchLost(token, error) => {
                // No event will come from xenstored for it.
                self.watches.fire(token);
                self.news = true;
                if error != XsError::Exists {
                    self.log.watch_lost(error);
                }
            }
            Settled::Unexpected => {
                self.news = true;
                self.log.stray_reply(&header);
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
        self.link = Link::Dead;
        self.resume(page);
        let remedy = match self.link {
            Link::Reconnecting => Remedy::Reconnect,
            Link::Up => Remedy::Hunt,
            Link::Dead => Remedy::None,
        };
        self.log.fault(fault, remedy);
    }

    /// Back into service: by a reset if xenstored offers one or has just made one unasked, else in step again from
    /// the reply to a request of ours. Not possible while xenstored has given up, or takes no requests.
    fn resume(&mut self, page: Page<'_>) {
        if page.can_reconnect() {
            self.link = Link::Reconnecting;
            self.requests.renumber(0);
            page.reconnect();
            self.moved = self.moved.saturating_add(1);
            return;
        }
        if page.server_error().is_some() {
            return;
        }
        if self.outgoing.was_moved(page) {
            self.attach(page);
            self.start_afresh();
        } else if self.outgoing.is_sane(page) {
            self.link = Link::Up;
            self.outgoing.drop_unsent();
            if let Some(probe) = self.internal(Owner::Probe, Kind::READ, &[b"domid\0"]) {
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

    /// Puts xenstored's idea of us in order after an interruption, of which it may not know.
    fn start_afresh(&mut self) {
        self.reset_watches();
        self.rewatch();
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
        if let Some(tx_id) = transactions::number(reply) {
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
fn watch_body(path: &str, token: u32) -> [String; 4] {
    [path.to_string(), "\0".to_string(), token.to_string(), "\0".to_string()]
}
