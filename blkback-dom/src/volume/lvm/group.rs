//! Volume groups: from the text to layouts.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use super::config::{Section, Value};
use super::label::Physical;
use super::{LogicalVolume, PhysicalId, find, physical_id};
use crate::volume::{DiskRef, Map};

/// A volume group as one of its physical volumes describes it.
pub(super) struct Group {
    name: String,
    pub(super) id: String,
    /// Grows with every change.
    pub(super) seqno: u64,
    /// Sectors in an extent.
    extent: u64,
    /// A reason to leave the whole group alone.
    unusable: Option<String>,
    members: Vec<Member>,
    volumes: Vec<(String, Section)>,
}

struct Member {
    name: String,
    id: PhysicalId,
    /// Sectors before its first extent, and how many extents it has.
    start: u64,
    extents: u64,
}

impl Group {
    /// Reads the description; `None` if something that must be there is not.
    pub(super) fn read(tree: &Section) -> Option<Self> {
        let (name, group) = tree.sections().next()?;
        let mut members = Vec::new();
        for (name, section) in group.section("physical_volumes")?.sections() {
            members.push(Member {
                name: name.to_string(),
                id: physical_id(section.text("id")?)?,
                start: section.number("pe_start")?,
                extents: section.number("pe_count")?,
            });
        }
        let volumes = group.section("logical_volumes");
        let volumes = volumes.into_iter().flat_map(Section::sections);
        let flags = ["EXPORTED", "PARTIAL", "PVMOVE", "SHARED", "CLUSTERED"];
        let flag = flags.into_iter().find(|flag| has(group, "status", flag) || has(group, "flags", flag));
        Some(Self {
            name: name.to_string(),
            id: group.text("id")?.to_string(),
            seqno: group.number("seqno")?,
            extent: group.number("extent_size").filter(|extent| *extent > 0)?,
            unusable: flag.map(|flag| format!("volume group is {flag}")),
            members,
            volumes: volumes.map(|(name, section)| (name.to_string(), section.clone())).collect(),
        })
    }

    /// The group's visible volumes.
    pub(super) fn volumes(&self, physical: &[Physical]) -> Vec<LogicalVolume> {
        let visible = self.volumes.iter().filter(|(_, section)| has(section, "status", "VISIBLE"));
        visible
            .map(|(name, section)| LogicalVolume {
                group: self.name.clone(),
                name: name.clone(),
                map: self.map(section, physical),
            })
            .collect()
    }

    fn map(&self, volume: &Section, physical: &[Physical]) -> Result<Map, String> {
        if let Some(why) = &self.unusable {
            return Err(why.clone());
        }
        if !has(volume, "status", "WRITE") {
            return Err("volume is read-only in its metadata".to_string());
        }
        let odd = |status: &Value| !["READ", "WRITE", "VISIBLE", "FIXED_MINOR"].iter().any(|known| is(status, known));
        if let Some(Value::Text(status)) = volume.list("status").unwrap_or_default().iter().find(|status| odd(status)) {
            return Err(format!("status {status} is not supported"));
        }
        let count = volume.number("segment_count").unwrap_or(0);
        let mut map = Map::default();
        for number in 1..=count.min(10_000) {
            let segment = volume.section(&format!("segment{number}")).ok_or("segment is missing")?;
            self.append(&mut map, segment, physical)?;
        }
        if map.sectors() == 0 { Err("volume has no segments".to_string()) } else { Ok(map) }
    }

    fn append(&self, map: &mut Map, segment: &Section, physical: &[Physical]) -> Result<(), String> {
        let kind = segment.text("type").unwrap_or("?");
        if kind != "striped" {
            return Err(format!("segments of type {kind} are not supported (only linear and striped)"));
        }
        let malformed = || "segment makes no sense".to_string();
        let number = |name| segment.number(name).ok_or_else(malformed);
        let sectors = number("extent_count")?.checked_mul(self.extent).ok_or_else(malformed)?;
        let start = number("start_extent")?.checked_mul(self.extent);
        if start != Some(map.sectors()) {
            return Err("segments leave a gap".to_string());
        }
        let list = segment.list("stripes").ok_or_else(malformed)?;
        let count = number("stripe_count")?;
        let chunk = if count == 1 { sectors } else { number("stripe_size")? };
        let extents = number("extent_count")?;
        let per_stripe = extents.checked_div(count).ok_or_else(malformed)?;
        if per_stripe.checked_mul(count) != Some(extents) {
            return Err(malformed());
        }
        let mut stripes = Vec::new();
        for pair in list.chunks(2) {
            let [Value::Text(name), Value::Number(extent)] = pair else { return Err(malformed()) };
            stripes.push(self.stripe(name, *extent, per_stripe, physical)?);
        }
        if u64::try_from(stripes.len()).ok() != Some(count) {
            return Err(malformed());
        }
        map.push(sectors, stripes, chunk).ok_or_else(malformed)
    }

    /// Where a run of extents on a member is.
    fn stripe(&self, name: &str, first: u64, count: u64, physical: &[Physical]) -> Result<(DiskRef, u64), String> {
        let member = self.members.iter().find(|member| member.name == name);
        let member = member.ok_or_else(|| format!("physical volume {name} is not described"))?;
        let found = find(physical, &member.id).ok_or_else(|| format!("physical volume {name} is missing"))?;
        let outside = || format!("segment leaves physical volume {name}");
        if first.checked_add(count).is_none_or(|end| end > member.extents) {
            return Err(outside());
        }
        let offset = first.checked_mul(self.extent).and_then(|offset| offset.checked_add(member.start));
        let end = count.checked_mul(self.extent).and_then(|len| offset?.checked_add(len));
        match (offset, end) {
            (Some(offset), Some(end)) if end <= found.piece.sectors => {
                Ok((found.piece.disk, found.piece.sector.saturating_add(offset)))
            }
            _ => Err(outside()),
        }
    }
}

fn is(value: &Value, text: &str) -> bool {
    matches!(value, Value::Text(found) if found == text)
}

/// Whether a list has a flag.
fn has(section: &Section, list: &str, flag: &str) -> bool {
    section.list(list).unwrap_or_default().iter().any(|value| is(value, flag))
}
