//! Registered watches and their events that were not read yet.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::string::String;
use alloc::vec::Vec;

/// Different paths that one watch keeps before it says "look at all of it" instead.
pub(super) const QUEUE_MAX: usize = 32;
/// Bytes of paths that one watch keeps. A frontend may give the nodes of its directory long names.
pub(super) const QUEUE_BYTES_MAX: usize = 2048;

/// What xenstored knows of a watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Nothing.
    Unknown,
    /// It is being asked to register it.
    Asked,
    /// It has confirmed it, at least once.
    Live,
}

struct Entry {
    path: String,
    queue: VecDeque<String>,
    /// Look at everything below the path. Stands for any number of events.
    all: bool,
    stage: Stage,
}

impl Entry {
    fn fire(&mut self) {
        self.queue.clear();
        self.all = true;
    }
}

/// All watches, by token.
#[derive(Default)]
pub(super) struct Watches {
    by_token: BTreeMap<u32, Entry>,
    last_token: u32,
}

impl Watches {
    /// Adds a watch that is about to be registered and returns its token.
    pub(super) fn add(&mut self, path: &str) -> u32 {
        loop {
            self.last_token = self.last_token.wrapping_add(1);
            // Ends: xenstored's quota allows some hundred watches.
            if !self.by_token.contains_key(&self.last_token) {
                break;
            }
        }
        let entry = Entry { path: path.into(), queue: VecDeque::new(), all: false, stage: Stage::Unknown };
        self.by_token.insert(self.last_token, entry);
        self.last_token
    }

    /// Notes what xenstored knows of the watch.
    pub(super) fn set_stage(&mut self, token: u32, stage: Stage) {
        if let Some(entry) = self.by_token.get_mut(&token) {
            entry.stage = stage;
        }
    }

    /// Removes a watch and returns its path if there is something to unregister.
    pub(super) fn remove(&mut self, token: u32) -> Option<String> {
        self.by_token.remove(&token).filter(|entry| entry.stage != Stage::Unknown).map(|entry| entry.path)
    }

    /// Tokens and paths of the confirmed watches, oldest first.
    pub(super) fn live(&self) -> Vec<(u32, String)> {
        let live = self.by_token.iter().filter(|(_, entry)| entry.stage == Stage::Live);
        live.map(|(token, entry)| (*token, entry.path.clone())).collect()
    }

    /// Files an event, given as the body of the message. Returns whether an owner has something new.
    pub(super) fn event(&mut self, body: &[u8]) -> bool {
        let mut fields = body.split(|byte| *byte == 0);
        let (Some(path), Some(token)) = (fields.next(), fields.next()) else { return false };
        let Some(entry) = parse_token(token).and_then(|token| self.by_token.get_mut(&token)) else { return false };
        if entry.all {
            return false;
        }
        match core::str::from_utf8(path) {
            Ok(path) if !path.is_empty() => {
                if entry.queue.iter().any(|queued| queued == path) {
                    return false;
                }
                let bytes = entry.queue.iter().fold(path.len(), |sum, queued| sum.saturating_add(queued.len()));
                if entry.queue.len() < QUEUE_MAX && bytes <= QUEUE_BYTES_MAX {
                    entry.queue.push_back(path.into());
                } else {
                    entry.fire();
                }
            }
            // Something changed, but the path cannot be told.
            _ => entry.fire(),
        }
        true
    }

    /// Has the owner of one watch look at everything.
    pub(super) fn fire(&mut self, token: u32) {
        if let Some(entry) = self.by_token.get_mut(&token) {
            entry.fire();
        }
    }

    /// Has all owners look at everything.
    pub(super) fn fire_all(&mut self) {
        self.by_token.values_mut().for_each(Entry::fire);
    }

    /// The next event of a watch.
    pub(super) fn take(&mut self, token: u32) -> Option<String> {
        let entry = self.by_token.get_mut(&token)?;
        if core::mem::take(&mut entry.all) {
            return Some(entry.path.clone());
        }
        entry.queue.pop_front()
    }
}

fn parse_token(token: &[u8]) -> Option<u32> {
    core::str::from_utf8(token).ok()?.parse().ok()
}
