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
        let index = self.runs.partition_point(|run| run.start <= sector).checked_sub(1)?;
        let run = self.runs.get(index)?;
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
