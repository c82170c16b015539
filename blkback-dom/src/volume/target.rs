//! What `target=` may say.
//!
//! | form | meaning |
//! |---|---|
//! | `nvme0n1`, `ahci0p2`, `vda` | a whole disk; `nvme0` or `ahci0` if the controller has only one |
//! | `nvme0n1:3`, `nvme0n1:part3` | a GPT or MBR partition by number |
//! | `PARTLABEL=name`, `PARTUUID=uuid` | a GPT partition by name or unique id |
//! | `vg/lv` | an LVM2 logical volume |
//! | `nvme0n1@start+length` | a slice, in sectors of 512 bytes, or with a suffix K, M, G or T in units of 1024 |
//!
//! `,shared` at the end allows other vbds that say so too to write to the same sectors.

use alloc::string::{String, ToString};
use core::fmt;

/// A volume as the configuration names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// What it is.
    pub kind: TargetKind,
    /// Others may write it too.
    pub shared: bool,
}

/// The forms of a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetKind {
    /// A disk by name.
    Disk(String),
    /// A partition of a disk by number, from 1.
    Partition(String, u32),
    /// A GPT partition by name.
    PartLabel(String),
    /// A GPT partition by its unique id, as 16 bytes in the order of the text.
    PartUuid([u8; 16]),
    /// A logical volume: volume group and name.
    Logical(String, String),
    /// A part of a disk: first sector and number of sectors.
    Slice(String, u64, u64),
}

/// What is wrong with a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadTarget;

impl fmt::Display for BadTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("target is none of disk, disk:number, disk@start+length, PARTLABEL=, PARTUUID=, vg/lv")
    }
}

impl Target {
    /// Reads the `params` key.
    ///
    /// # Errors
    /// [`BadTarget`] if it has none of the forms above.
    pub fn parse(text: &str) -> Result<Self, BadTarget> {
        let (text, shared) = match text.strip_suffix(",shared") {
            Some(rest) => (rest, true),
            None => (text, false),
        };
        Ok(Self { kind: TargetKind::parse(text).ok_or(BadTarget)?, shared })
    }
}

impl TargetKind {
    fn parse(text: &str) -> Option<Self> {
        if text.len() > 256 || text.chars().any(char::is_control) {
            return None;
        }
        if let Some(label) = text.strip_prefix("PARTLABEL=") {
            return (!label.is_empty()).then(|| Self::PartLabel(label.to_string()));
        }
        if let Some(uuid) = text.strip_prefix("PARTUUID=") {
            return parse_uuid(uuid).map(Self::PartUuid);
        }
        if let Some((group, volume)) = text.split_once('/') {
            return (is_name(group) && is_name(volume)).then(|| Self::Logical(group.to_string(), volume.to_string()));
        }
        if let Some((disk, slice)) = text.split_once('@') {
            let (start, length) = slice.split_once('+')?;
            let (start, length) = (parse_sectors(start)?, parse_sectors(length)?);
            let sensible = length > 0 && start.checked_add(length).is_some() && is_name(disk);
            return sensible.then(|| Self::Slice(disk.to_string(), start, length));
        }
        if let Some((disk, number)) = text.split_once(':') {
            let number = parse_u64(number.strip_prefix("part").unwrap_or(number))?;
            let number = u32::try_from(number).ok().filter(|number| *number > 0)?;
            return is_name(disk).then(|| Self::Partition(disk.to_string(), number));
        }
        is_name(text).then(|| Self::Disk(text.to_string()))
    }
}

/// A name of a disk, a volume group or a logical volume: the characters that LVM allows.
fn is_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.+".contains(&byte))
}

/// Digits only: no sign, no space.
fn parse_u64(text: &str) -> Option<u64> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}

/// A number of sectors, or of bytes with a suffix.
fn parse_sectors(text: &str) -> Option<u64> {
    let (digits, sectors) = match text.as_bytes().last()? {
        b'K' => (text.strip_suffix('K')?, 2),
        b'M' => (text.strip_suffix('M')?, 2 << 10),
        b'G' => (text.strip_suffix('G')?, 2 << 20),
        b'T' => (text.strip_suffix('T')?, 2 << 30),
        _ => (text, 1),
    };
    parse_u64(digits)?.checked_mul(sectors)
}

/// `8-4-4-4-12` hexadecimal digits.
fn parse_uuid(text: &str) -> Option<[u8; 16]> {
    let mut groups = [8, 4, 4, 4, 12].into_iter();
    let mut bytes = [0; 16];
    let mut at = bytes.iter_mut();
    for group in text.split('-') {
        if group.len() != groups.next()? {
            return None;
        }
        for pair in group.as_bytes().chunks(2) {
            let [high, low] = pair else { return None };
            let digit = |byte: u8| char::from(byte).to_digit(16);
            let value = digit(*high)?.checked_mul(16)?.checked_add(digit(*low)?)?;
            *at.next()? = u8::try_from(value).ok()?;
        }
    }
    (groups.next().is_none() && at.next().is_none()).then_some(bytes)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn kind(text: &str) -> TargetKind {
        Target::parse(text).unwrap().kind
    }

    #[test]
    fn every_form_is_read() {
        let disk = "nvme0n1".to_string();
        for (text, expected) in [
            ("nvme0n1", TargetKind::Disk(disk.clone())),
            ("nvme0n1:3", TargetKind::Partition(disk.clone(), 3)),
            ("nvme0n1:part12", TargetKind::Partition(disk.clone(), 12)),
            ("PARTLABEL=my root", TargetKind::PartLabel("my root".to_string())),
            ("vg0/root-disk", TargetKind::Logical("vg0".to_string(), "root-disk".to_string())),
            ("nvme0n1@2048+4096", TargetKind::Slice(disk.clone(), 2048, 4096)),
            ("nvme0n1@1M+2G", TargetKind::Slice(disk, 2048, 4 << 20)),
            (
                "PARTUUID=00112233-4455-6677-8899-AAbbccddeeff",
                TargetKind::PartUuid([
                    0, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff,
                ]),
            ),
        ] {
            assert_eq!(kind(text), expected, "{text}");
        }
        assert!(Target::parse("vda,shared").unwrap().shared);
        assert!(!Target::parse("vda").unwrap().shared);
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            ",shared",
            "/dev/sda",
            "a/b/c",
            "vg/",
            "/lv",
            "nvme0n1:",
            "nvme0n1:0",
            "nvme0n1:-1",
            "nvme0n1:+1",
            "nvme0n1:99999999999",
            "nvme0n1@",
            "nvme0n1@1",
            "nvme0n1@1+0",
            "nvme0n1@1+x",
            "nvme0n1@18446744073709551615+1",
            "nvme0n1@1+9999999999T",
            "@1+1",
            "PARTLABEL=",
            "PARTUUID=",
            "PARTUUID=00112233-4455-6677-8899-aabbccddeef",
            "PARTUUID=0011223344556677-8899-aabb-ccdd-eeff0011",
            "PARTUUID=00112233-4455-6677-8899-aabbccddeeff-",
            "nvme0 n1",
            "nvme\n0",
            "Ünvme",
        ] {
            assert_eq!(Target::parse(text), Err(BadTarget), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".{0,80}") {
            let _ = Target::parse(&text);
        }

        #[test]
        fn no_nearly_right_text_panics(text in "(nvme0n1|PARTUUID=|PARTLABEL=|vg)[@:/+0-9a-fKMGT-]{0,40}(,shared)?") {
            let _ = Target::parse(&text);
        }
    }
}
