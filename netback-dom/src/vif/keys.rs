//! The xenstore keys of a vif: what the toolstack and the frontend tell us, and what we advertise.
//!
//! Key names appear here and nowhere else. Optional numbers follow Linux: a missing or malformed feature is
//! off, any number but 0 is on.
//!
//! Xen: `public/io/netif.h`; the table for humans is `docs/xenstore-keys.md`.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::time::Duration;

use embassy_futures::join::{join, join_array};
use xen_pv_rt::hyp::{GrantRef, RemotePort, Xenstore, XsError};
use xen_pv_rt::xenbus::backend::{Fault, Keys};
use xen_pv_rt::xenbus::{BackendPath, FrontendPath, read_number, read_number_or, read_text};

use crate::dataplane::Rate;
use crate::nic::MacAddress;
use crate::switch::bucket::TokenBucket;
use crate::switch::policy::{PortKeys, malformed};

/// What we offer to everybody, in the order of `netif.h`. Everything else is off.
const FEATURES: [(&str, &str); 11] = [
    ("feature-rx-copy", "1"),
    ("feature-rx-flip", "0"),
    ("feature-sg", "1"),
    ("feature-gso-tcpv4", "1"),
    ("feature-gso-tcpv6", "1"),
    ("feature-ipv6-csum-offload", "1"),
    ("feature-split-event-channels", "1"),
    ("feature-ctrl-ring", "1"),
    ("feature-multicast-control", "1"),
    ("feature-dynamic-multicast-control", "1"),
    ("feature-xdp-headroom", "1"),
];

/// What we offer to a frontend that may have `queues` queues.
pub(super) fn offer(queues: usize) -> Keys {
    let mut keys: Keys = FEATURES.iter().map(|(key, value)| (*key, (*value).to_string())).collect();
    keys.push(("multi-queue-max-queues", queues.to_string()));
    keys
}

/// The frontend wants its pages flipped, which nobody does any more.
const RX_COPY: Fault = Fault::new("RX_COPY", "request-rx-copy is required");

/// May change at any time.
pub(super) const MULTICAST_CONTROL: &str = "request-multicast-control";
/// An MTU that no Ethernet has.
const MTU: Fault = Fault::new("MTU", "mtu is not a number from 68 to 9000");
/// Bytes of a frame beyond the MTU: header and one VLAN tag.
const BEYOND_MTU: usize = 18;
/// Most bytes left free at the start of a receive buffer.
const MAX_HEADROOM: u16 = 256;

/// What the toolstack wrote into the backend directory.
#[derive(Clone, Debug)]
pub(super) struct BackendKeys {
    /// `mac`, if there is one.
    mac: Option<MacAddress>,
    /// `bridge`, if there is one.
    bridge: Option<String>,
    /// `ip`, if there is one.
    ip: Option<String>,
    /// `vlan`, if there is one.
    vlan: Option<String>,
    /// `rate`, if there is one.
    pub(super) rate: Option<String>,
    /// Longest frame in bytes, from `mtu`, if there is one.
    pub(super) max_frame: Option<usize>,
}

impl BackendKeys {
    /// Reads the keys.
    ///
    /// # Errors
    /// [`Fault::READ`] if one is malformed.
    pub(super) async fn read(xs: &impl Xenstore, path: &BackendPath) -> Result<Self, Fault> {
        let keys = ["mac", "bridge", "ip", "vlan", "rate", "mtu"].map(|key| path.key(key));
        let [mac, bridge, ip, vlan, rate, mtu] = join_array(keys.each_ref().map(|path| optional_text(xs, path))).await;
        let mac = match mac? {
            Some(text) => Some(parse_mac(&text).ok_or(Fault::READ)?),
            None => None,
        };
        let max_frame = match mtu? {
            Some(text) => Some(parse_mtu(&text).ok_or(MTU)?.saturating_add(BEYOND_MTU)),
            None => None,
        };
        Ok(Self { mac, bridge: bridge?, ip: ip?, vlan: vlan?, rate: rate?, max_frame })
    }

    /// Those that are the switch's business.
    pub(super) fn port(&self) -> PortKeys<'_> {
        let Self { mac, bridge, ip, vlan, .. } = self;
        PortKeys { mac: *mac, bridge: bridge.as_deref(), ip: ip.as_deref(), vlan: vlan.as_deref() }
    }
}

/// What the `rate` key says now.
pub(super) async fn read_rate(xs: &impl Xenstore, path: &BackendPath) -> Result<Option<String>, Fault> {
    optional_text(xs, &path.key("rate")).await
}

/// Reads `bytes,microseconds`, as libxl writes it; no key means no limit.
///
/// # Errors
/// `RATE`: it is not that, or one of the two is 0.
pub(super) fn parse_rate(text: Option<&str>) -> Result<Rate, Fault> {
    let Some(text) = text else { return Ok(Rate::Unlimited) };
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let bucket = || {
        let (bytes, micros) = text.split_once(',').filter(|(bytes, micros)| digits(bytes) && digits(micros))?;
        let micros: u32 = micros.parse().ok()?;
        TokenBucket::new(bytes.parse().ok()?, Duration::from_micros(micros.into()))
    };
    bucket().map(Rate::Limited).ok_or_else(|| malformed("RATE", "rate", text))
}

/// What a frontend can take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// `feature-sg`: a received frame may span several slots.
    pub sg: bool,
    /// `feature-rx-notify`: the frontend notifies when it has posted receive requests.
    pub rx_notify: bool,
    /// Not `feature-no-csum-offload`: TCP and UDP over IPv4 may arrive with a blank checksum.
    pub csum_ipv4: bool,
    /// `feature-ipv6-csum-offload`: so may TCP and UDP over IPv6.
    pub csum_ipv6: bool,
    /// `feature-gso-tcpv4`: TCP over IPv4 may arrive in packets that were never cut into segments.
    pub gso_ipv4: bool,
    /// `feature-gso-tcpv6`: so may TCP over IPv6.
    pub gso_ipv6: bool,
}

/// The frontend's event channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Channels {
    /// `event-channel`: one for both rings.
    Single(RemotePort),
    /// `event-channel-tx` and `event-channel-rx`.
    Split {
        /// Of the transmit ring.
        tx: RemotePort,
        /// Of the receive ring.
        rx: RemotePort,
    },
}

/// Where a queue's rings and event channels are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct QueueKeys {
    /// `tx-ring-ref`.
    pub(super) tx_ring: GrantRef,
    /// `rx-ring-ref`.
    pub(super) rx_ring: GrantRef,
    /// Its event channels.
    pub(super) channels: Channels,
}

/// What the frontend wrote into its directory.
#[derive(Clone, Debug)]
pub(super) struct FrontendKeys {
    /// What it can take.
    pub(super) features: Features,
    /// Its queues, at least one.
    pub(super) queues: Vec<QueueKeys>,
    /// `request-multicast-control`.
    pub(super) multicast_control: bool,
    /// `xdp-headroom`, in bytes.
    pub(super) headroom: u16,
    /// `ctrl-ring-ref` and `event-channel-ctrl`.
    pub(super) control: Option<(GrantRef, RemotePort)>,
}

impl FrontendKeys {
    /// Reads the keys of a frontend that says it is ready and may have `max_queues` queues.
    ///
    /// # Errors
    /// The key that is missing, malformed or not what we can serve, as a fault.
    pub(super) async fn read(xs: &impl Xenstore, frontend: &FrontendPath, max_queues: usize) -> Result<Self, Fault> {
        let (flags, queue_count) = join(
            join_array([
                feature(xs, frontend, "request-rx-copy"),
                feature(xs, frontend, "feature-sg"),
                feature(xs, frontend, "feature-rx-notify"),
                feature(xs, frontend, "feature-no-csum-offload"),
                feature(xs, frontend, "feature-ipv6-csum-offload"),
                feature(xs, frontend, "feature-gso-tcpv4"),
                feature(xs, frontend, "feature-gso-tcpv6"),
                feature(xs, frontend, MULTICAST_CONTROL),
            ]),
            async { read_number_or::<usize>(xs, &frontend.key("multi-queue-num-queues"), 1).await },
        )
        .await;
        let [rx_copy, sg, rx_notify, no_csum_ipv4, csum_ipv6, gso_ipv4, gso_ipv6, multicast_control] = flags;
        let queue_count = queue_count.ok().filter(|count| (1..=max_queues).contains(count)).ok_or(Fault::QUEUES)?;
        if !rx_copy {
            return Err(RX_COPY);
        }
        // A packet that was not cut needs several slots and has a blank checksum.
        let (gso_ipv4, gso_ipv6) = (gso_ipv4 && sg && !no_csum_ipv4, gso_ipv6 && sg && csum_ipv6);
        let features = Features { sg, rx_notify, csum_ipv4: !no_csum_ipv4, csum_ipv6, gso_ipv4, gso_ipv6 };
        let queues = read_queues(xs, frontend, queue_count).await?;
        let control = read_control(xs, frontend).await?;
        check_distinct(&queues, control)?;
        let headroom = read_headroom(xs, frontend).await;
        Ok(Self { features, queues, control, multicast_control, headroom })
    }

    /// Event channels of the queues.
    pub(super) fn ports(&self) -> usize {
        let queues = self.queues.iter().flat_map(|queue| queue.channels.ports()).count();
        queues.saturating_add(usize::from(self.control.is_some()))
    }
}

/// Reads how many bytes to leave free at the start of receive buffers; none if that is no number, at most 256.
pub(super) async fn read_headroom(xs: &impl Xenstore, frontend: &FrontendPath) -> u16 {
    let wanted = number(xs, frontend, "xdp-headroom").await.unwrap_or(0);
    u16::try_from(wanted).unwrap_or(u16::MAX).min(MAX_HEADROOM)
}

/// Reads whether the frontend wants its multicast filter to be applied.
pub(super) async fn read_multicast_control(xs: &impl Xenstore, frontend: &FrontendPath) -> bool {
    feature(xs, frontend, MULTICAST_CONTROL).await
}

async fn read_queues(xs: &impl Xenstore, frontend: &FrontendPath, count: usize) -> Result<Vec<QueueKeys>, Fault> {
    if count == 1 {
        // With one queue the keys are in the directory itself.
        return Ok(alloc::vec![QueueKeys::read(xs, frontend, "").await?]);
    }
    let mut queues = Vec::with_capacity(count);
    for number in 0..count {
        let queue = QueueKeys::read(xs, frontend, &format!("queue-{number}/")).await;
        queues.push(queue.map_err(|fault| Fault::with(Fault::QUEUES.code, format!("queue {number}: {}", fault.text)))?);
    }
    Ok(queues)
}

/// No page and no event channel may serve twice.
fn check_distinct(queues: &[QueueKeys], control: Option<(GrantRef, RemotePort)>) -> Result<(), Fault> {
    if control.is_none() && queues.len() == 1 {
        // What is wrong with a single queue has causes of its own.
        return Ok(());
    }
    let rings = queues.iter().flat_map(|queue| [queue.tx_ring.into_raw(), queue.rx_ring.into_raw()]);
    let ports = queues.iter().flat_map(|queue| queue.channels.ports()).map(RemotePort::into_raw);
    let rings = rings.chain(control.map(|(ring, _)| ring.into_raw()));
    let ports = ports.chain(control.map(|(_, port)| port.into_raw()));
    if are_distinct(rings.collect()) && are_distinct(ports.collect()) { Ok(()) } else { Err(Fault::QUEUES) }
}

/// A frontend has a control ring if it names one.
async fn read_control(xs: &impl Xenstore, frontend: &FrontendPath) -> Result<Option<(GrantRef, RemotePort)>, Fault> {
    match number(xs, frontend, "ctrl-ring-ref").await {
        Err(XsError::NoEntry) => Ok(None),
        Err(_) => Err(Fault::READ),
        Ok(ring) => match number(xs, frontend, "event-channel-ctrl").await {
            Ok(port) => Ok(Some((GrantRef::from_raw(ring), RemotePort::from_raw(port)))),
            Err(_) => Err(Fault::EVTCHN),
        },
    }
}

fn are_distinct(mut numbers: Vec<u32>) -> bool {
    numbers.sort_unstable();
    numbers.is_sorted_by(|a, b| a < b)
}

impl Channels {
    /// The ports: one, or that of the transmit ring and that of the receive ring.
    fn ports(self) -> heapless::Vec<RemotePort, 2> {
        match self {
            Self::Single(both) => heapless::Vec::from_iter([both]),
            Self::Split { tx, rx } => heapless::Vec::from_iter([tx, rx]),
        }
    }
}

impl QueueKeys {
    async fn read(xs: &impl Xenstore, frontend: &FrontendPath, prefix: &str) -> Result<Self, Fault> {
        let key = |name: &str| frontend.key(&format!("{prefix}{name}"));
        let keys = ["tx-ring-ref", "rx-ring-ref", "event-channel", "event-channel-tx", "event-channel-rx"].map(key);
        let [tx_ring, rx_ring, single, split_tx, split_rx] =
            join_array(keys.each_ref().map(|path| read_number::<u32>(xs, path))).await;
        let (tx_ring, rx_ring) = (tx_ring.map_err(|_| Fault::READ)?, rx_ring.map_err(|_| Fault::READ)?);
        if tx_ring == rx_ring {
            return Err(Fault::RING_REF);
        }
        // One half of a split pair is no pair: the single channel is used if there is one.
        let channels = match (split_tx, split_rx, single) {
            (Ok(tx), Ok(rx), _) => Channels::Split { tx: RemotePort::from_raw(tx), rx: RemotePort::from_raw(rx) },
            (_, _, Ok(both)) => Channels::Single(RemotePort::from_raw(both)),
            _ => return Err(Fault::EVTCHN),
        };
        Ok(Self { tx_ring: GrantRef::from_raw(tx_ring), rx_ring: GrantRef::from_raw(rx_ring), channels })
    }
}

async fn number(xs: &impl Xenstore, frontend: &FrontendPath, key: &str) -> Result<u32, XsError> {
    read_number(xs, &frontend.key(key)).await
}

async fn feature(xs: &impl Xenstore, frontend: &FrontendPath, key: &str) -> bool {
    number(xs, frontend, key).await.is_ok_and(|value| value != 0)
}

/// A key that may be missing or empty.
async fn optional_text(xs: &impl Xenstore, path: &str) -> Result<Option<String>, Fault> {
    match read_text(xs, path).await {
        Ok(text) if text.is_empty() => Ok(None),
        Ok(text) => Ok(Some(text)),
        Err(XsError::NoEntry) => Ok(None),
        Err(_) => Err(Fault::READ),
    }
}

/// Reads a number from 68 to 9000.
fn parse_mtu(text: &str) -> Option<usize> {
    let number = text.bytes().all(|byte| byte.is_ascii_digit()).then_some(text)?;
    number.parse().ok().filter(|mtu| (68..=9000).contains(mtu))
}

/// Reads `00:16:3e:12:34:56`.
fn parse_mac(text: &str) -> Option<MacAddress> {
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut mac {
        let part = parts.next().filter(|part| part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit()))?;
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    parts.next().is_none().then_some(MacAddress(mac))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_bytes_and_microseconds_and_nothing_else() {
        assert_eq!(parse_rate(None), Ok(Rate::Unlimited));
        let wanted = TokenBucket::new(62_500, Duration::from_millis(50)).map(Rate::Limited);
        assert_eq!(parse_rate(Some("62500,50000")).ok(), wanted);
        for text in
            ["", "x", "0,0", "0,50000", "1000,0", "1,99999999999", "1000", "1000,", ",1000", "+1,1", "1,1,1", "-1,1"]
        {
            assert_eq!(parse_rate(Some(text)).map_err(|fault| fault.code), Err("RATE"), "{text}");
        }
    }

    #[test]
    fn a_mac_is_six_pairs_of_hex_digits() {
        assert_eq!(parse_mac("00:16:3e:12:34:fF"), Some(MacAddress([0, 0x16, 0x3e, 0x12, 0x34, 0xff])));
        for text in [
            "",
            "00:16:3e:12:34",
            "00:16:3e:12:34:56:78",
            "0:16:3e:12:34:56",
            "+0:16:3e:12:34:56",
            "00-16-3e-12-34-56",
            "00:16:3e:12:34:5g",
            "00:16:3e:12:34:56 ",
        ] {
            assert_eq!(parse_mac(text), None, "{text}");
        }
    }
}
