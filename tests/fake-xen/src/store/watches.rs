//! Watches of the driver domain.

use std::collections::{BTreeMap, VecDeque};

use xen_pv_rt::hyp::Domid;

use super::tree::{Perms, is_below};

pub(crate) struct Watch {
    domid: Domid,
    path: String,
    /// As it was asked for: events have paths of the same form.
    asked: String,
    /// Events that xenstored has sent and the client has not received.
    sent: VecDeque<String>,
    /// Events that the client has received and nobody has read.
    arrived: VecDeque<String>,
}

#[derive(Default)]
pub(crate) struct Watches {
    watches: BTreeMap<u64, Watch>,
    next: u64,
    /// State of the generator that picks events out of order, if it is on.
    shuffle: Option<u64>,
}

impl Watches {
    pub(crate) fn count(&self, domid: Domid) -> usize {
        self.watches.values().filter(|watch| watch.domid == domid).count()
    }

    pub(crate) fn has_news(&self) -> bool {
        self.watches.values().any(|watch| !watch.sent.is_empty())
    }

    /// Sets a watch, which fires at once.
    pub(crate) fn add(&mut self, domid: Domid, path: String, asked: String) -> u64 {
        self.next += 1;
        let sent = VecDeque::from([asked.clone()]);
        self.watches.insert(self.next, Watch { domid, path, asked, sent, arrived: VecDeque::new() });
        self.next
    }

    pub(crate) fn remove(&mut self, id: u64) {
        self.watches.remove(&id);
    }

    /// A change of `path`. With `exact`, the node went away with one above it.
    pub(crate) fn fire(&mut self, path: &str, perms: &Perms, exact: bool) {
        for watch in self.watches.values_mut() {
            let meant = if exact { watch.path == path } else { is_below(path, &watch.path) };
            if meant && perms.may_read(watch.domid) {
                let below = path.strip_prefix(&watch.path).unwrap_or("");
                watch.send(format!("{}{below}", watch.asked));
            }
        }
    }

    /// Fires every watch for no reason.
    pub(crate) fn fire_all(&mut self) {
        for watch in self.watches.values_mut() {
            let asked = watch.asked.clone();
            watch.send(asked);
        }
    }

    /// Forgets what the client has not received.
    pub(crate) fn lose_all(&mut self) {
        self.watches.values_mut().for_each(|watch| watch.sent.clear());
    }

    pub(crate) fn shuffle(&mut self, seed: u64) {
        self.shuffle = Some(seed | 1);
    }

    /// Hands what was sent to the client. Returns whether there was anything.
    pub(crate) fn deliver(&mut self) -> bool {
        let mut any = false;
        for watch in self.watches.values_mut() {
            for event in std::mem::take(&mut watch.sent) {
                any = true;
                if !watch.arrived.contains(&event) {
                    watch.arrived.push_back(event);
                }
            }
        }
        any
    }

    /// The next event of a watch.
    pub(crate) fn take(&mut self, id: u64) -> Option<String> {
        let watch = self.watches.get_mut(&id)?;
        let Some(state) = &mut self.shuffle else { return watch.arrived.pop_front() };
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        let at = usize::try_from(*state % u64::try_from(watch.arrived.len().max(1)).unwrap()).unwrap();
        watch.arrived.remove(at)
    }
}

impl Watch {
    fn send(&mut self, event: String) {
        if !self.sent.contains(&event) {
            self.sent.push_back(event);
        }
    }
}
