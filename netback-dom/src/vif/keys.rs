//! The xenstore keys of a vif: what the toolstack and the frontend tell us, and what we advertise.
//!
//! Key names appear here and nowhere else. Optional numbers follow Linux: a missing or malformed feature is
//! off, any number but 0 is on.
//!
//! Xen: `public/io/netif.h`; the table for humans is `docs/xenstore-keys.md`.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use embassy_futures::join::{join, join_array};
use xen_pv_rt::hyp::{GrantRef, RemotePort, Xenstore, XsError};
use xen_pv_rt::xenbus::backend::{Fault, Keys};
use xen_pv_rt::xenbus::{BackendPath, FrontendPath, read_number, read_number_or, read_text};

use crate::nic::MacAddress;

/// What we offer to everybody, in the order of `netif.h`. Everything else is off.
const FEATURES: [(&str, &str); 8] = [
    ("feature-rx-copy", "1"),
    ("feature-rx-flip", "0"),
    ("feature-sg", "1"),
    ("feature-gso-tcpv4", "1"),
    ("feature-gso-tcpv6", "1"),
    ("feature-ipv6-csum-offload", "1"),
    ("feature-split-event-channels", "1"),
    ("feature-ctrl-ring", "1"),
];

/// What we offer to a frontend that may have `queues` queues.
pub(super) fn offer(queues: usize) -> Keys {
    let mut keys: Keys = FEATURES.iter().map(|(key, value)| (*key, (*value).to_string())).collect();
    keys.push(("multi-queue-max-queues", queues.to_string()));
    keys
}

/// The frontend wants its pages flipped, which nobody does any more.
const RX_COPY: Fault = Fault::new("RX_COPY", "request-rx-copy is required");

/// What the toolstack wrote into the backend directory.
#[derive(Clone, Debug)]
pub(super) struct BackendKeys {
    /// `mac`, if there is one.
    pub(super) mac: Option<MacAddress>,
    /// `bridge`, if there is one.
    pub(super) bridge: Option<String>,
}

impl BackendKeys {
    /// Reads the keys.
    ///
    /// # Errors
    /// [`Fault::READ`] if one is malformed.
    pub(super) async fn read(xs: &impl Xenstore, path: &BackendPath) -> Result<Self, Fault> {
        let (mac, bridge) = join(async { optional_text(xs, &path.key("mac")).await }, async {
            optional_text(xs, &path.key("bridge")).await
        })
        .await;
        let mac = match mac? {
            Some(text) => Some(parse_mac(&text).ok_or(Fault::READ)?),
            None => None,
        };
        Ok(Self { mac, bridge: bridge? })
    }
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
            ]),
            async { read_number_or::<usize>(xs, &frontend.key("multi-queue-num-queues"), 1).await },
        )
        .await;
        let [rx_copy, sg, rx_notify, no_csum_ipv4, csum_ipv6, gso_ipv4, gso_ipv6] = flags;
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
        Ok(Self { features, queues, control })
    }

    /// Event channels of the queues.
    pub(super) fn ports(&self) -> usize {
        let queues = self.queues.iter().flat_map(|queue| queue.channels.ports()).count();
        queues.saturating_add(usize::from(self.control.is_some()))
    }
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
