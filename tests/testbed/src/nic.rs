//! The NICs QEMU emulates for a run: their models, addresses and the unix socket their wire is on.

use std::fmt;
use std::path::PathBuf;

use crate::taps::Taps;

/// An emulated NIC that a driver domain can own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum NicModel {
    /// Intel 82540EM: conventional PCI, INTx only.
    E1000,
    /// Intel 82574L: PCI Express, MSI-X.
    E1000e,
    /// Intel 82576: PCI Express, MSI-X, several queues.
    Igb,
    /// virtio-net over modern virtio PCI, behind the IOMMU.
    Virtio,
    /// The same with four queue pairs, and with what a tap offloads. Needs root, for the taps.
    VirtioQueues,
}

/// Queue pairs of [`NicModel::VirtioQueues`].
pub const QUEUE_PAIRS: usize = 4;

impl NicModel {
    /// The name used on command lines and in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::E1000 => "e1000",
            Self::E1000e => "e1000e",
            Self::Igb => "igb",
            Self::Virtio => "virtio",
            Self::VirtioQueues => "virtio-queues",
        }
    }

    /// QEMU's device name and the properties this model needs.
    fn device(self) -> &'static str {
        match self {
            Self::E1000 => "e1000,romfile=",
            Self::E1000e => "e1000e,romfile=",
            Self::Igb => "igb,romfile=",
            Self::Virtio => "virtio-net-pci,disable-legacy=on,iommu_platform=on,romfile=",
            Self::VirtioQueues => "virtio-net-pci,disable-legacy=on,iommu_platform=on,mq=on,romfile=",
        }
    }
}

impl fmt::Display for NicModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One NIC of the machine.
#[derive(Debug, Clone)]
pub struct Nic {
    /// What QEMU emulates.
    pub model: NicModel,
    /// Its slot on PCI bus 0; the function is 0.
    pub slot: u8,
    /// The unix socket on which its wire listens; without one the NIC has no link partner.
    pub wire: Option<PathBuf>,
}

impl Nic {
    /// The address `xl` and `pci=` use.
    #[must_use]
    pub fn bdf(&self) -> String {
        format!("00:{:02x}.0", self.slot)
    }

    /// The NIC's own MAC address, from its slot.
    #[must_use]
    pub fn mac(&self) -> String {
        format!("52:54:00:b0:00:{:02x}", self.slot)
    }

    /// QEMU's name for its end of the wire.
    #[must_use]
    pub fn netdev(&self) -> String {
        format!("wire{:x}", self.slot)
    }

    /// The network namespace that QEMU is to run in, if this NIC needs one.
    #[must_use]
    pub fn taps(&self) -> Option<Taps> {
        (self.model == NicModel::VirtioQueues).then_some(Taps { slot: self.slot })
    }

    /// QEMU's arguments for this NIC and its wire.
    #[must_use]
    pub fn qemu_arguments(&self) -> Vec<String> {
        let id = self.netdev();
        let device = format!("{},netdev={id},mac={},addr={:x}", self.model.device(), self.mac(), self.slot);
        let cable = |id: &str| match &self.wire {
            Some(path) => format!("stream,id={id},server=off,addr.type=unix,addr.path={}", path.display()),
            None => format!("hubport,id={id},hubid={}", self.slot),
        };
        let netdevs = self.taps().map_or_else(|| vec![cable(&id)], |taps| taps.netdevs(&id, &cable("cable")));
        let netdevs = netdevs.into_iter().flat_map(|netdev| ["-netdev".into(), netdev]);
        netdevs.chain(["-device".into(), device]).collect()
    }
}
