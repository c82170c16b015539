//! Counts what a file of `xentrace` holds: hypercalls, traps and interrupts by domain.
//!
//! Records are described in Xen's `public/trace.h`: a header word (event in bits 0..28, number of data words in
//! 28..31, bit 31 if a time stamp of two words follows), the stamp, the data words. One CPU is assumed.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::Path;

const SCHED_SWITCH_INFNEXT: u32 = 0x0002_100f;
const SCHED_SWITCH: u32 = 0x0002_100a;
const LOST_RECORDS: u32 = 0x0001_f001;
const HYPERCALL: u32 = 0x0020_100d;
const SUBCALL: u32 = 0x0020_200e;
/// Set in PV events with 64-bit addresses.
const PV_64: u32 = 0x100;
const OP_MASK: u32 = 0x000f_ffff;
const GRANT_TABLE_OP: u32 = 20;
const SCHED_OP: u32 = 29;

/// How often something happened, and over how many items (grant operations of a batch, for instance).
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Count {
    calls: u64,
    items: u64,
}

/// What a trace holds.
#[derive(Debug, Default)]
struct Summary {
    counts: BTreeMap<(u32, String), Count>,
    first: Option<u64>,
    last: u64,
    lost: u64,
    current: Option<u32>,
}

/// Prints the counts of the trace in `path`: a line `cycles N lost N`, then lines `domid what calls items`.
///
/// # Errors
/// The file cannot be read.
pub(crate) fn summarise(path: &Path) -> io::Result<String> {
    let bytes = fs::read(path)?;
    let words: Vec<u32> = bytes.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word)).collect();
    Ok(Summary::of(&words).to_text())
}

impl Summary {
    fn of(words: &[u32]) -> Self {
        let mut summary = Self::default();
        let mut rest = words;
        while let Some((header, after)) = rest.split_first() {
            let stamp_words = if header >> 31 == 1 { 2 } else { 0 };
            let data_words = usize::try_from((header >> 28) & 7).unwrap_or(0);
            let Some((stamp, after)) = after.split_at_checked(stamp_words) else { break };
            let Some((data, after)) = after.split_at_checked(data_words) else { break };
            rest = after;
            if let [low, high] = stamp {
                summary.last = u64::from(*high) << 32 | u64::from(*low);
                summary.first.get_or_insert(summary.last);
            }
            summary.take(header & 0x0fff_ffff, data);
        }
        summary
    }

    fn take(&mut self, event: u32, data: &[u32]) {
        let word = |index: usize| data.get(index).copied().unwrap_or(0);
        match event {
            SCHED_SWITCH_INFNEXT => self.current = data.first().copied(),
            SCHED_SWITCH => self.current = data.get(2).copied(),
            LOST_RECORDS => self.lost = self.lost.saturating_add(u64::from(word(0))),
            HYPERCALL | SUBCALL => {
                let (what, items) = hypercall(word(0) & OP_MASK, word(1), word(2));
                let nested = if event == SUBCALL { "sub:" } else { "" };
                self.count(format!("{nested}{what}"), items);
            }
            // Traps, page faults, emulated instructions.
            _ if event >> 12 == 0x201 => self.count(format!("pv:{}", event & 0xff & !PV_64), 1),
            // The data of a handled interrupt starts with its number.
            _ if event >> 12 == 0x802 && event & 0xfff == 8 => self.count(format!("irq:{}", word(0)), 1),
            _ => {}
        }
    }

    fn count(&mut self, what: String, items: u32) {
        let Some(domid) = self.current else { return };
        let count = self.counts.entry((domid, what)).or_default();
        count.calls = count.calls.saturating_add(1);
        count.items = count.items.saturating_add(u64::from(items));
    }

    fn to_text(&self) -> String {
        let cycles = self.last.saturating_sub(self.first.unwrap_or(self.last));
        let mut text = format!("cycles {cycles} lost {}", self.lost);
        for ((domid, what), count) in &self.counts {
            // A String takes everything.
            let _ = write!(text, "\n{domid} {what} {} {}", count.calls, count.items);
        }
        text
    }
}

/// A hypercall's name and how many items it is about; Xen traces some arguments of some calls.
fn hypercall(op: u32, first: u32, second: u32) -> (String, u32) {
    match op {
        GRANT_TABLE_OP => {
            let command = match first {
                0 => "map",
                1 => "unmap",
                5 => "copy",
                _ => "other",
            };
            (format!("grant_{command}"), second)
        }
        SCHED_OP => {
            let command = match first {
                0 => "yield",
                1 => "block",
                3 => "poll",
                _ => "other",
            };
            (format!("sched_{command}"), 1)
        }
        1 => ("mmu_update".into(), first),
        3 => ("set_gdt".into(), 1),
        5 => ("stack_switch_or_fpu".into(), 1),
        13 => ("multicall".into(), first),
        14 => ("update_va_mapping".into(), 1),
        15 => ("set_timer_op".into(), 1),
        17 => ("xen_version".into(), 1),
        23 => ("iret".into(), 1),
        24 => ("vcpu_op".into(), 1),
        26 => ("mmuext_op".into(), first),
        32 => ("event_channel_op".into(), 1),
        33 => ("physdev_op".into(), 1),
        _ => (format!("op{op}"), 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_counted_for_the_domain_that_runs() {
        let words = [
            // A switch to domain 3, stamped 100; a grant copy of 7 at 300; a record cut off by the end of the file.
            0xc002_100f,
            100,
            0,
            3,
            0,
            0,
            0,
            0xb020_100d,
            300,
            0,
            GRANT_TABLE_OP,
            5,
            7,
            0xf020_100d,
            400,
        ];
        let text = Summary::of(&words).to_text();
        assert_eq!(text, "cycles 200 lost 0\n3 grant_copy 1 7");
    }

    #[test]
    fn what_runs_before_the_first_switch_is_nobodys() {
        assert_eq!(Summary::of(&[0x1020_100d, 29]).to_text(), "cycles 0 lost 0");
    }
}
