//! The options: words of the form `name=value`, on the kernel command line (`extra=`) and in xenstore.
//!
//! An unknown name or a bad value is an error that names the word: a driver domain that guesses what was meant is
//! worse than one that does not start. The table for humans is in `docs/xenstore-keys.md`.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;
use core::time::Duration;

use crate::management::Address;
use crate::netback::Options;
use crate::switch::bridges::{BridgeOption, Bridges};
use crate::switch::policy::{AntiSpoof, Policy};
use crate::switch::storm::StormLimits;
use crate::switch::vlan::Vlans;
use crate::switch::{MAX_BRIDGES, SwitchOptions, TableLimits};

/// The options there are.
const NAMES: &str = "ageing=, antispoof=, bridge=, cards=, isolate=, log=, management=, management-bridge=, management-port=, mtu=, queues=, storm-broadcast=, storm-multicast=, storm-unknown=, \
                     transit=, vlan=";

/// What the options decide.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// How long the switch remembers an address that is silent (`ageing=`, seconds, 10 to 86400).
    pub ageing: Duration,
    /// Which vifs are held to their own addresses (`antispoof=`: `off`, `ip` or `mac`).
    pub antispoof: AntiSpoof,
    /// The bridges (`bridge=NAME:CARD[,CARD...]`, once for each); empty: as many as there are cards.
    pub bridges: Vec<BridgeOption>,
    /// Places for cards (`cards=`, 1 to 16): those beyond the cards there are at start wait for `xl pci-attach`. None: as
    /// many as there are cards.
    pub cards: Option<usize>,
    /// Whether vifs reach cards only (`isolate=`: `yes` or `no`).
    pub isolate: bool,
    /// Least severe message that is printed (`log=`: `error`, `warn` or `info`).
    pub log: log::LevelFilter,
    /// Largest MTU of the networks that the cards are on, in bytes (`mtu=`, 68 to 9000): they receive and send frames
    /// for it as far as they can. Frames for an MTU of 1500 always fit.
    pub mtu: usize,
    /// The domain's own address (`management=`: `dhcp` or `ADDRESS/LENGTH[,GATEWAY]`).
    pub management: Option<Address>,
    /// The bridge it is on (`management-bridge=NAME`); none: that of the first card.
    pub management_bridge: Option<String>,
    /// TCP port of its metrics (`management-port=`, 1 to 65535).
    pub management_port: u16,
    /// Most queues of a vif (`queues=`, 1 to 8).
    pub queues: usize,
    /// Frames to everybody, per port and second (`storm-broadcast=`, `storm-multicast=`, `storm-unknown=`; 0: no limit).
    pub storm: StormLimits,
    /// Whether cards of one bridge reach each other (`transit=`: `yes` or `no`).
    pub transit: bool,
    /// The VLANs of vifs without a `vlan` key (`vlan=`, as in `xl`).
    pub vlans: Vlans,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            ageing: Duration::from_secs(300),
            antispoof: AntiSpoof::default(),
            bridges: Vec::new(),
            cards: None,
            isolate: false,
            log: log::LevelFilter::Info,
            management: None,
            management_bridge: None,
            management_port: 9100,
            mtu: 1500,
            queues: 4,
            storm: StormLimits::default(),
            transit: false,
            vlans: Vlans::Wire,
        }
    }
}

/// What is wrong with the options.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigError {
    /// No option has this name.
    Unknown(String),
    /// The option exists, but not with this value; the text says which values it takes.
    BadValue(String, &'static str),
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(word) => write!(f, "unknown option {word:?} (known: {NAMES})"),
            Self::BadValue(word, wanted) => write!(f, "bad value in option {word:?}: {wanted}"),
        }
    }
}

impl Config {
    /// Reads the command line.
    ///
    /// # Errors
    /// The first word that makes no sense.
    pub fn parse(command_line: &str) -> Result<Self, ConfigError> {
        let mut config = Self::default();
        config.read(command_line)?;
        Ok(config)
    }

    /// Reads more options, which go before those that were read already. Several `bridge=` add up.
    ///
    /// # Errors
    /// The first word that makes no sense.
    pub fn read(&mut self, words: &str) -> Result<(), ConfigError> {
        for word in words.split_ascii_whitespace() {
            let Some((name, value)) = word.split_once('=') else { return Err(ConfigError::Unknown(word.to_string())) };
            let Some(read) = self.set(name, value) else { return Err(ConfigError::Unknown(word.to_string())) };
            read.map_err(|wanted| ConfigError::BadValue(word.to_string(), wanted))?;
        }
        Ok(())
    }

    /// Sets one option; the error says which values it takes. `None` if there is no such option.
    fn set(&mut self, name: &str, value: &str) -> Option<Result<(), &'static str>> {
        let frames = "0 to 4294967295 frames per second, 0 for no limit";
        Some(match name {
            "ageing" => {
                let seconds = number(value).filter(|seconds| (10..=86400).contains(seconds));
                put(&mut self.ageing, seconds.map(|seconds| Duration::from_secs(seconds.into())), "10 to 86400 seconds")
            }
            "antispoof" => put(&mut self.antispoof, AntiSpoof::parse(value), "off, ip or mac"),
            "bridge" => BridgeOption::parse(value)
                .map(|bridge| self.bridges.push(bridge))
                .ok_or("NAME:CARD[,CARD...], a name of at most 15 characters and cards counted from 0"),
            "cards" => {
                let cards = number(value).and_then(|cards| usize::try_from(cards).ok());
                put(&mut self.cards, cards.filter(|cards| (1..=MAX_BRIDGES).contains(cards)).map(Some), "1 to 16 cards")
            }
            "isolate" => put(&mut self.isolate, yes_or_no(value), "yes or no"),
            "log" => put(&mut self.log, level(value), "error, warn or info"),
            "management" => {
                put(&mut self.management, Address::parse(value).map(Some), "dhcp or ADDRESS/LENGTH[,GATEWAY]")
            }
            "management-bridge" => {
                let name = Some(value).filter(|name| !name.is_empty());
                put(&mut self.management_bridge, name.map(|name| Some(name.to_string())), "the name of a bridge")
            }
            "management-port" => {
                let port = number(value).and_then(|port| u16::try_from(port).ok());
                put(&mut self.management_port, port.filter(|port| *port != 0), "1 to 65535")
            }
            "mtu" => {
                let mtu = number(value).and_then(|mtu| usize::try_from(mtu).ok());
                put(&mut self.mtu, mtu.filter(|mtu| (68..=9000).contains(mtu)), "68 to 9000 bytes")
            }
            "queues" => {
                let queues = number(value).and_then(|queues| usize::try_from(queues).ok());
                put(&mut self.queues, queues.filter(|queues| (1..=8).contains(queues)), "1 to 8 queues")
            }
            "storm-broadcast" => put(&mut self.storm.broadcast, number(value), frames),
            "storm-multicast" => put(&mut self.storm.multicast, number(value), frames),
            "storm-unknown" => put(&mut self.storm.unknown, number(value), frames),
            "transit" => put(&mut self.transit, yes_or_no(value), "yes or no"),
            "vlan" => put(&mut self.vlans, Vlans::parse(value), "VLANs as xl writes them, such as 10 or 10p/20-30"),
            _ => return None,
        })
    }

    /// What that means for the backend.
    pub fn options(&self, bridges: Bridges) -> Options {
        let table = TableLimits { ageing: self.ageing, ..TableLimits::default() };
        let switch = SwitchOptions { table, isolate: self.isolate, transit: self.transit, storm: self.storm };
        let policy = Policy { bridges, antispoof: self.antispoof, vlans: self.vlans.clone() };
        Options { switch, policy, max_queues: self.queues, ..Options::default() }
    }
}

fn put<T>(place: &mut T, value: Option<T>, wanted: &'static str) -> Result<(), &'static str> {
    *place = value.ok_or(wanted)?;
    Ok(())
}

fn number(value: &str) -> Option<u32> {
    value.parse().ok().filter(|_| value.bytes().all(|byte| byte.is_ascii_digit()))
}

fn yes_or_no(value: &str) -> Option<bool> {
    match value {
        "yes" => Some(true),
        "no" => Some(false),
        _ => None,
    }
}

fn level(value: &str) -> Option<log::LevelFilter> {
    Some(match value {
        "error" => log::LevelFilter::Error,
        "warn" => log::LevelFilter::Warn,
        "info" => log::LevelFilter::Info,
        _ => return None,
    })
}

#[cfg(test)]
mod tests;
