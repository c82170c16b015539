//! VLANs: which of them a port belongs to, and which tag a frame bears where it leaves.
//!
//! A frame belongs to one VLAN from the port it came in by to the ports it leaves by. The wire bears VLAN 1 without
//! a tag and all others with one. A vif is what its `vlan` key says, in libxl's notation: one VLAN without tags
//! (access), and perhaps others with.
//!
//! A frame with a further tag behind the one that counts is only taken where that one stays in front of it on the
//! wire: otherwise the further tag would come out in front, and the frame would enter another VLAN by it.
//!
//! Standards: IEEE 802.1Q, 6.9 (ingress, egress), 9.6 (tag control information).

use alloc::boxed::Box;

use crate::wire::{ETHERNET_HEADER, TPID_8021AD, TPID_8021Q, VLAN_TAG, u16_at};

const TPID_QINQ: u16 = 0x9100;

/// A VLAN, 1 to 4094.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Vid(u16);

impl Vid {
    /// The VLAN of frames that have no tag on the wire.
    pub const NATIVE: Self = Self(1);

    /// `None` if there is no such VLAN.
    pub const fn new(number: u16) -> Option<Self> {
        if matches!(number, 1..=4094) { Some(Self(number)) } else { None }
    }

    /// Its number.
    pub const fn into_raw(self) -> u16 {
        self.0
    }
}

/// What a frame's header says about VLANs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tags {
    /// The VLAN number in its tag, 0 to 4095, if it has one.
    outer: Option<u16>,
    /// Whether another tag, of whatever kind, comes next.
    nested: bool,
}

impl Tags {
    /// Reads the start of a frame.
    pub fn of(head: &[u8]) -> Self {
        let is_tag = |at| matches!(u16_at(head, at), Some(TPID_8021Q | TPID_8021AD | TPID_QINQ));
        let outer = match u16_at(head, 12) {
            Some(TPID_8021Q) => u16_at(head, ETHERNET_HEADER).map(|tci| tci & 0xfff),
            _ => None,
        };
        let nested = is_tag(if outer.is_some() { ETHERNET_HEADER.saturating_add(2) } else { 12 });
        Self { outer, nested }
    }
}

/// A set of VLANs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct VidSet([u64; 64]);

impl VidSet {
    const EMPTY: Self = Self([0; 64]);

    fn insert(&mut self, vid: Vid) {
        if let Some(word) = self.0.get_mut(usize::from(vid.0 >> 6)) {
            *word |= 1 << (vid.0 & 63);
        }
    }

    fn contains(&self, vid: Vid) -> bool {
        self.0.get(usize::from(vid.0 >> 6)).is_some_and(|word| word >> (vid.0 & 63) & 1 != 0)
    }
}

/// The VLANs of a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Vlans {
    /// All, with tags but for [`Vid::NATIVE`]: a card.
    Wire,
    /// One, without tags.
    Access(Vid),
    /// Several.
    Trunk(Box<Trunk>),
}

/// Several VLANs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trunk {
    /// Of frames that arrive without a tag.
    pvid: Vid,
    members: VidSet,
    untagged: VidSet,
}

impl Vlans {
    /// Reads libxl's notation: `10`, `10p/20`, `10p/20-30`, `10p/100+10x4`, and `u` behind an element for no tags;
    /// `None` if it is malformed or does not say which VLAN frames without a tag belong to.
    pub fn parse(text: &str) -> Option<Self> {
        if let Some(vid) = parse_vid(text.strip_suffix('p').unwrap_or(text)) {
            return Some(Self::Access(vid));
        }
        let (mut pvid, mut members, mut untagged) = (None, VidSet::EMPTY, VidSet::EMPTY);
        for term in text.split('/') {
            let term = match term.strip_suffix('p') {
                Some(term) => {
                    if pvid.replace(parse_vid(term)?).is_some() {
                        return None;
                    }
                    untagged.insert(pvid?);
                    term
                }
                None => term,
            };
            let (term, bare) = term.strip_suffix('u').map_or((term, false), |term| (term, true));
            let (first, step, count) = parse_term(term)?;
            for index in 0..count {
                let vid = Vid::new(first.0.checked_add(index.checked_mul(step)?)?)?;
                members.insert(vid);
                if bare {
                    untagged.insert(vid);
                }
            }
        }
        Some(Self::Trunk(Box::new(Trunk { pvid: pvid?, members, untagged })))
    }

    /// The VLAN of frames without a tag.
    pub fn pvid(&self) -> Vid {
        match self {
            Self::Wire => Vid::NATIVE,
            Self::Access(vid) => *vid,
            Self::Trunk(trunk) => trunk.pvid,
        }
    }

    /// Which VLAN a frame belongs to that arrives by this port; `None` if it may not.
    pub fn ingress(&self, tags: Tags) -> Option<Vid> {
        let vid = match tags.outer {
            None | Some(0) => self.pvid(),
            Some(number) => Vid::new(number)?,
        };
        match self.egress(vid)? {
            _ if *self == Self::Wire || !tags.nested => Some(vid),
            Form::Tagged if tags.outer == Some(vid.0) && vid != Vid::NATIVE => Some(vid),
            Form::Tagged | Form::Untagged => None,
        }
    }

    /// How frames of a VLAN leave by this port; `None` if they do not.
    pub fn egress(&self, vid: Vid) -> Option<Form> {
        let untagged = match self {
            Self::Wire => vid == Vid::NATIVE,
            Self::Access(own) if *own == vid => true,
            Self::Trunk(trunk) if trunk.members.contains(vid) => trunk.untagged.contains(vid),
            Self::Access(_) | Self::Trunk(_) => return None,
        };
        Some(if untagged { Form::Untagged } else { Form::Tagged })
    }
}

/// How a frame bears its VLAN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Not at all: the port knows.
    Untagged,
    /// In a tag.
    Tagged,
}

impl Form {
    /// The bytes a frame grows by if it gets a tag.
    pub const TAG: usize = VLAN_TAG;
}

fn parse_number(text: &str) -> Option<u16> {
    text.parse().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()))
}

fn parse_vid(text: &str) -> Option<Vid> {
    Vid::new(parse_number(text)?)
}

/// A term without its suffix: the first VLAN, the distance of the next, and how many.
fn parse_term(term: &str) -> Option<(Vid, u16, u16)> {
    if let Some((first, last)) = term.split_once('-') {
        let (first, last) = (parse_vid(first)?, parse_vid(last)?);
        return Some((first, 1, last.0.checked_sub(first.0)?.checked_add(1)?));
    }
    if let Some((first, rest)) = term.split_once('+') {
        let (step, more) = rest.split_once('x')?;
        return Some((parse_vid(first)?, parse_number(step)?, parse_number(more)?.checked_add(1)?));
    }
    Some((parse_vid(term)?, 0, 1))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests;
