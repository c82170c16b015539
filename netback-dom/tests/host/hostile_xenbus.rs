//! Frontends and stores that misbehave during the handshake.
