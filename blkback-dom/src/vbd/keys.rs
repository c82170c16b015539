//! The xenstore keys of a vbd: what the toolstack and the frontend tell us, and what we offer.
//!
//! Key names appear here and nowhere else.
//!
//! Xen: `public/io/blkif.h`; the table for humans is `docs/xenstore-keys.md`.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use embassy_futures::join::{join, join4};
use ring::blkif::{Abi, MAX_INDIRECT_SEGMENTS};
use xen_pv_rt::hyp::{GrantRef, RemotePort, Xenstore, XsError};
use xen_pv_rt::xenbus::backend::{Fault, Keys};
use xen_pv_rt::xenbus::{BackendPath, FrontendPath, read_number, read_number_or, read_text};

use crate::volume::Volume;

/// Largest ring: 16 pages.
const MAX_RING_PAGE_ORDER: u32 = 4;
/// Most queues of a vbd. This domain has one vCPU; queues spare the frontend its locks.
const MAX_QUEUES: u32 = 4;

/// `VDISK_CDROM`, `VDISK_REMOVABLE`, `VDISK_READONLY`.
const CDROM: u32 = 1;
const REMOVABLE: u32 = 2;
const READ_ONLY: u32 = 4;

/// A layout of the ring that is none of ours.
const PROTO: Fault = Fault::new("PROTO", "protocol is neither x86_64-abi nor x86_32-abi");

/// What the toolstack wrote into the backend directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BackendKeys {
    /// `params`: the target.
    pub(super) target: String,
    /// `mode` is not `w`.
    pub(super) read_only: bool,
    /// `device-type` is `cdrom`.
    pub(super) cdrom: bool,
    /// `removable`.
    pub(super) removable: bool,
    /// `discard-enable`; a missing key counts as 1.
    pub(super) discard: bool,
}

impl BackendKeys {
    /// Reads the keys.
    ///
    /// # Errors
    /// [`Fault::READ`] if one is missing or malformed.
    pub(super) async fn read(xs: &impl Xenstore, path: &BackendPath) -> Result<Self, Fault> {
        let (params, mode, device_type, flags) = join4(
            async { read_text(xs, &path.key("params")).await },
            async { read_text(xs, &path.key("mode")).await },
            async { read_text(xs, &path.key("device-type")).await },
            join(async { read_number_or::<u32>(xs, &path.key("removable"), 0).await }, async {
                read_number_or::<u32>(xs, &path.key("discard-enable"), 1).await
            }),
        )
        .await;
        let (Ok(target), Ok(mode)) = (params, mode) else { return Err(Fault::READ) };
        let (removable, discard) = flags;
        Ok(Self {
            target,
            // `w` and `w!`; anything else must not write.
            read_only: !mode.starts_with('w'),
            cdrom: device_type.is_ok_and(|kind| kind == "cdrom"),
            removable: removable.is_ok_and(|flag| flag != 0),
            discard: discard.is_ok_and(|flag| flag != 0),
        })
    }
}

/// What we offer for a volume.
pub(super) fn offer(keys: &BackendKeys, volume: &Volume, persistent: bool) -> Keys {
    let mut info = 0;
    for (is, flag) in [
        (keys.cdrom || volume.cdrom, CDROM),
        (keys.removable, REMOVABLE),
        (keys.read_only || volume.read_only, READ_ONLY),
    ] {
        info |= if is { flag } else { 0 };
    }
    let mut offer = alloc::vec![
        ("feature-flush-cache", "1".to_string()),
        ("feature-barrier", "1".to_string()),
        ("feature-persistent", u8::from(persistent).to_string()),
        ("feature-max-indirect-segments", MAX_INDIRECT_SEGMENTS.to_string()),
        ("max-ring-page-order", MAX_RING_PAGE_ORDER.to_string()),
        ("multi-queue-max-queues", MAX_QUEUES.to_string()),
        ("sectors", volume.map.sectors().to_string()),
        ("sector-size", volume.logical_bytes.to_string()),
        ("physical-sector-size", volume.physical_bytes.to_string()),
        ("info", info.to_string()),
    ];
    match offered_discard(keys, volume) {
        Some((granularity, alignment)) => offer.extend([
            ("feature-discard", "1".to_string()),
            ("discard-granularity", bytes(granularity)),
            ("discard-alignment", bytes(alignment)),
            ("discard-secure", u8::from(volume.secure_erase).to_string()),
        ]),
        None => offer.push(("feature-discard", "0".to_string())),
    }
    offer
}

/// The unit of discard and its first multiple in sectors, if discard is offered.
pub(super) fn offered_discard(keys: &BackendKeys, volume: &Volume) -> Option<(u32, u32)> {
    volume.discard.filter(|_| keys.discard && !keys.read_only && !volume.read_only)
}

fn bytes(sectors: u32) -> String {
    u64::from(sectors).saturating_mul(512).to_string()
}

/// Where a queue's ring and event channel are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct QueueKeys {
    /// The pages of the ring, in order.
    pub(super) ring: Vec<GrantRef>,
    /// `event-channel`.
    pub(super) port: RemotePort,
}

/// What the frontend wrote into its directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FrontendKeys {
    /// `protocol`.
    pub(super) abi: Abi,
    /// `feature-persistent`: it uses its grants again. Anything but a number other than 0 means that it does not.
    pub(super) persistent: bool,
    /// Its queues, at least one.
    pub(super) queues: Vec<QueueKeys>,
}

impl FrontendKeys {
    /// Reads the keys of a frontend that says it is ready.
    ///
    /// # Errors
    /// The key that is missing, malformed or not what was offered.
    pub(super) async fn read(xs: &impl Xenstore, frontend: &FrontendPath) -> Result<Self, Fault> {
        let (protocol, queue_count, order, persistent) = join4(
            async { read_text(xs, &frontend.key("protocol")).await },
            async { read_number_or::<u32>(xs, &frontend.key("multi-queue-num-queues"), 1).await },
            async { read_number_or::<u32>(xs, &frontend.key("ring-page-order"), 0).await },
            async { read_number_or::<u32>(xs, &frontend.key("feature-persistent"), 0).await },
        )
        .await;
        let protocol = match protocol {
            Ok(text) => Some(text),
            Err(XsError::NoEntry) => None,
            Err(_) => return Err(Fault::READ),
        };
        let abi = Abi::from_key(protocol.as_deref()).ok_or(PROTO)?;
        let queue_count = queue_count.ok().filter(|count| (1..=MAX_QUEUES).contains(count)).ok_or(Fault::QUEUES)?;
        let order = order.ok().filter(|order| *order <= MAX_RING_PAGE_ORDER).ok_or(Fault::RING_REF)?;
        let pages = 1_u32.checked_shl(order).ok_or(Fault::RING_REF)?;
        let mut queues = Vec::new();
        for number in 0..queue_count {
            // With one queue the keys are in the directory itself.
            let prefix = if queue_count == 1 { String::new() } else { format!("queue-{number}/") };
            queues.push(QueueKeys::read(xs, frontend, &prefix, pages).await?);
        }
        check_distinct(&queues)?;
        Ok(Self { abi, persistent: persistent.is_ok_and(|flag| flag != 0), queues })
    }
}

impl QueueKeys {
    async fn read(xs: &impl Xenstore, frontend: &FrontendPath, prefix: &str, pages: u32) -> Result<Self, Fault> {
        let port = read_number(xs, &frontend.key(&format!("{prefix}event-channel"))).await.map_err(|_| Fault::READ)?;
        let mut ring = Vec::new();
        if pages == 1 {
            // Some frontends number a single page too.
            if let Ok(gref) = read_number(xs, &frontend.key(&format!("{prefix}ring-ref"))).await {
                ring.push(GrantRef::from_raw(gref));
            }
        }
        if ring.is_empty() {
            for page in 0..pages {
                let gref = read_number(xs, &frontend.key(&format!("{prefix}ring-ref{page}"))).await;
                ring.push(GrantRef::from_raw(gref.map_err(|_| Fault::READ)?));
            }
        }
        Ok(Self { ring, port: RemotePort::from_raw(port) })
    }
}

/// No page and no event channel may serve twice.
fn check_distinct(queues: &[QueueKeys]) -> Result<(), Fault> {
    let mut grefs: Vec<_> = queues.iter().flat_map(|queue| &queue.ring).collect();
    let mut ports: Vec<_> = queues.iter().map(|queue| queue.port).collect();
    let counts = (grefs.len(), ports.len());
    grefs.sort_unstable();
    grefs.dedup();
    ports.sort_unstable();
    ports.dedup();
    if (grefs.len(), ports.len()) == counts { Ok(()) } else { Err(Fault::QUEUES) }
}
