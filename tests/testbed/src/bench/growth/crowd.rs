//! What the crowds of both kinds of driver domain have in common: how many guests there are, and how they come up.

use std::path::Path;
use std::time::Duration;

use super::super::domains::DriverDomain;
use super::super::ramdisk::{self, LOAD};
use super::super::samples::Contender;
use super::{Load, Seen};
use crate::bed::images;
use crate::dom0::Dom0;
use crate::failure::{Doing, Failure, Result};
use crate::guest::{Guest, GuestConfig};
use crate::machine::{Content, Dom0File};

/// Who is compared, in the order in which they are set up.
pub const CONTENDERS: &[Contender] = &[Contender::Bulkhead, Contender::Linux];
/// Guests of a crowd: the most that take part, and one that watches.
pub const CROWD: u8 = 17;
/// Memory of a guest in MiB: what a stock one boots with, and a little for the generator, which its initramfs holds twice.
const GUEST_MIB: u32 = 160;
/// Memory of the machine in MiB: Dom0, both driver domains, two crowds, and Xen.
pub(super) const MACHINE_MIB: u32 = 7680;
/// The stock guest with the load generator in it.
const RAMDISK: &str = "/root/stock.cpio";
/// Guests that boot at the same time: while one waits for its devices, another has the processor.
const AT_ONCE: usize = 4;
/// How long pausing all guests of a crowd may take.
const PAUSE_LIMIT: Duration = Duration::from_secs(120);

/// A driver domain and its guests.
#[derive(Debug)]
pub struct Members {
    /// Whose.
    pub(super) contender: Contender,
    pub(super) domain: DriverDomain,
    /// Those that take part.
    pub(super) guests: Vec<Guest>,
    /// One more, which only watches.
    pub(super) watcher: Guest,
}

impl Members {
    /// Of guests that are up, of which the last watches; all of them are paused.
    pub(super) fn rest(contender: Contender, domain: DriverDomain, mut guests: Vec<Guest>) -> Result<Self> {
        let watcher = guests.pop().ok_or_else(|| Failure::new("no guests"))?;
        let members = Self { contender, domain, guests, watcher };
        members.let_run(members.guests.len(), false)?;
        println!("    {} has its {CROWD} guests", contender.name());
        Ok(members)
    }

    /// Lets the first `count` guests and the watcher run, or pauses them. An idle guest takes a hundredth of the emulated
    /// processor for its timers, and 34 of them what was to be measured.
    ///
    /// # Errors
    /// `xl` failed.
    pub(super) fn let_run(&self, count: usize, running: bool) -> Result<()> {
        let guests = self.guests.iter().take(count).chain([&self.watcher]);
        let names: Vec<_> = guests.map(|guest| guest.name.as_str()).collect();
        let verb = if running { "unpause" } else { "pause" };
        let script = format!("for guest in {}; do xl {verb} $guest || exit 1; done", names.join(" "));
        self.domain.dom0().check(&script, PAUSE_LIMIT).map(drop)
    }
}

/// What can be measured.
pub trait Crowd {
    /// Who it is.
    fn members(&self) -> &Members;

    /// Loads the first `count` guests.
    ///
    /// # Errors
    /// A guest did not take part.
    fn measure(&self, count: usize, load: Load) -> Result<Seen>;
}

/// How guest `number` of a crowd is made, without any device.
pub(super) fn config(contender: Contender, number: u8, settings: &str) -> GuestConfig {
    GuestConfig {
        name: format!("{}-{number}", contender.name()),
        vifs: Vec::new(),
        memory_mib: GUEST_MIB,
        settings: format!("'ramdisk=\"{RAMDISK}\"' {settings}"),
        ..GuestConfig::numbered(number, "")
    }
}

/// Creates guests and waits until they run commands.
pub(super) fn create(dom0: &Dom0, configs: &[GuestConfig]) -> Result<Vec<Guest>> {
    let mut guests = Vec::new();
    for batch in configs.chunks(AT_ONCE) {
        let started = batch.iter().map(|config| Guest::start(dom0, config, "")).collect::<Result<Vec<_>>>()?;
        started.iter().try_for_each(Guest::wait_until_up)?;
        guests.extend(started);
    }
    Ok(guests)
}

/// Makes the guests' initramfs, of the generator at `load`, in the folder `logs`.
pub(super) fn write_ramdisk(xen: &str, load: &Path, logs: &Path) -> Result<std::path::PathBuf> {
    std::fs::create_dir_all(logs).doing("creating the log folder")?;
    let stock = logs.join("stock.cpio");
    ramdisk::write(&images(xen).join("guest.cpio"), load, &stock)?;
    Ok(stock)
}

/// What Dom0 needs to start guests and driver domains, ours of `image` with the configuration called `config`.
pub(super) fn files(image: &Path, config: &str, stock: &Path, load: &Path) -> Vec<Dom0File> {
    let copy = |path: &str, from: &Path| Dom0File { path: path.into(), content: Content::CopyOf(from.into()) };
    let name = image.file_name().unwrap_or_default().to_string_lossy();
    let xl = |name: &str| copy(&format!("/root/xl/{name}"), &Path::new("images/xl").join(name));
    vec![
        copy(&format!("/root/{name}"), image),
        copy(RAMDISK, stock),
        copy(LOAD, load),
        xl(config),
        xl("linux-driver-domain.cfg"),
        xl("guest.cfg"),
    ]
}

#[cfg(test)]
mod tests {
    use super::super::COUNTS;
    use super::*;

    #[test]
    fn a_crowd_is_large_enough_for_every_count_and_a_watcher() {
        let most = COUNTS.iter().max().copied().unwrap_or_default();
        assert_eq!(usize::from(CROWD), most + 1);
    }

    #[test]
    fn the_machine_has_room_for_everybody() {
        let guests = u32::from(CROWD) * 2 * GUEST_MIB;
        // Dom0, our domain and Linux's; 64 MiB and 1 MiB for each domain are Xen's.
        let taken = 1024 + 32 + 256 + guests + 64 + u32::from(CROWD) * 2 + 2;
        assert!(MACHINE_MIB >= taken + 512, "{taken} MiB are taken");
    }
}
