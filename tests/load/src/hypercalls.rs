//! Counts hypercalls in a trace that `xentrace` wrote.
//!
//! A record is a word that says what it is (28 bits of event, 3 bits that count further words, and whether a time stamp of
//! two words comes next), then those words. Who made a hypercall is not in its record: it is whom the scheduler switched
//! to last on that CPU.
//!
//! Xen: `public/trace.h`, `tools/xentrace`.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::path::Path;

/// Records from here on are of another CPU. Words: the CPU, the bytes that follow.
const CPU_CHANGE: u32 = 0x1_f003;
/// Words: domain and vCPU before, domain and vCPU after.
const SCHED_SWITCH: u32 = 0x2_800a;
/// Words: the hypercall's number and which arguments follow, those arguments.
const PV_HYPERCALL: u32 = 0x20_100d;
/// Xen had no room for records.
const LOST_RECORDS: u32 = 0x1_f001;

/// The bits of a hypercall record that are its number.
const NUMBER: u32 = 0xf_ffff;
const GRANT_TABLE_OP: u32 = 20;
const SCHED_OP: u32 = 29;
const EVENT_CHANNEL_OP: u32 = 32;
/// Those that have a name in what is printed, in its order.
const NAMED: [u32; 3] = [GRANT_TABLE_OP, EVENT_CHANNEL_OP, SCHED_OP];

/// What one domain did.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Tally {
    /// Times that a CPU went over to it.
    switches: u64,
    /// Hypercalls by their number.
    calls: BTreeMap<u32, u64>,
}

impl Tally {
    fn of(&self, number: u32) -> u64 {
        self.calls.get(&number).copied().unwrap_or_default()
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = self.calls.values().fold(0_u64, |sum, count| sum.saturating_add(*count));
        let [grant, event, sched] = NAMED.map(|number| self.of(number));
        write!(f, "switches {} hypercalls {all} grant {grant} event {event} sched {sched}", self.switches)?;
        let others = self.calls.iter().filter(|(number, _)| !NAMED.contains(number));
        others.into_iter().try_for_each(|(number, count)| write!(f, " number-{number} {count}"))
    }
}

/// Counts what `domain` did in the trace at `path`; prints times it was switched to, all hypercalls, those about grants, event
/// channels and scheduling, and the others by their numbers (`public/xen.h`).
///
/// # Errors
/// The file cannot be read, or it is not a whole trace.
pub(crate) fn run(path: &Path, domain: u32) -> io::Result<String> {
    let bytes = fs::read(path)?;
    let words = bytes.chunks_exact(4).filter_map(|bytes| Some(u32::from_le_bytes(bytes.try_into().ok()?)));
    Ok(tally(words, domain).map_err(io::Error::other)?.to_string())
}

fn tally(mut words: impl Iterator<Item = u32>, domain: u32) -> Result<Tally, &'static str> {
    let mut tally = Tally::default();
    let mut running = BTreeMap::new();
    let mut cpu = 0;
    while let Some(head) = words.next() {
        let [event, extra] = [head & 0x0fff_ffff, head >> 28 & 7];
        if head >> 31 == 1 {
            words.nth(1).ok_or("the trace ends within a time stamp")?;
        }
        let mut extra = (0..extra).map(|_| words.next()).collect::<Vec<_>>().into_iter().flatten();
        match (event, extra.next(), extra.nth(1)) {
            (CPU_CHANGE, Some(number), _) => cpu = number,
            (LOST_RECORDS, ..) => return Err("records were lost"),
            (SCHED_SWITCH, _, Some(next)) => {
                running.insert(cpu, next);
                tally.switches = tally.switches.saturating_add(u64::from(next == domain));
            }
            (PV_HYPERCALL, Some(call), _) if running.get(&cpu) == Some(&domain) => {
                let count = tally.calls.entry(call & NUMBER).or_default();
                *count = count.saturating_add(1);
            }
            _ => {}
        }
    }
    Ok(tally)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A record with a time stamp.
    fn record(event: u32, words: &[u32]) -> Vec<u32> {
        let extra = words.iter().fold(0_u32, |count, _| count.saturating_add(1));
        [&[1 << 31 | extra << 28 | event, 0x1111, 0x2222], words].concat()
    }

    fn switch(from: u32, to: u32) -> Vec<u32> {
        record(SCHED_SWITCH, &[from, 0, to, 0])
    }

    fn cpu(number: u32) -> Vec<u32> {
        vec![2 << 28 | CPU_CHANGE, number, 4096]
    }

    #[test]
    fn hypercalls_belong_to_whom_the_scheduler_switched_to() {
        let call = |number: u32| record(PV_HYPERCALL, &[number]);
        let grant = record(PV_HYPERCALL, &[GRANT_TABLE_OP | 0x1110_0000, 5, 3]);
        let trace = [
            call(SCHED_OP),
            switch(0, 7),
            grant.clone(),
            call(EVENT_CHANNEL_OP),
            call(SCHED_OP),
            switch(7, 0),
            grant,
            // Something else, which looks like a hypercall if its words are not skipped.
            record(0x20_1003, &[PV_HYPERCALL, 1 << 28 | PV_HYPERCALL]),
            switch(0, 7),
            call(1),
        ];
        let seen = tally(trace.concat().into_iter(), 7).map(|seen| seen.to_string());
        let wanted = "switches 2 hypercalls 4 grant 1 event 1 sched 1 number-1 1";
        assert_eq!(seen.as_deref(), Ok(wanted));
    }

    #[test]
    fn each_cpu_runs_somebody_of_its_own() {
        let call = record(PV_HYPERCALL, &[SCHED_OP]);
        let trace = [cpu(0), switch(0, 7), cpu(1), switch(0, 8), call.clone(), cpu(0), call];
        assert_eq!(tally(trace.concat().into_iter(), 7).map(|seen| seen.of(SCHED_OP)), Ok(1));
    }

    #[test]
    fn a_trace_with_holes_is_not_believed() {
        assert_eq!(tally(record(LOST_RECORDS, &[9]).into_iter(), 7), Err("records were lost"));
        assert!(tally([1 << 31 | SCHED_SWITCH, 1].into_iter(), 7).is_err());
    }
}
