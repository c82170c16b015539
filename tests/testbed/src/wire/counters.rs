//! What the wire has seen and done, for tests to ask while it runs.

use std::sync::atomic::{AtomicU64, Ordering};

use super::verify::Fault;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Live counters, shared with the wire's thread.
        #[derive(Debug, Default)]
        pub struct Counters {
            $($(#[$doc])* pub $name: AtomicU64,)*
        }

        /// The counters at one moment.
        #[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
        pub struct Snapshot {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Counters {
            /// Reads all counters.
            #[must_use]
            pub fn snapshot(&self) -> Snapshot {
                Snapshot { $($name: self.$name.load(Ordering::Relaxed),)* }
            }
        }

        impl Snapshot {
            /// What was counted since `earlier`.
            #[must_use]
            pub fn since(&self, earlier: &Snapshot) -> Snapshot {
                Snapshot { $($name: self.$name.saturating_sub(earlier.$name),)* }
            }
        }
    };
}

counters! {
    /// Frames that came out of the NIC.
    frames_in,
    /// Their bytes, without FCS.
    bytes_in,
    /// Those of them that were broadcasts.
    broadcasts_in,
    /// Those of them that had a VLAN tag.
    tagged_in,
    /// Those of them that an MTU of 1500 does not allow.
    jumbo_in,
    /// Frames sent to the NIC.
    frames_out,
    /// Their bytes, without FCS.
    bytes_out,
    /// Frames not sent because the NIC took none for too long.
    dropped_out,
    /// Frames shorter than their headers say.
    truncated,
    /// Frames over the MTU.
    oversize,
    /// Wrong IPv4 header checksums.
    bad_ipv4,
    /// Wrong TCP checksums.
    bad_tcp,
    /// Wrong UDP checksums.
    bad_udp,
    /// Wrong ICMP and ICMPv6 checksums.
    bad_icmp,
    /// Datagrams taken by the UDP sink.
    udp_sink_datagrams,
    /// Their payload bytes.
    udp_sink_bytes,
    /// Bytes taken by the TCP sink.
    tcp_sink_bytes,
    /// Bytes given by the TCP source.
    tcp_source_bytes,
    /// Whole files given over HTTP.
    files_served,
    /// DHCP leases acknowledged.
    dhcp_acks,
}

impl Counters {
    /// Adds to one counter.
    pub fn add(counter: &AtomicU64, amount: usize) {
        counter.fetch_add(u64::try_from(amount).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Counts a fault of a received frame.
    pub fn count_fault(&self, fault: Fault) {
        let counter = match fault {
            Fault::Truncated => &self.truncated,
            Fault::Oversize => &self.oversize,
            Fault::BadIpv4Checksum => &self.bad_ipv4,
            Fault::BadTcpChecksum => &self.bad_tcp,
            Fault::BadUdpChecksum => &self.bad_udp,
            Fault::BadIcmpChecksum => &self.bad_icmp,
        };
        Self::add(counter, 1);
    }
}

impl Snapshot {
    /// How many received frames had any fault.
    #[must_use]
    pub fn faults(&self) -> u64 {
        [self.truncated, self.oversize, self.bad_ipv4, self.bad_tcp, self.bad_udp, self.bad_icmp].iter().sum()
    }
}
