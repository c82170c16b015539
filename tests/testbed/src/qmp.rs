//! QEMU's monitor: the machine protocol (QMP) on a unix socket, as far as tests need it.
//!
//! One JSON object a line each way (QEMU, `docs/interop/qmp-spec.rst`). Answers are searched, not parsed.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use crate::failure::{Doing, Failure, Result};

const ANSWER_LIMIT: Duration = Duration::from_secs(20);

/// Runs one command, for instance `block_resize` with the arguments `{"device":"d","size":1024}`, and returns its
/// answer as JSON.
///
/// # Errors
/// QEMU is gone, or refused the command; the sentence holds what it said.
pub fn execute(socket: &Path, command: &str, arguments: &str) -> Result<String> {
    let mut stream = UnixStream::connect(socket).doing("connecting to QEMU's monitor")?;
    stream.set_read_timeout(Some(ANSWER_LIMIT))?;
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let mut answer = String::new();
    for line in [
        "{\"execute\":\"qmp_capabilities\"}\n".to_owned(),
        format!("{{\"execute\":\"{command}\",\"arguments\":{arguments}}}\n"),
    ] {
        stream.write_all(line.as_bytes())?;
        answer = next_answer(&mut lines).doing(format!("asking QEMU to {command} {arguments}"))?;
    }
    Ok(answer)
}

/// The next line that is neither the greeting nor an event.
fn next_answer(lines: &mut impl Iterator<Item = std::io::Result<String>>) -> Result<String> {
    while let Some(line) = lines.next().transpose()? {
        if line.starts_with("{\"error\"") {
            return Err(Failure::new(line));
        }
        if line.starts_with("{\"return\"") {
            return Ok(line);
        }
    }
    Err(Failure::new("QEMU is gone"))
}
