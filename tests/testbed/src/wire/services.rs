//! The services behind the wire's addresses, IPv4 and IPv6: echo, sink, source and digest, and a file over HTTP.
//!
//! | port | TCP | UDP |
//! |---|---|---|
//! | 7 | echoes | echoes |
//! | 9 | takes everything (sink) | takes everything, counted |
//! | 10 | takes everything until the client is done, then says its SHA-256 in hexadecimal | |
//! | 19 | gives bytes until closed (source) | |
//! | 80 | HTTP: `GET /file` (64 MiB), `GET /bytes/N` (the first N bytes of it) | |

use sha2::Sha256;
use smoltcp::iface::{SocketHandle, SocketSet};
use smoltcp::socket::{tcp, udp};
use smoltcp::time::Duration;
use smoltcp::wire::IpEndpoint;

use super::counters::Counters;
use super::pattern;
use super::streams::{digest, echo, sink, source};

/// Port of the echo services.
pub const ECHO_PORT: u16 = 7;
/// Port of the sinks.
pub const SINK_PORT: u16 = 9;
/// Port of the TCP service that says what it got.
pub const DIGEST_PORT: u16 = 10;
/// Port of the TCP source.
pub const SOURCE_PORT: u16 = 19;
/// Port of the HTTP service.
pub const HTTP_PORT: u16 = 80;
/// Port from which bursts of datagrams are sent.
const BURST_PORT: u16 = 4000;

/// Connections per TCP service at one time: one for each vif of the largest scenario, and some that end slowly.
const CONNECTIONS: usize = 40;
const TCP_BUFFER_BYTES: usize = 256 << 10;
const UDP_BUFFER_DATAGRAMS: usize = 512;
const UDP_BUFFER_BYTES: usize = 1 << 20;
const REQUEST_BYTES: usize = 2048;

/// Datagrams to send: see [`super::Wire::send_datagrams`].
#[derive(Debug, Clone, Copy)]
pub struct Burst {
    /// Where to.
    pub to: IpEndpoint,
    /// Payload bytes of each.
    pub payload_bytes: usize,
    /// How many.
    pub count: u64,
    /// How many a second.
    pub per_second: u64,
}

/// All sockets and what each is doing.
#[derive(Debug)]
pub struct Services {
    sockets: SocketSet<'static>,
    connections: Vec<Connection>,
    udp_echo: SocketHandle,
    udp_sink: SocketHandle,
    udp_burst: SocketHandle,
    burst: Option<ActiveBurst>,
    scratch: Vec<u8>,
}

#[derive(Debug)]
struct Connection {
    handle: SocketHandle,
    port: u16,
    request: Vec<u8>,
    /// Of what the digest service has taken.
    hash: Sha256,
    /// What is left to send: HTTP only, set once the request is complete.
    sending: Option<Sending>,
}

#[derive(Debug)]
struct Sending {
    header: Vec<u8>,
    offset: u64,
    end: u64,
}

#[derive(Debug)]
struct ActiveBurst {
    burst: Burst,
    sent: u64,
    started_us: u64,
}

impl Services {
    /// Opens every service.
    #[must_use]
    pub fn new() -> Self {
        let mut sockets = SocketSet::new(Vec::new());
        let mut connections = Vec::new();
        for port in [ECHO_PORT, SINK_PORT, DIGEST_PORT, SOURCE_PORT, HTTP_PORT] {
            for _ in 0..CONNECTIONS {
                let buffer = || tcp::SocketBuffer::new(vec![0; TCP_BUFFER_BYTES]);
                let mut socket = tcp::Socket::new(buffer(), buffer());
                socket.set_ack_delay(None);
                socket.set_nagle_enabled(false);
                // Without it the loss of a few frames is answered with whole windows again and again.
                socket.set_congestion_control(tcp::CongestionControl::Cubic);
                // A guest may be destroyed in the middle of a connection.
                socket.set_keep_alive(Some(Duration::from_secs(5)));
                socket.set_timeout(Some(Duration::from_secs(30)));
                let handle = sockets.add(socket);
                connections.push(Connection::new(handle, port));
            }
        }
        let mut udp = |port| {
            let buffer = || {
                udp::PacketBuffer::new(
                    vec![udp::PacketMetadata::EMPTY; UDP_BUFFER_DATAGRAMS],
                    vec![0; UDP_BUFFER_BYTES],
                )
            };
            let mut socket = udp::Socket::new(buffer(), buffer());
            // Port 0 is the only one refused.
            let _ = socket.bind(port);
            sockets.add(socket)
        };
        let (udp_echo, udp_sink, udp_burst) = (udp(ECHO_PORT), udp(SINK_PORT), udp(BURST_PORT));
        Self { sockets, connections, udp_echo, udp_sink, udp_burst, burst: None, scratch: vec![0; 1 << 16] }
    }

    /// The sockets, for the stack to poll.
    pub fn sockets(&mut self) -> &mut SocketSet<'static> {
        &mut self.sockets
    }

    /// Starts a burst; an unfinished one is forgotten.
    pub fn start_burst(&mut self, burst: Burst, now_us: u64) {
        self.burst = Some(ActiveBurst { burst, sent: 0, started_us: now_us });
    }

    /// Whether a burst is under way, so that the caller must come back within a millisecond.
    #[must_use]
    pub fn is_bursting(&self) -> bool {
        self.burst.is_some()
    }

    /// Moves bytes in and out of every socket.
    pub fn serve(&mut self, counters: &Counters, now_us: u64) {
        for connection in &mut self.connections {
            connection.serve(self.sockets.get_mut(connection.handle), &mut self.scratch, counters);
        }
        self.serve_udp(counters);
        self.continue_burst(now_us);
    }

    fn serve_udp(&mut self, counters: &Counters) {
        let sink = self.sockets.get_mut::<udp::Socket<'_>>(self.udp_sink);
        while let Ok((payload, _)) = sink.recv() {
            Counters::add(&counters.udp_sink_datagrams, 1);
            Counters::add(&counters.udp_sink_bytes, payload.len());
        }
        let echo = self.sockets.get_mut::<udp::Socket<'_>>(self.udp_echo);
        while echo.can_send() {
            let Ok((length, from)) = echo.recv_slice(&mut self.scratch) else { break };
            let _ = echo.send_slice(self.scratch.get(..length).unwrap_or_default(), from.endpoint);
        }
    }

    /// Sends what is due by now; a full socket delays, it does not drop.
    fn continue_burst(&mut self, now_us: u64) {
        let Some(active) = &mut self.burst else { return };
        let socket = self.sockets.get_mut::<udp::Socket<'_>>(self.udp_burst);
        let elapsed_us = now_us.saturating_sub(active.started_us);
        let due = elapsed_us.saturating_mul(active.burst.per_second) / 1_000_000;
        while active.sent < due.min(active.burst.count) {
            let Ok(payload) = socket.send(active.burst.payload_bytes, active.burst.to) else { return };
            // A sequence number first, as far as it fits.
            for (to, from) in payload.iter_mut().zip(active.sent.to_be_bytes()) {
                *to = from;
            }
            active.sent = active.sent.saturating_add(1);
        }
        if active.sent >= active.burst.count {
            self.burst = None;
        }
    }
}

impl Default for Services {
    fn default() -> Self {
        Self::new()
    }
}

impl Connection {
    fn new(handle: SocketHandle, port: u16) -> Self {
        Self { handle, port, request: Vec::new(), hash: Sha256::default(), sending: None }
    }

    fn serve(&mut self, socket: &mut tcp::Socket<'_>, scratch: &mut [u8], counters: &Counters) {
        if !socket.is_open() || socket.state() == tcp::State::TimeWait {
            // Ready for the next client at once: a wire need not wait for stray segments.
            socket.abort();
            *self = Self::new(self.handle, self.port);
            let _ = socket.listen(self.port);
            return;
        }
        match self.port {
            ECHO_PORT => echo(socket, scratch),
            SINK_PORT => sink(socket, counters),
            DIGEST_PORT => digest(socket, &mut self.hash),
            SOURCE_PORT => source(socket, counters),
            _ => self.http(socket, counters),
        }
        // A client that only reads may close its own direction at once: the source goes on.
        let serving = self.sending.is_some() || self.port == SOURCE_PORT;
        if socket.state() == tcp::State::CloseWait && !socket.can_recv() && !serving {
            socket.close();
        }
    }

    fn http(&mut self, socket: &mut tcp::Socket<'_>, counters: &Counters) {
        if self.sending.is_none() && socket.can_recv() {
            let request = &mut self.request;
            let _ = socket.recv(|bytes| (bytes.len(), request.extend_from_slice(bytes)));
            if self.request.windows(4).any(|end| end == b"\r\n\r\n") {
                self.sending = Some(Sending::answer(&self.request));
            } else if self.request.len() > REQUEST_BYTES {
                socket.abort();
            }
        }
        let Some(sending) = &mut self.sending else { return };
        while socket.can_send() && !sending.is_done() {
            let _ = socket.send(|to| (sending.fill(to), ()));
        }
        if sending.is_done() {
            Counters::add(&counters.files_served, 1);
            self.sending = None;
            self.request.clear();
            socket.close();
        }
    }
}

impl Sending {
    fn answer(request: &[u8]) -> Self {
        let path = request.split(|byte| *byte == b' ').nth(1).unwrap_or_default();
        let path = String::from_utf8_lossy(path);
        let bytes = match path.strip_prefix("/bytes/") {
            Some(number) => number.parse().ok(),
            None => (path == "/file").then_some(pattern::FILE_BYTES),
        };
        let (status, bytes) = bytes.map_or(("404 Not Found", 0), |bytes| ("200 OK", bytes));
        let header = format!("HTTP/1.0 {status}\r\nContent-Length: {bytes}\r\nConnection: close\r\n\r\n");
        Self { header: header.into_bytes(), offset: 0, end: bytes }
    }

    fn is_done(&self) -> bool {
        self.header.is_empty() && self.offset >= self.end
    }

    /// Writes the next bytes of the answer; returns how many.
    fn fill(&mut self, to: &mut [u8]) -> usize {
        if !self.header.is_empty() {
            let length = self.header.len().min(to.len());
            for (to, from) in to.iter_mut().zip(self.header.drain(..length)) {
                *to = from;
            }
            return length;
        }
        let left = usize::try_from(self.end.saturating_sub(self.offset)).unwrap_or(usize::MAX);
        let length = left.min(to.len());
        pattern::fill(self.offset, to.get_mut(..length).unwrap_or_default());
        self.offset = self.offset.saturating_add(u64::try_from(length).unwrap_or(u64::MAX));
        length
    }
}
