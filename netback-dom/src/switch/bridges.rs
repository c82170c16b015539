//! Which bridges there are, what they are called, and which cards they reach.
//!
//! Without a `bridge=` option a single card serves every vif, whatever bridge the vif names; several cards have
//! a bridge each, `xenbr0`, `xenbr1` and so on in the order of `pci=[...]`, so that two cards on one LAN make no loop.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

use super::{BridgeId, MAX_BRIDGES};

/// Longest name of a bridge in bytes: what Linux allows for one.
const MAX_NAME: usize = 15;

/// One `bridge=NAME:CARD[,CARD...]` option.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BridgeOption {
    /// What `bridge=` of a vif has to be.
    pub name: String,
    /// Its cards, by their place in `pci=[...]`, the first being 0. Without any, its vifs reach each other only.
    pub cards: Vec<u8>,
}

impl BridgeOption {
    /// Reads `NAME:CARD[,CARD...]`; `None` if it is not that.
    pub fn parse(value: &str) -> Option<Self> {
        let (name, list) = value.split_once(':')?;
        let printable = name.bytes().all(|byte| byte.is_ascii_graphic());
        if name.is_empty() || name.len() > MAX_NAME || !printable {
            return None;
        }
        let mut cards = Vec::new();
        if !list.is_empty() {
            for number in list.split(',') {
                let plain = number.bytes().all(|byte| byte.is_ascii_digit());
                cards.push(number.parse().ok().filter(|_| plain)?);
            }
        }
        Some(Self { name: name.to_string(), cards })
    }
}

/// Why the bridges cannot be what the options say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BridgeError {
    /// Two options have this name.
    Twice(String),
    /// This bridge names a card that is not there: its number, and how many there are.
    NoCard(String, u8, u8),
    /// This card is on two bridges.
    Shared(u8),
    /// This card is on no bridge, though some were configured.
    Unused(u8),
    /// The management address is to be on a bridge that is not there: its name, and those that are.
    NoManagement(String, String),
    /// More bridges than there can be.
    TooMany,
}

impl fmt::Display for BridgeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Twice(name) => write!(f, "option bridge=: there are two bridges {name:?}"),
            Self::NoCard(name, card, count) => {
                write!(
                    f,
                    "option bridge={name}: no card {card}; there are {count}, the first being 0 (cards= reserves places)"
                )
            }
            Self::Shared(card) => write!(f, "option bridge=: card {card} is on two bridges"),
            Self::Unused(card) => write!(f, "option bridge=: card {card} is on no bridge"),
            Self::NoManagement(name, names) => {
                write!(f, "option management-bridge={name}: no such bridge; there are {names}")
            }
            Self::TooMany => write!(f, "more than {MAX_BRIDGES} bridges"),
        }
    }
}

/// The bridges of the domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bridges {
    named: Vec<BridgeOption>,
    /// There is one bridge, and every name means it.
    any_name: bool,
}

impl Default for Bridges {
    /// The bridge of a single card.
    fn default() -> Self {
        Self::of_cards(1)
    }
}

impl Bridges {
    /// The bridges of `count` cards without options.
    fn of_cards(count: u8) -> Self {
        let named = (0..count.max(1)).map(|card| BridgeOption {
            name: format!("xenbr{card}"),
            cards: if card < count { [card].into() } else { Vec::new() },
        });
        Self { named: named.collect(), any_name: count <= 1 }
    }

    /// The bridges that the options name, for `count` cards.
    ///
    /// # Errors
    /// What does not fit together.
    pub fn new(options: Vec<BridgeOption>, count: u8) -> Result<Self, BridgeError> {
        let bridges = if options.is_empty() { Self::of_cards(count) } else { Self { named: options, any_name: false } };
        if bridges.named.len() > MAX_BRIDGES {
            return Err(BridgeError::TooMany);
        }
        for (at, bridge) in bridges.named.iter().enumerate() {
            if bridges.named.iter().skip(at.saturating_add(1)).any(|other| other.name == bridge.name) {
                return Err(BridgeError::Twice(bridge.name.clone()));
            }
            if let Some(card) = bridge.cards.iter().find(|card| **card >= count) {
                return Err(BridgeError::NoCard(bridge.name.clone(), *card, count));
            }
        }
        for card in 0..count {
            match bridges.named.iter().flat_map(|bridge| &bridge.cards).filter(|other| **other == card).count() {
                0 => return Err(BridgeError::Unused(card)),
                1 => {}
                _ => return Err(BridgeError::Shared(card)),
            }
        }
        Ok(bridges)
    }

    /// The bridge a vif asks for; without a name, the first.
    pub fn find(&self, name: Option<&str>) -> Option<BridgeId> {
        let at = match name {
            Some(name) if !self.any_name => self.named.iter().position(|bridge| bridge.name == name)?,
            _ => 0,
        };
        u8::try_from(at).ok().map(BridgeId)
    }

    /// The bridge of the management address: the one with this name, or that of the first card.
    ///
    /// # Errors
    /// [`BridgeError::NoManagement`] if there is no bridge of this name.
    pub fn of_management(&self, name: Option<&str>) -> Result<BridgeId, BridgeError> {
        match name {
            Some(name) => {
                let missing = || BridgeError::NoManagement(name.to_string(), self.names());
                self.find(Some(name)).ok_or_else(missing)
            }
            None => Ok(self.of_card(0).unwrap_or_default()),
        }
    }

    /// The bridge of a card.
    pub fn of_card(&self, card: u8) -> Option<BridgeId> {
        let at = self.named.iter().position(|bridge| bridge.cards.contains(&card))?;
        u8::try_from(at).ok().map(BridgeId)
    }

    /// What the bridge of a card is called.
    pub fn name_of_card(&self, card: u8) -> Option<&str> {
        self.named.iter().find(|bridge| bridge.cards.contains(&card)).map(|bridge| bridge.name.as_str())
    }

    /// All names, for messages.
    pub fn names(&self) -> String {
        let names: Vec<&str> = self.named.iter().map(|bridge| bridge.name.as_str()).collect();
        names.join(", ")
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn bridges(options: &[&str], count: u8) -> Result<Bridges, BridgeError> {
        Bridges::new(options.iter().map(|option| BridgeOption::parse(option).unwrap()).collect(), count)
    }

    #[test]
    fn a_single_card_takes_every_name() {
        let bridges = bridges(&[], 1).unwrap();
        for name in [None, Some("xenbr0"), Some("br7")] {
            assert_eq!(bridges.find(name), Some(BridgeId(0)));
        }
        assert_eq!(bridges.of_card(0), Some(BridgeId(0)));
    }

    #[test]
    fn several_cards_have_a_bridge_each() {
        let bridges = bridges(&[], 3).unwrap();
        assert_eq!(bridges.find(None), Some(BridgeId(0)));
        assert_eq!(bridges.find(Some("xenbr2")), Some(BridgeId(2)));
        assert_eq!(bridges.find(Some("xenbr3")), None);
        assert_eq!((0..3).map(|card| bridges.of_card(card).unwrap().0).collect::<Vec<_>>(), [0, 1, 2]);
    }

    #[test]
    fn options_decide_names_and_cards() {
        let bridges = bridges(&["lan:2,0", "dmz:1", "internal:"], 3).unwrap();
        assert_eq!(bridges.find(Some("lan")), bridges.of_card(0));
        assert_eq!(bridges.of_card(2), bridges.of_card(0));
        assert_eq!(bridges.find(Some("dmz")), bridges.of_card(1));
        assert_eq!(bridges.find(Some("internal")), Some(BridgeId(2)));
        assert_eq!(bridges.find(Some("xenbr0")), None);
        assert_eq!(bridges.names(), "lan, dmz, internal");
    }

    #[test]
    fn the_management_address_is_on_the_first_cards_bridge_or_on_the_one_that_is_named() {
        let several = bridges(&["inside:", "dmz:1", "lan:0"], 2).unwrap();
        assert_eq!(several.of_management(None), Ok(BridgeId(2)));
        assert_eq!(several.of_management(Some("inside")), Ok(BridgeId(0)));
        let names = "inside, dmz, lan".to_string();
        assert_eq!(several.of_management(Some("wan")), Err(BridgeError::NoManagement("wan".into(), names)));
        assert_eq!(bridges(&[], 1).unwrap().of_management(Some("xenbr7")), Ok(BridgeId(0)), "a single bridge");
    }

    #[test]
    fn what_does_not_fit_together_is_named() {
        assert_eq!(bridges(&["a:0", "a:1"], 2), Err(BridgeError::Twice("a".into())));
        assert_eq!(bridges(&["a:0,1"], 1), Err(BridgeError::NoCard("a".into(), 1, 1)));
        assert_eq!(bridges(&["a:0", "b:0"], 1), Err(BridgeError::Shared(0)));
        assert_eq!(bridges(&["a:0,0"], 1), Err(BridgeError::Shared(0)));
        assert_eq!(bridges(&["a:0"], 2), Err(BridgeError::Unused(1)));
        let many: Vec<_> = (0..17).map(|number| format!("b{number}:")).collect();
        assert_eq!(bridges(&many.iter().map(String::as_str).collect::<Vec<_>>(), 0), Err(BridgeError::TooMany));
    }

    #[test]
    fn an_option_that_is_no_bridge_is_refused() {
        for value in ["", "lan", ":0", "lan:x", "lan:0,", "lan:,", "lan:+1", "lan:256", "lan:0:1", "a-name-too-long1:0"]
        {
            assert_eq!(BridgeOption::parse(value), None, "{value}");
        }
    }
}
