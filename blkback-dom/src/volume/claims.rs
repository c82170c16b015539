//! Who uses which sectors.
//!
//! Two vbds that write to the same sectors destroy each other's file systems, and a reader of sectors that
//! another one writes sees nonsense. So sectors that are written have one user, unless all of their users say
//! that they know (`,shared`). Readers may share.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use xen_pv_rt::xenbus::BackendPath;

use super::Piece;

/// How a vbd uses its volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Use {
    /// It may write.
    pub writes: bool,
    /// Other users are expected.
    pub shared: bool,
}

struct Claim {
    path: BackendPath,
    pieces: Vec<Piece>,
    usage: Use,
}

/// The volumes in use.
#[derive(Default)]
pub struct Claims(Vec<Claim>);

impl Claims {
    /// Claims `pieces` for the vbd at `path`, in place of what it had claimed before.
    ///
    /// # Errors
    /// Which vbd has a claim that does not go with it. The vbd then has no claim at all.
    pub fn claim(&mut self, path: &BackendPath, pieces: Vec<Piece>, usage: Use) -> Result<(), String> {
        self.release(path);
        let conflicts = |claim: &&Claim| {
            let clash = (claim.usage.writes || usage.writes) && !(claim.usage.shared && usage.shared);
            clash && claim.pieces.iter().any(|theirs| pieces.iter().any(|ours| ours.overlaps(theirs)))
        };
        if let Some(claim) = self.0.iter().find(conflicts) {
            return Err(format!("domain {} vbd {}", claim.path.frontend, claim.path.devid));
        }
        self.0.push(Claim { path: *path, pieces, usage });
        Ok(())
    }

    /// Gives up what a vbd has claimed.
    pub fn release(&mut self, path: &BackendPath) {
        self.0.retain(|claim| claim.path != *path);
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use xen_pv_rt::hyp::Domid;
    use xen_pv_rt::xenbus::DeviceKind;

    use super::*;
    use crate::disk::DiskId;
    use crate::volume::DiskRef;

    const RO: Use = Use { writes: false, shared: false };
    const RW: Use = Use { writes: true, shared: false };
    const SHARED: Use = Use { writes: true, shared: true };

    fn vbd(frontend: u16) -> BackendPath {
        BackendPath { kind: DeviceKind::Vbd, frontend: Domid::from_raw(frontend), devid: 51712 }
    }

    fn at(sector: u64) -> Vec<Piece> {
        alloc::vec![Piece { disk: DiskRef { controller: 0, disk: DiskId(0) }, sector, sectors: 10 }]
    }

    #[test]
    fn written_sectors_have_one_user() {
        for (first, second, goes) in [
            (RO, RO, true),
            (RO, RW, false),
            (RW, RO, false),
            (RW, RW, false),
            (SHARED, RW, false),
            (RW, SHARED, false),
            (SHARED, SHARED, true),
        ] {
            let mut claims = Claims::default();
            claims.claim(&vbd(1), at(0), first).unwrap();
            assert_eq!(claims.claim(&vbd(2), at(9), second).is_ok(), goes, "{first:?} {second:?}");
            assert!(claims.claim(&vbd(3), at(20), RW).is_ok());
        }
    }

    #[test]
    fn the_error_says_who_has_it() {
        let mut claims = Claims::default();
        claims.claim(&vbd(7), at(0), RW).unwrap();
        assert_eq!(claims.claim(&vbd(8), at(0), RW), Err("domain 7 vbd 51712".into()));
    }

    #[test]
    fn a_vbd_may_claim_again_and_a_released_volume_is_free() {
        let mut claims = Claims::default();
        claims.claim(&vbd(1), at(0), RW).unwrap();
        claims.claim(&vbd(1), at(5), RW).unwrap();
        claims.release(&vbd(1));
        claims.claim(&vbd(2), at(0), RW).unwrap();
    }
}
