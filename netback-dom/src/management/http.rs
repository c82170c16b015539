//! One HTTP connection: a request of bounded size within a bounded time, one answer, the end.

use alloc::format;
use alloc::string::String;
use core::time::Duration;

use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp;
use xen_pv_rt::hyp::{Instant, MemoryUse};

use super::{RECEIVE_BYTES, metrics};
use crate::publish::Board;

/// How long a connection may take from its first segment to its last.
const LIMIT: Duration = Duration::from_secs(10);

/// What a connection is at.
enum State {
    /// The request is not complete.
    Reading,
    /// The event loop was asked for numbers.
    Asking,
    /// The answer is being sent, from this byte on.
    Sending(String, usize),
    /// All was sent.
    Closing,
}

/// A connection, or the readiness for one.
pub(super) struct Connection {
    pub(super) handle: SocketHandle,
    port: u16,
    state: State,
    request: heapless::Vec<u8, RECEIVE_BYTES>,
    /// When it began.
    since: Option<Instant>,
}

impl Connection {
    pub(super) fn new(handle: SocketHandle, port: u16) -> Self {
        Self { handle, port, state: State::Reading, request: heapless::Vec::new(), since: None }
    }

    /// Does what can be done without waiting. Returns whether somebody is connected.
    pub(super) fn serve(
        &mut self,
        socket: &mut tcp::Socket<'_>,
        board: &Board,
        memory_use: fn() -> MemoryUse,
        now: Instant,
    ) -> bool {
        if !socket.is_open() || socket.state() == tcp::State::TimeWait {
            socket.abort();
            *self = Self::new(self.handle, self.port);
            // It is closed, and the port is not 0.
            let _ = socket.listen(self.port);
            return false;
        }
        if !socket.is_active() {
            return false;
        }
        let since = *self.since.get_or_insert(now);
        if now.saturating_since(since) > LIMIT {
            socket.abort();
            return true;
        }
        if socket.state() == tcp::State::SynReceived {
            return true;
        }
        if matches!(self.state, State::Reading) {
            self.read(socket, board);
        }
        if matches!(self.state, State::Asking) && !board.is_asked() {
            let page = metrics::page(board, memory_use());
            self.state = State::Sending(answer("200 OK", &page), 0);
        }
        self.send(socket);
        true
    }

    fn read(&mut self, socket: &mut tcp::Socket<'_>, board: &Board) {
        let request = &mut self.request;
        while socket.can_recv() && !request.is_full() {
            let taken = socket.recv(|bytes| {
                let length = bytes.len().min(request.capacity().saturating_sub(request.len()));
                // There is room for as many.
                let _ = request.extend_from_slice(bytes.get(..length).unwrap_or_default());
                (length, length)
            });
            if taken.is_err() {
                break;
            }
        }
        if request.windows(4).any(|end| end == b"\r\n\r\n") {
            self.state = match judge(request) {
                Ok(()) => {
                    board.ask();
                    State::Asking
                }
                Err(status) => State::Sending(answer(status, ""), 0),
            };
        } else if request.is_full() {
            self.state = State::Sending(answer("431 Request Header Fields Too Large", ""), 0);
        } else if !socket.may_recv() {
            socket.close();
            self.state = State::Closing;
        }
    }

    fn send(&mut self, socket: &mut tcp::Socket<'_>) {
        // What comes after the request is nobody's business, but it must not fill the buffer.
        if !matches!(self.state, State::Reading) {
            let _ = socket.recv(|bytes| (bytes.len(), ()));
        }
        let State::Sending(text, sent) = &mut self.state else { return };
        if let Some(rest) = text.as_bytes().get(*sent..)
            && socket.can_send()
        {
            *sent = sent.saturating_add(socket.send_slice(rest).unwrap_or(0));
        }
        if *sent >= text.len() || !socket.may_send() {
            socket.close();
            self.state = State::Closing;
        }
    }
}

/// Whether a request asks for the page; if not, the status that says so.
fn judge(request: &[u8]) -> Result<(), &'static str> {
    let line = request.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let mut words = line.split(|byte| *byte == b' ');
    match (words.next(), words.next(), words.next(), words.next()) {
        (Some(method), Some(target), Some(version), None) if version.starts_with(b"HTTP/1.") => {
            let path = target.split(|byte| *byte == b'?').next().unwrap_or_default();
            match (method, path) {
                (b"GET", b"/metrics") => Ok(()),
                (b"GET", _) => Err("404 Not Found"),
                _ => Err("405 Method Not Allowed"),
            }
        }
        _ => Err("400 Bad Request"),
    }
}

fn answer(status: &str, page: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{page}",
        page.len()
    )
}
