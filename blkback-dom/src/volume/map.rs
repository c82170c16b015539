//! Where the sectors of a volume are.

use alloc::vec::Vec;

use crate::disk::DiskId;

/// A disk of this domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DiskRef {
    /// The number of its controller.
    pub controller: u8,
    /// Which of the controller's disks.
    pub disk: DiskId,
}

/// Adjoining sectors of one disk, in units of 512 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The disk.
    pub disk: DiskRef,
    /// First sector on the disk.
    pub sector: u64,
    /// Number of sectors.
    pub sectors: u64,
}

impl Piece {
    /// Whether two pieces have a sector in common.
    pub fn overlaps(&self, other: &Self) -> bool {
        let end = |piece: &Self| piece.sector.saturating_add(piece.sectors);
        self.disk == other.disk && self.sector < end(other) && other.sector < end(self)
    }
}

/// A range of a volume that is laid out in one way.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Run {
    /// First sector in the volume.
    start: u64,
    /// Number of sectors.
    sectors: u64,
    /// Where each stripe starts. One stripe: the range is in one piece.
    stripes: Vec<(DiskRef, u64)>,
    /// Sectors that go to a stripe before the next one has its turn.
    chunk: u64,
}

impl Run {
    /// Where the next one starts.
    const fn end(&self) -> u64 {
        self.start.saturating_add(self.sectors)
    }
}

/// The layout of a volume: runs without gaps from sector 0 on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Map {
    runs: Vec<Run>,
    sectors: u64,
}

impl Map {
    /// A volume in one piece.
    pub fn linear(piece: Piece) -> Self {
        let mut map = Self::default();
        // An empty piece makes an empty map.
        let _ = map.push(piece.sectors, alloc::vec![(piece.disk, piece.sector)], piece.sectors);
        map
    }

    /// Appends `sectors` sectors that lie in turn on `stripes`, `chunk` sectors at a time.
    ///
    /// `None`, and nothing changes, unless every stripe gets the same whole number of chunks.
    #[must_use = "a run that makes no sense was not appended"]
    pub fn push(&mut self, sectors: u64, stripes: Vec<(DiskRef, u64)>, chunk: u64) -> Option<()> {
        let per_stripe = sectors.checked_div(u64::try_from(stripes.len()).ok()?)?;
        let even = per_stripe.checked_mul(u64::try_from(stripes.len()).ok()?)? == sectors;
        let whole = stripes.len() == 1 || per_stripe.checked_rem(chunk)? == 0;
        if sectors == 0 || chunk == 0 || !even || !whole {
            return None;
        }
        for (_, start) in &stripes {
            start.checked_add(per_stripe)?;
        }
        let start = self.sectors;
        self.sectors = start.checked_add(sectors)?;
        self.runs.push(Run { start, sectors, stripes, chunk });
        Some(())
    }

    /// Size of the volume.
    pub const fn sectors(&self) -> u64 {
        self.sectors
    }

    /// Where `sector` is, with as many of the `wanted` sectors as adjoin there. `None` beyond the end.
    pub fn piece(&self, sector: u64, wanted: u64) -> Option<Piece> {
        let run = self.run(sector)?;
        let offset = sector.checked_sub(run.start)?;
        let left = run.sectors.checked_sub(offset).filter(|left| *left > 0)?;
        if let [(disk, start)] = run.stripes.as_slice() {
            return Some(Piece { disk: *disk, sector: start.checked_add(offset)?, sectors: left.min(wanted) });
        }
        let stripes = u64::try_from(run.stripes.len()).ok()?;
        let (chunk, within) = (offset.checked_div(run.chunk)?, offset.checked_rem(run.chunk)?);
        let (row, column) = (chunk.checked_div(stripes)?, chunk.checked_rem(stripes)?);
        let (disk, start) = run.stripes.get(usize::try_from(column).ok()?)?;
        let sector = start.checked_add(row.checked_mul(run.chunk)?)?.checked_add(within)?;
        Some(Piece { disk: *disk, sector, sectors: run.chunk.checked_sub(within)?.min(left).min(wanted) })
    }

    /// Whether every sector of `other` is where it is in this one, which may go on behind its end.
    pub fn extends(&self, other: &Self) -> bool {
        let mut at = 0;
        while at < other.sectors {
            let (Some(ours), Some(theirs)) = (self.run(at), other.run(at)) else { return false };
            let same = match (ours.stripes.len(), theirs.stripes.len()) {
                (1, 1) => self.piece(at, 1) == other.piece(at, 1),
                _ => (ours.start, &ours.stripes, ours.chunk) == (theirs.start, &theirs.stripes, theirs.chunk),
            };
            let next = ours.end().min(theirs.end());
            if !same || next <= at {
                return false;
            }
            at = next;
        }
        true
    }

    /// The run that holds a sector.
    fn run(&self, sector: u64) -> Option<&Run> {
        let index = self.runs.partition_point(|run| run.start <= sector).checked_sub(1)?;
        self.runs.get(index).filter(|run| sector < run.end())
    }

    /// Every part of a disk that belongs to the volume.
    pub fn pieces(&self) -> impl Iterator<Item = Piece> {
        self.runs.iter().flat_map(|run| {
            let stripes = u64::try_from(run.stripes.len()).unwrap_or(1);
            let sectors = run.sectors.checked_div(stripes).unwrap_or(0);
            run.stripes.iter().map(move |(disk, sector)| Piece { disk: *disk, sector: *sector, sectors })
        })
    }

    /// The disks of the volume, each once.
    pub fn disks(&self) -> Vec<DiskRef> {
        let mut disks: Vec<_> = self.pieces().map(|piece| piece.disk).collect();
        disks.sort_unstable();
        disks.dedup();
        disks
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    const A: DiskRef = DiskRef { controller: 0, disk: DiskId(0) };
    const B: DiskRef = DiskRef { controller: 0, disk: DiskId(1) };

    fn piece(disk: DiskRef, sector: u64, sectors: u64) -> Piece {
        Piece { disk, sector, sectors }
    }

    #[test]
    fn a_linear_map_is_an_offset() {
        let map = Map::linear(piece(A, 100, 50));
        assert_eq!(map.piece(0, 8), Some(piece(A, 100, 8)));
        assert_eq!(map.piece(49, 8), Some(piece(A, 149, 1)));
        assert_eq!(map.piece(50, 1), None);
        assert_eq!(map.piece(u64::MAX, 1), None);
    }

    #[test]
    fn runs_follow_each_other() {
        let mut map = Map::linear(piece(A, 100, 50));
        map.push(10, alloc::vec![(B, 7)], 10).unwrap();
        assert_eq!(map.sectors(), 60);
        assert_eq!(map.piece(48, 8), Some(piece(A, 148, 2)));
        assert_eq!(map.piece(50, 80), Some(piece(B, 7, 10)));
        assert_eq!(map.disks(), [A, B]);
    }

    #[test]
    fn stripes_take_turns() {
        let mut map = Map::default();
        map.push(48, alloc::vec![(A, 100), (B, 200)], 8).unwrap();
        let at = |sector| map.piece(sector, 100).unwrap();
        assert_eq!((at(0), at(7)), (piece(A, 100, 8), piece(A, 107, 1)));
        assert_eq!((at(8), at(16)), (piece(B, 200, 8), piece(A, 108, 8)));
        assert_eq!((at(44), map.piece(48, 1)), (piece(B, 220, 4), None));
        assert_eq!(map.pieces().collect::<Vec<_>>(), [piece(A, 100, 24), piece(B, 200, 24)]);
        // Every sector of the volume is a different sector of a disk, and all of them are in the pieces.
        let mut seen: Vec<_> =
            (0..48).map(|sector| map.piece(sector, 1).unwrap()).map(|p| (p.disk, p.sector)).collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 48);
        assert!(seen.iter().all(|(disk, sector)| map.pieces().any(|p| p.overlaps(&piece(*disk, *sector, 1)))));
    }

    #[test]
    fn a_map_extends_what_it_starts_with() {
        let linear = |sectors| Map::linear(piece(A, 100, sectors));
        assert!(linear(50).extends(&linear(50)) && linear(60).extends(&linear(50)));
        assert!(!linear(40).extends(&linear(50)));
        assert!(!Map::linear(piece(B, 100, 50)).extends(&linear(50)));
        assert!(!Map::linear(piece(A, 101, 50)).extends(&linear(50)));
        // In two runs that adjoin, and with one more elsewhere.
        let mut parts = linear(20);
        parts.push(30, alloc::vec![(A, 120)], 30).unwrap();
        assert!(parts.extends(&linear(50)) && linear(50).extends(&parts));
        parts.push(10, alloc::vec![(B, 7)], 10).unwrap();
        assert!(parts.extends(&linear(50)) && !linear(60).extends(&parts));
        let striped = |sectors, chunk| {
            let mut map = Map::default();
            map.push(sectors, alloc::vec![(A, 100), (B, 200)], chunk).unwrap();
            map
        };
        assert!(striped(64, 8).extends(&striped(48, 8)));
        assert!(!striped(64, 4).extends(&striped(48, 8)));
        assert!(!striped(64, 8).extends(&linear(8)));
    }

    #[test]
    fn runs_that_make_no_sense_are_refused() {
        let mut map = Map::default();
        assert_eq!(map.push(0, alloc::vec![(A, 0)], 8), None);
        assert_eq!(map.push(8, alloc::vec![], 8), None);
        assert_eq!(map.push(8, alloc::vec![(A, 0)], 0), None);
        assert_eq!(map.push(9, alloc::vec![(A, 0), (B, 0)], 1), None);
        assert_eq!(map.push(24, alloc::vec![(A, 0), (B, 0)], 8), None);
        assert_eq!(map.push(8, alloc::vec![(A, u64::MAX)], 8), None);
        assert_eq!(map, Map::default());
    }

    #[test]
    fn pieces_overlap_if_they_share_a_sector() {
        let a = piece(A, 10, 10);
        for (other, expected) in [
            (piece(A, 20, 5), false),
            (piece(A, 19, 1), true),
            (piece(A, 0, 10), false),
            (piece(A, 0, 11), true),
            (piece(B, 10, 10), false),
        ] {
            assert_eq!((a.overlaps(&other), other.overlaps(&a)), (expected, expected));
        }
    }
}
