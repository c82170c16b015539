//! Scripts that move data of known content and fail if a byte of it is wrong.

use std::fmt::Display;

use crate::bed::Bed;
use crate::wire::pattern;
use crate::wire::services::DIGEST_PORT;

/// The IPv6 address that scenarios give a guest's interface: guest `number`, vif `index`.
#[must_use]
pub fn address_v6(number: u8, index: u8) -> String {
    // fd00::1 is the wire.
    format!("fd00::a:{index:x}:{number:x}")
}

/// A script that gives `interface` an IPv6 address.
#[must_use]
pub fn add_address_v6(interface: &str, address: &str) -> String {
    format!("ip link set {interface} up; ip -6 addr replace {address}/64 dev {interface} nodad")
}

/// The IPv6 address of the wire as guests write it.
#[must_use]
pub fn wire_address_v6(bed: &Bed) -> String {
    bed.wire.config.address_v6().to_string()
}

/// A script that fetches `bytes` bytes from `host`, the wire, and compares their hash.
#[must_use]
pub fn fetch(host: impl Display, bytes: u64) -> String {
    let host = in_url(host);
    format!(
        "sum=$(timeout 300 wget -q -O - http://{host}/bytes/{bytes} | sha256sum); [ \"${{sum%% *}}\" = {want} ] || \
         {{ echo \"{bytes} bytes from {host} have the sum $sum\"; exit 1; }}",
        want = pattern::sha256(bytes),
    )
}

/// A script that sends `bytes` random bytes to `host`, the wire, and compares the hash that it answers with.
#[must_use]
pub fn send(host: impl Display, bytes: u64) -> String {
    format!(
        "up=$(mktemp /run/up.XXXXXX); head -c {bytes} /dev/urandom >$up; want=$(sha256sum <$up)\n\
         got=$(timeout 300 nc {host} {DIGEST_PORT} <$up); rm $up\n\
         [ \"$got\" = \"${{want%% *}}\" ] || {{ echo \"{bytes} bytes to {host}: the sum there is '$got', not $want\"; exit 1; }}"
    )
}

fn in_url(host: impl Display) -> String {
    let host = host.to_string();
    if host.contains(':') { format!("[{host}]") } else { host }
}
