//! What a failed scenario shows and keeps: the end of every console, and a copy of all logs.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// Lines shown of each console.
const SHOWN_LINES: usize = 25;

/// Prints the last lines of Xen's and Dom0's console and of every domain's.
///
/// In one piece, because two machines may fail at the same time.
pub fn print_ends(logs: &Path) {
    let mut report = String::new();
    for path in log_files(logs) {
        let Ok(bytes) = fs::read(&path) else { continue };
        let text = String::from_utf8_lossy(&bytes);
        // Answers of the command agents are not for reading.
        let lines: Vec<_> = text.lines().map(str::trim_end).filter(|line| !line.starts_with('@')).collect();
        let end = lines.get(lines.len().saturating_sub(SHOWN_LINES)..).unwrap_or_default();
        let _ = writeln!(report, "    --- {} (last {} of {} lines)", path.display(), end.len(), lines.len());
        for line in end {
            let _ = writeln!(report, "    | {line}");
        }
    }
    print!("{report}");
}

/// Copies all logs into a folder of the scenario's own, because the next one goes on writing them.
pub fn keep(logs: &Path, scenario: &str) {
    let folder = logs.join(format!("failed-{scenario}"));
    let _ = fs::create_dir_all(&folder);
    for path in log_files(logs) {
        if let Some(name) = path.file_name() {
            let _ = fs::copy(&path, folder.join(name));
        }
    }
    println!("    --- all logs of the failure are kept in {}", folder.display());
}

/// The console logs: the machine's, then the domains'.
fn log_files(logs: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(logs)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name == "console.log" || name == "qemu.log" || name.starts_with("guest-") && name.ends_with(".log")
        })
        .collect();
    files.sort();
    files
}
