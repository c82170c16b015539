//! A xenstored for tests: on the real page layout, strict about what the client sends, and able to misbehave.
//!
//! It panics when the client breaks the protocol in a way that would cost a domain its connection.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cell::Cell;
use core::sync::atomic::{AtomicU32, Ordering::SeqCst};

use crate::xenstore::XsRing;

pub(crate) const DIRECTORY: u32 = 1;
pub(crate) const READ: u32 = 2;
pub(crate) const WATCH: u32 = 4;
pub(crate) const UNWATCH: u32 = 5;
pub(crate) const START: u32 = 6;
pub(crate) const END: u32 = 7;
pub(crate) const WRITE: u32 = 11;
pub(crate) const RM: u32 = 13;
pub(crate) const EVENT: u32 = 15;
pub(crate) const ERROR: u32 = 16;
pub(crate) const RESET: u32 = 21;
pub(crate) const PART: u32 = 22;

pub(crate) const REQ_CONS: usize = 512;
pub(crate) const REQ_PROD: usize = 513;
pub(crate) const RSP_CONS: usize = 514;
pub(crate) const RSP_PROD: usize = 515;
pub(crate) const FEATURES: usize = 516;
pub(crate) const CONNECTION: usize = 517;
pub(crate) const SERVER_ERROR: usize = 518;

/// The shared page, and a count of notifications.
pub(crate) struct SharedPage {
    words: Box<[AtomicU32]>,
    pub(crate) notified: Cell<u32>,
}

impl SharedPage {
    pub(crate) fn new() -> Rc<Self> {
        let words = (0..1024).map(|_| AtomicU32::new(0)).collect();
        Rc::new(Self { words, notified: Cell::new(0) })
    }

    pub(crate) fn get(&self, word: usize) -> u32 {
        self.words[word].load(SeqCst)
    }

    pub(crate) fn set(&self, word: usize, value: u32) {
        self.words[word].store(value, SeqCst);
    }

    fn byte(&self, at: usize) -> u8 {
        self.get(at / 4).to_le_bytes()[at % 4]
    }

    fn set_byte(&self, at: usize, byte: u8) {
        let mut bytes = self.get(at / 4).to_le_bytes();
        bytes[at % 4] = byte;
        self.set(at / 4, u32::from_le_bytes(bytes));
    }
}

impl XsRing for Rc<SharedPage> {
    fn words(&self) -> &[AtomicU32] {
        &self.words
    }

    fn notify(&self) {
        self.notified.set(self.notified.get() + 1);
    }
}

type Nodes = BTreeMap<String, Vec<u8>>;

/// One request as it came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) kind: u32,
    pub(crate) id: u32,
    pub(crate) tx: u32,
    pub(crate) body: Vec<u8>,
}

pub(crate) struct Daemon {
    pub(crate) page: Rc<SharedPage>,
    pub(crate) nodes: Nodes,
    pub(crate) watches: Vec<(String, String)>,
    pub(crate) transactions: BTreeMap<u32, (u64, Nodes)>,
    /// Every request since the start.
    pub(crate) seen: Vec<Seen>,
    /// Replies are held back, to be sent in another order, or never.
    pub(crate) held: Option<Vec<Vec<u8>>>,
    pub(crate) watch_quota: usize,
    /// A node that may be neither read nor written.
    pub(crate) denied: Option<&'static str>,
    pub(crate) transaction_quota: usize,
    /// More than 20 outstanding requests are the client's fault. If not, xenstored just stops reading.
    pub(crate) strict: bool,
    next_tx: u32,
    generation: u64,
    input: Vec<u8>,
    pub(crate) output: VecDeque<u8>,
    unanswered: usize,
    sent: VecDeque<(usize, u32)>,
}

fn message(kind: u32, id: u32, tx: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    [kind, id, tx, body.len() as u32].iter().for_each(|word| bytes.extend_from_slice(&word.to_le_bytes()));
    bytes.extend_from_slice(body);
    bytes
}

/// A header with any length, and no body.
pub(crate) fn bare_header(kind: u32, id: u32, len: u32) -> Vec<u8> {
    let mut bytes = message(kind, id, 0, b"");
    bytes[12..].copy_from_slice(&len.to_le_bytes());
    bytes
}

impl Daemon {
    pub(crate) fn new(page: &Rc<SharedPage>) -> Self {
        Self {
            page: page.clone(),
            nodes: Nodes::new(),
            watches: Vec::new(),
            transactions: BTreeMap::new(),
            seen: Vec::new(),
            held: None,
            watch_quota: 128,
            denied: None,
            transaction_quota: 10,
            strict: true,
            next_tx: 0,
            generation: 0,
            input: Vec::new(),
            output: VecDeque::new(),
            unanswered: 0,
            sent: VecDeque::new(),
        }
    }

    /// Starts both rings at `index` instead of 0.
    pub(crate) fn start_indices_at(&self, index: u32) {
        (REQ_CONS..=RSP_PROD).for_each(|word| self.page.set(word, index));
    }

    /// Moves everything that can be moved. Returns whether anything was.
    pub(crate) fn run(&mut self) -> bool {
        let mut moved = false;
        while self.step(u32::MAX, u32::MAX) {
            moved = true;
        }
        moved
    }

    /// Takes at most `take` request bytes and gives at most `give` response bytes.
    pub(crate) fn step(&mut self, take: u32, give: u32) -> bool {
        if self.page.get(CONNECTION) == 1 {
            if self.page.get(FEATURES) & 1 != 0 {
                self.reset();
                return true;
            }
            return false;
        }
        let taken = self.take_requests(take);
        let given = self.give_responses(give);
        taken || given
    }

    /// Everything about the connection is void.
    pub(crate) fn reset(&mut self) {
        (REQ_CONS..=RSP_PROD).for_each(|word| self.page.set(word, 0));
        self.page.set(SERVER_ERROR, 0);
        self.page.set(CONNECTION, 0);
        self.input.clear();
        self.output.clear();
        self.sent.clear();
        self.unanswered = 0;
        self.held = self.held.take().map(|_| Vec::new());
        self.watches.clear();
        self.transactions.clear();
        self.next_tx = 0;
    }

    fn take_requests(&mut self, limit: u32) -> bool {
        let (cons, prod) = (self.page.get(REQ_CONS), self.page.get(REQ_PROD));
        let waiting = prod.wrapping_sub(cons);
        assert!(waiting <= 1024, "req_prod {prod} is impossible at req_cons {cons}");
        let count = waiting.min(limit);
        for at in 0..count {
            self.input.push(self.page.byte(cons.wrapping_add(at) as usize % 1024));
        }
        self.page.set(REQ_CONS, cons.wrapping_add(count));
        while self.strict || self.unanswered < 20 {
            let Some(seen) = self.next_request() else { break };
            self.seen.push(seen.clone());
            self.unanswered += 1;
            assert!(self.unanswered <= 20, "more than 20 requests outstanding");
            let before = self.nodes.clone();
            let (kind, body) = match self.execute(&seen) {
                Ok(body) => (seen.kind, body),
                Err(name) => (ERROR, [name.as_bytes(), b"\0"].concat()),
            };
            self.reply(message(kind, seen.id, seen.tx, &body));
            self.after(&seen, kind, &before);
        }
        count > 0
    }

    fn next_request(&mut self) -> Option<Seen> {
        let word = |at: usize| Some(u32::from_le_bytes(self.input.get(at..at + 4)?.try_into().unwrap()));
        let (kind, id, tx, len) = (word(0)?, word(4)?, word(8)?, word(12)?);
        assert!(len <= 4096, "payload of {len} bytes: connection lost");
        let known = [DIRECTORY, READ, WATCH, UNWATCH, START, END, WRITE, RM, RESET, PART];
        assert!(known.contains(&kind), "request of type {kind}");
        let body = self.input.get(16..16 + len as usize)?.to_vec();
        self.input.drain(..16 + len as usize);
        Some(Seen { kind, id, tx, body })
    }

    fn execute(&mut self, seen: &Seen) -> Result<Vec<u8>, &'static str> {
        let fields: Vec<&[u8]> = seen.body.split(|byte| *byte == 0).collect();
        let path = String::from_utf8(fields[0].to_vec()).expect("paths are text");
        match seen.kind {
            START => {
                assert_eq!((seen.tx, &seen.body[..]), (0, &b"\0"[..]));
                if self.transactions.len() >= self.transaction_quota {
                    return Err("ENOSPC");
                }
                self.next_tx += 1;
                self.transactions.insert(self.next_tx, (self.generation, self.nodes.clone()));
                return Ok(format!("{}\0", self.next_tx).into_bytes());
            }
            END => return self.end(seen.tx, &seen.body),
            RESET => {
                assert_eq!((seen.tx, &seen.body[..]), (0, &b"\0"[..]), "XSA-484");
                self.watches.clear();
                self.transactions.clear();
                return Ok(b"OK\0".to_vec());
            }
            WATCH => return self.watch(&path, fields[1]),
            UNWATCH => {
                let token = String::from_utf8(fields[1].to_vec()).unwrap();
                let at =
                    self.watches.iter().position(|known| *known == (path.clone(), token.clone())).ok_or("ENOENT")?;
                self.watches.remove(at);
                return Ok(b"OK\0".to_vec());
            }
            _ => {}
        }
        if self.denied == Some(path.as_str()) {
            return Err("EACCES");
        }
        let nodes = match seen.tx {
            0 => &mut self.nodes,
            tx => &mut self.transactions.get_mut(&tx).expect("an open transaction").1,
        };
        let reply = on_nodes(nodes, seen.kind, &path, &seen.body);
        if seen.tx == 0 && matches!(seen.kind, WRITE | RM) {
            self.generation += 1;
        }
        reply
    }

    fn end(&mut self, tx: u32, body: &[u8]) -> Result<Vec<u8>, &'static str> {
        let (generation, nodes) = self.transactions.remove(&tx).expect("an open transaction");
        match body {
            b"F\0" => {}
            b"T\0" if generation != self.generation => return Err("EAGAIN"),
            b"T\0" => {
                self.generation += 1;
                self.nodes = nodes;
            }
            _ => panic!("TRANSACTION_END with {body:?}"),
        }
        Ok(b"OK\0".to_vec())
    }

    fn watch(&mut self, path: &str, token: &[u8]) -> Result<Vec<u8>, &'static str> {
        let watch = (path.to_string(), String::from_utf8(token.to_vec()).unwrap());
        if self.watches.contains(&watch) {
            return Err("EEXIST");
        }
        if self.watches.len() >= self.watch_quota {
            return Err("E2BIG");
        }
        self.watches.push(watch);
        Ok(b"OK\0".to_vec())
    }

    /// Sends what a successful request causes: watch events.
    fn after(&mut self, seen: &Seen, kind: u32, before: &Nodes) {
        if kind == WATCH {
            let (path, token) = self.watches.last().unwrap().clone();
            self.send_event(&path, &token);
        }
        let touched: Vec<String> = match seen.kind {
            WRITE | RM if seen.tx == 0 && kind != ERROR => {
                let path = seen.body.split(|byte| *byte == 0).next().unwrap();
                Vec::from([String::from_utf8(path.to_vec()).unwrap()])
            }
            END => {
                let changed = self.nodes.iter().filter(|(path, value)| before.get(*path) != Some(value));
                changed.map(|(path, _)| path.clone()).collect()
            }
            _ => Vec::new(),
        };
        touched.iter().for_each(|path| self.fire(path));
    }

    /// Another domain writes.
    pub(crate) fn write(&mut self, path: &str, value: &[u8]) {
        self.nodes.insert(path.into(), value.into());
        self.generation += 1;
        self.fire(path);
    }

    fn fire(&mut self, path: &str) {
        for (watched, token) in self.watches.clone() {
            if path == watched || path.starts_with(&format!("{watched}/")) {
                self.send_event(path, &token);
            }
        }
    }

    pub(crate) fn send_event(&mut self, path: &str, token: &str) {
        self.send_raw(&message(EVENT, 0, 0, format!("{path}\0{token}\0").as_bytes()));
    }

    /// Any message.
    pub(crate) fn send(&mut self, kind: u32, id: u32, body: &[u8]) {
        self.send_raw(&message(kind, id, 0, body));
    }

    pub(crate) fn send_raw(&mut self, bytes: &[u8]) {
        self.output.extend(bytes);
    }

    fn reply(&mut self, bytes: Vec<u8>) {
        match &mut self.held {
            Some(held) => held.push(bytes),
            None => self.release(&bytes),
        }
    }

    /// Sends a reply that was held.
    pub(crate) fn release(&mut self, bytes: &[u8]) {
        self.output.extend(bytes);
        // A reply is outstanding until its last byte is in the ring.
        self.sent.push_back((self.output.len(), 1));
    }

    fn give_responses(&mut self, limit: u32) -> bool {
        let (cons, prod) = (self.page.get(RSP_CONS), self.page.get(RSP_PROD));
        let used = prod.wrapping_sub(cons);
        assert!(used <= 1024, "rsp_cons {cons} is impossible at rsp_prod {prod}");
        let count = (1024 - used).min(limit).min(self.output.len() as u32);
        for at in 0..count {
            let byte = self.output.pop_front().unwrap();
            self.page.set_byte(1024 + prod.wrapping_add(at) as usize % 1024, byte);
        }
        self.page.set(RSP_PROD, prod.wrapping_add(count));
        for (left, _) in &mut self.sent {
            *left = left.saturating_sub(count as usize);
        }
        while self.sent.front().is_some_and(|(left, _)| *left == 0) {
            self.sent.pop_front();
            self.unanswered -= 1;
        }
        count > 0
    }
}

fn on_nodes(nodes: &mut Nodes, kind: u32, path: &str, body: &[u8]) -> Result<Vec<u8>, &'static str> {
    let below = format!("{path}/");
    let children = |nodes: &Nodes| -> Vec<u8> {
        let mut names: Vec<&str> = nodes
            .keys()
            .filter_map(|key| key.strip_prefix(&below))
            .map(|rest| rest.split('/').next().unwrap())
            .collect();
        names.dedup();
        names.iter().flat_map(|name| name.bytes().chain([0])).collect()
    };
    let exists = nodes.contains_key(path) || nodes.keys().any(|key| key.starts_with(&below));
    match kind {
        READ => nodes.get(path).cloned().ok_or("ENOENT"),
        WRITE => {
            nodes.insert(path.into(), body[path.len() + 1..].to_vec());
            Ok(b"OK\0".to_vec())
        }
        RM => {
            nodes.retain(|key, _| key != path && !key.starts_with(&below));
            Ok(b"OK\0".to_vec())
        }
        _ if !exists => Err("ENOENT"),
        DIRECTORY => Some(children(nodes)).filter(|list| list.len() <= 4096).ok_or("E2BIG"),
        PART => Ok(part(&children(nodes), body)),
        _ => panic!("type {kind}"),
    }
}

/// As xenstored cuts it: whole names, at most a payload, one more NUL at the end of the list.
fn part(list: &[u8], body: &[u8]) -> Vec<u8> {
    let offset = body.split(|byte| *byte == 0).nth(1).unwrap();
    let offset: usize = core::str::from_utf8(offset).unwrap().parse().unwrap();
    let mut reply = b"77\0".to_vec();
    let rest = &list[offset.min(list.len())..];
    let mut len = 0;
    for name in rest.split_inclusive(|byte| *byte == 0) {
        if reply.len() + len + name.len() > 4095 {
            break;
        }
        len += name.len();
    }
    reply.extend_from_slice(&rest[..len]);
    if len == rest.len() {
        reply.push(0);
    }
    reply
}
