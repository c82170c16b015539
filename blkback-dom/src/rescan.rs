//! Reading the tables again, when Dom0 asks: it writes anything to `data/rescan` in the domain's directory, and the node is
//! gone when that is done.

use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;

use xen_pv_rt::hyp::{Dma, DmaPool, Hypervisor, Transaction, Watch as _};
use xen_pv_rt::xenbus::read_text;

use crate::errand::Errand;
use crate::scan;
use crate::vbd::Blkback;
use crate::volume::listing;

/// The request.
const NODE: &str = "data/rescan";

/// Publishes `lines`, which say what there is, and then carries out requests for ever.
pub async fn follow<H: Hypervisor + Dma>(
    hyp: H,
    blkback: Blkback<H>,
    errand: Rc<Errand>,
    buffers: DmaPool,
    mut lines: Vec<String>,
) {
    listing::publish(&hyp, &lines, 0).await;
    let watch = match hyp.watch(NODE).await {
        Ok(watch) => watch,
        Err(error) => return log::warn!("cannot watch {NODE}: {error}"),
    };
    loop {
        watch.next().await;
        // Not there: our own removal, or the first event.
        let Ok(asked) = read_text(&hyp, NODE).await else { continue };
        log::info!("reading the tables again, as {NODE} asks");
        let may_read = |piece: &_| !blkback.is_written_by_guest(piece);
        let found = scan::survey(&errand, &buffers, &blkback.catalogue(), &may_read).await;
        blkback.renew(found);
        let before = lines.len();
        lines = blkback.catalogue().lines();
        lines.iter().for_each(|line| log::info!("{line}"));
        listing::publish(&hyp, &lines, before).await;
        if read_text(&hyp, NODE).await.as_ref() != Ok(&asked) {
            // Asked again meanwhile, for something that may have changed after it was read. The watch has an event for it.
            continue;
        }
        if let Err(error) = hyp.remove(Transaction::NONE, NODE).await {
            log::warn!("cannot remove {NODE}: {error}");
        }
    }
}
