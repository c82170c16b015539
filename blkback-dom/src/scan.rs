//! What is on the disks, looked at once, before anything is served.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use xen_pv_rt::hyp::{Clock, Dma, DmaBuf, DmaError, DmaPool, sleep};

use crate::disk::{Command, DiskError, Op, Span, SubmitError, Tag};
use crate::vbd::Controllers;
use crate::volume::{Catalogue, NamedDisk, Piece, Sectors, logical_volumes, partitions};

/// Pages of one command: what every disk takes, whatever its sectors.
const PAGES: usize = 4;
const PAGE: u64 = 4096;
/// Sectors of one command.
const SECTORS: u64 = 32;
/// How often a disk is looked at while it works.
const STEP: Duration = Duration::from_millis(1);

/// Reads the tables on `disks` and says what there is to be served.
///
/// # Errors
/// No memory for buffers. A disk that cannot be read is named in the log and has no partitions.
pub async fn catalogue<H: Clock + Dma>(
    hyp: &H,
    controllers: &mut dyn Controllers,
    disks: Vec<NamedDisk>,
) -> Result<Catalogue, DmaError> {
    let mut reader = Reader { hyp, controllers, buffers: hyp.dma_pool(PAGES)? };
    let mut found = Vec::new();
    let mut candidates: Vec<(String, Piece)> = Vec::new();
    for disk in &disks {
        match partitions(&mut reader, disk).await {
            // Without partitions the disk itself may be a physical volume.
            Ok(none) if none.is_empty() => candidates.push((disk.name.clone(), disk.whole())),
            Ok(some) => {
                candidates.extend(some.iter().map(|part| (format!("{}:{}", disk.name, part.number), part.piece)));
                found.extend(some);
            }
            Err(error) => log::warn!("disk {}: {error}", disk.name),
        }
    }
    let logical = logical_volumes(&mut reader, &candidates).await;
    Ok(Catalogue { disks, partitions: found, logical })
}

struct Reader<'a, H> {
    hyp: &'a H,
    controllers: &'a mut dyn Controllers,
    buffers: DmaPool,
}

impl<H: Clock> Sectors for Reader<'_, H> {
    async fn read(&mut self, piece: Piece) -> Result<Vec<u8>, DiskError> {
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

impl<H: Clock> Reader<'_, H> {
    async fn read_part(&mut self, piece: Piece, bytes: &mut Vec<u8>) -> Result<(), DiskError> {
        let mut left = piece.sectors.saturating_mul(512);
        let mut buffers: heapless::Vec<DmaBuf, PAGES> = heapless::Vec::new();
        let mut spans: heapless::Vec<Span, PAGES> = heapless::Vec::new();
        while left > 0 {
            let buffer = self.buffers.take().ok_or(DiskError::Gone)?;
            let len = left.min(PAGE);
            left = left.saturating_sub(len);
            // Both have room for what `SECTORS` amounts to.
            let _ = spans.push(Span { maddr: buffer.maddr(), len: u32::try_from(len).unwrap_or(0) });
            let _ = buffers.push(buffer);
        }
        let command = Command { tag: Tag(0), op: Op::Read, sector: piece.sector, spans: &spans, lane: 0 };
        self.carry_out(piece, &command).await?;
        for (buffer, span) in buffers.iter().zip(&spans) {
            let len = usize::try_from(span.len).unwrap_or(0);
            bytes.extend_from_slice(buffer.bytes().get(..len).unwrap_or_default());
        }
        Ok(())
    }

    /// Waits for the answer, which the controller gives in any case: it has deadlines of its own.
    async fn carry_out(&mut self, piece: Piece, command: &Command<'_>) -> Result<(), DiskError> {
        loop {
            let controller = self.controllers.get(piece.disk.controller).ok_or(DiskError::Gone)?;
            match controller.submit(piece.disk.disk, command) {
                Ok(()) => break controller.kick(),
                Err(SubmitError::Full) => {}
                Err(_) => return Err(DiskError::Gone),
            }
            self.controllers.poll(self.hyp.now(), &mut |_, _| {});
            sleep(self.hyp, STEP).await;
        }
        let mut outcome = None;
        loop {
            // Nothing else is under way, so the answer is to this command.
            self.controllers.poll(self.hyp.now(), &mut |_, answer| outcome = Some(answer));
            if let Some(outcome) = outcome {
                return outcome;
            }
            sleep(self.hyp, STEP).await;
        }
    }
}
