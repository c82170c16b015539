//! Volumes: what `target=` may name, and where its sectors are.
//!
//! - [`Target`]: the grammar.
//! - [`Catalogue`]: what there is. It is made from tables on the disks when the domain starts, and again when Dom0 asks;
//!   what guests can write is not looked at then.
//! - [`Map`]: the layout of a volume.
//! - [`Claims`]: which vbd uses what.

mod catalogue;
mod claims;
mod error;
pub(crate) mod listing;
mod lvm;
mod map;
mod sectors;
mod table;
mod target;

pub use catalogue::{Catalogue, LogicalVolume, NamedDisk, Partition, Volume};
pub use claims::{Claims, Use};
pub use error::VolumeError;
pub use lvm::logical_volumes;
pub use map::{DiskRef, Map, Piece};
pub use sectors::{ReadError, Sectors};
pub use table::{TableError, partitions};
pub use target::{BadTarget, Target, TargetKind};
