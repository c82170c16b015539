use super::*;

#[test]
fn an_empty_command_line_means_the_defaults() {
    assert_eq!(Config::parse("  "), Ok(Config::default()));
}

#[test]
fn options_are_read_in_any_order() {
    let config = Config::parse(
        "log=warn mtu=9000 queues=8 isolate=yes  ageing=60 cards=16 antispoof=mac storm-unknown=0 vlan=5 transit=yes",
    );
    let wanted = Config {
        ageing: Duration::from_secs(60),
        antispoof: AntiSpoof::Mac,
        cards: Some(16),
        isolate: true,
        log: log::LevelFilter::Warn,
        mtu: 9000,
        queues: 8,
        storm: StormLimits { unknown: 0, ..StormLimits::default() },
        transit: true,
        vlans: Vlans::parse("5").unwrap_or(Vlans::Wire),
        ..Config::default()
    };
    assert_eq!(config, Ok(wanted));
    let config = Config::parse("management-bridge=lan management=dhcp").unwrap_or_default();
    assert_eq!((config.management, config.management_bridge.as_deref()), (Some(Address::Dhcp), Some("lan")));
}

#[test]
fn bridges_add_up_and_of_the_rest_the_last_counts() {
    let mut config = Config::parse("bridge=lan:0 ageing=10").unwrap_or_default();
    assert_eq!(config.read("ageing=20 bridge=dmz:1,2"), Ok(()));
    assert_eq!(config.ageing, Duration::from_secs(20));
    assert_eq!(config.bridges.iter().map(|bridge| bridge.name.as_str()).collect::<Vec<_>>(), ["lan", "dmz"]);
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
        "ageing=+60",
        "log=debug",
        "log=",
        "bridge=lan",
        "cards=0",
        "cards=17",
        "cards=",
        "antispoof=on",
        "isolate=1",
        "transit=",
        "storm-broadcast=-1",
        "storm-multicast=4294967296",
        "storm-unknown=",
        "management-bridge=",
        "mtu=67",
        "mtu=9001",
        "mtu=",
        "queues=0",
        "queues=9",
        "queues=",
        "vlan=0",
        "vlan=10/20",
    ] {
        assert!(matches!(Config::parse(word), Err(ConfigError::BadValue(named, _)) if named == word), "{word}");
    }
}

#[test]
fn every_option_is_listed() {
    for name in NAMES.split(", ") {
        let word = alloc::format!("{}?", name);
        assert!(!matches!(Config::parse(&word), Err(ConfigError::Unknown(_))), "{name}");
    }
}
