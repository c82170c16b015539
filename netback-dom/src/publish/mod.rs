//! Counters, link state and version for Dom0, in xenstore ([`xen_pv_rt::statistics`]).
//!
//! One node for each vif, one for each card, one for the domain. `docs/xenstore-keys.md` is the table of their words, and
//! names are stable. Nothing here runs in a turn of the data plane but [`Board::post`], which copies numbers.

mod board;
pub(crate) mod counters;
mod lines;

pub use board::{Board, CardReport, VifReport, Work};
pub use lines::{card_line, domain_line, vif_line};

use alloc::format;
use alloc::rc::Rc;
use alloc::vec::Vec;

use xen_pv_rt::hyp::{Clock, MemoryUse, Xenstore};
use xen_pv_rt::statistics::{self, Node};

/// Publishes for ever what the event loop posts on the board.
pub async fn publish(hyp: impl Xenstore + Clock, board: Rc<Board>, memory: fn() -> MemoryUse) {
    statistics::publish(hyp, || board.ask(), || nodes(&board, memory())).await;
}

fn nodes(board: &Board, memory: MemoryUse) -> Vec<Node> {
    let (cards, vifs) = (board.cards(), board.vifs());
    let mut nodes = Vec::new();
    let mut add = |name, line| nodes.push(Node { name, line });
    add("domain".into(), domain_line(memory, vifs.len(), board.work()));
    for card in &cards {
        add(format!("nic-{}", card.index), card_line(card));
    }
    for vif in &vifs {
        add(format!("vif-{}-{}", vif.frontend, vif.devid), vif_line(vif));
    }
    nodes
}
