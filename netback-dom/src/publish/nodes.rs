//! What was written, so that only changes are written again.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use xen_pv_rt::hyp::{MemoryUse, Transaction, Xenstore, XsError};

use super::{Board, card_line, domain_line, vif_line};

/// The directory of all nodes, in ours.
const DIRECTORY: &str = "data/statistics";

/// A node: its path and its content.
struct Node {
    path: String,
    line: String,
}

/// The nodes that exist. Bounded by the number of vifs and cards, and few enough to be searched one by one.
#[derive(Default)]
pub(super) struct Nodes {
    written: Vec<Node>,
    /// Whether a refusal was logged; it is once.
    complained: bool,
}

impl Nodes {
    /// Writes what has changed and removes what is gone.
    pub(super) async fn update(&mut self, xs: &impl Xenstore, board: &Board, memory: MemoryUse) {
        let wanted = wanted(board, memory);
        let gone = |node: &Node| !wanted.iter().any(|other| other.path == node.path);
        while let Some(index) = self.written.iter().position(gone) {
            let node = self.written.swap_remove(index);
            match xs.remove(Transaction::NONE, &node.path).await {
                Ok(()) | Err(XsError::NoEntry) => {}
                Err(error) => {
                    // Tried again in the next round.
                    self.written.push(node);
                    return self.complain(error);
                }
            }
        }
        for node in wanted {
            let old = self.written.iter().position(|old| old.path == node.path);
            if old.and_then(|index| self.written.get(index)).is_some_and(|old| old.line == node.line) {
                continue;
            }
            if let Err(error) = xs.write(Transaction::NONE, &node.path, &node.line).await {
                return self.complain(error);
            }
            if let Some(index) = old {
                self.written.swap_remove(index);
            }
            self.written.push(node);
        }
    }

    fn complain(&mut self, error: XsError) {
        if !core::mem::replace(&mut self.complained, true) {
            log::warn!("be=xs cause=STATISTICS text=\"{error}\" action=retry n=0");
        }
    }
}

fn wanted(board: &Board, memory: MemoryUse) -> Vec<Node> {
    let (cards, vifs) = (board.cards(), board.vifs());
    let mut nodes = Vec::new();
    let mut add = |path, line| nodes.push(Node { path, line });
    add(format!("{DIRECTORY}/domain"), domain_line(memory, vifs.len(), board.work()));
    for card in &cards {
        add(format!("{DIRECTORY}/nic-{}", card.index), card_line(card));
    }
    for vif in &vifs {
        add(format!("{DIRECTORY}/vif-{}-{}", vif.frontend, vif.devid), vif_line(vif));
    }
    nodes
}
