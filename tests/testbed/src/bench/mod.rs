//! The benchmark: our domain, a Linux driver domain and the bare device side by side on one machine.
//!
//! `docs/bench/README.md` says what is measured, how, and what came of it.

pub mod bed;
pub mod corner;
pub mod disk_profile;
pub mod disks;
pub mod domains;
pub mod growth;
pub mod hypercalls;
pub mod metrics;
pub mod net_profile;
pub mod network;
pub mod profile;
pub mod ramdisk;
pub mod registers;
pub mod report;
pub mod rounds;
pub mod samples;
pub mod storage_rounds;
pub mod work;

use std::path::PathBuf;
use std::time::Instant;

use crate::disk::DiskModel;
use crate::evidence;
use crate::failure::{Doing, Result};
use crate::machine::Machine;
use crate::nic::NicModel;
use report::Report;
use samples::{Contender, Samples};

/// Xen lets a vCPU run for a millisecond before another that wakes may take its place. On an emulated CPU that is no time
/// at all, and each switch empties TCG's caches of addresses and code; a later option of the same name counts.
const TIME_SLICE: &str = "sched_ratelimit_us=5000";

/// What to do.
#[derive(Debug, Clone)]
pub struct BenchConfig {
    /// Xen release.
    pub xen: String,
    /// Virtual CPUs of the machine.
    pub cpus: u8,
    /// More of Xen's command line.
    pub xen_options: String,
    /// How often everything is measured.
    pub rounds: usize,
    /// Only measurements whose name contains this.
    pub only: String,
    /// Options of another storage domain of ours to measure beside, if any.
    pub variant: Option<String>,
    /// The folder of our domain images.
    pub images: PathBuf,
    /// The load generator.
    pub load: PathBuf,
    /// Where the reports go.
    pub reports: PathBuf,
}

impl BenchConfig {
    fn logs(&self, what: &str) -> PathBuf {
        PathBuf::from(format!("out/logs/bench-{}-{what}", self.xen))
    }

    /// What Xen is told besides what the test bed tells it.
    fn xen_line(&self) -> String {
        format!("{TIME_SLICE} {}", self.xen_options)
    }

    /// What a user gave to make the machine another one.
    fn machine_choice(&self) -> String {
        let cpus = Some(self.cpus).filter(|cpus| *cpus != 1).map(|cpus| format!(" CPUS={cpus}"));
        let options = Some(&self.xen_options).filter(|options| !options.is_empty());
        let options = options.map(|options| format!(" XEN_OPTIONS='{options}'"));
        cpus.unwrap_or_default() + &options.unwrap_or_default()
    }

    fn announce(&self, what: &str, count: usize) {
        let logs = self.logs(what);
        println!("==> booting Xen {} with {count} x {what} in QEMU, logs in {}", self.xen, logs.display());
    }

    /// Writes what a run found, and prints its table. `choice`: what `make bench` is told to measure that.
    fn publish(&self, what: &str, choice: &str, machine: &Machine, samples: &Samples) -> Result<()> {
        // The logs are for people; what was measured was measured.
        let _ = machine.collect_logs();
        let only = Some(&self.only).filter(|only| !only.is_empty()).map(|only| format!(" ONLY='{only}'"));
        let variant = self.variant.as_ref().map(|options| format!(" VARIANT='{options}'")).unwrap_or_default();
        let report = Report {
            title: format!("{what} on Xen {}", self.xen),
            command: format!(
                "make bench {choice} XEN={} ROUNDS={}{}{variant}{}",
                self.xen,
                self.rounds,
                only.unwrap_or_default(),
                self.machine_choice()
            ),
            rows: samples.rows(),
        };
        self.write_all(what, [&report.json()?, &report.markdown(), &report.svg()])
    }

    /// Writes the three forms of a report, and prints the second.
    fn write_all(&self, what: &str, [json, table, plot]: [&str; 3]) -> Result<()> {
        self.write(&format!("{what}-{}.json", self.xen), json)?;
        self.write(&format!("{what}-{}.md", self.xen), table)?;
        self.write(&format!("{what}-{}.svg", self.xen), plot)?;
        print!("\n{table}");
        Ok(())
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        std::fs::create_dir_all(&self.reports).doing(self.reports.display())?;
        std::fs::write(self.reports.join(name), text).doing(name)
    }

    fn network_bed(&self, nic: NicModel, contenders: &'static [Contender]) -> Result<bed::Bed> {
        self.announce(nic.name(), contenders.len());
        let started = Instant::now();
        let config = self.bed_config(nic, contenders, self.logs(nic.name()));
        let bed = bed::Bed::set_up(&config).inspect_err(|_| evidence::print_ends(&config.logs))?;
        println!("    everyone is up after {:.0} s", started.elapsed().as_secs_f32());
        Ok(bed)
    }

    fn bed_config(&self, nic: NicModel, contenders: &'static [Contender], logs: PathBuf) -> bed::BedConfig {
        let (image, load) = (self.images.join("netback-dom"), self.load.clone());
        let (xen, xen_options) = (self.xen.clone(), self.xen_line());
        bed::BedConfig { xen, cpus: self.cpus, xen_options, nic, contenders, image, load, logs }
    }

    /// Measures how a driver domain bears more and more guests: those of the machine that `set_up` boots.
    fn grow<B, C: growth::Crowd>(
        &self,
        what: &str,
        choice: &str,
        kind: growth::Kind,
        set_up: impl FnOnce(PathBuf) -> Result<B>,
        parts: impl Fn(&B) -> (&Machine, &[C]),
    ) -> Result<()> {
        let name = format!("growth-{what}");
        let logs = self.logs(&name);
        let (crowds, guests) = (growth::CONTENDERS.len(), growth::CROWD);
        println!(
            "==> booting Xen {} with {crowds} crowds of {guests} guests in QEMU, logs in {}",
            self.xen,
            logs.display()
        );
        let started = Instant::now();
        let bed = set_up(logs.clone()).inspect_err(|_| evidence::print_ends(&logs))?;
        println!("    everyone is up after {:.0} s", started.elapsed().as_secs_f32());
        let (machine, crowds) = parts(&bed);
        let points = growth::run(crowds, &kind, self.rounds, &self.only);
        // As for the other reports.
        let _ = machine.collect_logs();
        let report = growth::GrowthReport {
            title: format!("Growth: {what} on Xen {}", self.xen),
            command: format!(
                "make bench BENCH=growth {choice} XEN={} ROUNDS={}{}",
                self.xen,
                self.rounds,
                self.machine_choice()
            ),
            aim_fairness: growth::AIM_FAIRNESS,
            kind,
            points,
        };
        self.write_all(&name, [&report.json()?, &report.markdown(), &report.svg()])
    }

    fn disk_bed_config(&self, model: DiskModel, logs: PathBuf) -> disks::DiskBedConfig {
        disks::DiskBedConfig {
            xen: self.xen.clone(),
            cpus: self.cpus,
            xen_options: self.xen_line(),
            model,
            image: self.images.join("blkback-dom"),
            variant: self.variant.clone(),
            load: self.load.clone(),
            logs,
        }
    }

    fn disk_bed(&self, model: DiskModel) -> Result<disks::DiskBed> {
        let name = disk_name(model);
        let logs = self.logs(name);
        let config = self.disk_bed_config(model, logs.clone());
        self.announce(name, config.contenders().len());
        let started = Instant::now();
        let bed = disks::DiskBed::set_up(&config).inspect_err(|_| evidence::print_ends(&logs))?;
        println!("    everyone is up after {:.0} s", started.elapsed().as_secs_f32());
        Ok(bed)
    }
}

/// Measures the network with one card's model and writes the reports.
///
/// # Errors
/// The machine did not come up, or a report cannot be written.
pub fn network(config: &BenchConfig, nic: NicModel) -> Result<()> {
    let bed = config.network_bed(nic, bed::CONTENDERS)?;
    let samples = rounds::run(&bed, config.rounds, &config.only);
    config.publish(nic.name(), &format!("NIC={nic}"), &bed.machine, &samples)
}

/// Measures how a driver domain bears more and more guests with one card's model, and writes the reports.
///
/// # Errors
/// The machine did not come up, or a report cannot be written.
pub fn growth(config: &BenchConfig, nic: NicModel) -> Result<()> {
    config.grow(
        nic.name(),
        &format!("NIC={nic}"),
        growth::NETWORK,
        |logs| growth::NetworkBed::set_up(&config.bed_config(nic, growth::CONTENDERS, logs)),
        |bed| (&bed.machine, &bed.crowds),
    )
}

/// As [`growth()`], with one controller's model.
///
/// # Errors
/// As there.
pub fn storage_growth(config: &BenchConfig, model: DiskModel) -> Result<()> {
    config.grow(
        disk_name(model),
        &format!("DISK={model}"),
        growth::STORAGE,
        |logs| growth::StorageBed::set_up(&config.disk_bed_config(model, logs)),
        |bed| (&bed.machine, &bed.crowds),
    )
}

/// Finds out where the time goes with one card's model and writes the report.
///
/// # Errors
/// The machine did not come up, a tool failed, or the report cannot be written.
pub fn profile(config: &BenchConfig, nic: NicModel) -> Result<()> {
    let bed = config.network_bed(nic, &[Contender::Bulkhead])?;
    let report = net_profile::run(&bed, &config.images.join("netback-dom"), &config.only)?;
    let _ = bed.machine.collect_logs();
    let text = format!("# Profile: {nic} on Xen {}\n\nMade by `make profile NIC={nic}`.\n\n{report}", config.xen);
    config.write(&format!("profile-{nic}-{}.md", config.xen), &text)
}

/// As [`profile()`], for our storage domain with one controller's model.
///
/// # Errors
/// As there.
pub fn storage_profile(config: &BenchConfig, model: DiskModel) -> Result<()> {
    let (bed, name) = (config.disk_bed(model)?, disk_name(model));
    let report = disk_profile::run(&bed, &config.images.join("blkback-dom"), &config.only)?;
    let _ = bed.machine.collect_logs();
    let text = format!("# Profile: {name} on Xen {}\n\nMade by `make profile DISK={model}`.\n\n{report}", config.xen);
    config.write(&format!("profile-{name}-{}.md", config.xen), &text)
}

/// Measures storage with one controller's model and writes the reports.
///
/// # Errors
/// The machine did not come up, or a report cannot be written.
pub fn storage(config: &BenchConfig, model: DiskModel) -> Result<()> {
    let (bed, name) = (config.disk_bed(model)?, disk_name(model));
    let samples = storage_rounds::run(&bed, config.rounds, &config.only);
    config.publish(name, &format!("DISK={model}"), &bed.machine, &samples)
}

/// As reports call it.
fn disk_name(model: DiskModel) -> &'static str {
    match model {
        DiskModel::Nvme => "nvme",
        DiskModel::Ahci => "ahci",
        DiskModel::Virtio => "virtio-blk",
    }
}
