//! What becomes of vbds in service when disks, or the tables on them, have changed.

use xen_pv_rt::hyp::{Dma, Hypervisor};

use super::backend::{Blkback, Connected, Vbds};
use crate::volume::{Catalogue, Map, NamedDisk, Piece};

impl<H: Hypervisor + Dma> Blkback<H> {
    /// Notes that a disk has changed, or that there is a new one: resizes the vbds on it, and tells their frontends.
    pub fn disk_changed(&self, changed: NamedDisk) {
        let vbds = self.devices.backend();
        let mut catalogue = vbds.catalogue.borrow_mut();
        match catalogue.disks.iter_mut().find(|named| named.disk == changed.disk) {
            Some(named) => named.about = changed.about,
            None => catalogue.disks.push(changed),
        }
        drop(catalogue);
        vbds.refresh(true);
    }

    /// Takes what was found on the disks for what there is. A vbd whose volume has grown grows with it; one whose volume is
    /// elsewhere now, smaller, or gone keeps what it has until it is attached again.
    pub fn renew(&self, found: Catalogue) {
        let vbds = self.devices.backend();
        let mut catalogue = vbds.catalogue.borrow_mut();
        // The disks may have changed while their tables were read.
        (catalogue.partitions, catalogue.logical) = (found.partitions, found.logical);
        drop(catalogue);
        vbds.refresh(false);
    }

    /// What there is.
    pub fn catalogue(&self) -> Catalogue {
        self.devices.backend().catalogue.borrow().clone()
    }

    /// Whether a guest may write to some of a piece.
    pub fn is_written_by_guest(&self, piece: &Piece) -> bool {
        self.devices.backend().claims.borrow().is_written_by_guest(piece)
    }
}

impl<H: Hypervisor + Dma> Vbds<H> {
    /// Gives vbds the size that their volumes have now.
    fn refresh(&self, may_shrink: bool) {
        let catalogue = self.catalogue.borrow();
        for vbd in self.connected.borrow_mut().iter_mut() {
            // Of what is gone, the disk tells.
            let Ok(volume) = catalogue.resolve(&vbd.target) else { continue };
            if volume.map == vbd.map {
                continue;
            }
            let fits = volume.map.extends(&vbd.map) || may_shrink && vbd.map.extends(&volume.map);
            if fits {
                self.resize(vbd, volume.map)
            } else {
                keep(vbd, "MOVED", "its volume is elsewhere or smaller now")
            }
        }
    }

    fn resize(&self, vbd: &mut Connected, map: Map) {
        if let Err(who) = self.claims.borrow_mut().change(&vbd.path, map.pieces().collect()) {
            return keep(vbd, "IN_USE", &alloc::format!("what its volume has grown by is in use by {who}"));
        }
        vbd.map = map.clone();
        vbd.resized = true;
        self.plane.borrow_mut().resize(vbd.id, map);
        vbd.signal.raise();
    }
}

/// Says that a vbd stays as it is.
fn keep(vbd: &Connected, cause: &str, text: &str) {
    let (domain, device) = (vbd.path.frontend, vbd.path.devid);
    log::warn!("be=vbd dom={domain} dev={device} q=0 cause={cause} text=\"{text}\" action=keep n=0");
}
