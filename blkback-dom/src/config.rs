//! The kernel command line: `extra=` in the domain's configuration.
//!
//! Options are words of the form `name=value`. An unknown name or a bad value is an error that names the
//! word: a driver domain that guesses what was meant is worse than one that does not start.

use alloc::string::{String, ToString};
use core::fmt;
use core::time::Duration;

use crate::disk::COMMAND_TIME;
use crate::vbd::Budget;

/// What the command line decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// What one vbd may hold (`vbd-memory=`, KiB of buffers, 256 to 16384; `persistent-grants=`, pages, 0 to 4096).
    pub budget: Budget,
    /// What a disk is given for a command (`disk-timeout=`, seconds, 1 to 600).
    pub disk_timeout: Duration,
    /// Least severe message that is printed (`log=`: `error`, `warn` or `info`).
    pub log: log::LevelFilter,
}

impl Default for Config {
    fn default() -> Self {
        Self { budget: Budget::default(), disk_timeout: COMMAND_TIME, log: log::LevelFilter::Info }
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
                write!(f, "unknown option {word:?} (known: vbd-memory=, persistent-grants=, disk-timeout=, log=)")
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
                Some(("vbd-memory", value)) => {
                    let kib = value.parse().ok().filter(|kib| (256..=16384).contains(kib));
                    let persistent = config.budget.persistent;
                    config.budget = Budget { persistent, ..budget(kib.ok_or(bad("256 to 16384 KiB"))?) };
                }
                Some(("persistent-grants", value)) => {
                    let pages = value.parse().ok().filter(|pages| (0..=4096).contains(pages));
                    config.budget.persistent = pages.ok_or(bad("0 to 4096 pages"))?;
                }
                Some(("disk-timeout", value)) => {
                    let seconds = value.parse().ok().filter(|seconds| (1..=600).contains(seconds));
                    config.disk_timeout = Duration::from_secs(seconds.ok_or(bad("1 to 600 seconds"))?);
                }
                Some(("log", value)) => config.log = level(value).ok_or(bad("error, warn or info"))?,
                _ => return Err(ConfigError::Unknown(word.to_string())),
            }
        }
        Ok(config)
    }
}

/// A budget that holds `kib` KiB of buffers.
fn budget(kib: usize) -> Budget {
    let pages = kib / 4;
    // Twice as many pages as requests, because each may hold one for its list of segments.
    let requests = (pages / 2).min(256);
    Budget { requests: u16::try_from(requests).unwrap_or(u16::MAX), parts: requests, pages, ..Budget::default() }
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
        let budget = Budget { requests: 128, parts: 128, pages: 256, persistent: 352 };
        let config = Config::parse("log=warn persistent-grants=352  disk-timeout=5 vbd-memory=1024");
        assert_eq!(config, Ok(Config { budget, disk_timeout: Duration::from_secs(5), log: log::LevelFilter::Warn }));
    }

    #[test]
    fn an_unknown_option_is_named() {
        for word in ["mtu=9000", "vbd-memory", "quiet", "=", "Log=info"] {
            assert_eq!(Config::parse(&alloc::format!("log=info {word}")), Err(ConfigError::Unknown(word.to_string())));
        }
    }

    #[test]
    fn a_value_out_of_range_is_named() {
        for word in [
            "vbd-memory=255",
            "vbd-memory=16385",
            "vbd-memory=",
            "vbd-memory=x",
            "disk-timeout=0",
            "disk-timeout=601",
            "disk-timeout=1s",
            "persistent-grants=4097",
            "persistent-grants=yes",
            "log=debug",
            "log=",
        ] {
            assert!(matches!(Config::parse(word), Err(ConfigError::BadValue(named, _)) if named == word));
        }
    }

    #[test]
    fn every_budget_has_pages_to_spare_for_lists() {
        for kib in [256, 1000, 16384] {
            let Budget { requests, parts, pages, .. } = budget(kib);
            assert!(usize::from(requests) * 2 <= pages && parts > 0);
        }
    }
}
