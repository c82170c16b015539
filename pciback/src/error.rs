//! What can go wrong with a passed-through device, in words for the person who configured it.

use core::fmt;

use ring::pciif;
use xen_pv_rt::hyp::{EvtchnError, GrantError, MmioError, XsError};
use xen_pv_rt::xenbus::XenbusState;

use crate::Sbdf;

/// Why the connection to xen-pciback could not be made or kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BusError {
    /// The domain was created without a passed-through device.
    NoDevices,
    /// A xenstore operation failed: which key, and how.
    Xenstore(&'static str, XsError),
    /// No event channel could be offered to the backend.
    EventChannel(EvtchnError),
    /// The page for configuration requests could not be shared.
    Grant(GrantError),
    /// The backend did not connect in time; this is the last state it was seen in.
    NotConnected(XenbusState),
}

impl fmt::Display for BusError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoDevices => f.write_str("no PCI device assigned to this domain (give it one with pci=[...])"),
            Self::Xenstore(key, error) => write!(f, "PCI passthrough: {key}: {error}"),
            Self::EventChannel(error) => write!(f, "PCI passthrough: {error}"),
            Self::Grant(error) => write!(f, "PCI passthrough: {error}"),
            Self::NotConnected(state) => {
                write!(f, "PCI passthrough: xen-pciback did not connect, its state is {state} (is it loaded in Dom0?)")
            }
        }
    }
}

/// Why a function cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PciError {
    /// The function.
    pub sbdf: Sbdf,
    /// What is wrong with it.
    pub cause: PciCause,
}

/// What is wrong with a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PciCause {
    /// xen-pciback did not answer a request in time.
    NoAnswer,
    /// xen-pciback refused a request.
    Refused(pciif::OpError),
    /// Configuration space reads as all ones: no such function, or it is gone.
    Absent,
    /// No driver for this function.
    Unsupported {
        /// Vendor id.
        vendor: u16,
        /// Device id.
        device: u16,
    },
    /// A BAR is not what the driver needs: its number and what is wrong.
    Bar(u8, &'static str),
    /// A BAR could not be mapped: its number and why.
    Map(u8, MmioError),
    /// Neither MSI-X nor MSI nor INTx could be set up; the last thing that went wrong.
    NoInterrupt(&'static str),
    /// Writing the command register had no effect on these bits.
    Command(&'static str),
    /// The function has no reset of its own.
    NoReset,
    /// The function is in use already.
    Busy,
}

impl fmt::Display for PciError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PCI device {}: ", self.sbdf)?;
        match self.cause {
            PciCause::NoAnswer => f.write_str("xen-pciback does not answer"),
            PciCause::Refused(error) => write!(f, "xen-pciback refused a request: {error}"),
            PciCause::Absent => f.write_str("not there, configuration space reads as all ones"),
            PciCause::Unsupported { vendor, device } => write!(f, "unsupported device {vendor:04x}:{device:04x}"),
            PciCause::Bar(index, what) => write!(f, "BAR {index} {what}"),
            PciCause::Map(index, error) => write!(f, "BAR {index}: {error}"),
            PciCause::NoInterrupt(what) => write!(f, "no interrupt could be set up: {what}"),
            PciCause::Command(what) => write!(f, "could not enable {what}"),
            PciCause::NoReset => f.write_str("has no function level reset"),
            PciCause::Busy => f.write_str("is in use already"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn an_unsupported_device_is_named_by_address_and_ids() {
        let sbdf = Sbdf { segment: 0, bus: 3, devfn: 0x21 };
        let cause = PciCause::Unsupported { vendor: 0x10ec, device: 0x8168 };
        assert_eq!(PciError { sbdf, cause }.to_string(), "PCI device 0000:03:04.1: unsupported device 10ec:8168");
    }
}
