//! The harness's command line.

use std::cmp::Reverse;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum as _};

use crate::bed::{Bed, BedConfig, Driver, FIRST_SLOT, images};
use crate::bench::{self, BenchConfig};
use crate::disk::{Disk, DiskModel};
use crate::failure::{Failure, Result};
use crate::machine::{Content, Dom0File, Machine, MachineConfig};
use crate::nic::{Nic, NicModel};
use crate::scenario::{self, Again, Choice};
use crate::storage::{self, StorageConfig};
use crate::suite::{Length, Selection, Tally};
use crate::taps::Taps;
use crate::wire::{Wire, WireConfig};
use crate::{demo, evidence, terminal};

/// Boots real Xen in QEMU and runs the system tests.
#[derive(Debug, Parser)]
#[command(version)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Boots, runs commands in Dom0, prints their output and every console's log, ends QEMU.
    Boot(Boot),
    /// Shows the main job: Dom0 and two guests on the network and on disks through two driver domains.
    Run(Run),
    /// Runs the system tests on real Xen.
    Test(Test),
    /// Runs the system tests of the storage driver domain on real Xen.
    Storage(StorageTest),
    /// Measures our domain, a Linux driver domain and the bare device side by side.
    Bench(Bench),
}

/// What every command needs to boot.
#[derive(Debug, Args)]
struct Common {
    /// Xen release whose images to boot (images/build made them).
    #[arg(long, default_value = "4.20", env = "XEN")]
    xen: String,
    /// Virtual CPUs of the machine.
    #[arg(long, default_value_t = 1)]
    cpus: u8,
    /// More of Xen's command line.
    #[arg(long, default_value = "")]
    xen_options: String,
}

#[derive(Debug, Args)]
struct Run {
    #[command(flatten)]
    common: Common,
    /// The card.
    #[arg(long, default_value = "e1000")]
    nic: NicModel,
    /// Stays at a Dom0 console afterwards.
    #[arg(long)]
    keep: bool,
    /// The domain image.
    #[arg(long, default_value = "out/netback-dom")]
    image: PathBuf,
    /// The storage domain's image.
    #[arg(long, default_value = "out/blkback-dom")]
    storage_image: PathBuf,
}

#[derive(Debug, Args)]
struct Test {
    #[command(flatten)]
    common: Common,
    /// Cards to test, one machine each: e1000 and virtio if none is given or, with --all, every one.
    #[arg(long)]
    nic: Vec<NicModel>,
    /// Only scenarios whose name contains one of these words, separated by commas; long ones too.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Who drives the card.
    #[arg(long, default_value = "bulkhead")]
    driver: Driver,
    /// The domain image under test.
    #[arg(long, default_value = "out/netback-dom")]
    image: PathBuf,
    /// Both Xen releases, whatever --xen says, every card unless some are given, and the scenarios that take minutes.
    #[arg(long)]
    all: bool,
    /// Machines at the same time; each wants a core.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// Seconds of the soak test, without its start and end.
    #[arg(long, default_value_t = 300, value_name = "SECONDS")]
    soak: u64,
    /// What the soak test draws its order from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[derive(Debug, Args)]
struct StorageTest {
    #[command(flatten)]
    common: Common,
    /// Controllers to test, one machine each.
    #[arg(long, default_values = ["nvme"])]
    disk: Vec<DiskModel>,
    /// Only scenarios whose name contains one of these, whatever their length.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// The longest scenarios to run.
    #[arg(long, default_value = "medium")]
    longest: Length,
    /// Both Xen releases and every controller, whatever --xen and --disk say.
    #[arg(long)]
    all: bool,
    /// The domain image under test.
    #[arg(long, default_value = "out/blkback-dom")]
    image: PathBuf,
    /// Machines at the same time; each wants a core.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
}

#[derive(Debug, Args)]
struct Bench {
    #[command(flatten)]
    common: Common,
    /// Cards to measure with, one machine each.
    #[arg(long)]
    nic: Vec<NicModel>,
    /// Disk controllers to measure with, one machine each.
    #[arg(long)]
    disk: Vec<DiskModel>,
    /// Finds out where the time goes, instead of comparing.
    #[arg(long)]
    profile: bool,
    /// Measures with more and more guests, behind our domain and behind a Linux driver domain.
    #[arg(long, conflicts_with = "profile")]
    growth: bool,
    /// How often everything is measured.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Only measurements whose name contains this.
    #[arg(long, default_value = "")]
    only: String,
    /// Options of another storage domain of ours to measure beside
    #[arg(long)]
    variant: Option<String>,
    /// The folder of the domain images to measure.
    #[arg(long, default_value = "out")]
    images: PathBuf,
    /// The load generator.
    #[arg(long, default_value = "target/release/load")]
    load: PathBuf,
    /// Where the reports go.
    #[arg(long, default_value = "docs/bench/results")]
    reports: PathBuf,
}

#[derive(Debug, Args)]
struct Boot {
    #[command(flatten)]
    common: Common,
    /// NICs of the machine; the first is 00:03.0, the next 00:04.0, and so on.
    #[arg(long)]
    nic: Vec<NicModel>,
    /// Disks of the machine, MODEL=FILE with a raw image; the first is 00:10.0, the next 00:11.0, and so on.
    #[arg(long, value_name = "MODEL=FILE")]
    disk: Vec<Disk>,
    /// Puts a file into Dom0: HERE=/THERE.
    #[arg(long, value_name = "HERE=/THERE")]
    file: Vec<String>,
    /// Runs a shell script in Dom0; may be given several times, in order.
    #[arg(long, value_name = "SCRIPT")]
    exec: Vec<String>,
    /// Seconds each script may take.
    #[arg(long, default_value_t = 60)]
    limit: u64,
    /// Where to keep logs.
    #[arg(long, default_value = "out/logs/boot")]
    log_dir: PathBuf,
}

/// Does what the arguments ask for; false if tests ran and some failed.
///
/// # Errors
/// The machine could not be booted or does not answer.
pub fn execute(arguments: &Arguments) -> Result<bool> {
    match &arguments.command {
        Command::Boot(boot) => execute_boot(boot),
        Command::Run(run) => execute_run(run),
        Command::Test(test) => Ok(execute_test(test)),
        Command::Storage(test) => Ok(execute_storage(test)),
        Command::Bench(bench) => execute_bench(bench),
    }
}

fn execute_bench(bench: &Bench) -> Result<bool> {
    let config = BenchConfig {
        xen: bench.common.xen.clone(),
        cpus: bench.common.cpus,
        xen_options: bench.common.xen_options.clone(),
        rounds: bench.rounds,
        only: bench.only.clone(),
        variant: bench.variant.clone(),
        images: bench.images.clone(),
        load: bench.load.clone(),
        reports: bench.reports.clone(),
    };
    for nic in &bench.nic {
        match bench {
            Bench { growth: true, .. } => bench::growth(&config, *nic)?,
            Bench { profile: true, .. } => bench::profile(&config, *nic)?,
            _ => bench::network(&config, *nic)?,
        }
    }
    for disk in &bench.disk {
        match bench {
            Bench { growth: true, .. } => bench::storage_growth(&config, *disk)?,
            Bench { profile: true, .. } => bench::storage_profile(&config, *disk)?,
            _ => bench::storage(&config, *disk)?,
        }
    }
    Ok(true)
}

fn execute_run(run: &Run) -> Result<bool> {
    let config = BedConfig {
        image: run.image.clone(),
        storage: Some(run.storage_image.clone()),
        logs: PathBuf::from(format!("out/logs/run-{}-{}", run.common.xen, run.nic)),
        cpus: run.common.cpus,
        ..BedConfig::usual(&run.common.xen, run.nic)
    };
    println!("==> booting Xen {} in QEMU", config.xen);
    let mut bed = Bed::set_up(&config)?;
    println!("    logs in {}", bed.machine.logs.display());
    let outcome = demo::show(&mut bed);
    if outcome.is_err() {
        let _ = bed.machine.collect_logs();
        evidence::print_ends(&bed.machine.logs);
    }
    if run.keep {
        if let Err(failure) = &outcome {
            println!("testbed: {failure}");
        }
        terminal::join(&bed.machine.console_socket())?;
    }
    let _ = bed.machine.collect_logs();
    outcome.map(|()| true)
}

fn execute_test(test: &Test) -> bool {
    let releases: Vec<&str> = if test.all { vec!["4.20", "4.17"] } else { vec![&test.common.xen] };
    let cards = match (test.nic.as_slice(), test.all) {
        ([], true) => NicModel::value_variants(),
        ([], false) => &[NicModel::E1000, NicModel::Virtio],
        (given, _) => given,
    };
    let refusal = cards.contains(&NicModel::VirtioQueues).then(Taps::refusal).flatten();
    if let Some(why) = &refusal {
        println!(
            "skipped: the card {}, for which there have to be taps, which need root: {why}",
            NicModel::VirtioQueues
        );
    }
    let mut beds = Vec::new();
    for xen in releases {
        for (index, nic) in (0_usize..).zip(cards) {
            if refusal.is_some() && *nic == NicModel::VirtioQueues {
                continue;
            }
            let again = match nic {
                _ if index == 0 => Again::EachRelease,
                NicModel::E1000e | NicModel::Igb | NicModel::VirtioQueues if test.nic.is_empty() => Again::EachCard,
                _ => Again::EachKind,
            };
            let config = BedConfig {
                driver: test.driver,
                image: test.image.clone(),
                cpus: test.common.cpus,
                soak: Duration::from_secs(test.soak),
                seed: test.seed,
                ..BedConfig::usual(xen, *nic)
            };
            beds.push((config, again));
        }
    }
    // The longest first, so that at the end no machine runs alone for long.
    beds.sort_by_key(|(_, again)| Reverse(*again));
    let longest = if test.all { Length::Long } else { Length::Medium };
    let selection = &Selection { only: test.only.clone(), longest };
    let tally = side_by_side(test.jobs, &beds, |(config, again)| {
        scenario::run_all(config, &Choice { selection, again: *again })
    });
    println!("{tally}");
    tally.is_green()
}

/// Runs `each` on every item, `jobs` of them at a time, and adds up what they say.
fn side_by_side<T: Sync>(jobs: usize, items: &[T], each: impl Fn(&T) -> Tally + Sync) -> Tally {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut tally = Tally::default();
        while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
            tally.add(each(item));
        }
        tally
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..jobs.max(1)).map(|_| scope.spawn(work)).collect();
        let mut tally = Tally::default();
        for worker in workers {
            match worker.join() {
                Ok(other) => tally.add(other),
                Err(_) => tally.fail(1, "FAIL: the test bed itself panicked"),
            }
        }
        tally
    })
}

fn execute_storage(test: &StorageTest) -> bool {
    let releases: Vec<&str> = if test.all { vec!["4.20", "4.17"] } else { vec![&test.common.xen] };
    let models = if test.all { DiskModel::value_variants() } else { test.disk.as_slice() };
    let beds: Vec<_> = releases
        .iter()
        .flat_map(|xen| models.iter().map(move |model| (xen, *model)))
        .map(|(xen, model)| StorageConfig {
            xen: (*xen).to_owned(),
            model,
            image: test.image.clone(),
            logs: PathBuf::from(format!("out/logs/storage-{xen}-{model}")),
            cpus: test.common.cpus,
        })
        .collect();
    let selection = &Selection { only: test.only.clone(), longest: test.longest };
    let tally = side_by_side(test.jobs, &beds, |config| storage::run_all(config, selection));
    println!("{tally}");
    tally.is_green()
}

fn execute_boot(boot: &Boot) -> Result<bool> {
    std::fs::create_dir_all(&boot.log_dir)?;
    let wires: Vec<Wire> = (0..)
        .zip(&boot.nic)
        .map(|(index, _)| Wire::start(WireConfig::numbered(index, &boot.log_dir)))
        .collect::<Result<_>>()?;
    let nics: Vec<Nic> = (FIRST_SLOT..)
        .zip(boot.nic.iter().zip(&wires))
        .map(|(slot, (model, wire))| Nic { model: *model, slot, wire: Some(wire.config.socket.clone()) })
        .collect();
    let files = boot.file.iter().map(|pair| parse_file(pair)).collect::<Result<_>>()?;
    let config = MachineConfig {
        images: images(&boot.common.xen),
        logs: boot.log_dir.clone(),
        nics,
        disks: boot.disk.clone(),
        files,
        cpus: boot.common.cpus,
        memory_mib: 3072,
        xen_options: boot.common.xen_options.clone(),
    };
    let machine = Machine::boot(&config)?;
    println!("--- Dom0 is up after {:.1} s", machine.boot_time.as_secs_f32());
    let mut all_ok = true;
    for script in &boot.exec {
        println!("--- dom0# {script}");
        let outcome = machine.dom0.run(script, Duration::from_secs(boot.limit))?;
        println!("{}--- status {}", outcome.output, outcome.status);
        all_ok &= outcome.ok();
    }
    for wire in &wires {
        println!("--- wire {}: {:?}", wire.config.address, wire.counters());
    }
    machine.collect_logs()?;
    print_logs(&machine)?;
    Ok(all_ok)
}

fn parse_file(pair: &str) -> Result<Dom0File> {
    let (here, there) = pair
        .split_once('=')
        .filter(|(_, there)| there.starts_with('/'))
        .ok_or_else(|| Failure::new(format!("--file {pair}: want HERE=/THERE")))?;
    Ok(Dom0File { path: there.to_owned(), content: Content::CopyOf(here.into()) })
}

fn print_logs(machine: &Machine) -> Result<()> {
    for entry in std::fs::read_dir(&machine.logs)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with("guest-") {
            println!("--- console {name}\n{}", std::fs::read_to_string(&path)?);
        }
    }
    println!("--- all logs are in {}", machine.logs.display());
    Ok(())
}
