//! The quantities of the benchmark and their aims.

use super::hypercalls::HypercallMetrics;
use super::samples::Metric;
use super::work::WorkMetrics;

macro_rules! metrics {
    ($($(#[$doc:meta])* $name:ident: $title:literal, $unit:literal, $better:ident $(, linux $linux:literal)? $(, bare $bare:literal)?;)*) => {
        $($(#[$doc])* pub const $name: Metric = Metric {
            id: stringify!($name),
            title: $title,
            unit: $unit,
            higher_is_better: metrics!(@$better),
            is_count: metrics!(@is_count $better),
            aim_linux: metrics!(@aim $($linux)?),
            aim_bare: metrics!(@aim $($bare)?),
        };)*
    };
    (@more) => { true };
    (@less) => { false };
    (@count) => { false };
    (@is_count count) => { true };
    (@is_count $better:ident) => { false };
    (@aim) => { None };
    (@aim $value:literal) => { Some($value) };
}

metrics! {
    /// Bulk TCP, one stream.
    TCP_OUT_1: "TCP guest to wire, 1 stream", "Mbit/s", more, linux 2.8, bare 0.8;
    /// Bulk TCP, four streams.
    TCP_OUT_4: "TCP guest to wire, 4 streams", "Mbit/s", more, linux 2.8, bare 0.8;
    /// Bulk TCP, one stream.
    TCP_IN_1: "TCP wire to guest, 1 stream", "Mbit/s", more, linux 2.2, bare 0.8;
    /// Bulk TCP, four streams.
    TCP_IN_4: "TCP wire to guest, 4 streams", "Mbit/s", more, linux 2.2, bare 0.8;
    /// The highest rate of 18-byte datagrams of which less than 1 % are lost.
    UDP_OUT: "small packets guest to wire", "packets/s", more, linux 1.7, bare 0.85;
    /// The highest rate of 18-byte datagrams of which less than 1 % are lost.
    UDP_IN: "small packets wire to guest", "packets/s", more, linux 1.7, bare 0.85;
    /// Round trip of an ICMP echo on an idle machine.
    PING: "ping, median", "ms", less, linux 0.45, bare 1.5;
    /// The same, of 100 the worst but one.
    PING_P99: "ping, p99", "ms", less, linux 0.45, bare 1.5;
    /// Round trip while the guest sends over one TCP stream.
    PING_LOADED: "ping under load, median", "ms", less, linux 0.45, bare 1.5;
    /// The same, of 100 the worst but one.
    PING_LOADED_P99: "ping under load, p99", "ms", less, linux 0.45, bare 1.5;
    /// Bulk TCP, one stream, between guests of one driver domain.
    GUEST_TO_GUEST: "TCP guest to guest", "Mbit/s", more, linux 2.5;
    /// Bulk TCP, one stream.
    DOM0_OUT: "TCP Dom0 to wire", "Mbit/s", more;
    /// Bulk TCP, one stream.
    DOM0_IN: "TCP wire to Dom0", "Mbit/s", more;
    /// The driver domain's CPU time in the TCP measurements by the bytes on the wire.
    CPU_PER_GIB: "driver domain's CPU per GiB of TCP", "s/GiB", less, linux 0.25;
    /// The driver domain's CPU time in the datagram measurements by the frames on the wire.
    CPU_PER_PACKET: "driver domain's CPU per small packet", "µs", less, linux 0.25;
    /// From the start of `xl create` until the driver domain says that it serves or, a Linux one, runs commands.
    START: "xl create to serving", "s", less, linux 0.05;
    /// What it was given.
    MEMORY: "memory of the driver domain", "MiB", less, linux 0.0625;
    /// In the TCP measurements, by the frames on the wire; so are the next four.
    TCP_COPY_CALLS: "grant copy hypercalls per 1000 frames of TCP", "1/1000 frames", count;
    /// Operations in those.
    TCP_COPIES: "grant copies per frame of TCP", "1/frame", count;
    /// Sleeps that ended with something to do.
    TCP_WAKEUPS: "wake-ups per 1000 frames of TCP", "1/1000 frames", count;
    /// Interrupts of the card and notifications from guests.
    TCP_INTERRUPTS: "interrupts received per 1000 frames of TCP", "1/1000 frames", count;
    /// Notifications to guests.
    TCP_NOTIFICATIONS: "notifications sent per 1000 frames of TCP", "1/1000 frames", count;
    /// In Xen's trace, with its load repeated; so are the next four.
    TCP_HYPERCALLS: "hypercalls per 1000 frames of TCP", "1/1000 frames", count;
    /// Map, unmap and copy.
    TCP_HYPERCALLS_GRANT: "hypercalls per 1000 frames of TCP: grants", "1/1000 frames", count;
    /// Notifications sent, and what else is done to event channels.
    TCP_HYPERCALLS_EVENT: "hypercalls per 1000 frames of TCP: event channels", "1/1000 frames", count;
    /// Sleeps, mostly.
    TCP_HYPERCALLS_SCHED: "hypercalls per 1000 frames of TCP: scheduling", "1/1000 frames", count;
    /// Times that the CPU went over to the driver domain.
    TCP_SWITCHES: "switches to the domain per 1000 frames of TCP", "1/1000 frames", count;
    /// In the datagram measurements, by the frames on the wire; so are the next four.
    SMALL_COPY_CALLS: "grant copy hypercalls per 1000 small packets", "1/1000 frames", count;
    /// Operations in those.
    SMALL_COPIES: "grant copies per small packet", "1/frame", count;
    /// Sleeps that ended with something to do.
    SMALL_WAKEUPS: "wake-ups per 1000 small packets", "1/1000 frames", count;
    /// Interrupts of the card and notifications from guests.
    SMALL_INTERRUPTS: "interrupts received per 1000 small packets", "1/1000 frames", count;
    /// Notifications to guests.
    SMALL_NOTIFICATIONS: "notifications sent per 1000 small packets", "1/1000 frames", count;
    /// In Xen's trace, with its load repeated; so are the next four.
    SMALL_HYPERCALLS: "hypercalls per 1000 small packets", "1/1000 frames", count;
    /// Map, unmap and copy.
    SMALL_HYPERCALLS_GRANT: "hypercalls per 1000 small packets: grants", "1/1000 frames", count;
    /// Notifications sent, and what else is done to event channels.
    SMALL_HYPERCALLS_EVENT: "hypercalls per 1000 small packets: event channels", "1/1000 frames", count;
    /// Sleeps, mostly.
    SMALL_HYPERCALLS_SCHED: "hypercalls per 1000 small packets: scheduling", "1/1000 frames", count;
    /// Times that the CPU went over to the driver domain.
    SMALL_SWITCHES: "switches to the domain per 1000 small packets", "1/1000 frames", count;
    /// 4 KiB anywhere on the disk.
    READ_1: "random read, depth 1", "requests/s", more, linux 3.0, bare 0.85;
    /// The same.
    READ_1_P50: "random read, depth 1, median latency", "µs", less;
    /// The same.
    READ_1_P99: "random read, depth 1, p99 latency", "µs", less;
    /// The same.
    READ_8: "random read, depth 8", "requests/s", more, bare 0.85;
    /// The same.
    READ_32: "random read, depth 32", "requests/s", more, linux 1.8, bare 0.85;
    /// The same.
    READ_32_P50: "random read, depth 32, median latency", "µs", less;
    /// The same.
    READ_32_P99: "random read, depth 32, p99 latency", "µs", less;
    /// The same.
    READ_64: "random read, depth 64", "requests/s", more, bare 0.85;
    /// The same.
    WRITE_1: "random write, depth 1", "requests/s", more, linux 3.0, bare 0.85;
    /// The same.
    WRITE_32: "random write, depth 32", "requests/s", more, linux 1.8, bare 0.85;
    /// 70 reads to 30 writes.
    MIXED_32: "random 70/30, depth 32", "requests/s", more, linux 1.8, bare 0.85;
    /// Each write is flushed.
    FLUSH: "write and flush, depth 1", "requests/s", more, bare 0.85;
    /// One after the other.
    SEQ_4K: "sequential read 4 KiB, depth 4", "requests/s", more, bare 0.85;
    /// One after the other.
    SEQ_32K: "sequential read 32 KiB, depth 4", "requests/s", more, bare 0.85;
    /// One after the other.
    SEQ_128K: "sequential read 128 KiB, depth 4", "requests/s", more, linux 2.8, bare 0.85;
    /// One after the other.
    SEQ_1M: "sequential read 1 MiB, depth 4", "requests/s", more, bare 0.85;
    /// One after the other.
    SEQ_WRITE: "sequential write 128 KiB, depth 4", "requests/s", more, linux 2.8, bare 0.85;
    /// The driver domain's CPU time by the requests of all measurements.
    CPU_PER_REQUEST: "driver domain's CPU per request", "µs", less, linux 0.25;
    /// In all storage measurements, by the requests that the guest's kernel counted; so are the next four.
    DISK_COPY_CALLS: "grant copy hypercalls per 1000 requests", "1/1000 requests", count;
    /// Operations in those.
    DISK_COPIES: "grant copies per request", "1/request", count;
    /// Sleeps that ended with something to do.
    DISK_WAKEUPS: "wake-ups per 1000 requests", "1/1000 requests", count;
    /// Interrupts of the controller and notifications from guests.
    DISK_INTERRUPTS: "interrupts received per 1000 requests", "1/1000 requests", count;
    /// Notifications to guests.
    DISK_NOTIFICATIONS: "notifications sent per 1000 requests", "1/1000 requests", count;
    /// In Xen's trace, with its load repeated; so are the next four.
    DISK_HYPERCALLS: "hypercalls per 1000 requests", "1/1000 requests", count;
    /// Map, unmap and copy.
    DISK_HYPERCALLS_GRANT: "hypercalls per 1000 requests: grants", "1/1000 requests", count;
    /// Notifications sent, and what else is done to event channels.
    DISK_HYPERCALLS_EVENT: "hypercalls per 1000 requests: event channels", "1/1000 requests", count;
    /// Sleeps, mostly.
    DISK_HYPERCALLS_SCHED: "hypercalls per 1000 requests: scheduling", "1/1000 requests", count;
    /// Times that the CPU went over to the driver domain.
    DISK_SWITCHES: "switches to the domain per 1000 requests", "1/1000 requests", count;
}

/// The driver domain's work for bulk TCP.
pub const TCP_WORK: WorkMetrics = WorkMetrics {
    copy_calls: TCP_COPY_CALLS,
    copies: TCP_COPIES,
    wakeups: TCP_WAKEUPS,
    interrupts: TCP_INTERRUPTS,
    notifications: TCP_NOTIFICATIONS,
};

/// The driver domain's work for small packets.
pub const SMALL_WORK: WorkMetrics = WorkMetrics {
    copy_calls: SMALL_COPY_CALLS,
    copies: SMALL_COPIES,
    wakeups: SMALL_WAKEUPS,
    interrupts: SMALL_INTERRUPTS,
    notifications: SMALL_NOTIFICATIONS,
};

/// The driver domain's work for requests to disks.
pub const DISK_WORK: WorkMetrics = WorkMetrics {
    copy_calls: DISK_COPY_CALLS,
    copies: DISK_COPIES,
    wakeups: DISK_WAKEUPS,
    interrupts: DISK_INTERRUPTS,
    notifications: DISK_NOTIFICATIONS,
};

/// The driver domain's hypercalls for bulk TCP.
pub const TCP_CALLS: HypercallMetrics = HypercallMetrics {
    all: TCP_HYPERCALLS,
    grant: TCP_HYPERCALLS_GRANT,
    event: TCP_HYPERCALLS_EVENT,
    sched: TCP_HYPERCALLS_SCHED,
    switches: TCP_SWITCHES,
};

/// The driver domain's hypercalls for small packets.
pub const SMALL_CALLS: HypercallMetrics = HypercallMetrics {
    all: SMALL_HYPERCALLS,
    grant: SMALL_HYPERCALLS_GRANT,
    event: SMALL_HYPERCALLS_EVENT,
    sched: SMALL_HYPERCALLS_SCHED,
    switches: SMALL_SWITCHES,
};

/// The driver domain's hypercalls for requests to disks.
pub const DISK_CALLS: HypercallMetrics = HypercallMetrics {
    all: DISK_HYPERCALLS,
    grant: DISK_HYPERCALLS_GRANT,
    event: DISK_HYPERCALLS_EVENT,
    sched: DISK_HYPERCALLS_SCHED,
    switches: DISK_SWITCHES,
};
