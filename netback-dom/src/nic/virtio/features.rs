//! What driver and device agree on. Virtio 1.2, sections 3.1.1, 5.1.2, 5.1.3 and 6.

use virtio_drivers::transport::{DeviceStatus, Transport};

use super::config;
use super::queues::{receive_queue, transmit_queue};
use crate::frame::MAX_SEGMENTS;
use crate::nic::{Capabilities, NicError};

/// Least descriptors that a queue of a further pair must have: room for a frame of as many segments as there may be, and
/// its header.
const LEAST: u32 = 32;
const _: () = assert!((MAX_SEGMENTS + 1).next_power_of_two() == 32);

bitflags::bitflags! {
    /// Features that this driver uses. Virtio 1.2, 5.1.3 and 6.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) struct Features: u64 {
        /// The device fills in checksums.
        const CSUM = 1 << 0;
        /// The device passes blank and verified checksums on to us.
        const GUEST_CSUM = 1 << 1;
        /// There is an MTU in configuration space.
        const MTU = 1 << 3;
        /// There is an address in configuration space.
        const MAC = 1 << 5;
        /// The device passes on TCP over IPv4 that is not cut up.
        const GUEST_TSO4 = 1 << 7;
        /// The device passes on TCP over IPv6 that is not cut up.
        const GUEST_TSO6 = 1 << 8;
        /// The device cuts up TCP over IPv4.
        const HOST_TSO4 = 1 << 11;
        /// The device cuts up TCP over IPv6.
        const HOST_TSO6 = 1 << 12;
        /// Frames may arrive in several buffers.
        const MRG_RXBUF = 1 << 15;
        /// There is a link state in configuration space.
        const STATUS = 1 << 16;
        /// There is a control queue.
        const CTRL_VQ = 1 << 17;
        /// It takes commands about which frames are received.
        const CTRL_RX = 1 << 18;
        /// There may be several queue pairs; how many is in configuration space.
        const MQ = 1 << 22;
        /// Notifications and interrupts by index.
        const EVENT_IDX = 1 << 29;
        /// Not a legacy device.
        const VERSION_1 = 1 << 32;
        /// The device's accesses go through the IOMMU.
        const ACCESS_PLATFORM = 1 << 33;
    }
}

impl Features {
    /// What we take of an offer: nothing that depends on something that is not in it.
    fn chosen_from(offer: u64) -> Self {
        let mut chosen = Self::from_bits_truncate(offer);
        for (feature, needs) in [
            (Self::HOST_TSO4 | Self::HOST_TSO6, Self::CSUM),
            // Without, each buffer would have to hold 64 KiB.
            (Self::GUEST_TSO4 | Self::GUEST_TSO6, Self::GUEST_CSUM | Self::MRG_RXBUF),
            (Self::CTRL_RX | Self::MQ, Self::CTRL_VQ),
        ] {
            if !chosen.contains(needs) {
                chosen.remove(feature);
            }
        }
        chosen
    }

    /// What a device that has agreed to them does, for frames of up to `max_frame` bytes.
    pub(super) fn capabilities(self, max_frame: usize) -> Capabilities {
        let tx_checksum = self.contains(Self::CSUM);
        Capabilities {
            tx_checksum,
            tso4: tx_checksum && self.contains(Self::HOST_TSO4),
            tso6: tx_checksum && self.contains(Self::HOST_TSO6),
            max_segments: MAX_SEGMENTS,
            max_frame,
        }
    }
}

/// What came of it.
pub(super) struct Agreed {
    pub(super) features: Features,
    /// Queue pairs that are to be used, at least one.
    pub(super) pairs: u16,
    /// The number of the control queue, if the device has one.
    pub(super) control: u16,
}

/// Agrees on features, and at most `most` queue pairs, with a device that has been reset. Virtio 1.2, 3.1.1, steps 2
/// to 6.
pub(super) fn negotiate<T: Transport>(transport: &mut T, most: u16) -> Result<Agreed, NicError> {
    let driver = DeviceStatus::ACKNOWLEDGE | DeviceStatus::DRIVER;
    transport.set_status(driver);
    let mut features = Features::chosen_from(transport.read_device_features());
    if !features.contains(Features::VERSION_1) {
        return Err(NicError::Unsupported("virtio 1.0"));
    }
    // Configuration space may be read before (step 4): what makes no sense is not agreed on.
    let has = config::pairs(transport).filter(|_| most > 1 && features.contains(Features::MQ));
    features.set(Features::MQ, has.is_some());
    transport.write_driver_features(features.bits());
    transport.set_status(driver | DeviceStatus::FEATURES_OK);
    if !transport.get_status().contains(DeviceStatus::FEATURES_OK) {
        return Err(NicError::Unsupported("the features that the driver chose from its offer"));
    }
    let has = has.unwrap_or(1);
    Ok(Agreed { features, pairs: usable(transport, has.min(most)), control: receive_queue(has) })
}

/// How many pairs from the first on have queues that can be used, out of `pairs`. The first counts in any case: why it
/// cannot be used is said when it is set up.
fn usable<T: Transport>(transport: &mut T, pairs: u16) -> u16 {
    let mut is_small = |queue| transport.max_queue_size(queue) < LEAST;
    (1..pairs).find(|pair| is_small(receive_queue(*pair)) || is_small(transmit_queue(*pair))).unwrap_or(pairs)
}
