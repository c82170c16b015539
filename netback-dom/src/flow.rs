//! Which flow a frame belongs to, for spreading flows over queues.
//!
//! Standards: RFC 791, 8200, 9293, 768.

use crate::wire::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ethernet, Protocol, Transport};

/// Two IPv6 addresses and two ports.
const MAX_BYTES: usize = 36;

/// What tells one flow from another, in the order of the packet: addresses, then TCP or UDP ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Flow {
    bytes: [u8; MAX_BYTES],
    addresses: usize,
    /// The transport protocol, if its ports are known.
    pub(crate) transport: Option<Protocol>,
    /// Over IPv6, rather than over IPv4.
    pub(crate) ipv6: bool,
}

impl Flow {
    /// The flow of a frame of `len` bytes that starts with `head`; `None` if it is not IP.
    ///
    /// All fragments of a packet are in one flow, without ports: only the first of them has any.
    pub(crate) fn find(head: &[u8], len: usize) -> Option<Self> {
        let ethernet = Ethernet::parse(head)?;
        let (ipv6, from, addresses) = match ethernet.ethertype {
            ETHERTYPE_IPV4 => (false, ethernet.payload.checked_add(12)?, 8),
            ETHERTYPE_IPV6 => (true, ethernet.payload.checked_add(8)?, 32),
            _ => return None,
        };
        let version = head.get(ethernet.payload)? >> 4;
        let found = head.get(from..from.checked_add(addresses)?).filter(|_| version == if ipv6 { 6 } else { 4 })?;
        let mut flow = Self { bytes: [0; MAX_BYTES], addresses, transport: None, ipv6 };
        let transport = Transport::find(head, len);
        let ports = transport.and_then(|transport| head.get(transport.start..)?.first_chunk::<4>());
        for (to, byte) in flow.bytes.iter_mut().zip(found.iter().chain(ports.into_iter().flatten())) {
            *to = *byte;
        }
        flow.transport = transport.map(|transport| transport.protocol);
        Some(flow)
    }

    /// Source and destination address.
    pub(crate) fn addresses(&self) -> &[u8] {
        self.bytes.get(..self.addresses).unwrap_or(&[])
    }

    /// Source and destination address, then source and destination port; without ports, the addresses.
    pub(crate) fn tuple(&self) -> &[u8] {
        let ports = if self.transport.is_some() { 4 } else { 0 };
        self.bytes.get(..self.addresses.saturating_add(ports)).unwrap_or(&[])
    }

    /// A hash, well spread over all its bits.
    pub(crate) fn hash(&self, seed: u64) -> u32 {
        mix(self.tuple(), seed)
    }
}

/// A hash for a frame that starts with `head`: equal for all frames of a flow, and well spread over all its bits.
///
/// Frames that are not IP are told apart by their addresses and type.
pub(crate) fn hash(head: &[u8], len: usize, seed: u64) -> u32 {
    match Flow::find(head, len) {
        Some(flow) => flow.hash(seed),
        None => mix(head.get(..14).unwrap_or(head), seed),
    }
}

/// Which of `count` a hash stands for; 0 if there are none.
pub(crate) fn remainder(hash: u32, count: usize) -> usize {
    usize::try_from(hash).ok().and_then(|hash| hash.checked_rem(count)).unwrap_or(0)
}

fn mix(bytes: &[u8], seed: u64) -> u32 {
    let (words, rest) = bytes.as_chunks::<4>();
    let mut last = [0; 4];
    for (to, from) in last.iter_mut().zip(rest) {
        *to = *from;
    }
    let mixed = words.iter().chain([&last]).fold(seed, |hash, word| {
        let hash = (hash ^ u64::from(u32::from_le_bytes(*word))).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        hash ^ (hash >> 29)
    });
    // The upper bits are the well mixed ones.
    u32::try_from(mixed.wrapping_mul(0xd6e8_feb8_6659_fd93) >> 32).unwrap_or(0)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, clippy::integer_division, clippy::indexing_slicing, reason = "tests")]
mod tests {
    use alloc::vec;
    use alloc::vec::Vec;

    use super::*;

    /// An IPv4 packet from port `port`, as a whole or as a fragment.
    fn ipv4(protocol: u8, port: u16, fragment: u16) -> Vec<u8> {
        let mut frame = vec![2; 12];
        frame.extend([8, 0, 0x45, 0, 0, 48, 0, 0]);
        frame.extend(fragment.to_be_bytes());
        frame.extend([64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        frame.extend(port.to_be_bytes());
        frame.extend([0, 80]);
        frame.extend([0; 24]);
        frame
    }

    #[test]
    fn ports_tell_flows_apart() {
        for protocol in [6, 17] {
            let flow = Flow::find(&ipv4(protocol, 0x1234, 0), 62).unwrap();
            assert_eq!(flow.tuple(), [10, 0, 0, 1, 10, 0, 0, 2, 0x12, 0x34, 0, 80]);
        }
    }

    #[test]
    fn all_fragments_of_a_packet_are_one_flow() {
        let first = Flow::find(&ipv4(17, 1, 0x2000), 62).unwrap();
        assert_eq!(first.tuple(), [10, 0, 0, 1, 10, 0, 0, 2]);
        assert_eq!(Flow::find(&ipv4(17, 999, 0x0010), 62), Some(first));
    }

    #[test]
    fn an_ipv6_flow_has_its_addresses_and_ports() {
        let mut frame = vec![2; 12];
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 20, 6, 64]);
        frame.extend(0..32_u8);
        frame.extend([1, 2, 3, 4]);
        frame.extend([0; 16]);
        let flow = Flow::find(&frame, frame.len()).unwrap();
        let expected: Vec<u8> = (0..32).chain([1, 2, 3, 4]).collect();
        assert!(flow.ipv6);
        assert_eq!(flow.tuple(), expected);
    }

    #[test]
    fn what_is_not_ip_or_cut_short_is_no_flow() {
        let whole = ipv4(6, 1, 0);
        for len in 0..34 {
            assert_eq!(Flow::find(&whole[..len], 62), None, "{len}");
        }
        let mut arp = whole.clone();
        arp[13] = 6;
        assert_eq!(Flow::find(&arp, 62), None);
        let mut other_version = whole;
        other_version[14] = 0x65;
        assert_eq!(Flow::find(&other_version, 62), None);
    }

    #[test]
    fn flows_spread_evenly() {
        for queues in [2_u32, 3, 4, 8] {
            let mut counts = vec![0_usize; usize::try_from(queues).unwrap()];
            for port in 0..4000 {
                counts[usize::try_from(hash(&ipv4(6, port, 0), 62, 7) % queues).unwrap()] += 1;
            }
            let expected = 4000 / counts.len();
            assert!(counts.iter().all(|count| count.abs_diff(expected) < expected / 5), "{counts:?}");
        }
    }
}
