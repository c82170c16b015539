//! Counters, link state and version for Dom0, in xenstore: no network is needed to read them.
//!
//! One node for each vif, one for each card, one for the domain, below `data/statistics/` of our own directory, which
//! only we and Dom0 may read. A node holds words of the form `name=value`; `docs/xenstore-keys.md` is their table, and
//! names are stable. Every [`PERIOD`] the nodes whose content changed are written, one after the other, so that a
//! handshake waits for at most one of these requests. Nothing here runs in a turn of the data plane but
//! [`Board::post`], which copies numbers.

mod board;
pub(crate) mod counters;
mod lines;
mod nodes;

pub use board::{Board, CardReport, VifReport, Work};
pub use lines::{card_line, domain_line, vif_line};

use alloc::rc::Rc;
use core::time::Duration;

use xen_pv_rt::hyp::{Clock, MemoryUse, Xenstore, sleep};

use nodes::Nodes;

/// Least time between two writes of a node.
pub const PERIOD: Duration = Duration::from_secs(5);
/// How long the event loop is given to post: it looks at the board once per turn.
const POSTING: Duration = Duration::from_millis(20);

/// Publishes for ever what the event loop posts on the board.
pub async fn publish(hyp: impl Xenstore + Clock, board: Rc<Board>, memory: fn() -> MemoryUse) {
    let mut nodes = Nodes::default();
    loop {
        sleep(&hyp, PERIOD).await;
        board.ask();
        sleep(&hyp, POSTING).await;
        nodes.update(&hyp, &board, memory()).await;
    }
}
