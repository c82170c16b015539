//! Frames and requests for tests.

use fake_xen::{Netfront, Page};

/// Flags of a transmit request.
pub const CSUM_BLANK: u16 = 1;
pub const DATA_VALIDATED: u16 = 2;
pub const MORE_DATA: u16 = 4;
pub const EXTRA_INFO: u16 = 8;

/// A transmit request with a page of its own.
pub fn slot(front: &mut Netfront, offset: u16, size: u16, flags: u16) {
    front.put_request(&Page::new(), offset, size, flags);
}

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

/// A TCP packet with a payload that depends on the position and a blank checksum: its field holds the sum of
/// the pseudo-header.
pub fn tcp(to: [u8; 6], from: [u8; 6], ipv6: bool, payload: usize) -> Vec<u8> {
    let mut packet = frame(to, from, 14, 0);
    let len = u16::try_from(20 + payload).unwrap();
    if ipv6 {
        packet[12..14].copy_from_slice(&[0x86, 0xdd]);
        packet.extend([0x60, 0, 0, 0]);
        packet.extend(len.to_be_bytes());
        packet.extend([6, 64]);
        packet.extend(1..=32);
    } else {
        packet[12..14].copy_from_slice(&[8, 0]);
        packet.extend([0x45, 0]);
        packet.extend((len + 20).to_be_bytes());
        packet.extend([0, 1, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        let header = !sum(&packet[14..34]);
        packet[24..26].copy_from_slice(&header.to_be_bytes());
    }
    let pseudo = sum(&pseudo_header(&packet, len));
    packet.extend([0x12, 0x34, 0, 80, 0, 0, 0, 0, 0, 0, 0, 7, 0x50, 0x18, 1, 0]);
    packet.extend(pseudo.to_be_bytes());
    packet.extend([0, 0]);
    packet.extend((0..payload).map(|at| (at * 7 + at / 256) as u8));
    packet
}

fn pseudo_header(packet: &[u8], len: u16) -> Vec<u8> {
    let addresses = if packet[12..14] == [8, 0] { &packet[26..34] } else { &packet[22..54] };
    [addresses, &[0, 6], &len.to_be_bytes()].concat()
}

/// The one's complement sum, as RFC 1071 defines it.
fn sum(bytes: &[u8]) -> u16 {
    let mut sum = 0_u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// Where the TCP header of a packet of [`tcp`] starts.
pub fn tcp_start(packet: &[u8]) -> usize {
    if packet[12..14] == [8, 0] { 34 } else { 54 }
}

/// Whether the TCP checksum of a packet is right, and the IPv4 one if there is one.
pub fn is_intact(packet: &[u8]) -> bool {
    let start = tcp_start(packet);
    let ip = start == 54 || sum(&packet[14..34]) == 0xffff;
    let len = u16::try_from(packet.len() - start).unwrap();
    ip && sum(&[&pseudo_header(packet, len), &packet[start..]].concat()) == 0xffff
}

/// The packet with its checksum filled in.
pub fn completed(packet: &[u8]) -> Vec<u8> {
    let field = tcp_start(packet) + 16;
    let mut done = packet.to_vec();
    done[field..field + 2].copy_from_slice(&(!sum(&packet[tcp_start(packet)..])).to_be_bytes());
    done
}

/// Bytes `range` of the payload of a packet of [`tcp`] as a segment from the wire: checksums are right, and PSH is in the
/// last one only.
pub fn segment(packet: &[u8], range: std::ops::Range<usize>) -> Vec<u8> {
    let start = tcp_start(packet);
    let payload = &packet[start + 20..];
    let mut segment = packet[..start + 20].to_vec();
    segment[start + 4..start + 8].copy_from_slice(&u32::try_from(range.start).unwrap().to_be_bytes());
    if range.end < payload.len() {
        segment[start + 13] &= !8;
    }
    segment.extend(&payload[range]);
    sealed(&segment)
}

/// The packet with the lengths and checksums of its IP and TCP headers made right.
pub fn sealed(packet: &[u8]) -> Vec<u8> {
    let (mut packet, start) = (packet.to_vec(), tcp_start(packet));
    let len = u16::try_from(packet.len() - start).unwrap();
    if start == 34 {
        packet[16..18].copy_from_slice(&(len + 20).to_be_bytes());
        packet[24..26].fill(0);
        let header = !sum(&packet[14..34]);
        packet[24..26].copy_from_slice(&header.to_be_bytes());
    } else {
        packet[18..20].copy_from_slice(&len.to_be_bytes());
    }
    let pseudo = sum(&pseudo_header(&packet, len));
    packet[start + 16..start + 18].copy_from_slice(&pseudo.to_be_bytes());
    completed(&packet)
}
