//! Small datagrams at a given rate, and how many arrive.

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use crate::Window;

/// The longest nap between two bursts.
const NAP: Duration = Duration::from_micros(500);

/// Sends at `rate` datagrams a second, or as fast as the socket takes them if that is 0.
///
/// # Errors
/// The socket refuses.
pub(crate) fn send(to: SocketAddr, payload: usize, rate: u64, window: Window) -> io::Result<String> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect(to)?;
    let bytes = vec![0; payload];
    let started = Instant::now();
    let end = window.warm_up().saturating_add(window.length());
    let (mut sent, mut warm) = (0_u64, None);
    loop {
        let elapsed = started.elapsed();
        if elapsed >= window.warm_up() && warm.is_none() {
            warm = Some((sent, elapsed));
        }
        if elapsed >= end {
            let (before, since) = warm.unwrap_or((0, Duration::ZERO));
            let (counted, taken) = (sent.saturating_sub(before), elapsed.saturating_sub(since));
            return Ok(format!("sent {sent} window {counted} us {}", taken.as_micros()));
        }
        if rate > 0 && sent >= due(rate, elapsed) {
            thread::sleep(NAP);
            continue;
        }
        match socket.send(&bytes) {
            Ok(_) => sent = sent.saturating_add(1),
            // What an ICMP error says of an earlier one.
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
            Err(error) => return Err(error),
        }
    }
}

fn due(rate: u64, elapsed: Duration) -> u64 {
    u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX).saturating_mul(rate) / 1_000_000
}

/// Receives until nothing has come for `silence`. The first `skip` datagrams are the warm-up.
///
/// # Errors
/// The port cannot be had.
pub(crate) fn receive(port: u16, silence: Duration, skip: u64) -> io::Result<String> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))?;
    socket.set_read_timeout(Some(silence.saturating_mul(10)))?;
    let mut bytes = [0; 2048];
    let (mut received, mut first, mut last) = (0_u64, None, Instant::now());
    println!("@listening");
    loop {
        match socket.recv(&mut bytes) {
            Ok(_) => {
                last = Instant::now();
                received = received.saturating_add(1);
                if received == 1 {
                    socket.set_read_timeout(Some(silence))?;
                }
                if received == skip.saturating_add(1) {
                    first = Some(last);
                }
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => break,
            Err(error) => return Err(error),
        }
    }
    let taken = first.map_or(Duration::ZERO, |first| last.duration_since(first));
    // The window starts with a datagram and ends with one: as many intervals as datagrams, less one.
    let window = received.saturating_sub(skip).saturating_sub(1);
    Ok(format!("received {received} window {window} us {}", taken.as_micros()))
}
