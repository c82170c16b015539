//! Why a target names nothing that can be served.

use alloc::format;
use alloc::string::String;

use xen_pv_rt::xenbus::backend::Fault;

use super::target::BadTarget;

/// Why a target names nothing that can be served. The texts name what was looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VolumeError {
    /// The target has none of the known forms.
    BadTarget,
    /// No disk of this name; and which there are.
    NoDisk(String, String),
    /// No such partition.
    NoPartition(String),
    /// Several partitions answer to the name.
    Ambiguous(String),
    /// No such logical volume.
    NoLogical(String),
    /// The logical volume exists and cannot be served; why not.
    BadLogical(String),
    /// The slice or partition reaches beyond its disk.
    TooBig(String),
    /// The disks of the volume, or its borders, do not agree with one sector size.
    SectorSize(String),
    /// It was to be written and cannot be.
    ReadOnly(String),
    /// Another vbd uses it: which.
    InUse(String),
    /// The disk is gone.
    Gone(String),
}

impl From<BadTarget> for VolumeError {
    fn from(_: BadTarget) -> Self {
        Self::BadTarget
    }
}

impl From<VolumeError> for Fault {
    fn from(error: VolumeError) -> Self {
        match error {
            VolumeError::BadTarget => Self::with("TARGET", format!("{BadTarget}")),
            VolumeError::NoDisk(name, known) => Self::with("NO_DISK", format!("no disk {name} (there are: {known})")),
            VolumeError::NoPartition(name) => Self::with("NO_PARTITION", format!("no partition {name}")),
            VolumeError::Ambiguous(name) => Self::with("AMBIGUOUS", format!("several partitions are {name}")),
            VolumeError::NoLogical(name) => Self::with("NO_VOLUME", format!("no logical volume {name}")),
            VolumeError::BadLogical(text) => Self::with("VOLUME", text),
            VolumeError::TooBig(name) => Self::with("TOO_BIG", format!("{name} reaches beyond the end of its disk")),
            VolumeError::SectorSize(name) => Self::with("SECTOR_SIZE", format!("{name} is not in whole disk sectors")),
            VolumeError::ReadOnly(name) => Self::with("RO", format!("{name} is read-only and access is not ro")),
            VolumeError::InUse(by) => Self::with("IN_USE", format!("volume in use by {by}")),
            VolumeError::Gone(name) => Self::with("DISK_GONE", format!("disk {name} is gone")),
        }
    }
}
