//! Frames for tests.

/// An Ethernet frame of `len` bytes with a payload that depends on `seed` and the position.
pub fn frame(to: [u8; 6], from: [u8; 6], len: usize, seed: u8) -> Vec<u8> {
    let mut frame = Vec::with_capacity(len);
    frame.extend(to);
    frame.extend(from);
    // An EtherType of nobody's.
    frame.extend([0x88, 0xb5]);
    let payload = (frame.len()..len.max(14)).map(|at| (at as u8).wrapping_mul(31).wrapping_add(seed) ^ (at >> 8) as u8);
    frame.extend(payload.collect::<Vec<u8>>());
    frame
}

/// The MAC address of a station on the wire.
pub const REMOTE: [u8; 6] = [2, 0, 0, 0, 9, 9];
/// The broadcast address.
pub const BROADCAST: [u8; 6] = [0xff; 6];
