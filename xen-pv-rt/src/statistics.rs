//! Numbers for Dom0, in xenstore: no network is needed to read them.
//!
//! Nodes below `data/statistics/` of our own directory, which only we and Dom0 may read. A node holds words of the form
//! `name=value`. Every [`PERIOD`] the nodes whose content changed are written, one after the other, so that a
//! handshake waits for at most one of these requests.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::{Display, Write as _};
use core::time::Duration;

use crate::hyp::{Clock, MemoryUse, Transaction, Xenstore, XsError, sleep};

/// Least time between two writes of a node.
pub const PERIOD: Duration = Duration::from_secs(5);
/// How long the event loop is given to leave its numbers: it looks once per turn whether they are wanted.
const POSTING: Duration = Duration::from_millis(20);
/// The directory of all nodes, in ours.
const DIRECTORY: &str = "data/statistics";
/// Most bytes of a node: Xen's default quota (`entry-size`). A word that does not fit is left out.
pub const MAX_LINE: usize = 2048;

/// A counter of a report: its name, which is stable, and how to get at it.
pub type Counter<T> = (&'static str, fn(&T) -> u64);

/// Words of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Words(String);

impl Words {
    /// None yet.
    pub const fn new() -> Self {
        Self(String::new())
    }

    /// Those that every domain has: its version and its memory.
    pub fn of_domain(version: &str, memory: MemoryUse) -> Self {
        Self::new()
            .with("version", version)
            .with("memory-total-kib", memory.total_kib())
            .with("memory-used-kib", memory.used_kib())
            .with("heap-used-bytes", memory.heap_bytes)
    }

    /// Adds a word. A line that would be longer than xenstored takes stays as it is.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Display) -> Self {
        let before = self.0.len();
        let space = if before == 0 { "" } else { " " };
        // A string takes everything.
        let _ = write!(self.0, "{space}{name}={value}");
        if self.0.len() > MAX_LINE {
            self.0.truncate(before);
        }
        self
    }

    /// Adds counters of a report.
    #[must_use]
    pub fn with_counters<T>(self, report: &T, counters: &[Counter<T>]) -> Self {
        counters.iter().fold(self, |words, (name, get)| words.with(name, get(report)))
    }

    /// The words, as they are written.
    pub fn into_line(self) -> String {
        self.0
    }
}

/// A node: its name and its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// What it is called in the directory.
    pub name: String,
    /// Its content.
    pub line: String,
}

/// Publishes for ever. `ask` has the event loop leave new numbers, and `nodes` makes nodes of them.
pub async fn publish(hyp: impl Xenstore + Clock, ask: impl Fn(), nodes: impl Fn() -> Vec<Node>) {
    let mut written = Written::default();
    loop {
        sleep(&hyp, PERIOD).await;
        ask();
        sleep(&hyp, POSTING).await;
        written.update(&hyp, nodes()).await;
    }
}

/// The nodes that exist, so that only changes are written again. They are few enough to be searched one by one.
#[derive(Default)]
struct Written {
    nodes: Vec<Node>,
    /// Whether a refusal was logged; it is once.
    complained: bool,
}

impl Written {
    /// Writes what has changed and removes what is gone.
    async fn update(&mut self, xs: &impl Xenstore, wanted: Vec<Node>) {
        let gone = |node: &Node| !wanted.iter().any(|other| other.name == node.name);
        while let Some(index) = self.nodes.iter().position(gone) {
            let node = self.nodes.swap_remove(index);
            match xs.remove(Transaction::NONE, &path(&node)).await {
                Ok(()) | Err(XsError::NoEntry) => {}
                Err(error) => {
                    // Tried again in the next round.
                    self.nodes.push(node);
                    return self.complain(error);
                }
            }
        }
        for node in wanted {
            let old = self.nodes.iter().position(|old| old.name == node.name);
            if old.and_then(|index| self.nodes.get(index)).is_some_and(|old| old.line == node.line) {
                continue;
            }
            if let Err(error) = xs.write(Transaction::NONE, &path(&node), &node.line).await {
                return self.complain(error);
            }
            if let Some(index) = old {
                self.nodes.swap_remove(index);
            }
            self.nodes.push(node);
        }
    }

    fn complain(&mut self, error: XsError) {
        if !core::mem::replace(&mut self.complained, true) {
            log::warn!("be=xs cause=STATISTICS text=\"{error}\" action=retry n=0");
        }
    }
}

fn path(node: &Node) -> String {
    format!("{DIRECTORY}/{}", node.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_separated_by_spaces_and_end_where_the_quota_does() {
        let words = Words::new().with("a", 1).with("b", "up").with_counters(&7_u64, &[("c", |seven| *seven)]);
        assert_eq!(words.clone().into_line(), "a=1 b=up c=7");
        let long = "x".repeat(2048);
        assert_eq!(words.clone().with(&long, 0), words, "what does not fit is left out");
        assert_eq!(words.with("d", 2).into_line(), "a=1 b=up c=7 d=2");
    }
}
