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
            is_count: false,
            aim_linux: metrics!(@aim $($linux)?),
            aim_bare: metrics!(@aim $($bare)?),
        };)*
    };
    (@more) => { true };
    (@less) => { false };
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
    /// From the start of `xl create` until the driver domain serves: says so or, a Linux one, has its card in the bridge or its disk.
    START: "xl create to serving", "s", less, linux 0.05;
    /// Of that, from the domain's first moment on, by its own clock, waiting for Dom0 and the device included.
    START_INSIDE: "the part of it after the domain's first moment", "s", less;
    /// What it was given.
    MEMORY: "memory of the driver domain", "MiB", less, linux 0.0625;
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
    WRITE_8: "random write, depth 8", "requests/s", more, bare 0.85;
    /// The same.
    WRITE_32: "random write, depth 32", "requests/s", more, linux 1.8, bare 0.85;
    /// The same.
    WRITE_64: "random write, depth 64", "requests/s", more, bare 0.85;
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
    /// One after the other.
    SEQ_WRITE_4K: "sequential write 4 KiB, depth 4", "requests/s", more, bare 0.85;
    /// One after the other.
    SEQ_WRITE_1M: "sequential write 1 MiB, depth 4", "requests/s", more, bare 0.85;
    /// The driver domain's CPU time by the requests of all measurements.
    CPU_PER_REQUEST: "driver domain's CPU per request", "µs", less, linux 0.25;
}

/// A count of what was done, whose name and title begin and end as given.
macro_rules! count {
    ($id:literal, $what:literal, $title:literal, $of:literal, $unit:literal) => {
        Metric {
            id: concat!($id, "_", $what),
            title: concat!($title, " per ", $of),
            unit: $unit,
            higher_is_better: false,
            is_count: true,
            aim_linux: None,
            aim_bare: None,
        }
    };
}

macro_rules! work {
    ($id:literal, $one:literal, $many:literal, $per_one:literal, $per_many:literal) => {
        WorkMetrics {
            copy_calls: count!($id, "COPY_CALLS", "grant copy hypercalls", $many, $per_many),
            copies: count!($id, "COPIES", "grant copies", $one, $per_one),
            wakeups: count!($id, "WAKEUPS", "wake-ups", $many, $per_many),
            interrupts: count!($id, "INTERRUPTS", "interrupts received", $many, $per_many),
            notifications: count!($id, "NOTIFICATIONS", "notifications sent", $many, $per_many),
        }
    };
}

macro_rules! calls {
    ($id:literal, $many:literal, $per_many:literal) => {
        HypercallMetrics {
            all: count!($id, "HYPERCALLS", "hypercalls", $many, $per_many),
            grant: count!($id, "HYPERCALLS_GRANT", "hypercalls about grants", $many, $per_many),
            event: count!($id, "HYPERCALLS_EVENT", "hypercalls about event channels", $many, $per_many),
            sched: count!($id, "HYPERCALLS_SCHED", "hypercalls about scheduling", $many, $per_many),
            switches: count!($id, "SWITCHES", "switches to the domain", $many, $per_many),
        }
    };
}

/// The driver domain's work for bulk TCP, by the frames on the wire.
pub const TCP_WORK: WorkMetrics = work!("TCP", "frame of TCP", "1000 frames of TCP", "1/frame", "1/1000 frames");

/// The driver domain's work for small packets, by the frames on the wire.
pub const SMALL_WORK: WorkMetrics = work!("SMALL", "small packet", "1000 small packets", "1/frame", "1/1000 frames");

/// The driver domain's work for requests to disks, which the guest's kernel counted.
pub const DISK_WORK: WorkMetrics = work!("DISK", "request", "1000 requests", "1/request", "1/1000 requests");

/// The driver domain's hypercalls for bulk TCP, in Xen's trace.
pub const TCP_CALLS: HypercallMetrics = calls!("TCP", "1000 frames of TCP", "1/1000 frames");

/// The driver domain's hypercalls for small packets, in Xen's trace.
pub const SMALL_CALLS: HypercallMetrics = calls!("SMALL", "1000 small packets", "1/1000 frames");

/// The driver domain's hypercalls for requests to disks, in Xen's trace.
pub const DISK_CALLS: HypercallMetrics = calls!("DISK", "1000 requests", "1/1000 requests");
