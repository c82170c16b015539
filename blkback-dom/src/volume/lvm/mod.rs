//! LVM2: logical volumes of linear and striped segments.
//!
//! A physical volume has a label in one of its first sectors, which leads to metadata areas; each of those
//! leads to the text that describes the whole volume group. Labels, area headers and texts are checksummed.
//! Anything that is not linear or striped (mirrors, snapshots, thin pools, RAID, caches) is named and refused.
//!
//! Format: LVM2's `lib/format_text/layout.h` and `format-text.c` as described in `man lvmsystemid(7)` and
//! `pvs(8)`; the on-disk structures are little-endian.

mod config;
mod group;
mod label;

use alloc::vec::Vec;

use super::sectors::{ReadError, Sectors};
use super::{LogicalVolume, Piece};

use group::Group;
use label::{BadPhysical, Physical};

/// Finds logical volumes on `candidates`: whole disks and partitions. What is no physical volume is passed
/// over; what is a damaged one is named in the log. Also returned are those that were not read since guests may write
/// there.
pub async fn logical_volumes(
    sectors: &mut impl Sectors,
    candidates: &[(alloc::string::String, Piece)],
) -> (Vec<LogicalVolume>, Vec<Piece>) {
    let (mut physical, mut unread) = (Vec::new(), Vec::new());
    let mut groups: Vec<Group> = Vec::new();
    for (name, piece) in candidates {
        match label::read(sectors, *piece).await {
            Ok(None) => {}
            Ok(Some((found, texts))) => {
                physical.push(found);
                groups.extend(texts.iter().filter_map(|text| parse(name, text)));
            }
            // A disk or partition of a guest: the usual case, and no physical volume.
            Err(BadPhysical::Read(ReadError::Guest)) => unread.push(*piece),
            Err(why) => log::warn!("{name}: LVM2 physical volume cannot be used: {why}"),
        }
    }
    // Several physical volumes tell of the same group; the newest text counts.
    groups.sort_by(|a, b| (&a.id, b.seqno).cmp(&(&b.id, a.seqno)));
    groups.dedup_by(|later, first| later.id == first.id);
    (groups.iter().flat_map(|group| group.volumes(&physical)).collect(), unread)
}

fn parse(name: &str, text: &[u8]) -> Option<Group> {
    let group = core::str::from_utf8(text).ok().and_then(config::parse).and_then(|tree| Group::read(&tree));
    if group.is_none() {
        log::warn!("{name}: LVM2 metadata makes no sense");
    }
    group
}

/// A physical volume's id without its dashes.
type PhysicalId = [u8; 32];

fn physical_id(text: &str) -> Option<PhysicalId> {
    let mut bytes = text.bytes().filter(|byte| *byte != b'-');
    let mut id = [0; 32];
    for byte in &mut id {
        *byte = bytes.next()?;
    }
    bytes.next().is_none().then_some(id)
}

/// Where a physical volume is.
fn find<'p>(physical: &'p [Physical], id: &PhysicalId) -> Option<&'p Physical> {
    physical.iter().find(|found| found.id == *id)
}

#[cfg(test)]
mod tests;
