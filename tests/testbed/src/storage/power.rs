//! The promises of `docs/durability.md`, tried by cutting the power, and by ending the driver domain.

use std::path::Path;
use std::process::Command;

use super::bed::{GUEST_LIMIT, NAME, Storage, wait_for};
use super::image::{FILES, FILES_RANGE, RAW};
use super::trace::{Image, Trace};
use crate::failure::{Doing, Failure, Result, ensure};
use crate::guest::{Guest, XL_LIMIT};

/// Files that the guest writes and syncs.
const FILES_WRITTEN: u32 = 6;
/// Most flushes after which the power is cut.
const MOST_CUTS: usize = 24;

/// A file that a guest knows to be on stable media.
struct Synced {
    name: String,
    sha256: String,
    /// How many commands the disk had got when the guest knew.
    position: usize,
}

/// A guest writes files, some of them synced, until the power is cut. QEMU's record of what the disk was told says
/// what a disk with a volatile cache would hold then, and after every flush before: each such image must pass fsck and
/// hold what the guest knew to be stable.
pub(super) fn what_was_flushed_survives_a_power_cut(storage: &mut Storage) -> Result<()> {
    let record = storage.config().logs.join("record");
    std::fs::File::create(&record)?;
    storage.power_off();
    let before = Image::read(&storage.disk_file(), FILES_RANGE)?;
    storage.power_on(Some(&record))?;
    let guest = storage.guest("g3")?;
    storage.attach(guest.domid, "xvdb", "rw", &format!("{}{FILES}", storage.disk()))?;
    let mkfs = "mke2fs -q -F -t ext4 /dev/xvdb; mkdir -p /m; mount -t ext4 -o commit=1 /dev/xvdb /m; sync";
    guest.check(&format!("set -e; {}; {mkfs}", wait_for("xvdb")), GUEST_LIMIT)?;
    let made = Trace::read(&record)?.len();
    let synced = (0..FILES_WRITTEN).map(|number| write_file(&guest, &record, number)).collect::<Result<Vec<_>>>()?;
    guest.check("dd if=/dev/urandom of=/m/unsynced bs=64k count=16 2>/dev/null", GUEST_LIMIT)?;
    storage.power_off();
    let trace = Trace::read(&record)?;
    let outcome = cut_everywhere(&storage.config().logs, &trace, &before, made, &synced);
    storage.power_on(None)?;
    outcome?;
    still_there(storage, &synced)
}

/// Writes and syncs a file, between others that are not synced or are deleted.
fn write_file(guest: &Guest, record: &Path, number: u32) -> Result<Synced> {
    let name = format!("f{number}");
    let script = format!(
        "cd /m; dd if=/dev/urandom of=noise{number} bs=16k count=20 2>/dev/null; rm -f noise$(({number} - 1))\n\
         dd if=/dev/urandom of={name} bs=4k count=$((20 + {number} * 30)) conv=fsync 2>/dev/null && sync {name} . && \
         sha256sum <{name}"
    );
    let said = guest.check(&script, GUEST_LIMIT)?;
    let sha256 = said.split_whitespace().next().unwrap_or_default().to_owned();
    Ok(Synced { name, sha256, position: Trace::read(record)?.len() })
}

/// Cuts the power at many flushes, and right after each file was known to be stable.
fn cut_everywhere(logs: &Path, trace: &Trace, before: &Image, made: usize, synced: &[Synced]) -> Result<()> {
    let flushes = trace.flushes(made);
    ensure(flushes.len() >= synced.len(), || format!("only {} flushes reached the disk", flushes.len()))?;
    let step = flushes.len().div_ceil(MOST_CUTS).max(1);
    let ends = flushes.iter().step_by(step).copied().chain(synced.iter().map(|file| file.position));
    for end in ends {
        // Nothing that was not flushed made it; every other command did; a third of the commands did.
        let fates: [fn(usize) -> bool; 3] = [|_| false, |index| index % 2 == 0, |index| index.wrapping_mul(7) % 3 == 0];
        for lucky in fates {
            let mut image = before.clone();
            trace.replay(&mut image, end, lucky)?;
            let held = synced.iter().filter(|file| file.position <= end);
            check_image(logs, &image, held).doing(format!("power cut at command {end} of {}", trace.len()))?;
        }
    }
    println!("    {} commands, {} flushes, cut at one of {step}", trace.len(), flushes.len());
    Ok(())
}

/// What happens to a disk at the next boot: the journal is replayed, after which nothing may be wrong.
fn check_image<'a>(logs: &Path, image: &Image, held: impl Iterator<Item = &'a Synced>) -> Result<()> {
    let path = logs.join("cut.img");
    image.save(&path)?;
    let path = path.display();
    host(&format!("e2fsck -fp {path} >{path}.log 2>&1; [ $? -le 1 ] || {{ cat {path}.log; exit 1; }}"))?;
    host(&format!("e2fsck -fn {path} >{path}.log 2>&1 || {{ cat {path}.log; exit 1; }}"))?;
    for file in held {
        let sum = host(&format!("debugfs -R 'cat {}' {path} 2>/dev/null | sha256sum", file.name))?;
        ensure(sum.starts_with(&file.sha256), || format!("{} is not what was synced", file.name))?;
    }
    Ok(())
}

/// Runs a script on this machine.
fn host(script: &str) -> Result<String> {
    let path = std::env::var("PATH").unwrap_or_default();
    let output = Command::new("sh").args(["-c", script]).env("PATH", format!("{path}:/usr/sbin:/sbin")).output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() { Ok(said) } else { Err(Failure::new(format!("`{script}` said:\n{said}"))) }
}

/// After the power cut another guest finds what was synced.
fn still_there(storage: &mut Storage, synced: &[Synced]) -> Result<()> {
    let guest = storage.guest("g3")?;
    let names: Vec<_> = synced.iter().map(|file| file.name.as_str()).collect();
    let script = format!(
        "mkdir -p /m; mount -t ext4 /dev/xvdb /m; (cd /m; for name in {}; do sha256sum <$name; done); umount /m",
        names.join(" ")
    );
    let found = storage.with_vbd(&guest, "rw", &format!("{}{FILES}", storage.disk()), &script)?;
    for (file, found) in synced.iter().zip(found.lines()) {
        ensure(found.starts_with(&file.sha256), || format!("{} is not what was synced", file.name))?;
    }
    Ok(())
}

/// Writes that were answered and not flushed, and a driver domain that is destroyed.
pub(super) fn an_answered_write_survives_the_driver_domain(storage: &mut Storage) -> Result<()> {
    let target = format!("{}{RAW}", storage.disk());
    let guest = storage.guest("g3")?;
    storage.attach(guest.domid, "xvdb", "rw", &target)?;
    let write = format!(
        "set -e; {}; dd if=/dev/urandom of=/run/r bs=64k count=32 2>/dev/null\n\
         dd if=/run/r of=/dev/xvdb bs=64k oflag=direct 2>/dev/null; sha256sum </run/r",
        wait_for("xvdb")
    );
    let written = guest.check(&write, GUEST_LIMIT)?;
    storage.machine().dom0.check(&format!("xl destroy {NAME}"), XL_LIMIT)?;
    storage.destroy(guest)?;
    let guest = storage.guest("g4")?;
    let found = storage.with_vbd(&guest, "rw", &target, "dd if=/dev/xvdb bs=64k count=32 2>/dev/null | sha256sum")?;
    ensure(written == found, || format!("wrote {written:?}, found {found:?}"))
}
