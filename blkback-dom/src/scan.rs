//! What is on the disks: partition tables and volume groups, read at start and when Dom0 asks for it.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use xen_pv_rt::hyp::DmaPool;

use crate::disk::DiskError;
use crate::errand::{Buffers, Errand};
use crate::volume::{Catalogue, Piece, ReadError, Sectors, TableError, logical_volumes, partitions};

/// Sectors of one read, and bytes of one.
const SECTORS: u64 = 32;
const SECTOR: usize = 512;
/// Reads the tables on the disks of `known` and says what there is to be served.
///
/// Only what `may_read` allows is read and believed. What is behind it, or cannot be read, stays as it is known. A disk whose
/// table is damaged is named in the log and has no partitions.
pub async fn survey(
    errand: &Errand,
    buffers: &DmaPool,
    known: &Catalogue,
    may_read: &dyn Fn(&Piece) -> bool,
) -> Catalogue {
    let mut reader = Reader { errand, buffers, may_read };
    let mut found = Catalogue { disks: known.disks.clone(), ..Catalogue::default() };
    let mut candidates: Vec<(String, Piece)> = Vec::new();
    for disk in known.disks.iter().filter(|disk| disk.about.present) {
        let here = match partitions(&mut reader, disk).await {
            Ok(here) => here,
            Err(error) => {
                log::warn!("disk {}: {error}", disk.name);
                if !matches!(error, TableError::Guest | TableError::Disk(_)) {
                    continue;
                }
                known.partitions.iter().filter(|part| part.piece.disk == disk.disk).cloned().collect()
            }
        };
        if here.is_empty() {
            // Without partitions the disk itself may be a physical volume.
            candidates.push((disk.name.clone(), disk.whole()));
        }
        candidates.extend(here.iter().map(|part| (format!("{}:{}", disk.name, part.number), part.piece)));
        found.partitions.extend(here);
    }
    let (volumes, unread) = logical_volumes(&mut reader, &candidates).await;
    found.logical = volumes;
    keep_unread(&mut found, known, &unread);
    found
}

/// Keeps the volumes that are known to be on `unread` pieces, of groups of which nothing newer was read.
fn keep_unread(found: &mut Catalogue, known: &Catalogue, unread: &[Piece]) {
    for volume in &known.logical {
        let is_on = |piece: &Piece| unread.iter().any(|unread| unread.overlaps(piece));
        let hidden = volume.map.as_ref().is_ok_and(|map| map.pieces().any(|piece| is_on(&piece)));
        if hidden && !found.logical.iter().any(|newer| newer.group == volume.group) {
            found.logical.push(volume.clone());
        }
    }
}

struct Reader<'a> {
    errand: &'a Errand,
    buffers: &'a DmaPool,
    may_read: &'a dyn Fn(&Piece) -> bool,
}

impl Sectors for Reader<'_> {
    async fn read(&mut self, piece: Piece) -> Result<Vec<u8>, ReadError> {
        let mut bytes = Vec::new();
        let mut done = 0;
        while done < piece.sectors {
            let sectors = piece.sectors.saturating_sub(done).min(SECTORS);
            let part = Piece { sector: piece.sector.saturating_add(done), sectors, ..piece };
            self.read_part(part, &mut bytes).await?;
            done = done.saturating_add(sectors);
        }
        Ok(bytes)
    }
}

impl Reader<'_> {
    async fn read_part(&mut self, piece: Piece, bytes: &mut Vec<u8>) -> Result<(), ReadError> {
        if !(self.may_read)(&piece) {
            return Err(ReadError::Guest);
        }
        let len = usize::try_from(piece.sectors).unwrap_or(usize::MAX).saturating_mul(SECTOR);
        let mut buffers = Buffers::new();
        while buffers.len().saturating_mul(xen_pv_rt::hyp::PAGE_SIZE) < len {
            let buffer = self.buffers.take().ok_or(DiskError::Gone)?;
            buffers.push(buffer).map_err(|_| DiskError::Gone)?;
        }
        let buffers = self.errand.read(piece, buffers).await?;
        // A guest may have got it meanwhile, and a disk carries out commands in any order.
        if !(self.may_read)(&piece) {
            return Err(ReadError::Guest);
        }
        let end = bytes.len().saturating_add(len);
        buffers.iter().for_each(|buffer| bytes.extend_from_slice(buffer.bytes()));
        bytes.truncate(end);
        Ok(())
    }
}
