//! What the device says of itself in its configuration space. Virtio 1.2, section 5.1.4.

use core::ops::RangeInclusive;

use virtio_drivers::transport::Transport;

use super::features::Features;
use crate::nic::{Link, MacAddress, NicError};

/// Offsets.
const MAC: usize = 0;
const STATUS: usize = 6;
const MAX_VIRTQUEUE_PAIRS: usize = 8;
const MTU: usize = 10;
/// The smallest MTU there is.
const MIN_MTU: u16 = 68;
/// `VIRTIO_NET_S_LINK_UP`.
const LINK_UP: u16 = 1;
/// Bytes of an Ethernet header with a VLAN tag.
const TAGGED_HEADER: usize = 18;

/// Numbers of queue pairs that are believed. There may be 0x8000, but then the number of the control queue would be
/// beyond 16 bits; and one is what there is without asking.
const PAIRS: RangeInclusive<u16> = 2..=0x7fff;

/// How many queue pairs the device has, if several.
pub(super) fn pairs<T: Transport>(transport: &T) -> Option<u16> {
    transport.read_config_space(MAX_VIRTQUEUE_PAIRS).ok().filter(|pairs| PAIRS.contains(pairs))
}

/// The longest frame that we want and the device, if it says so, takes.
pub(super) fn max_frame<T: Transport>(transport: &T, features: Features, wanted: usize) -> usize {
    let mtu: Option<u16> = transport.read_config_space(MTU).ok().filter(|_| features.contains(Features::MTU));
    match mtu.filter(|mtu| *mtu >= MIN_MTU) {
        Some(mtu) => wanted.min(usize::from(mtu).saturating_add(TAGGED_HEADER)),
        None => wanted,
    }
}

/// The address of the device, without which we do not use it.
pub(super) fn mac<T: Transport>(transport: &T, features: Features) -> Result<MacAddress, NicError> {
    let mac = transport.read_config_space(MAC).map(MacAddress).ok();
    mac.filter(|mac| features.contains(Features::MAC) && mac.is_station())
        .ok_or(NicError::Unsupported("a station address"))
}

/// The state of the link; up if the device does not say.
pub(super) fn link<T: Transport>(transport: &T, features: Features) -> Result<Link, NicError> {
    if !features.contains(Features::STATUS) {
        return Ok(Link::Up(0));
    }
    let status: u16 = transport.read_config_space(STATUS).map_err(|_| NicError::Unsupported("a link state"))?;
    Ok(if status & LINK_UP == 0 { Link::Down } else { Link::Up(0) })
}
