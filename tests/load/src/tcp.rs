//! Bulk TCP: as much as the peer takes or gives.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::Streams;

/// Bytes per system call.
const CHUNK: usize = 128 << 10;

/// Opens the streams, lets `transfer` run on each, and counts in the window.
///
/// # Errors
/// A connection could not be made. Nothing moved in the window is no error.
pub(crate) fn run(streams: &Streams, transfer: fn(TcpStream, &AtomicU64) -> io::Result<()>) -> io::Result<String> {
    let bytes = Arc::new(AtomicU64::new(0));
    for _ in 0..streams.streams {
        let stream = TcpStream::connect(streams.peer)?;
        // What is still queued at the end is dropped, so that it does not run into the next measurement.
        rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO))?;
        let bytes = Arc::clone(&bytes);
        thread::spawn(move || transfer(stream, &bytes));
    }
    thread::sleep(streams.window.warm_up());
    let (started, before) = (Instant::now(), bytes.load(Ordering::Relaxed));
    thread::sleep(streams.window.length());
    let (taken, moved) = (started.elapsed(), bytes.load(Ordering::Relaxed).saturating_sub(before));
    thread::sleep(Duration::from_millis(streams.cool_down_ms));
    Ok(format!("bytes {moved} us {}", taken.as_micros()))
}

/// Sends zeroes.
///
/// # Errors
/// The connection ended.
pub(crate) fn send(mut stream: TcpStream, bytes: &AtomicU64) -> io::Result<()> {
    let chunk = vec![0; CHUNK];
    loop {
        count(stream.write(&chunk)?, bytes)?;
    }
}

/// Receives and forgets.
///
/// # Errors
/// The connection ended.
pub(crate) fn receive(mut stream: TcpStream, bytes: &AtomicU64) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK];
    loop {
        count(stream.read(&mut chunk)?, bytes)?;
    }
}

fn count(length: usize, bytes: &AtomicU64) -> io::Result<()> {
    if length == 0 {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    bytes.fetch_add(u64::try_from(length).unwrap_or(u64::MAX), Ordering::Relaxed);
    Ok(())
}

/// Serves connections until killed.
///
/// # Errors
/// The port cannot be had.
pub(crate) fn sink(port: u16) -> io::Result<String> {
    for stream in TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))?.incoming() {
        let stream = stream?;
        thread::spawn(move || receive(stream, &AtomicU64::new(0)));
    }
    Ok(String::new())
}
