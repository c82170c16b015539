//! Joins the person's terminal to Dom0's console.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use crate::failure::{Doing, Result};

/// Ctrl-], as in telnet and virsh.
const ESCAPE: u8 = 0x1D;

/// Connects until the person types Ctrl-], or the input ends, or the machine ends.
///
/// # Errors
/// The console socket does not answer.
pub fn join(console: &Path) -> Result<()> {
    let mut to = UnixStream::connect(console).doing("connecting to Dom0's console")?;
    let mut from = to.try_clone()?;
    println!("\nDom0's console; Ctrl-] ends the machine. Try: xl list; cat /var/log/xen/console/guest-netdom.log");
    let raw = stty(&["raw", "-echo"]);
    thread::spawn(move || {
        let mut bytes = [0; 4096];
        while let Ok(length) = from.read(&mut bytes) {
            let mut screen = std::io::stdout();
            if length == 0 || screen.write_all(bytes.get(..length).unwrap_or_default()).is_err() {
                return;
            }
            let _ = screen.flush();
        }
    });
    // A first return makes the shell show its prompt.
    let _ = to.write_all(b"\n");
    let mut bytes = [0; 256];
    while let Ok(length) = std::io::stdin().read(&mut bytes) {
        let typed = bytes.get(..length).unwrap_or_default();
        if typed.is_empty() || typed.contains(&ESCAPE) || to.write_all(typed).is_err() {
            break;
        }
    }
    if raw {
        stty(&["sane"]);
    }
    println!();
    Ok(())
}

/// Sets the terminal's mode; false if there is no terminal.
fn stty(arguments: &[&str]) -> bool {
    Command::new("stty")
        .args(arguments)
        .stdin(Stdio::inherit())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|s| s.success())
}
