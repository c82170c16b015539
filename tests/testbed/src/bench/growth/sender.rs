//! What a guest counted while it sent: what its TCP sent again, and how large the packets were that it gave to its vif.
//!
//! Where no frame was lost, whatever was sent again was sent in vain: its acknowledgement was late, not missing.

use serde::Serialize;

use super::super::samples::Contender;
use super::{COUNTS, Load, Point};
use crate::failure::{Failure, Result};

/// Where a guest keeps what its TCP had counted before.
const BEFORE: &str = "/run/tcp-before";
/// Stands between what was counted before and what was counted now.
const NOW: &str = "@now";
/// Has Linux tell what its TCP has counted, in pairs of lines, names and values, and what its vif has, in the same form.
const TELL: &str = "cat /proc/net/snmp /proc/net/netstat; cd /sys/class/net/eth0/statistics; echo Vif: packets bytes; \
                    echo Vif: $(cat tx_packets tx_bytes)";

/// What a guest that sends has counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct SenderCounts {
    /// Segments sent (`OutSegs`).
    pub sent: u64,
    /// Of those, sent again (`RetransSegs`).
    pub sent_again: u64,
    /// Times an acknowledgement was waited for in vain (`TCPTimeouts`).
    pub timeouts: u64,
    /// Of those, when the acknowledgement turned out to have been on its way (`TCPSpuriousRTOs`).
    pub spurious: u64,
    /// Packets given to the vif, of many segments each.
    pub packets: u64,
    /// Bytes of those.
    pub bytes: u64,
}

impl SenderCounts {
    fn line(self, load: Load, guests: usize, contender: Contender) -> String {
        let Self { sent, sent_again, timeouts, spurious, packets, bytes } = self;
        let (word, name, size) = (load.word(), contender.name(), bytes.checked_div(packets).unwrap_or_default());
        format!("| {word} | {guests} | {name} | {size} | {sent} | {sent_again} | {timeouts} | {spurious} |\n")
    }

    fn combine(self, other: Self, with: fn(u64, u64) -> u64) -> Self {
        Self {
            sent: with(self.sent, other.sent),
            sent_again: with(self.sent_again, other.sent_again),
            timeouts: with(self.timeouts, other.timeouts),
            spurious: with(self.spurious, other.spurious),
            packets: with(self.packets, other.packets),
            bytes: with(self.bytes, other.bytes),
        }
    }
}

/// A script that notes what was counted until now, and then does what another one says.
pub(super) fn noted_before(script: &str) -> String {
    format!("({TELL}) >{BEFORE}; {script}")
}

/// A script that tells what [`since`] reads.
pub(super) fn told() -> String {
    format!("cat {BEFORE}; echo {NOW}; {TELL}")
}

/// What was counted since a script of [`noted_before`] was started, from what [`told`] said.
///
/// # Errors
/// A counter is missing.
pub(super) fn since(said: &str) -> Result<SenderCounts> {
    let (before, now) = said.split_once(NOW).ok_or_else(|| Failure::new("no counters of TCP"))?;
    Ok(parse(now)?.combine(parse(before)?, u64::saturating_sub))
}

/// What all guests of a contender counted together, over all rounds, as a table; nothing if nobody told.
pub(super) fn table(points: &[Point]) -> String {
    let told = |load, guests, contender| {
        let of = |point: &&Point| (point.load, point.guests, point.contender) == (load, guests, contender);
        let counts = points.iter().filter(of).flat_map(|point| &point.seen.senders);
        counts.copied().reduce(|all, one| all.combine(one, u64::saturating_add))
    };
    let mut lines = String::new();
    for (load, guests) in [Load::Out, Load::LargeOut].into_iter().flat_map(|load| COUNTS.map(|guests| (load, guests))) {
        for contender in [Contender::Bulkhead, Contender::Linux] {
            if let Some(counts) = told(load, guests, contender) {
                lines.push_str(&counts.line(load, guests, contender));
            }
        }
    }
    if lines.is_empty() {
        return lines;
    }
    format!(
        "\nWhat the guests that send counted, all of them together, from the start of the load to its end:\n\n\
         | load | guests | behind | bytes in a packet to the vif | segments sent | of them again | timeouts | of them needless, as TCP itself found |\n\
         |---|---|---|---|---|---|---|---|\n{lines}"
    )
}

fn parse(text: &str) -> Result<SenderCounts> {
    let count = |group: &str, name: &str| {
        let mut lines = text.lines().filter_map(|line| line.split_once(": ")).filter(|(of, _)| *of == group);
        let (names, values) = lines.next().zip(lines.next()).map(|((_, names), (_, values))| (names, values))?;
        let at = names.split_whitespace().position(|field| field == name)?;
        values.split_whitespace().nth(at)?.parse().ok()
    };
    let required = |group: &str, name: &str| count(group, name).ok_or_else(|| Failure::new(format!("no {name}")));
    Ok(SenderCounts {
        sent: required("Tcp", "OutSegs")?,
        sent_again: required("Tcp", "RetransSegs")?,
        timeouts: required("TcpExt", "TCPTimeouts")?,
        spurious: required("TcpExt", "TCPSpuriousRTOs")?,
        packets: required("Vif", "packets")?,
        bytes: required("Vif", "bytes")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "Ip: Forwarding DefaultTTL\nIp: 2 64\n\
                        Tcp: RtoMin MaxConn OutSegs RetransSegs\nTcp: 200 -1 900 40\n\
                        TcpExt: SyncookiesSent TCPTimeouts TCPSpuriousRTOs\nTcpExt: 0 7 3\n\
                        Vif: packets bytes\nVif: 10 60000\n";

    #[test]
    fn counts_stand_under_their_names() {
        let tcp = parse(TEXT).unwrap();
        assert_eq!(
            tcp,
            SenderCounts { sent: 900, sent_again: 40, timeouts: 7, spurious: 3, packets: 10, bytes: 60000 }
        );
        let before = TEXT.replace("900", "100");
        let sent = SenderCounts { sent: 800, ..SenderCounts::default() };
        assert_eq!(since(&format!("bytes 7 us 8\n{before}{NOW}\n{TEXT}")).unwrap(), sent);
        assert!(since(TEXT).is_err());
    }

    #[test]
    fn a_table_adds_guests_and_rounds() {
        let mut point = super::super::report::tests::point(Contender::Linux, 4, &[1.0, 1.0], 1.0);
        assert_eq!(table(&[point.clone()]), "");
        point.seen.senders = vec![parse(TEXT).unwrap(); 2];
        let text = table(&[point.clone(), point]);
        assert!(text.ends_with("|---|\n| out | 4 | linux | 6000 | 3600 | 160 | 28 | 12 |\n"), "{text}");
    }

    #[test]
    fn a_kernel_that_does_not_tell_is_no_zero() {
        let failure = parse(&TEXT.replace("TCPTimeouts", "Other")).unwrap_err();
        assert!(failure.to_string().contains("no TCPTimeouts"), "{failure}");
    }
}
