//! The load of the benchmark, as an ordinary program in a stock guest or in Dom0.
//!
//! Its one line of output is `NAME VALUE NAME VALUE ...`. A rate is taken in a window that starts after a
//! warm-up, so that neither slow start nor full socket buffers are part of it. Under emulation a byte costs, so
//! each stream is one thread with large blocking calls.

#![forbid(unsafe_code)]

mod disk;
mod hypercalls;
mod tcp;
mod udp;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Sends over TCP streams; prints the bytes and microseconds of the window.
    TcpSend(Streams),
    /// Connects and receives over TCP streams; prints the bytes and microseconds of the window.
    TcpReceive(Streams),
    /// Takes and forgets everything on a port, until killed.
    TcpSink {
        /// Port to listen on.
        port: u16,
    },
    /// Sends datagrams; prints how many in all, and how many in which time after the warm-up.
    UdpSend {
        /// Where to.
        to: SocketAddr,
        /// Payload bytes of each.
        #[arg(long, default_value_t = 18)]
        payload: usize,
        /// How many a second; 0: as many as the socket takes.
        #[arg(long, default_value_t = 0)]
        rate: u64,
        #[command(flatten)]
        window: Window,
    },
    /// Reads or writes a block device; prints how many requests ended in the window, and their latencies in µs.
    Disk(disk::Disk),
    /// Reads what xentrace wrote; prints what a domain did: times it was switched to, and hypercalls.
    Hypercalls {
        /// The trace.
        trace: PathBuf,
        /// The domain's id.
        domain: u32,
    },
    /// Receives datagrams; prints how many came, and the time from the first to the last.
    UdpReceive {
        /// Port to listen on.
        port: u16,
        /// Ends after so many milliseconds without one (and after ten times that if none comes at all).
        #[arg(long, default_value_t = 400)]
        silence_ms: u64,
        /// Datagrams at the start that count as the warm-up.
        #[arg(long, default_value_t = 0)]
        skip: u64,
    },
}

#[derive(Debug, Args)]
struct Streams {
    /// The peer.
    peer: SocketAddr,
    /// Connections at one time.
    #[arg(long, default_value_t = 1)]
    streams: usize,
    #[command(flatten)]
    window: Window,
    /// Milliseconds to go on after measuring: others may measure a little later.
    #[arg(long, default_value_t = 0)]
    cool_down_ms: u64,
}

/// When to measure.
#[derive(Debug, Clone, Copy, Args)]
struct Window {
    /// Milliseconds before measuring starts.
    #[arg(long, default_value_t = 500)]
    warm_up_ms: u64,
    /// Milliseconds to measure.
    #[arg(long, default_value_t = 3000)]
    milliseconds: u64,
}

impl Window {
    fn warm_up(self) -> Duration {
        Duration::from_millis(self.warm_up_ms)
    }

    fn length(self) -> Duration {
        Duration::from_millis(self.milliseconds)
    }
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::TcpSend(streams) => tcp::run(&streams, tcp::send),
        Command::TcpReceive(streams) => tcp::run(&streams, tcp::receive),
        Command::TcpSink { port } => tcp::sink(port),
        Command::UdpSend { to, payload, rate, window } => udp::send(to, payload, rate, window),
        Command::Disk(disk) => disk::run(&disk),
        Command::Hypercalls { trace, domain } => hypercalls::run(&trace, domain),
        Command::UdpReceive { port, silence_ms, skip } => udp::receive(port, Duration::from_millis(silence_ms), skip),
    };
    match outcome {
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("load: {error}");
            ExitCode::FAILURE
        }
    }
}
