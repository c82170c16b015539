//! The benchmark: our domain, a Linux driver domain and the bare device side by side on one machine.
//!
//! `docs/bench/README.md` says what is measured, how, and what came of it.

pub mod bed;
pub mod metrics;
pub mod network;
pub mod ramdisk;
pub mod report;
pub mod rounds;
pub mod samples;

use std::path::PathBuf;
use std::time::Instant;

use crate::failure::{Doing, Result};
use crate::nic::NicModel;

/// What to do.
#[derive(Debug, Clone)]
pub struct BenchConfig {
    /// Xen release.
    pub xen: String,
    /// The cards' model.
    pub nic: NicModel,
    /// How often everything is measured.
    pub rounds: usize,
    /// Only measurements whose name contains this.
    pub only: String,
    /// Our domain image.
    pub image: PathBuf,
    /// The load generator.
    pub load: PathBuf,
    /// Where the reports go.
    pub reports: PathBuf,
}

/// Boots, measures and writes the reports.
///
/// # Errors
/// The machine did not come up, or a report cannot be written.
pub fn run(config: &BenchConfig) -> Result<()> {
    let logs = PathBuf::from(format!("out/logs/bench-{}-{}", config.xen, config.nic));
    println!("==> booting Xen {} with three {} in QEMU, logs in {}", config.xen, config.nic, logs.display());
    let started = Instant::now();
    let bed = bed::Bed::set_up(&bed::BedConfig {
        xen: config.xen.clone(),
        nic: config.nic,
        image: config.image.clone(),
        load: config.load.clone(),
        logs: logs.clone(),
    });
    let bed = bed.inspect_err(|_| crate::evidence::print_ends(&logs))?;
    println!("    everyone is up after {:.0} s", started.elapsed().as_secs_f32());
    let samples = rounds::run(&bed, config.rounds, &config.only);
    let _ = bed.machine.collect_logs();
    let report = report::Report {
        title: format!("{} on Xen {}", config.nic, config.xen),
        command: format!("make bench NIC={} XEN={} ROUNDS={}", config.nic, config.xen, config.rounds),
        rows: samples.rows(),
    };
    std::fs::create_dir_all(&config.reports).doing(config.reports.display())?;
    let path = |ending| config.reports.join(format!("{}-{}.{ending}", config.nic, config.xen));
    std::fs::write(path("json"), report.json()?)?;
    std::fs::write(path("md"), report.markdown())?;
    std::fs::write(path("svg"), report.svg())?;
    print!("\n{}", report.markdown());
    Ok(())
}
