//! QEMU's monitor: the machine protocol (QMP) on a unix socket, as far as tests need it.
//!
//! One JSON object a line each way (QEMU, `docs/interop/qmp-spec.rst`).

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::failure::{Doing, Failure, Result};

const ANSWER_LIMIT: Duration = Duration::from_secs(20);

/// A connection to QEMU's monitor; it takes one at a time.
#[derive(Debug)]
pub struct Qmp {
    to: UnixStream,
    from: BufReader<UnixStream>,
}

impl Qmp {
    /// Connects.
    ///
    /// # Errors
    /// QEMU does not answer.
    pub fn connect(socket: &Path) -> Result<Self> {
        let to = UnixStream::connect(socket).doing("connecting to QEMU's monitor")?;
        to.set_read_timeout(Some(ANSWER_LIMIT))?;
        let mut qmp = Self { from: BufReader::new(to.try_clone()?), to };
        qmp.line()?;
        qmp.ask("qmp_capabilities", &json!({}))?;
        Ok(qmp)
    }

    /// Runs one command, for instance `block_resize` with the arguments `{"device":"d","size":1024}`, and returns its
    /// answer.
    ///
    /// # Errors
    /// QEMU is gone, or refused the command; the sentence holds what it said.
    pub fn ask(&mut self, command: &str, arguments: &Value) -> Result<Value> {
        let line = json!({ "execute": command, "arguments": arguments }).to_string();
        self.to.write_all(format!("{line}\n").as_bytes())?;
        loop {
            let mut answer = self.line().doing(format!("asking QEMU to {command} {arguments}"))?;
            if let Some(value) = answer.get_mut("return") {
                return Ok(value.take());
            }
            if let Some(error) = answer.get("error") {
                return Err(Failure::new(format!("QEMU refuses {command} {arguments}: {error}")));
            }
            // Anything else is an event.
        }
    }

    fn line(&mut self) -> Result<Value> {
        let mut line = String::new();
        self.from.read_line(&mut line).doing("QEMU's answer")?;
        serde_json::from_str(&line).doing("QEMU's answer")
    }
}
