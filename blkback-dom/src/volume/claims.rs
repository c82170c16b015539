//! Who uses which sectors.
//!
//! Two vbds that write to the same sectors destroy each other's file systems, and a reader of sectors that
//! another one writes sees nonsense. So sectors that are written have one user, unless all of their users say
//! that they know (`,shared`). Readers may share.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use xen_pv_rt::hyp::Domid;
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
        let claim = Claim { path: *path, pieces, usage };
        self.check(&claim)?;
        self.0.push(claim);
        Ok(())
    }

    /// Claims other pieces for a vbd that has a claim, for the same use.
    ///
    /// # Errors
    /// Which vbd has a claim that does not go with it. The vbd then keeps what it had.
    pub fn change(&mut self, path: &BackendPath, pieces: Vec<Piece>) -> Result<(), String> {
        let Some(old) = self.0.iter().find(|claim| claim.path == *path) else { return Ok(()) };
        let claim = Claim { path: *path, pieces, usage: old.usage };
        self.check(&claim)?;
        self.release(path);
        self.0.push(claim);
        Ok(())
    }

    /// Whether a guest may write to some of a piece. Dom0 is none.
    pub fn is_written_by_guest(&self, piece: &Piece) -> bool {
        let guests = self.0.iter().filter(|claim| claim.usage.writes && claim.path.frontend != Domid::DOM0);
        guests.flat_map(|claim| &claim.pieces).any(|theirs| theirs.overlaps(piece))
    }

    /// An error if somebody else's claim does not go with this one.
    fn check(&self, new: &Claim) -> Result<(), String> {
        let conflicts = |claim: &&Claim| {
            let clash = (claim.usage.writes || new.usage.writes) && !(claim.usage.shared && new.usage.shared);
            clash && claim.pieces.iter().any(|theirs| new.pieces.iter().any(|ours| ours.overlaps(theirs)))
        };
        match self.0.iter().filter(|claim| claim.path != new.path).find(conflicts) {
            Some(claim) => Err(format!("domain {} vbd {}", claim.path.frontend, claim.path.devid)),
            None => Ok(()),
        }
    }

    /// Gives up what a vbd has claimed.
    pub fn release(&mut self, path: &BackendPath) {
        self.0.retain(|claim| claim.path != *path);
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
mod tests {
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
    fn a_claim_grows_unless_somebody_else_is_there() {
        let mut claims = Claims::default();
        claims.claim(&vbd(1), at(0), RW).unwrap();
        claims.claim(&vbd(2), at(20), RW).unwrap();
        let grown = |sectors| alloc::vec![Piece { sectors, ..at(0)[0] }];
        assert_eq!(claims.change(&vbd(1), grown(20)), Ok(()));
        assert_eq!(claims.change(&vbd(1), grown(21)), Err("domain 2 vbd 51712".into()));
        assert!(claims.claim(&vbd(3), at(19), RO).is_err(), "what it had grown to is its own");
        assert_eq!(claims.change(&vbd(4), grown(1)), Ok(()), "nothing to change");
    }

    #[test]
    fn what_a_guest_may_write_is_known() {
        let mut claims = Claims::default();
        claims.claim(&vbd(0), at(0), RW).unwrap();
        claims.claim(&vbd(1), at(20), RO).unwrap();
        claims.claim(&vbd(2), at(40), SHARED).unwrap();
        let written = |sector| claims.is_written_by_guest(&at(sector)[0]);
        assert_eq!([0, 20, 40, 49, 50].map(written), [false, false, true, true, false]);
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
