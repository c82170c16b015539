//! The kernel command line: `extra=` in the domain's configuration.
//!
//! Options are words of the form `name=value`. An unknown name or a bad value is an error that names the
//! word: a driver domain that guesses what was meant is worse than one that does not start.

use alloc::string::{String, ToString};
use core::fmt;
use core::time::Duration;

use crate::management::Address;

/// What the command line decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// How long the switch remembers an address that is silent (`ageing=`, seconds, 10 to 86400).
    pub ageing: Duration,
    /// Most queues of a vif (`queues=`, 1 to 8).
    pub queues: usize,
    /// Largest MTU of the networks that the cards are on, in bytes (`mtu=`, 68 to 9000): they receive and send frames
    /// for it as far as they can. Frames for an MTU of 1500 always fit.
    pub mtu: usize,
    /// The domain's own address (`management=`: `dhcp` or `ADDRESS/LENGTH[,GATEWAY]`).
    pub management: Option<Address>,
    /// TCP port of its metrics (`management-port=`, 1 to 65535).
    pub management_port: u16,
    /// Least severe message that is printed (`log=`: `error`, `warn` or `info`).
    pub log: log::LevelFilter,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            ageing: Duration::from_secs(300),
            queues: 4,
            mtu: 1500,
            management: None,
            management_port: 9100,
            log: log::LevelFilter::Info,
        }
    }
}

/// What is wrong with the command line.
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
            Self::Unknown(word) => {
                write!(
                    f,
                    "unknown option {word:?} (known: ageing=, log=, management=, management-port=, mtu=, queues=)"
                )
            }
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
        for word in command_line.split_ascii_whitespace() {
            let bad = |wanted| ConfigError::BadValue(word.to_string(), wanted);
            match word.split_once('=') {
                Some(("ageing", value)) => {
                    let seconds = value.parse().ok().filter(|seconds| (10..=86400).contains(seconds));
                    config.ageing = Duration::from_secs(seconds.ok_or(bad("10 to 86400 seconds"))?);
                }
                Some(("queues", value)) => {
                    let queues = value.parse().ok().filter(|queues| (1..=8).contains(queues));
                    config.queues = queues.ok_or(bad("1 to 8 queues"))?;
                }
                Some(("mtu", value)) => {
                    let mtu = value.parse().ok().filter(|mtu| (68..=9000).contains(mtu));
                    config.mtu = mtu.ok_or(bad("68 to 9000 bytes"))?;
                }
                Some(("management", value)) => {
                    config.management = Some(Address::parse(value).ok_or(bad("dhcp or ADDRESS/LENGTH[,GATEWAY]"))?);
                }
                Some(("management-port", value)) => {
                    let port = value.parse().ok().filter(|port| *port != 0);
                    config.management_port = port.ok_or(bad("1 to 65535"))?;
                }
                Some(("log", value)) => config.log = level(value).ok_or(bad("error, warn or info"))?,
                _ => return Err(ConfigError::Unknown(word.to_string())),
            }
        }
        Ok(config)
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
mod tests {
    use super::*;

    #[test]
    fn an_empty_command_line_means_the_defaults() {
        assert_eq!(Config::parse("  "), Ok(Config::default()));
    }

    #[test]
    fn options_are_read_in_any_order() {
        let config = Config::parse("log=warn  ageing=60 queues=8 mtu=9000");
        assert_eq!(
            config,
            Ok(Config {
                ageing: Duration::from_secs(60),
                queues: 8,
                mtu: 9000,
                log: log::LevelFilter::Warn,
                ..Config::default()
            })
        );
    }

    #[test]
    fn an_unknown_option_is_named() {
        for word in ["mtus=9000", "ageing", "quiet", "=", "Log=info"] {
            assert_eq!(Config::parse(&alloc::format!("log=info {word}")), Err(ConfigError::Unknown(word.to_string())));
        }
    }

    #[test]
    fn a_value_out_of_range_is_named() {
        for word in [
            "ageing=9",
            "ageing=86401",
            "ageing=",
            "ageing=x",
            "ageing=-1",
            "log=debug",
            "log=",
            "queues=0",
            "queues=9",
            "queues=",
            "mtu=67",
            "mtu=9001",
            "mtu=",
        ] {
            assert!(matches!(Config::parse(word), Err(ConfigError::BadValue(named, _)) if named == word));
        }
    }
}
