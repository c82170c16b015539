//! What the simple TCP services do with one connection, each as far as it gets without waiting.

use sha2::{Digest as _, Sha256};
use smoltcp::socket::tcp;

use super::counters::Counters;

/// Sends back what arrives.
pub(super) fn echo(socket: &mut tcp::Socket<'_>, scratch: &mut [u8]) {
    while socket.can_recv() && socket.can_send() {
        let room = socket.send_capacity().saturating_sub(socket.send_queue()).min(scratch.len());
        let Ok(length) = socket.recv_slice(scratch.get_mut(..room).unwrap_or_default()) else { return };
        if length == 0 || socket.send_slice(scratch.get(..length).unwrap_or_default()).is_err() {
            return;
        }
    }
}

/// Takes what arrives and counts it.
pub(super) fn sink(socket: &mut tcp::Socket<'_>, counters: &Counters) {
    while let Ok(length) = socket.recv(|bytes| (bytes.len(), bytes.len())) {
        if length == 0 {
            return;
        }
        Counters::add(&counters.tcp_sink_bytes, length);
    }
}

/// Gives bytes as long as they are taken.
pub(super) fn source(socket: &mut tcp::Socket<'_>, counters: &Counters) {
    while socket.can_send() {
        let Ok(length) = socket.send(|to| (to.len(), to.len())) else { return };
        if length == 0 {
            return;
        }
        Counters::add(&counters.tcp_source_bytes, length);
    }
}

/// Takes what arrives; once the client has sent everything, answers with the SHA-256 of it.
pub(super) fn digest(socket: &mut tcp::Socket<'_>, hash: &mut Sha256) {
    while let Ok(length) = socket.recv(|bytes| {
        hash.update(&*bytes);
        (bytes.len(), bytes.len())
    }) {
        if length == 0 {
            return;
        }
    }
    // The caller closes what is in this state, so this happens once.
    if socket.state() == tcp::State::CloseWait && !socket.can_recv() {
        let text: String = hash.finalize_reset().iter().map(|byte| format!("{byte:02x}")).collect();
        let _ = socket.send_slice(text.as_bytes());
    }
}
