//! Where the machine's CPU is: its registers, from QEMU's own console.

use serde_json::json;

use crate::failure::{Failure, Result};
use crate::qmp::Qmp;

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

/// Stops the CPU between two instructions, looks, and lets it go on.
///
/// # Errors
/// QEMU does not answer.
pub fn look(qmp: &mut Qmp) -> Result<Registers> {
    qmp.ask("stop", &json!({}))?;
    let text = qmp.ask("human-monitor-command", &json!({ "command-line": "info registers" }))?;
    qmp.ask("cont", &json!({}))?;
    registers(text.as_str().unwrap_or_default()).ok_or_else(|| Failure::new("no registers in QEMU's answer"))
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
