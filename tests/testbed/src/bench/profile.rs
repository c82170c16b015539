//! Where our driver domain's time goes under a steady load: its functions, by samples of the instruction pointer.
//!
//! QEMU stops the CPU between two instructions and looks. It does so under its own lock, for which an access to a device
//! register waits too, so the share of such accesses is told too large. The loads are in [`super::net_profile`] and
//! [`super::disk_profile`].

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use super::registers::{Registers, look};
use super::samples::float;
use crate::dom0::Dom0;
use crate::failure::{Doing, Failure, Result};
use crate::guest::{Guest, XL_LIMIT};
use crate::machine::Machine;
use crate::qmp::Qmp;
use crate::wire::Wire;

const SAMPLES: usize = 1500;
/// Where a domain image of ours is linked: no other program here lies that low.
const IMAGE: std::ops::Range<u64> = 0x1_0000..0x20_0000;
/// Where Xen is.
const XEN: std::ops::Range<u64> = 0xffff_8000_0000_0000..0xffff_8800_0000_0000;
/// How long a load lasts at most.
pub(super) const LOAD_MS: u64 = 25_000;

/// Who is sampled: our domain, while a guest of it makes the load.
#[derive(Debug)]
pub(super) struct Sampler<'a> {
    pub(super) machine: &'a Machine,
    /// The debug file of our domain's image.
    pub(super) symbols: PathBuf,
    pub(super) guest: &'a Guest,
    /// What its card is plugged into, if it has one: the frames of the load are counted there.
    pub(super) wire: Option<&'a Wire>,
}

impl Sampler<'_> {
    /// Starts a load, samples, ends the load; the section of the report.
    pub(super) fn section(&self, name: &str, start: impl FnOnce() -> Result<()>) -> Result<String> {
        start()?;
        thread::sleep(Duration::from_millis(1500));
        let before = (Instant::now(), self.wire.map(Wire::counters));
        let samples = sample(&self.machine.logs.join("qmp.sock"))?;
        let taken = before.0.elapsed().as_secs_f64();
        let mut section = format!("## {name}\n\n");
        if let Some((wire, before)) = self.wire.zip(before.1) {
            let seen = wire.counters().since(&before);
            let (frames_in, frames_out) = (float(seen.frames_in) / taken, float(seen.frames_out) / taken);
            let _ = writeln!(section, "{frames_in:.0} frames/s out of the card, {frames_out:.0} into it.\n");
        }
        let _ = writeln!(section, "{}", places(&samples, &self.symbols, &self.machine.dom0)?);
        self.guest.check("killall load ping 2>/dev/null; sleep 1", XL_LIMIT)?;
        println!("{section}");
        Ok(section)
    }
}

fn sample(socket: &Path) -> Result<Vec<Registers>> {
    let mut qmp = Qmp::connect(socket)?;
    let mut samples = Vec::with_capacity(SAMPLES);
    let mut pause_us = 1500_u64;
    for _ in 0..SAMPLES {
        samples.push(look(&mut qmp)?);
        // No two the same, so that the samples do not walk in step with the load.
        pause_us = pause_us.wrapping_mul(5).wrapping_add(3) % 4093;
        thread::sleep(Duration::from_micros(pause_us.saturating_add(1000)));
    }
    Ok(samples)
}

/// What the samples say: shares of the machine, then of our domain's functions.
fn places(samples: &[Registers], symbols: &Path, dom0: &Dom0) -> Result<String> {
    let ours = samples.iter().find(|sample| IMAGE.contains(&sample.rip)).map(|sample| sample.cr3);
    let mut shares: BTreeMap<&str, u64> = BTreeMap::new();
    let mut addresses = Vec::new();
    let mut xen: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    for sample in samples {
        let place = match sample {
            _ if sample.halted => "idle",
            _ if IMAGE.contains(&sample.rip) => {
                addresses.push(sample.rip);
                "our domain"
            }
            _ if ours.is_some() && Some(sample.cr3) == ours => "Xen for our domain",
            _ if XEN.contains(&sample.rip) => "Xen for others",
            _ if sample.rip >> 63 == 1 => "Linux kernels",
            _ => "programs",
        };
        let count = shares.entry(place).or_default();
        *count = count.saturating_add(1);
        if XEN.contains(&sample.rip) {
            xen.entry(place).or_default().push(sample.rip);
        }
    }
    let mut text = table("where the machine was", &shares, samples.len());
    let (mut functions, mut lines) = (BTreeMap::<String, u64>::new(), BTreeMap::<String, u64>::new());
    for place in resolve(&addresses, symbols)? {
        for (counts, key) in [(&mut functions, place.function), (&mut lines, place.line)] {
            let count = counts.entry(key).or_default();
            *count = count.saturating_add(1);
        }
    }
    text.push_str(&table("function of our domain", &functions, addresses.len()));
    text.push_str(&table("line of our domain", &lines, addresses.len()));
    for (title, place) in
        [("function of Xen for our domain", "Xen for our domain"), ("function of Xen for others", "Xen for others")]
    {
        let addresses = xen.get(place).map_or(&[][..], Vec::as_slice);
        let mut functions = BTreeMap::<String, u64>::new();
        for function in xen_functions(dom0, addresses)? {
            let count = functions.entry(function).or_default();
            *count = count.saturating_add(1);
        }
        text.push_str(&table(title, &functions, addresses.len()));
    }
    Ok(text)
}

/// Xen's function at each address. Dom0 looks them up: it can read Xen's symbols.
fn xen_functions(dom0: &Dom0, addresses: &[u64]) -> Result<Vec<String>> {
    if addresses.is_empty() {
        return Ok(Vec::new());
    }
    let wanted: Vec<String> = addresses.iter().map(|address| format!("{address:016x}")).collect();
    // Sorted, a sample stands behind the symbol that it is in.
    let script = format!(
        "grep -q xenfs /proc/mounts || mount -t xenfs xenfs /proc/xen || exit 1\n\
         {{ cat /proc/xen/xensyms; for at in {}; do echo \"$at zz\"; done; }} | sort | \
         awk '$2 == \"zz\" {{ print last; next }} {{ last = $3 }}'",
        wanted.join(" ")
    );
    Ok(dom0.check(&script, XL_LIMIT)?.lines().map(ToOwned::to_owned).collect())
}

fn table<K: std::fmt::Display>(title: &str, counts: &BTreeMap<K, u64>, total: usize) -> String {
    let mut text = format!("| {title} ({total} samples) | share |\n|---|---|\n");
    let mut sorted: Vec<_> = counts.iter().collect();
    sorted.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    let total = float(u64::try_from(total).unwrap_or(1).max(1));
    for (name, count) in sorted.into_iter().take(25) {
        let _ = writeln!(text, "| {name} | {:.1} % |", float(*count) * 100.0 / total);
    }
    text + "\n"
}

/// Where in the source an address belongs.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    function: String,
    line: String,
}

/// The place of each address: of inlined functions the innermost that is not a library's.
fn resolve(addresses: &[u64], symbols: &Path) -> Result<Vec<Place>> {
    let mut command = Command::new("addr2line");
    command.args(["-a", "-f", "-i", "-C", "-e"]).arg(symbols);
    command.args(addresses.iter().map(|address| format!("{address:#x}")));
    let output = command.output().doing("addr2line (binutils)")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        return Err(Failure::new(format!("addr2line: {}", String::from_utf8_lossy(&output.stderr))));
    }
    let mut places = Vec::new();
    let mut chain: Vec<&str> = Vec::new();
    for line in text.lines() {
        if line.starts_with("0x") {
            places.extend(own(&chain));
            chain.clear();
        } else {
            chain.push(line);
        }
    }
    places.extend(own(&chain));
    Ok(places)
}

/// Lines come in pairs: a function, then its file and line.
fn own(chain: &[&str]) -> Option<Place> {
    let mut pairs = chain.chunks_exact(2).filter_map(|pair| Some((*pair.first()?, *pair.get(1)?)));
    let last = pairs.clone().next_back()?;
    let foreign = |file: &str| ["/rustc/", "/rustlib/", "/registry/", "??"].iter().any(|part| file.contains(part));
    let (function, file) = pairs.find(|(_, file)| !foreign(file)).unwrap_or(last);
    // Types make names long; the path from the crate on is enough.
    let function = function.split("::<impl").next().unwrap_or(function).to_owned();
    let parts: Vec<&str> = file.split(" (discriminator").next().unwrap_or(file).rsplit('/').take(4).collect();
    Some(Place { function, line: parts.into_iter().rev().collect::<Vec<_>>().join("/") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inlined_library_code_counts_for_its_caller() {
        let chain = [
            "read",
            "/rustc/1/library/core/src/ptr.rs:1",
            "lookup",
            "/x/netback-dom/src/switch.rs:2",
            "turn",
            "/x/c.rs:3",
        ];
        let place = own(&chain).unwrap();
        assert_eq!((place.function.as_str(), place.line.as_str()), ("lookup", "x/netback-dom/src/switch.rs:2"));
        assert_eq!(own(&["memset", "??:0"]).unwrap().function, "memset");
    }
}
