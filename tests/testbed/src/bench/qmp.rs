//! Where the machine's CPU is: its registers, from QEMU's own console.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::failure::{Doing, Failure, Result};

/// A connection to QEMU's machine protocol.
#[derive(Debug)]
pub struct Qmp {
    to: UnixStream,
    from: BufReader<UnixStream>,
}

/// One look at the CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Registers {
    /// The instruction pointer.
    pub rip: u64,
    /// The page table: whose address space it is.
    pub cr3: u64,
    /// The CPU waits for an interrupt.
    pub halted: bool,
}

impl Qmp {
    /// Connects.
    ///
    /// # Errors
    /// QEMU does not answer.
    pub fn connect(socket: &Path) -> Result<Self> {
        let to = UnixStream::connect(socket).doing("QEMU's machine protocol")?;
        to.set_read_timeout(Some(Duration::from_secs(5)))?;
        let mut qmp = Self { from: BufReader::new(to.try_clone()?), to };
        qmp.line()?;
        qmp.ask("qmp_capabilities", &json!({}))?;
        Ok(qmp)
    }

    /// Stops the CPU between two instructions, looks, and lets it go on.
    ///
    /// # Errors
    /// QEMU does not answer.
    pub fn look(&mut self) -> Result<Registers> {
        self.ask("stop", &json!({}))?;
        let text = self.ask("human-monitor-command", &json!({ "command-line": "info registers" }))?;
        self.ask("cont", &json!({}))?;
        registers(text.as_str().unwrap_or_default()).ok_or_else(|| Failure::new("no registers in QEMU's answer"))
    }

    fn ask(&mut self, command: &str, arguments: &Value) -> Result<Value> {
        let line = json!({ "execute": command, "arguments": arguments }).to_string();
        self.to.write_all(format!("{line}\n").as_bytes())?;
        loop {
            let mut answer = self.line()?;
            if let Some(value) = answer.get_mut("return") {
                return Ok(value.take());
            }
            if let Some(error) = answer.get("error") {
                return Err(Failure::new(format!("QEMU refuses {command}: {error}")));
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

fn registers(text: &str) -> Option<Registers> {
    let hex = |name: &str| {
        let (_, rest) = text.split_once(name)?;
        u64::from_str_radix(rest.split_whitespace().next()?, 16).ok()
    };
    Some(Registers { rip: hex("RIP=")?, cr3: hex("CR3=")?, halted: hex("HLT=")? == 1 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_are_found_in_the_text() {
        let text = "RAX=00 RIP=ffff82d040200a10 RFL=00000246 [---Z-P-] CPL=0 II=0 A20=1 SMM=0 HLT=1\r\n\
                    CR0=80050033 CR2=00007f CR3=00000000bfa00000 CR4=000026f0\r\n";
        assert_eq!(registers(text), Some(Registers { rip: 0xffff_82d0_4020_0a10, cr3: 0xbfa0_0000, halted: true }));
    }
}
